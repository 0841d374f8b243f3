"""YAML for files that people keep in git: read strictly, in bounded time and memory, and written readably.

YAML lets a text of a kilobyte stand for gigabytes (aliases), lets the last of two equal keys win, and turns `no` into a
truth value. Here anchors, aliases, tags and merges are refused, a key that is written twice is a fault, and scalars are
read as YAML 1.2 does; a number with a fraction stays text, so that no amount of money passes through a float.
"""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import yaml

from bursar.core.strict import Fault, join

MAX_FILE = 64 << 20  # bytes
_MAX_DEPTH = 12
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's, where PyYAML was built with it: ten times as fast
_INT = re.compile(r"[-+]?[0-9][0-9_]*")
_PLAIN: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


class Read(NamedTuple):
    """A file as plain data, its faults, and on which line (from 1) the key of each path stands."""

    data: Any
    faults: list[Fault]
    lines: dict[str, int]


def read_file(path: Path, *, lines: bool = False) -> Read:
    """Never raises: what cannot be read is a fault. A name that ends in .json is read as JSON.

    `lines` costs memory, and only somebody with faults to tell wants them.
    """
    try:
        if path.stat().st_size > MAX_FILE:
            return _unreadable(f"is larger than {MAX_FILE >> 20} MiB", "Split it: a folder of files is taken as one")
        text = path.read_text("utf-8")
    except OSError as error:
        return _unreadable(f"cannot be read: {error.strerror or error}", "Name a file or a folder")
    except UnicodeDecodeError:
        return _unreadable("is not UTF-8", "Save it as UTF-8")
    return read_json(text) if path.suffix == ".json" else read_yaml(text, lines=lines)


def read_yaml(text: str, *, lines: bool = False) -> Read:
    """One document. Never raises."""
    reader = _Reader(text, lines)
    try:
        data = reader.document()
    except _Refused as refused:
        return Read(None, [*reader.faults, refused.fault], reader.lines)
    except (yaml.YAMLError, UnicodeError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f" (line {mark.line + 1})" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        return Read(None, [*reader.faults, Fault("", "unreadable", f"is not YAML: {problem}{place}")], reader.lines)
    return Read(data, reader.faults, reader.lines)


def read_json(text: str) -> Read:
    """Never raises. Lines are not known."""
    faults: list[Fault] = []

    def pairs(given: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in given:
            if name in found:
                faults.append(Fault(name, "duplicate_key", "is written twice", "keep one of them"))
            found[name] = value
        return found

    try:
        data = json.loads(text, object_pairs_hook=pairs, parse_float=str)
    except (ValueError, RecursionError) as error:
        return _unreadable(f"is not JSON: {error}", "")
    return Read(data, faults, {})


def _unreadable(message: str, hint: str) -> Read:
    return Read(None, [Fault("", "unreadable", message, hint)], {})


class _Refused(Exception):
    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault


class _Reader:
    """Builds plain data from the parser's events: no node tree, nothing is copied, each byte is looked at once."""

    def __init__(self, text: str, with_lines: bool) -> None:
        self._loader = _LOADER(text)
        self._with_lines = with_lines
        self.faults: list[Fault] = []
        self.lines: dict[str, int] = {}

    def document(self) -> Any:
        next_event = self._loader.get_event
        next_event()  # the stream's start
        event = next_event()
        if isinstance(event, yaml.StreamEndEvent):
            return None
        data = self._value(next_event(), "", 0)
        next_event()  # the document's end
        if not isinstance(next_event(), yaml.StreamEndEvent):
            raise _Refused(Fault("", "unreadable", "holds several documents", "Write one, or one a file"))
        return data

    def _value(self, event: Any, path: str, depth: int) -> Any:
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise _Refused(Fault(path, "unreadable", f"has an anchor or alias (line {line})", "Write it out"))
        if depth > _MAX_DEPTH:
            raise _Refused(Fault(path, "unreadable", f"is nested too deeply (line {line})"))
        if event.tag is not None and event.tag != "!":
            raise _Refused(Fault(path, "unreadable", f"has a tag (line {line})", "Leave the tag out"))
        if isinstance(event, yaml.ScalarEvent):
            return _scalar(event.value) if event.style is None or event.style == "" else event.value
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(path, depth)
        return self._mapping(path, depth)

    def _sequence(self, path: str, depth: int) -> list[Any]:
        values: list[Any] = []
        while not isinstance(event := self._loader.get_event(), yaml.SequenceEndEvent):
            values.append(self._value(event, f"{path}[{len(values)}]", depth + 1))
        return values

    def _mapping(self, path: str, depth: int) -> dict[str, Any]:
        values: dict[str, Any] = {}
        while not isinstance(event := self._loader.get_event(), yaml.MappingEndEvent):
            line = event.start_mark.line + 1
            if not isinstance(event, yaml.ScalarEvent) or event.anchor is not None or event.value == "<<":
                message = f"has a key that is no plain text (line {line})"
                raise _Refused(Fault(path, "unreadable", message, "Write it out"))
            here = join(path, event.value)
            value = self._value(self._loader.get_event(), here, depth + 1)
            if event.value in values:
                self.faults.append(Fault(here, "duplicate_key", f"is written twice (again on line {line})"))
                continue
            if self._with_lines:
                self.lines[here] = line
            values[event.value] = value
        return values


def _scalar(text: str) -> Any:
    if text in _PLAIN:
        return _PLAIN[text]
    return int(text) if _INT.fullmatch(text) and len(text) < 40 else text


# ---- writing

_BARE = re.compile(r"[A-Za-z_/*][A-Za-z0-9_./@*+-]*(?: [A-Za-z0-9_./@+(][A-Za-z0-9_./@*+()-]*)*")
_YAML11 = ("yes", "no", "on", "off", "y", "n")  # truth values to readers of YAML 1.1
_WORDS = frozenset({*_PLAIN, *(form for word in _YAML11 for form in (word, word.upper(), word.title()))})


def to_yaml(data: Any, indent: int = 0) -> str:
    """Plain data as YAML that `read_yaml` reads back as the same; short lists on one line."""
    return "".join(_lines(data, " " * indent))


def _lines(data: Any, pad: str) -> Any:
    for name, value in data.items():
        if isinstance(value, dict) and value:
            yield f"{pad}{_text(str(name))}:\n"
            yield from _lines(value, pad + "  ")
        elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
            yield f"{pad}{_text(str(name))}:\n"
            for item in value:
                yield f"{pad}  - {{{', '.join(f'{_text(str(k))}: {flow(v)}' for k, v in item.items())}}}\n"
        else:
            yield f"{pad}{_text(str(name))}: {flow(value)}\n"


def flow(value: Any) -> str:
    """A value on one line."""
    if isinstance(value, list):
        return f"[{', '.join(map(flow, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_text(str(k))}: {flow(v)}' for k, v in value.items())}}}"
    return _text(value) if isinstance(value, str) else msgspec.json.encode(value).decode()


def _text(text: str) -> str:
    """Bare where nothing could be read into it, else as JSON, which YAML reads alike."""
    if _BARE.fullmatch(text) and text not in _WORDS and not text.startswith(("*",)):
        return text
    return json.dumps(text, ensure_ascii=not text.isprintable())

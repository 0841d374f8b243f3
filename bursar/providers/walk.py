"""The one walk over a body's content, for every endpoint; and the way to put other texts into it.

Every key and every scalar below the fields that a model reads is told, each once, in the body's order: what is not
recognised is told as text, so that nothing that can become input is missed. The tables only say which top-level fields
are settings, whose words the others are, and which names are the API's own. Linear in the body; bounded in depth and
count. Read with the standard library's parser: it alone shows keys that occur twice, and keeps numbers as written.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from bursar.core.errors import Refusal
from bursar.core.parts import Kind, Part, Path, path_text
from bursar.providers.content_tables import ARGUMENTS, LABELS, OPAQUE, REFERENCES, SCHEMAS, TABLES
from bursar.providers.rewriting import raw_value
from bursar.providers.strict_json import malformed
from bursar.providers.usage_counts import utf8_bytes

MOST_PARTS = 1_000_000
DEEPEST = 64


class _Object(list[tuple[str, Any]]):
    """An object as its pairs; an array is a plain list."""


class _Literal(str):
    """A number, true, false or null, as its JSON."""

    __slots__ = ()


class _Spot(NamedTuple):
    value: Any
    path: Path
    role: str
    kind: Kind
    free: bool  # inside what a caller made up: keys are names, and no key means anything


_decoder = json.JSONDecoder(
    object_pairs_hook=_Object, parse_int=_Literal, parse_float=_Literal, parse_constant=_Literal
)
_raw_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_raw_array = msgspec.json.Decoder(list[msgspec.Raw])


def parts_of(route: str, body: bytes) -> Iterator[Part]:
    """Every part in order. Raises Refusal(malformed_request | duplicate_field)."""
    table = TABLES[route]
    try:
        read = _decoder.decode(body.decode())
    except (ValueError, RecursionError) as error:
        raise _unreadable(error) from None
    if not isinstance(read, _Object):
        raise Refusal("malformed_request", "The body is not a JSON object")
    _check_once(read, ())
    told = 0
    stack = [
        _Spot(value, (name,), table.roles.get(name, ""), "schema" if name in SCHEMAS else "text", free=False)
        for name, value in reversed(read)
        if name not in table.settings
    ]
    while stack:
        spot = stack.pop()
        value = spot.value
        if isinstance(value, list) and not _are_tokens(spot):
            if len(spot.path) >= DEEPEST:
                raise Refusal("malformed_request", "The body is nested too deeply")
            if isinstance(value, _Object):
                yield from _names(spot)
            stack.extend(_inside(spot))
        elif spot.free or (value is not None and type(value) is not bool):  # a switch of the API says nothing
            yield _leaf(spot)
        told += 1
        if told > MOST_PARTS:
            raise Refusal("malformed_request", f"The body holds more than {MOST_PARTS} parts")


def _are_tokens(spot: _Spot) -> bool:
    """An array of token ids, as completions and embeddings take it: one part, not a hundred thousand."""
    return bool(spot.value) and spot.path[0] in ("input", "prompt") and all(type(one) is _Literal for one in spot.value)


def _names(spot: _Spot) -> Iterator[Part]:
    """The keys of an object that a caller made up, or that nobody knows."""
    for name, _ in spot.value:
        if spot.free or name not in LABELS:
            yield Part(spot.role, "name", (*spot.path, name), name, utf8_bytes(name))


def _inside(spot: _Spot) -> list[_Spot]:
    """What an object or array holds, last first."""
    if not isinstance(spot.value, _Object):
        pairs: list[tuple[str | int, Any]] = list(enumerate(spot.value))
        return [_Spot(value, (*spot.path, at), spot.role, spot.kind, spot.free) for at, value in reversed(pairs)]
    _check_once(spot.value, spot.path)
    fields = dict(spot.value)
    role = fields.get("role") if not spot.free else None
    inner = (
        role if type(role) is str else "tool" if fields.get("type") == "tool_result" and not spot.free else spot.role
    )
    found = []
    for name, value in reversed(spot.value):
        kind, free = (spot.kind, True) if spot.free else _kind_of(name, value, spot, fields)
        found.append(_Spot(value, (*spot.path, name), inner, kind, free))
    return found


def _kind_of(name: str, value: Any, spot: _Spot, fields: Mapping[str, Any]) -> tuple[Kind, bool]:  # noqa: PLR0911
    """-> (what a field holds, whether the caller made up all that is in it)."""
    structured = isinstance(value, _Object)
    if name in SCHEMAS:
        return "schema", structured
    if name in ARGUMENTS and (structured or type(value) is str):
        return "argument", structured
    if name in REFERENCES and type(value) is str:
        return ("media" if value.startswith("data:") else "reference"), False
    if name == "file_data" or (name == "data" and _is_media(spot, fields)):
        return "media", False
    if name in OPAQUE or (name == "data" and fields.get("type") == "redacted_thinking"):
        return "opaque", False
    if name in LABELS and LABELS[name] and not isinstance(value, list):
        return "label", False
    return ("schema" if spot.kind == "schema" else "text"), False


def _is_media(spot: _Spot, fields: Mapping[str, Any]) -> bool:
    return fields.get("type") == "base64" or spot.path[-1] == "input_audio"


def _leaf(spot: _Spot) -> Part:
    value = spot.value
    if type(value) is str:
        return Part(spot.role, spot.kind, spot.path, value, utf8_bytes(value))
    if isinstance(value, list):
        text = f"[{','.join(value)}]"
        return Part(spot.role, "tokens", spot.path, text, len(text))
    text = str(value) if type(value) is _Literal else json.dumps(value)
    return Part(spot.role, "number", spot.path, text, len(text))


def _check_once(pairs: _Object, path: Path) -> None:
    if len({name for name, _ in pairs}) != len(pairs):
        where = path_text(path)
        raise Refusal(
            "duplicate_field", f"`{where[:200]}` has a key that occurs twice" if where else "A key occurs twice"
        )


def _unreadable(error: Exception) -> Refusal:
    if isinstance(error, json.JSONDecodeError):
        return Refusal("malformed_request", f"The body is no JSON at character {error.pos}")
    return malformed(error)


# ---- other texts -----------------------------------------------------------------------------------------------------


def with_texts(body: bytes, changes: Mapping[Path, str]) -> bytes:
    """The body with other texts at these paths; all else keeps its bytes. Raises KeyError where nothing lies."""
    tree: dict[str | int, Any] = {}  # the paths, with what they share told once
    for path, text in changes.items():
        at = tree
        for step in path[:-1]:
            at = at.setdefault(step, {})
        at[path[-1]] = text
    return _changed(body, tree) if tree else body


def _changed(raw: bytes, tree: Mapping[str | int, Any]) -> bytes:
    """One object or array, opened only along the paths that change."""
    try:
        inside: Any = (_raw_array if type(next(iter(tree))) is int else _raw_object).decode(raw)
        for step, below in tree.items():
            present = inside[step]
            inside[step] = raw_value(below) if isinstance(below, str) else msgspec.Raw(_changed(present, below))
    except (msgspec.DecodeError, LookupError, TypeError) as error:
        raise KeyError(str(error)) from None
    return msgspec.json.encode(inside)

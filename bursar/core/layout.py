"""How addresses lie in somebody's store: a path template, one part of the address after the other. Pure.

    bursar/{provider}/{model}/{key_type}/{environment}/{team}      what Bursar itself writes
    llm/{team}/{key_type}   with address: {provider: openai}       a layout that was there before, adopted in place

A part that stands in no placeholder comes from a field of that name beside the value, else from `address`, else it is
`*`. In a path `*` is written `_`, and a character that stores or their policies give a meaning (`:`, `%`, `+`) is
written `=3A`; neither can stand in an address, so the way back is exact.
"""

import hashlib
import re
from base64 import b32encode
from collections.abc import Mapping

import msgspec

from bursar.core.errors import Refusal
from bursar.core.provider_keys import ADDRESS_PARTS, check_address, check_tags

DEFAULT_PATH = "bursar/{provider}/{model}/{key_type}/{environment}/{team}"
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_QUOTED = re.compile(r"=([0-9A-F]{2})")
_UNSAFE = re.compile(r"[:%+]")
_TAG_NAME = re.compile(r"[a-z][a-z0-9_.-]{0,63}", re.ASCII)
_LISTS = frozenset({"purpose", "allowed_models"})


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """`address`: parts that neither path nor fields give. `tags`: of every entry that has none of that name."""

    path: str = DEFAULT_PATH
    address: dict[str, str] = {}
    tags: dict[str, str] = {}

    @property
    def segments(self) -> list[str]:
        return self.path.split("/")

    def place_of(self, address: str) -> str:
        """The path at which an entry of this address lies.

        Raises Refusal(invalid_address) when the address says something the layout has no place for.
        """
        parts = dict(zip(ADDRESS_PARTS, check_address(address).split("/"), strict=True))
        for name in self.fixed:
            if parts[name] != self.address.get(name, "*"):
                message = f"This store's layout has no place for the {name} {parts[name]!r}"
                raise Refusal("invalid_address", message, f"It keeps {name} {self.address.get(name, '*')!r} only")
        return _PLACEHOLDER.sub(lambda match: quote(parts[match[1]]), self.path)

    @property
    def fixed(self) -> tuple[str, ...]:
        """Parts of the address that the path does not tell."""
        named = set(_PLACEHOLDER.findall(self.path))
        return tuple(name for name in ADDRESS_PARTS if name not in named)

    def parts_of(self, place: str) -> dict[str, str] | None:
        """What a path tells of the address; None when it is not of this layout."""
        match = re.fullmatch(pattern_of(self.path), place)
        return None if match is None else {name: unquote(raw) for name, raw in match.groupdict().items()}

    def read(self, place: str, fields: Mapping[str, object]) -> tuple[str, dict[str, str], str]:
        """(address, tags, word of what is wrong) of what lies at `place` with these fields beside the value.

        Never raises: what cannot be used is still shown, with its fault.
        """
        texts = {name: text for name, raw in fields.items() if (text := _text(name, raw))}
        parts = {**dict.fromkeys(ADDRESS_PARTS, "*"), **self.address}
        parts |= {name: texts[name] for name in self.fixed if name in texts}
        parts |= self.parts_of(place) or {}
        address = "/".join(parts[name] for name in ADDRESS_PARTS)
        own = {name: text for name, text in texts.items() if name not in self.fixed and _TAG_NAME.fullmatch(name)}
        fault = ""
        try:
            check_address(address)
        except Refusal as refusal:
            fault = refusal.word
        try:
            return address, check_tags({**self.tags, **own}), fault
        except Refusal as refusal:
            return address, {"billing_owner": own.get("billing_owner", "unassigned")}, fault or refusal.word


def pattern_of(template: str) -> str:
    """A regular expression for paths, or for one segment, of the template."""
    found, end = "", 0
    for match in _PLACEHOLDER.finditer(template):
        found += re.escape(template[end : match.start()]) + f"(?P<{match[1]}>[^/]+?)"
        end = match.end()
    return found + re.escape(template[end:])


def check_template(path: str, *, writable: bool = True) -> str:
    """What is wrong with a path template; "" if nothing.

    What is written must be read back exactly, so there a slash stands between two placeholders.
    """
    names = _PLACEHOLDER.findall(path)
    if not path or any(part in ("", ".", "..") for part in path.split("/")):
        return "is no path: no slash at either end, no empty part"
    if unknown := [name for name in names if name not in ADDRESS_PARTS]:
        return f"has an unknown placeholder {{{unknown[0]}}}"
    if len(set(names)) != len(names):
        return "names a placeholder twice"
    if "{" in _PLACEHOLDER.sub("", path) or "}" in _PLACEHOLDER.sub("", path):
        return "has a brace that belongs to no placeholder"
    if re.search(r"\}[^/{]*\{" if writable else r"\}\{", path):
        return "cannot be read back: put a slash between two placeholders"
    return ""


def derived_id(store: str, place: str) -> str:
    """The id of an entry that has none of its own: the same at every start."""
    digest = hashlib.sha256(f"bursar secret id 1\0{store}\0{place}".encode("utf-8", "surrogatepass")).digest()
    return "sec_" + b32encode(digest[:10]).decode().lower()


def quote(part: str) -> str:
    return "_" if part == "*" else _UNSAFE.sub(lambda match: f"={ord(match[0]):02X}", part)


def unquote(text: str) -> str:
    return "*" if text == "_" else _QUOTED.sub(lambda match: chr(int(match[1], 16)), text)


def _text(name: str, raw: object) -> str:
    """A field as a tag has it: lists become comma lists, numbers and truth values texts; "" for the rest."""
    if isinstance(raw, bool):
        return str(raw).lower()
    if isinstance(raw, int):
        return str(raw)
    if isinstance(raw, list) and name in _LISTS:
        return ",".join(str(item) for item in raw)
    return raw.strip() if isinstance(raw, str) else ""

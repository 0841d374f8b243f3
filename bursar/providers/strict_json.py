"""JSON read strictly where it is governed, and kept as raw bytes everywhere else.

An object is decoded one level deep into raw values. That no key occurs twice is proven by arithmetic: compact JSON
without duplicates, escapes in keys or white space is exactly as long as its keys, its values and their punctuation;
anything longer is walked key by key. RFC 8259 §4 leaves duplicates open, and parsers differ in which one they take.
"""

import re
from collections.abc import Iterable
from typing import TypeVar

import msgspec

from bursar.core.errors import Refusal

Fields = dict[str, msgspec.Raw]
T = TypeVar("T")

_decode_object = msgspec.json.Decoder(Fields).decode
_decode_objects = msgspec.json.Decoder(list[Fields]).decode
_decode_array = msgspec.json.Decoder(list[msgspec.Raw]).decode
_TEXT: msgspec.json.Decoder[str | None] = msgspec.json.Decoder(str | None)
_WHOLE: msgspec.json.Decoder[int | None] = msgspec.json.Decoder(int | None)
_TRUTH: msgspec.json.Decoder[bool | None] = msgspec.json.Decoder(bool | None)

_SPACE = re.compile(rb"[ \t\n\r]*")
_KEY = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_OPEN_BRACKET = ord("[")
_OPEN_BRACE = ord("{")
_SHOWN = 64  # characters of a caller's own key that a message repeats


def read_body(body: bytes) -> Fields:
    """The top level of a request body. Raises Refusal(malformed_request | duplicate_field)."""
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError:
            raise Refusal("malformed_request", "The body is not valid UTF-8") from None
    try:
        return fields_of(body, "")
    except Refusal as refusal:
        if refusal.word == "invalid_field":
            raise Refusal("malformed_request", "The body is not a JSON object") from None
        raise


def fields_of(raw: bytes, where: str) -> Fields:
    """One object's fields, each proven to occur once.

    `where` names the object for the caller: "messages[].content[]"; "" is the body itself.
    Raises Refusal(invalid_field | malformed_request | duplicate_field).
    """
    try:
        fields = _decode_object(raw)
    except msgspec.ValidationError:
        raise wrong_kind(where, "an object") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise malformed(error) from None
    longer = len(raw) - (1 + 4 * len(fields) + sum(map(len, fields)) + sum(map(len, fields.values())))
    if longer and not (longer == 2 * len(fields) - 1 and _spaced(fields) == bytes(raw)):
        _walk(bytes(raw), fields, where)
    return fields


def _spaced(fields: Fields) -> bytes:
    """The object with a space after each comma and colon, as many programs write it."""
    return b"{" + b", ".join([b'"%b": %b' % (name.encode(), bytes(raw)) for name, raw in fields.items()]) + b"}"


def items_of(raw: bytes, where: str) -> list[msgspec.Raw]:
    """An array's items, raw."""
    try:
        return _decode_array(raw)
    except msgspec.ValidationError:
        raise wrong_kind(where, "an array") from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise malformed(error) from None


def objects_of(raw: bytes, where: str) -> list[Fields]:
    """An array of objects, each one's fields proven to occur once: one sum for all of them where it holds.

    `where` names one object. Raises Refusal(invalid_field | malformed_request | duplicate_field).
    """
    try:
        objects = _decode_objects(raw)
    except msgspec.ValidationError:
        raise wrong_kind(where, "an object in an array") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise malformed(error) from None
    size = 1 + 2 * len(objects)
    for fields in objects:
        size += 4 * len(fields) + sum(map(len, fields)) + sum(map(len, fields.values()))
    if size != len(raw):
        for item in items_of(raw, where):
            fields_of(item, where)
    return objects


def raw_size(fields: Fields) -> int:
    """The bytes of an object's values."""
    return sum(map(len, fields.values()))


def _walk(text: bytes, fields: Fields, where: str) -> None:
    """Go through a known-good object key by key. The decoder kept the last of equal keys: an earlier one shows here."""
    seen: set[str] = set()
    position = _after_space(text, _after_space(text, 0) + 1)
    while text[position : position + 1] != b"}":
        match = _KEY.match(text, position)
        assert match is not None, "the decoder has accepted this object"
        key = msgspec.json.decode(match[0], type=str)
        if key in seen:
            raise _twice(key, where)
        seen.add(key)
        colon = _after_space(text, match.end())
        start = _after_space(text, colon + 1)
        end = start + len(fields[key])
        position = _after_space(text, end)
        if text[start:end] != bytes(fields[key]) or text[position : position + 1] not in (b",", b"}"):
            raise _twice(key, where)
        if text[position : position + 1] == b",":
            position = _after_space(text, position + 1)


def _after_space(text: bytes, position: int) -> int:
    match = _SPACE.match(text, position)
    assert match is not None, "matches the empty string too"
    return match.end()


def unknown_keys(fields: Iterable[str], known: frozenset[str], where: str) -> tuple[str, ...]:
    """The keys that are not `known` (all lower case), in order. Raises Refusal(duplicate_field).

    A key that differs from a known one only in case would be taken for it by parsers that fold case (Go's do, over
    Unicode: the long s for an s), so it is refused rather than passed on unread.
    """
    unknown = []
    for key in fields:
        if key not in known:
            if key.casefold() in known:
                message = f"`{_path(where, key)}` differs only in case from `{key.casefold()}`"
                raise Refusal("duplicate_field", message, "Write field names in lower case")
            unknown.append(_path(where, key))
    return tuple(unknown)


def names(text: str) -> frozenset[str]:
    """A table of field names, written as one text."""
    return frozenset(text.split())


def is_array(raw: bytes) -> bool:
    return memoryview(raw)[0] == _OPEN_BRACKET


def is_object(raw: bytes) -> bool:
    return memoryview(raw)[0] == _OPEN_BRACE


def is_null(raw: bytes) -> bool:
    return len(raw) == 4 and bytes(raw) == b"null"


def text(fields: Fields, name: str, where: str = "") -> str | None:
    """A text field; None when absent or null. Raises Refusal(invalid_field)."""
    return _typed(fields, name, _TEXT, "text", where)


def whole(fields: Fields, name: str, where: str = "", least: int = 0) -> int | None:
    """A whole number of at least `least`; None when absent or null. Raises Refusal(invalid_field)."""
    value = _typed(fields, name, _WHOLE, "a whole number", where)
    if value is not None and value < least:
        raise Refusal("invalid_field", f"`{_path(where, name)}` must be at least {least}")
    return value


def truth(fields: Fields, name: str, where: str = "") -> bool:
    """A boolean field; False when absent or null. Raises Refusal(invalid_field)."""
    value: bool | None = _typed(fields, name, _TRUTH, "true or false", where)
    return bool(value)


def given(fields: Fields, name: str) -> msgspec.Raw | None:
    """A field's raw value; None when absent or null."""
    raw = fields.get(name)
    return None if raw is None or is_null(raw) else raw


def read_as(kind: msgspec.json.Decoder[T], raw: bytes, where: str, expected: str) -> T:
    """A governed value of a fixed kind. Raises Refusal(invalid_field | malformed_request)."""
    try:
        return kind.decode(raw)
    except msgspec.ValidationError:
        raise wrong_kind(where, expected) from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise malformed(error) from None


def _typed(fields: Fields, name: str, kind: msgspec.json.Decoder[T], expected: str, where: str) -> T | None:
    raw = fields.get(name)
    if raw is None:
        return None
    try:
        return kind.decode(raw)
    except msgspec.ValidationError:
        raise wrong_kind(_path(where, name), expected) from None
    except msgspec.DecodeError as error:
        raise malformed(error) from None


def malformed(error: Exception) -> Refusal:
    """A refusal that repeats nothing of the body: the decoder's texts name a kind of fault and a position only."""
    if isinstance(error, RecursionError):
        return Refusal("malformed_request", "The body is nested too deeply")
    if isinstance(error, UnicodeDecodeError):
        return Refusal("malformed_request", "The body is not valid UTF-8")
    return Refusal("malformed_request", str(error)[:200])


def wrong_kind(where: str, expected: str) -> Refusal:
    return Refusal("invalid_field", f"`{where}` must be {expected}")


def _twice(key: str, where: str) -> Refusal:
    return Refusal("duplicate_field", f"`{_path(where, key)}` occurs more than once")


def _path(where: str, key: str) -> str:
    return f"{where}.{key[:_SHOWN]}" if where else key[:_SHOWN]

"""JSON read strictly where it is governed, and kept as raw bytes everywhere else.

An object is decoded one level deep into raw values. That no key occurs twice is proven by writing it again: where that
gives the very same bytes, nothing was lost in reading; anything else is walked key by key. RFC 8259 §4 leaves
duplicates open, and parsers differ in which one they take.
"""

import re
from collections.abc import Iterable
from typing import Literal, TypeVar

import msgspec

from bursar.core.errors import Refusal

Fields = dict[str, msgspec.Raw]
T = TypeVar("T")

_decode_object = msgspec.json.Decoder(Fields).decode
_decode_objects = msgspec.json.Decoder(list[Fields]).decode
_encode = msgspec.json.Encoder().encode
_decode_array = msgspec.json.Decoder(list[msgspec.Raw]).decode
_TEXT: msgspec.json.Decoder[str | None] = msgspec.json.Decoder(str | None)
_WHOLE: msgspec.json.Decoder[int | None] = msgspec.json.Decoder(int | None)
_TRUTH: msgspec.json.Decoder[bool | None] = msgspec.json.Decoder(bool | None)

_SPACE = re.compile(rb"[ \t\n\r]*")
_KEY = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_OPEN_BRACKET = ord("[")
_OPEN_BRACE = ord("{")
_SHOWN = 64  # characters of a caller's own key that a message repeats

# Each object and each key costs far more to read than its bytes: a body made of nothing else would hold up everybody.
# No context window has room for as many as these.
_MANY_BYTES = 262_144
_MOST_BRACES = 250_000
_MOST_COLONS = 1_000_000
_MOST_OBJECTS = 100_000  # of one array: what Anthropic takes in messages
_MOST_KEYS = 2_000  # of one object
_MOST_WALKED = 64  # objects of one array that are looked through key by key
_LONGEST_MODEL = 256
MOST_SHORT = 65_536  # bytes of a governed value that is small by its nature


def read_body(body: bytes) -> Fields:
    """The top level of a request body. Raises Refusal(malformed_request | duplicate_field)."""
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError:
            raise Refusal("malformed_request", "The body is not valid UTF-8") from None
    if len(body) > _MANY_BYTES and (body.count(b"{") > _MOST_BRACES or body.count(b":") > _MOST_COLONS):
        raise Refusal("malformed_request", "The body holds too many objects or keys")
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
    if len(fields) > _MOST_KEYS:
        raise Refusal("malformed_request", f"{f'`{where}`' if where else 'The body'} has more than {_MOST_KEYS} keys")
    written = bytes(raw)
    if _encode(fields) != written and _spaced(fields) != written:
        _walk(written, fields, where)
    return fields


def _spaced(fields: Fields) -> bytes:
    """The object with a space after each comma and colon, as many programs write it."""
    return b"{" + b", ".join([b'"%b": %b' % (name.encode(), bytes(raw)) for name, raw in fields.items()]) + b"}"


def items_of(raw: bytes, where: str) -> list[msgspec.Raw]:
    """An array's items, raw. Raises Refusal(invalid_field | malformed_request)."""
    try:
        return _decode_array(raw)
    except msgspec.ValidationError:
        raise wrong_kind(where, "an array") from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise malformed(error) from None


def objects_of(raw: bytes, where: str) -> list[Fields]:
    """An array of objects, each one's fields proven to occur once: all of them at once where that holds.

    `where` names one object. Raises Refusal(invalid_field | malformed_request | duplicate_field).
    """
    objects = _objects(raw, where)
    if _encode(objects) == bytes(raw):
        return objects
    raw = msgspec.json.format(raw, indent=-1)  # white space is what mostly made it another text
    objects = _objects(raw, where)
    if _encode(objects) != raw:
        if len(objects) > _MOST_WALKED:
            raise Refusal("duplicate_field", f"`{where}` has keys that occur twice, or are written with escapes")
        for item in items_of(raw, where):
            fields_of(item, where)
    return objects


def _objects(raw: bytes, where: str) -> list[Fields]:
    try:
        objects = _decode_objects(raw)
    except msgspec.ValidationError:
        raise wrong_kind(where, "an object in an array") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise malformed(error) from None
    if len(objects) > _MOST_OBJECTS:
        raise Refusal("malformed_request", f"`{where}` occurs more than {_MOST_OBJECTS} times")
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
                field = _path(where, key)
                message = f"`{field}` differs only in case from `{key.casefold()}`"
                raise Refusal("duplicate_field", message, "Write field names in lower case", facts={"field": field})
            unknown.append(_path(where, key))
    return tuple(unknown)


def names(text: str) -> frozenset[str]:
    """A table of field names, written as one text."""
    return frozenset(text.split())


def kind_of(raw: bytes) -> Literal["array", "object", ""]:
    """Whether a raw value is one of the two that hold others; "" for all the rest."""
    first = memoryview(raw)[0]
    return "array" if first == _OPEN_BRACKET else "object" if first == _OPEN_BRACE else ""


def is_null(raw: bytes) -> bool:
    return len(raw) == 4 and bytes(raw) == b"null"


def text(fields: Fields, name: str, where: str = "") -> str | None:
    """A text field; None when absent or null. Raises Refusal(invalid_field)."""
    if name not in fields:
        return None
    return _typed(fields, name, _TEXT, "text", where)


def model_of(fields: Fields) -> str:
    """The model asked for. Names are remembered, so a caller's may not be of any length. Raises Refusal."""
    model = text(fields, "model")
    if not model or len(model) > _LONGEST_MODEL:
        raise wrong_kind("model", f"the name of a model, of at most {_LONGEST_MODEL} characters")
    return model


def whole(fields: Fields, name: str, where: str = "", least: int = 0) -> int | None:
    """A whole number of at least `least`; None when absent or null. Raises Refusal(invalid_field)."""
    if name not in fields:
        return None
    value = _typed(fields, name, _WHOLE, "a whole number", where)
    if value is not None and value < least:
        field = _path(where, name)
        raise Refusal("invalid_field", f"`{field}` must be at least {least}", facts={"field": field})
    return value


def truth(fields: Fields, name: str, where: str = "") -> bool:
    """A boolean field; False when absent or null. Raises Refusal(invalid_field)."""
    if name not in fields:
        return False
    value: bool | None = _typed(fields, name, _TRUTH, "true or false", where)
    return bool(value)


def given(fields: Fields, name: str) -> msgspec.Raw | None:
    """A field's raw value; None when absent or null."""
    raw = fields.get(name)
    return None if raw is None or is_null(raw) else raw


def read_as(kind: msgspec.json.Decoder[T], raw: bytes, where: str, expected: str) -> T:
    """A governed value of a fixed kind, small by nature. Raises Refusal(invalid_field | malformed_request)."""
    if len(raw) > MOST_SHORT:
        raise Refusal("invalid_field", f"`{where}` is larger than {MOST_SHORT} bytes")
    try:
        return kind.decode(raw)
    except msgspec.ValidationError:
        raise wrong_kind(where, expected) from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise malformed(error) from None


def _typed(fields: Fields, name: str, kind: msgspec.json.Decoder[T], expected: str, where: str) -> T | None:
    try:
        return kind.decode(fields[name])
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
    return Refusal("invalid_field", f"`{where}` must be {expected}", facts={"field": where})


def _twice(key: str, where: str) -> Refusal:
    field = _path(where, key)
    return Refusal("duplicate_field", f"`{field}` occurs more than once", facts={"field": field})


def _path(where: str, key: str) -> str:
    return f"{where}.{key[:_SHOWN]}" if where else key[:_SHOWN]

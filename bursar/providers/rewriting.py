"""Builds the body to send when something governed changes. Untouched values keep their bytes and their order."""

from collections.abc import Callable

import msgspec

from bursar.providers.strict_json import Fields, read_body, text

ABSENT = msgspec.Raw(b"")  # a field to leave out


def raw_value(value: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


def rebuild(fields: Fields, changes: Fields) -> bytes:
    """The object with `changes` laid on top: replaced in place, appended when new, left out when `ABSENT`."""
    merged = {**fields, **changes}
    return msgspec.json.encode({name: raw for name, raw in merged.items() if raw})


def rename(body: bytes, naming: Callable[[str], str]) -> bytes:
    """The body with another name for its model. Raises Refusal(malformed_request | duplicate_field | invalid_field)."""
    fields = read_body(body)
    return rebuild(fields, {"model": raw_value(naming(text(fields, "model") or ""))})

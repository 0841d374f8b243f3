"""Governed fields that several of OpenAI's surfaces share: stop sequences, stream options, lists of other models."""

from collections.abc import Iterable

import msgspec

from bursar.core.calls import Call, Edits
from bursar.core.errors import Refusal
from bursar.providers.findings import Findings
from bursar.providers.rewriting import raw_value, rebuild
from bursar.providers.strict_json import Fields, fields_of, given, read_as, truth, unknown_keys

MOST_STOPS = 4  # what the API takes
_STREAM_OPTIONS = frozenset({"include_usage", "include_obfuscation"})
_STOPS: msgspec.json.Decoder[str | list[str] | None] = msgspec.json.Decoder(str | list[str] | None)


def refuse_other_models(fields: Fields) -> None:
    """Routers' own fallback lists. Raises Refusal(invalid_field)."""
    for name in ("models", "fallbacks"):
        if given(fields, name) is not None:
            message = f"`{name}` would let the provider use another model than the one asked for"
            raise Refusal("invalid_field", message, "Name one `model`")


def wants_usage(fields: Fields, found: Findings) -> bool:
    """Whether the caller asked for the chunk with usage at the end of his stream."""
    options = given(fields, "stream_options")
    if options is None:
        return False
    asked = fields_of(options, "stream_options")
    for path in unknown_keys(asked, _STREAM_OPTIONS, "stream_options"):
        found.new_key(path)
    return truth(asked, "include_usage", "stream_options")


def read_stops(fields: Fields) -> list[str]:
    raw = fields.get("stop")
    if raw is None:
        return []
    stops = read_as(_STOPS, raw, "stop", "a text or an array of texts")
    if isinstance(stops, str):
        return [stops]
    return stops or []


def edit_stream(fields: Fields, call: Call, edits: Edits, changes: Fields) -> None:
    """Ask for usage where the caller did not."""
    if edits.include_usage and call.stream and not call.wants_usage:
        options = given(fields, "stream_options")
        asked = fields_of(options, "stream_options") if options is not None else {}
        changes["stream_options"] = msgspec.Raw(rebuild(asked, {"include_usage": raw_value(True)}))


def edit_stops(fields: Fields, stops: Iterable[str], changes: Fields) -> None:
    own = read_stops(fields)
    merged = list(dict.fromkeys((*stops, *own)))[:MOST_STOPS]
    if merged != own:
        changes["stop"] = raw_value(merged)

"""The Anthropic messages dialect: POST /v1/messages and /v1/messages/count_tokens.

Reference: https://docs.anthropic.com/en/api/messages, https://docs.anthropic.com/en/api/messages-count-tokens.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from bursar.core.calls import Call, DialectName, Edits, Usage
from bursar.core.errors import Refusal
from bursar.core.made_ids import Reference
from bursar.core.parts import Part, Path
from bursar.ports import BatchForms
from bursar.providers.anthropic_content import read_blocks, read_cache_control, read_messages, read_tools, takes_cap
from bursar.providers.anthropic_kept import KeepingMeter, made_in, read_container
from bursar.providers.anthropic_stream import AnthropicMeter
from bursar.providers.anthropic_usage import read_said, to_usage
from bursar.providers.findings import Findings
from bursar.providers.prompt_size import MEDIA_BYTES, count_chars
from bursar.providers.rewriting import raw_value, rebuild, rename
from bursar.providers.strict_json import (
    Fields,
    fields_of,
    given,
    items_of,
    kind_of,
    model_of,
    names,
    objects_of,
    read_as,
    read_body,
    text,
    truth,
    unknown_keys,
    whole,
    wrong_kind,
)
from bursar.providers.upstream_facts import UpstreamFacts, fixed_headers, request_headers, response_headers
from bursar.providers.usage_counts import (
    BYTES_PER_TOKEN,
    MISSING,
    SLACK_BYTES,
    UNREADABLE,
    doubt_beside_output,
    utf8_bytes,
)
from bursar.providers.walk import parts_of, with_texts

API_VERSION = "2023-06-01"

# Read, and rewritten where policy says so.
_GOVERNED = names(
    "model messages system max_tokens stream stop_sequences thinking tools cache_control container metadata"
    " service_tier speed inference_geo mcp_servers fallbacks"
)
# Change the answer but never raise the price above input and output cap at this model's rates.
_HARMLESS = names("temperature top_p top_k tool_choice output_config diagnostics")
_KNOWN = _GOVERNED | _HARMLESS
# The commonest keys need no further look.
_PLAIN = _HARMLESS | names("model messages max_tokens stream")
_THINKING = names("type budget_tokens display")
_METADATA = names("user_id")

_STOPS: msgspec.json.Decoder[list[str] | None] = msgspec.json.Decoder(list[str] | None)


class _Block(msgspec.Struct):
    type: str = ""
    text: str | None = None
    thinking: str | None = None
    input: msgspec.Raw = msgspec.Raw()
    name: str | None = None


class _Answer(msgspec.Struct):
    usage: msgspec.Raw = msgspec.Raw()
    content: msgspec.Raw = msgspec.Raw()


_answer = msgspec.json.Decoder(_Answer)
_blocks = msgspec.json.Decoder(list[_Block])


class Anthropic:
    """`bursar.ports.Dialect` for the routes "messages" and "count_tokens"."""

    name: DialectName = "anthropic"
    batches: BatchForms | None = None
    upstream = UpstreamFacts(
        paths={"messages": "/v1/messages", "count_tokens": "/v1/messages/count_tokens"},
        auth="x-api-key",
        fixed_headers=fixed_headers(("anthropic-version", API_VERSION)),  # other versions answer in other shapes
        request_headers=request_headers("anthropic-beta"),
        response_headers=response_headers(("request-id", "anthropic-version")),
        key_errors=frozenset({"authentication_error", "permission_error"}),
    )

    def understand(self, route: str, body: bytes) -> Call:
        """Parse strictly what is governed. Raises Refusal(malformed_request | duplicate_field | invalid_field)."""
        try:
            return self._understand(route, body)
        except RecursionError:  # blocks hold blocks: ours is the deeper stack
            raise Refusal("malformed_request", "The body is nested too deeply") from None

    def _understand(self, route: str, body: bytes) -> Call:
        fields = read_body(body)
        model = model_of(fields)
        messages = fields.get("messages")
        if messages is None:
            raise wrong_kind("messages", "an array")
        found = Findings()
        count = read_messages(messages, found)
        cap = whole(fields, "max_tokens")
        extras = {} if _PLAIN.issuperset(fields) else _read_extras(fields, cap, found)
        system = fields.get("system")
        call = Call(
            route=route,
            dialect="anthropic",
            purpose="inference",
            model=model,
            stream=truth(fields, "stream"),
            body=body,
            input_bytes=len(body) - found.media_bytes + MEDIA_BYTES * found.media,
            prompt_chars=count_chars(body, messages) if system is None else count_chars(body, system, messages),
            messages=count,
            max_tokens=cap,
            max_tokens_field="" if cap is None else "max_tokens",
            wants_usage=True,  # the dialect's streams always tell
            parsed=fields,
        )
        found.tell(call)
        if found.tools or "container" in fields:  # the provider runs code, in a container that it keeps
            call.keeps = route == "messages"
        return msgspec.structs.replace(call, **extras) if extras else call

    def rename(self, body: bytes, naming: Callable[[str], str]) -> bytes:
        """The body with another name for its model."""
        return rename(body, naming)

    def parts(self, call: Call) -> Iterator[Part]:
        """The content of the call, piece by piece. Raises Refusal(malformed_request | duplicate_field)."""
        return parts_of(call.route, call.body)

    def replaced(self, call: Call, texts: Mapping[Path, str]) -> Call:
        """The call with other texts at these paths, understood anew. Raises KeyError where nothing lies."""
        return self.understand(call.route, with_texts(call.body, texts))

    def rewrite(self, call: Call, edits: Edits) -> bytes:
        """The body to send: the original bytes when no edit applies."""
        fields = call.parsed
        assert isinstance(fields, dict), "the call was understood by this dialect"
        changes: Fields = {}
        if edits.model is not None and edits.model != call.model:
            changes["model"] = raw_value(edits.model)
        if call.route == "messages":
            if edits.max_tokens is not None and edits.max_tokens != call.max_tokens:
                changes["max_tokens"] = raw_value(edits.max_tokens)
            if edits.stop:
                own = _read_stops(fields)
                merged = list(dict.fromkeys((*edits.stop, *own)))
                if merged != own:
                    changes["stop_sequences"] = raw_value(merged)
            if edits.tool_uses_cap is not None and any(tool.max_uses is None for tool in call.server_tools):
                changes["tools"] = _cap_tools(fields["tools"], edits.tool_uses_cap)
        return rebuild(fields, changes) if changes else call.body

    def read_usage(self, call: Call, body: bytes) -> tuple[Usage | None, int, str]:
        """A whole answer -> (usage or None, visible output bytes, why usage was not believed).

        The visible bytes are counted (not 0) only where usage is missing or looks wrong. Counting tokens is free.
        """
        if call.route == "count_tokens":
            return Usage(input_tokens=0, output_tokens=0), 0, ""
        try:
            answer = _answer.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None, len(body), UNREADABLE
        if len(answer.usage) <= 4:  # absent or null
            return None, _count_visible(answer.content)[0], MISSING
        usage, reason = to_usage(read_said(answer.usage), call)
        if usage is not None:
            plausible = len(answer.content) <= usage.output_tokens * BYTES_PER_TOKEN + SLACK_BYTES
            if plausible and usage.output_tokens and usage.input_tokens:
                return usage, 0, ""
            visible, seen = _count_visible(answer.content)
            reason = doubt_beside_output(usage, visible, seen)
            return (None, visible, reason) if reason else (usage, visible, "")
        return None, _count_visible(answer.content)[0], reason

    def made(self, call: Call, body: bytes) -> list[Reference]:  # noqa: ARG002 - the body tells
        return made_in(body)

    def still_running(self, body: bytes) -> bool:  # noqa: ARG002 - nothing runs on
        return False

    def stream_meter(self, call: Call, edits: Edits) -> AnthropicMeter:  # noqa: ARG002 - nothing to strip here
        return KeepingMeter(call) if call.keeps else AnthropicMeter(call)


def _read_extras(fields: Fields, cap: int | None, found: Findings) -> dict[str, Any]:
    """The rarer governed fields, as arguments of `Call`."""
    found.new_fields(fields, _KNOWN)
    if given(fields, "fallbacks") is not None:
        message = "`fallbacks` would let the provider use another model than the one asked for"
        raise Refusal("invalid_field", message, "Leave it out")
    read_cache_control(fields, found, "")
    _read_inputs(fields, found)
    _read_stops(fields)
    budget, reasoning = _read_thinking(fields)
    if cap is not None and budget >= cap > 0:
        found.no_ceiling("thinking_budget")  # interleaved thinking lets the output pass max_tokens
    tier = text(fields, "service_tier") or ""
    if text(fields, "speed") == "fast":
        tier = "fast"
    if text(fields, "inference_geo") not in (None, "global"):
        found.new_key("inference_geo")  # other regions cost more
    return {"thinking_budget": budget, "reasoning": reasoning, "service_tier": tier, "user": _read_user(fields)}


def _read_inputs(fields: Fields, found: Findings) -> None:
    system = given(fields, "system")
    if system is not None:
        kind = kind_of(system)
        if kind == "array":
            read_blocks(system, found, "system[]")
        elif kind == "object":
            raise wrong_kind("system", "text or an array")
    if (tools := given(fields, "tools")) is not None:
        read_tools(tools, found)
    read_container(fields, found)
    servers = given(fields, "mcp_servers")
    if servers is not None and len(servers) > len(b"[]"):
        found.no_ceiling("mcp_servers")


def _read_thinking(fields: Fields) -> tuple[int, bool]:
    """-> (tokens set aside, whether hidden reasoning was asked for)."""
    raw = given(fields, "thinking")
    if raw is None:
        return 0, False
    thinking = fields_of(raw, "thinking")
    unknown_keys(thinking, _THINKING, "thinking")
    kind = text(thinking, "type", "thinking")
    return whole(thinking, "budget_tokens", "thinking") or 0, kind != "disabled"


def _read_user(fields: Fields) -> str:
    raw = given(fields, "metadata")
    if raw is None:
        return ""
    metadata = fields_of(raw, "metadata")
    unknown_keys(metadata, _METADATA, "metadata")
    return text(metadata, "user_id", "metadata") or ""


def _read_stops(fields: Fields) -> list[str]:
    raw = fields.get("stop_sequences")
    if raw is None:
        return []
    stops = read_as(_STOPS, raw, "stop_sequences", "an array of texts")
    return stops or []


def _cap_tools(raw: bytes, cap: int) -> msgspec.Raw:
    """The tools with a cap on each server tool that takes one and came without; the others keep their bytes."""
    pairs = zip(items_of(raw, "tools"), objects_of(raw, "tools[]"), strict=True)
    capped = [
        msgspec.Raw(rebuild(fields, {"max_uses": raw_value(cap)})) if takes_cap(fields) else item
        for item, fields in pairs
    ]
    return raw_value(capped)


def _count_visible(raw: bytes) -> tuple[int, bool]:
    """-> (visible bytes of all blocks, whether anything was output). An unknown shape counts whole."""
    if len(raw) <= 4:
        return 0, False
    try:
        blocks = _blocks.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return len(raw), True
    size = 0
    for block in blocks:
        size += utf8_bytes(block.text or "") + utf8_bytes(block.thinking or "")
        if block.type.endswith("tool_use"):
            size += utf8_bytes(block.name or "") + len(block.input)
    return size, size > 0 or any(block.type != "text" for block in blocks)

"""Answers in Anthropic's shape: whole, streamed, errors, counted tokens, models."""

from typing import Any

import msgspec

from bursar.providers.emulator.counts import Counts, lie_about
from bursar.providers.emulator.generation import Generation
from bursar.providers.emulator.request import TOKEN_BYTES, Request
from bursar.providers.emulator.steps import Event, pieces

MODELS = ("claude-emulated", "claude-emulated-mini")
_CREATED = "2025-06-15T00:00:00Z"
_SIGNATURE = "RW11bGF0ZWQ="

_ERRORS = {
    400: ("invalid_request_error", "The request is not valid."),
    401: ("authentication_error", "invalid x-api-key"),
    403: ("permission_error", "Your API key does not have permission to use the specified resource."),
    404: ("not_found_error", "The model does not exist."),
    413: ("request_too_large", "Request exceeds the maximum size."),
    429: ("rate_limit_error", "This request would exceed your rate limit."),
    500: ("api_error", "Internal server error"),
    529: ("overloaded_error", "Overloaded"),
}


def _usage(counts: Counts) -> dict[str, Any]:
    usage: dict[str, Any] = {
        "input_tokens": counts.input - counts.cached - counts.cache_write_5m - counts.cache_write_1h,
        "cache_creation_input_tokens": counts.cache_write_5m + counts.cache_write_1h,
        "cache_read_input_tokens": counts.cached,
        "cache_creation": {
            "ephemeral_5m_input_tokens": counts.cache_write_5m,
            "ephemeral_1h_input_tokens": counts.cache_write_1h,
        },
        "output_tokens": counts.output,
        "service_tier": "standard",
    }
    if counts.reasoning:
        usage["output_tokens_details"] = {"thinking_tokens": counts.reasoning}
    if counts.searches:
        usage["server_tool_use"] = {"web_search_requests": counts.searches, "web_fetch_requests": 0}
    return usage


def _told(counts: Counts, request: Request) -> dict[str, Any] | None:
    usage = lie_about(_usage(counts), request.script.usage)
    if usage is not None and request.script.tier:
        usage["service_tier"] = request.script.tier
    return usage


def _stop_reason(generation: Generation) -> str:
    if generation.cut:
        return "max_tokens"
    if generation.tool:
        return "tool_use"
    return "refusal" if generation.refused else "end_turn"


def _message(request: Request, content: list[dict[str, Any]], stop: str | None, usage: object) -> dict[str, Any]:
    message = {
        "id": f"msg_{request.id}",
        "type": "message",
        "role": "assistant",
        "model": request.body.model,
        "content": content,
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": usage,
    }
    if usage is None:
        del message["usage"]
    return message


def whole(request: Request, generation: Generation, counts: Counts) -> bytes:
    content: list[dict[str, Any]] = []
    if generation.thought:
        content.append({"type": "thinking", "thinking": generation.thought, "signature": _SIGNATURE})
    if generation.tool:
        content.append({**_tool_block(request, generation), "input": _arguments(generation)})
    else:
        content.append({"type": "text", "text": generation.text})
    return msgspec.json.encode(_message(request, content, _stop_reason(generation), _told(counts, request)))


def _tool_block(request: Request, generation: Generation) -> dict[str, Any]:
    return {"type": "tool_use", "id": f"toolu_{request.id}", "name": generation.tool, "input": {}}


def _arguments(generation: Generation) -> Any:
    try:
        return msgspec.json.decode(generation.text)
    except msgspec.DecodeError:  # cut short by max_tokens
        return {}


def events(request: Request, generation: Generation, counts: Counts) -> list[Event]:
    """The stream's events in order, without malformations."""
    told = _told(counts, request)
    opening = _message(request, [], None, None if told is None else {**told, "output_tokens": min(1, counts.output)})
    found = [_event({"type": "message_start", "message": opening}), _event({"type": "ping"})]
    index = 0
    if generation.thought:
        found += _thinking(generation)
        index = 1
    kind = "input_json_delta" if generation.tool else "text_delta"
    field = "partial_json" if generation.tool else "text"
    block = _tool_block(request, generation) if generation.tool else {"type": "text", "text": ""}
    found.append(_event({"type": "content_block_start", "index": index, "content_block": block}))
    done = counts.reasoning
    for piece in pieces(generation.text, generation.visible, request.script.chunks):
        done += piece.tokens
        delta = {"type": kind, field: piece.text}
        found.append(_event({"type": "content_block_delta", "index": index, "delta": delta}, done))
    found.append(_event({"type": "content_block_stop", "index": index}, counts.output))
    return found + _ending(request, generation, counts, told)


def _thinking(generation: Generation) -> list[Event]:
    start = {"type": "thinking", "thinking": "", "signature": ""}
    found = [_event({"type": "content_block_start", "index": 0, "content_block": start})]
    done = 0
    for piece in pieces(generation.thought, len(generation.thought) // TOKEN_BYTES, None):
        done += piece.tokens
        delta = {"type": "thinking_delta", "thinking": piece.text}
        found.append(_event({"type": "content_block_delta", "index": 0, "delta": delta}, done))
    signed = {"type": "signature_delta", "signature": _SIGNATURE}
    found.append(_event({"type": "content_block_delta", "index": 0, "delta": signed}, done))
    return [*found, _event({"type": "content_block_stop", "index": 0}, done)]


def _ending(request: Request, generation: Generation, counts: Counts, told: dict[str, Any] | None) -> list[Event]:
    delta: dict[str, Any] = {
        "type": "message_delta",
        "delta": {"stop_reason": _stop_reason(generation), "stop_sequence": None},
        "usage": told,
    }
    if told is None:
        del delta["usage"]
    found = [_event(delta, counts.output, usage=True)]
    if request.script.usage == "twice":
        found.append(_event({**delta, "usage": {"output_tokens": 1}}, counts.output, usage=True))
    return [*found, _event({"type": "message_stop"}, counts.output, last=True)]


def _event(data: dict[str, Any], done: int = 0, *, usage: bool = False, last: bool = False) -> Event:
    text = b"event: " + data["type"].encode() + b"\ndata: " + msgspec.json.encode(data) + b"\n\n"
    return Event(text, done, usage=usage, last=last)


def counted(request: Request) -> bytes:
    return msgspec.json.encode({"input_tokens": request.input_tokens})


def error(status: int, message: str = "") -> bytes:
    kind, text = _ERRORS.get(status, ("api_error", "Internal server error"))
    return msgspec.json.encode({"type": "error", "error": {"type": kind, "message": message or text}})


def models() -> bytes:
    rows = [{"type": "model", "id": name, "display_name": name, "created_at": _CREATED} for name in MODELS]
    return msgspec.json.encode({"data": rows, "has_more": False, "first_id": MODELS[0], "last_id": MODELS[-1]})

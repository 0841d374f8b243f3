"""Answers in OpenAI's shape: whole, streamed, errors, models."""

from typing import Any

import msgspec

from bursar.providers.emulator.counts import Counts, lie_about
from bursar.providers.emulator.generation import Generation
from bursar.providers.emulator.request import Request
from bursar.providers.emulator.steps import Event, pieces

CREATED = 1_750_000_000
MODELS = ("gpt-emulated", "gpt-emulated-mini")

_ERRORS = {
    400: ("invalid_request_error", None, "The request is not valid."),
    401: ("invalid_request_error", "invalid_api_key", "Incorrect API key provided."),
    403: ("permission_error", None, "You do not have access to this resource."),
    404: ("invalid_request_error", "model_not_found", "The model does not exist."),
    429: ("rate_limit_exceeded", "rate_limit_exceeded", "Rate limit reached for requests."),
    500: ("server_error", None, "The server had an error while processing your request."),
    503: ("server_error", None, "The engine is currently overloaded."),
}


def usage(counts: Counts) -> dict[str, Any]:
    return {
        "prompt_tokens": counts.input,
        "completion_tokens": counts.output,
        "total_tokens": counts.input + counts.output,
        "prompt_tokens_details": {
            "cached_tokens": counts.cached,
            "cache_write_tokens": counts.cache_write_5m + counts.cache_write_1h,
            "audio_tokens": 0,
        },
        "completion_tokens_details": {
            "reasoning_tokens": counts.reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _tool_call(request: Request, generation: Generation, choice: int, arguments: str) -> dict[str, Any]:
    return {
        "id": f"call_{request.id[-8:]}{choice}",
        "type": "function",
        "function": {"name": generation.tool, "arguments": arguments},
    }


def _finish(generation: Generation) -> str:
    if generation.cut:
        return "length"
    return "tool_calls" if generation.tool else "stop"


def whole(request: Request, generation: Generation, counts: Counts) -> bytes:
    choices = []
    for index in range(request.body.n or 1):
        message: dict[str, Any] = {"role": "assistant", "content": generation.text, "refusal": None, "annotations": []}
        if generation.tool:
            message |= {"content": None, "tool_calls": [_tool_call(request, generation, index, generation.text)]}
        elif generation.refused:
            message |= {"content": None, "refusal": generation.text}
        choices.append({"index": index, "message": message, "logprobs": None, "finish_reason": _finish(generation)})
    answer: dict[str, Any] = {
        "id": f"chatcmpl-{request.id}",
        "object": "chat.completion",
        "created": CREATED,
        "model": request.body.model,
        "choices": choices,
        "usage": lie_about(usage(counts), request.script.usage),
        "service_tier": request.script.tier or "default",
        "system_fingerprint": "fp_emulator",
    }
    if answer["usage"] is None:
        del answer["usage"]
    return msgspec.json.encode(answer)


def events(request: Request, generation: Generation, counts: Counts) -> list[Event]:
    """The stream's events in order, without malformations."""
    with_usage = request.body.stream_options is not None and bool(request.body.stream_options.include_usage)
    frame = _Frame(request, with_usage)
    choices = range(request.body.n or 1)
    found = [Event(frame.chunk(_opening(request, generation, index), index)) for index in choices]
    done = counts.reasoning
    for piece in pieces(generation.text, generation.visible, request.script.chunks):
        for index in choices:
            done += piece.tokens
            found.append(Event(frame.chunk(_delta(generation, piece.text), index), done))
    found += [Event(frame.chunk({}, index, _finish(generation)), counts.output) for index in choices]
    lie = request.script.usage
    told = lie_about(usage(counts), lie)
    if with_usage and told is not None:
        found.append(Event(frame.usage(told), counts.output, usage=True))
        if lie == "twice":
            found.append(
                Event(frame.usage({**told, "completion_tokens": 1, "total_tokens": 1}), counts.output, usage=True)
            )
    found.append(Event(b"data: [DONE]\n\n", counts.output, last=True))
    return found


def _opening(request: Request, generation: Generation, index: int) -> dict[str, Any]:
    if generation.tool:
        call = {"index": 0, **_tool_call(request, generation, index, "")}
        return {"role": "assistant", "content": None, "tool_calls": [call]}
    return {"role": "assistant", "content": "", "refusal": None}


def _delta(generation: Generation, text: str) -> dict[str, Any]:
    if generation.tool:
        return {"tool_calls": [{"index": 0, "function": {"arguments": text}}]}
    return {"refusal": text} if generation.refused else {"content": text}


class _Frame:
    """What all chunks of a stream share."""

    def __init__(self, request: Request, with_usage: bool) -> None:
        self._common = {
            "id": f"chatcmpl-{request.id}",
            "object": "chat.completion.chunk",
            "created": CREATED,
            "model": request.body.model,
            "service_tier": request.script.tier or "default",
            "system_fingerprint": "fp_emulator",
        }
        self._tail: dict[str, Any] = {"usage": None} if with_usage else {}

    def chunk(self, delta: dict[str, Any], index: int, finish: str | None = None) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
        return sse({**self._common, "choices": [choice], **self._tail})

    def usage(self, usage: dict[str, Any]) -> bytes:
        return sse({**self._common, "choices": [], "usage": usage})


def sse(data: object) -> bytes:
    return b"data: " + msgspec.json.encode(data) + b"\n\n"


def error(status: int, message: str = "") -> bytes:
    kind, code, text = _ERRORS.get(status, ("server_error", None, "The server had an error."))
    return msgspec.json.encode({"error": {"message": message or text, "type": kind, "param": None, "code": code}})


def models() -> bytes:
    rows = [{"id": name, "object": "model", "created": CREATED, "owned_by": "emulator"} for name in MODELS]
    return msgspec.json.encode({"object": "list", "data": rows})

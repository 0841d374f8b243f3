"""Bodies that callers send, answers that providers give, and what both cost by two models with round prices."""

from typing import Any

import msgspec

from bursar.core.errors import UpstreamFault
from tests.gateway.fakes import FakeResponse

# One model of each dialect with round prices: pico-USD per token.
IN, OUT = 1_000, 4_000
WINDOW, MOST_OUTPUT = 100_000, 8_000
MODEL, CLAUDE = "plain-1", "clear-1"
SLACK = 512  # output tokens that an inexact settlement allows for (design.md §3)


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]} | fields


def message(**fields: Any) -> dict[str, Any]:
    return {"model": CLAUDE, "max_tokens": 1000, "messages": [{"role": "user", "content": "Hello"}]} | fields


def ceiling_of(body: dict[str, Any], cap: int, n: int = 1) -> int:
    """design.md §3 by hand: input bytes and documented overhead at the input rate, the cap at the output rate."""
    return input_pico(body) + cap * n * OUT


def input_pico(body: dict[str, Any]) -> int:
    return (len(msgspec.json.encode(body)) + 256 + 16 * len(body["messages"])) * IN


def usage(input_tokens: int, output_tokens: int, **more: Any) -> dict[str, Any]:
    return {"prompt_tokens": input_tokens, "completion_tokens": output_tokens} | more


def completion(text: str = "Hi", said: dict[str, Any] | None = None) -> FakeResponse:
    body: dict[str, Any] = {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}}]}
    if said is not None:
        body["usage"] = said
    return plain(body)


def plain(body: Any, status: int = 200, **headers: str) -> FakeResponse:
    return FakeResponse([msgspec.json.encode(body)], status, {"content-type": "application/json"} | headers)


def error(status: int, word: str = "some_error") -> FakeResponse:
    return plain({"error": {"message": "no", "type": word, "code": word}}, status)


def stream(*script: Any) -> FakeResponse:
    return FakeResponse(script, 200, {"content-type": "text/event-stream; charset=utf-8"})


def chunk(text: str | None = None, finish: str | None = None, **fields: Any) -> bytes:
    delta = {} if text is None else {"content": text}
    value = {"id": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]} | fields
    return event(value)


def event(value: Any) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


DONE = b"data: [DONE]\n\n"


def usage_chunk(input_tokens: int, output_tokens: int, **more: Any) -> bytes:
    return event({"id": "c", "choices": [], "usage": usage(input_tokens, output_tokens, **more)})


def whole_stream(said: tuple[int, int] = (10, 2)) -> FakeResponse:
    return stream(chunk("He"), chunk("llo"), chunk(finish="stop"), usage_chunk(*said), DONE)


def named(name: str, **fields: Any) -> bytes:
    return f"event: {name}\n".encode() + event({"type": name} | fields)


def message_start(input_tokens: int) -> bytes:
    said = {"input_tokens": input_tokens, "output_tokens": 1}
    return named("message_start", message={"id": "m", "type": "message", "role": "assistant", "usage": said})


def text_delta(text: str) -> bytes:
    return named("content_block_delta", index=0, delta={"type": "text_delta", "text": text})


BLOCK_START = named("content_block_start", index=0, content_block={"type": "text", "text": ""})
BLOCK_STOP = named("content_block_stop", index=0)
MESSAGE_STOP = named("message_stop")


def message_delta(output_tokens: int) -> bytes:
    return named("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": output_tokens})


def unsent(kind: str = "connect") -> UpstreamFault:
    return UpstreamFault(kind, sent=False)


def broken(kind: str = "reset") -> UpstreamFault:
    return UpstreamFault(kind, sent=True)

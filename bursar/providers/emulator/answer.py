"""From a request to the steps of its answer: the one place where route, dialect and script meet."""

from typing import Any

import msgspec

from bursar.providers.emulator import (
    anthropic_answers,
    completions_answers,
    embeddings_answers,
    openai_answers,
    responses_answers,
)
from bursar.providers.emulator.counts import Counts, count
from bursar.providers.emulator.generation import generate
from bursar.providers.emulator.request import Request
from bursar.providers.emulator.steps import Step, stream_steps, whole_steps

_REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    429: "Too Many Requests",
    500: "Internal Server Error",
    503: "Service Unavailable",
    529: "Overloaded",
}
# Like the real ones: their own limits, and things that must not reach a caller of a broker.
_OPENAI_HEAD = (
    b"x-request-id: req_%b\r\nopenai-processing-ms: 1\r\nopenai-version: 2020-10-01\r\n"
    b"openai-organization: emulator-org\r\nset-cookie: __cf_bm=emulator; path=/\r\n"
    b"x-ratelimit-limit-requests: 5000\r\nx-ratelimit-remaining-requests: 4999\r\nx-ratelimit-reset-requests: 12ms\r\n"
    b"x-ratelimit-limit-tokens: 800000\r\nx-ratelimit-remaining-tokens: 799000\r\nx-ratelimit-reset-tokens: 6ms\r\n"
)
_ANTHROPIC_HEAD = (
    b"request-id: req_%b\r\nanthropic-organization-id: emulator-org\r\nset-cookie: __cf_bm=emulator; path=/\r\n"
    b"anthropic-ratelimit-requests-limit: 4000\r\nanthropic-ratelimit-requests-remaining: 3999\r\n"
    b"anthropic-ratelimit-requests-reset: 2030-01-01T00:00:00Z\r\n"
)


_OPENAI = frozenset({"chat", "completions", "embeddings", "responses"})
_SHAPES: dict[str, Any] = {
    "chat": openai_answers,
    "completions": completions_answers,
    "responses": responses_answers,
    "messages": anthropic_answers,
}


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    steps: list[Step]
    counts: Counts | None  # what it uses; None = never billed
    kept: dict[str, Any] | None = None  # a response that can be asked for later, as it is in the end
    bill_whole: bool = False  # billed in full although an error is answered


def answer(request: Request) -> Answer:
    script = request.script
    if script.status != 200:
        return _failure(request)
    if request.route == "count_tokens":
        body = anthropic_answers.counted(request)
        return Answer(steps=whole_steps(script, _head(request, 200, len(body)), body, 0), counts=None)
    if request.route == "embeddings":
        counts = embeddings_answers.count(request)
        body = embeddings_answers.whole(request, counts)
        return Answer(steps=whole_steps(script, _head(request, 200, len(body)), body, 0), counts=counts)
    shape = _SHAPES[request.route]
    generation = generate(request)
    counts = count(request, generation, _choices(request))
    if request.body.stream:
        steps = stream_steps(script, _head(request, 200, None), shape.events(request, generation, counts))
    else:
        body = shape.whole(request, generation, counts)
        steps = whole_steps(script, _head(request, 200, len(body)), body, counts.output)
    kept = responses_answers.kept(request, generation, counts) if request.route == "responses" else None
    return Answer(steps=steps, counts=counts, kept=kept)


def _choices(request: Request) -> int:
    """Answers that are written, also those of `best_of` that are not shown."""
    body = request.body
    if request.route == "completions":
        return (body.best_of or body.n or 1) * len(request.prompts)
    return (body.n or 1) if request.route == "chat" else 1


def _failure(request: Request) -> Answer:
    """A scripted error; a 429 says when to come back."""
    script = request.script
    body = bytes(script.body) or error_body(request.route, script.status)
    head = _head(request, script.status, len(body))
    counts = None
    if script.bill_error and request.route == "embeddings":
        counts = embeddings_answers.count(request)
    elif script.bill_error and request.route != "count_tokens":
        counts = count(request, generate(request), _choices(request))
    steps = whole_steps(script, head, body, counts.output if counts is not None else 0)
    return Answer(steps=steps, counts=counts, bill_whole=True)


def error_body(route: str, status: int, message: str = "") -> bytes:
    if route in _OPENAI:
        return openai_answers.error(status, message)
    return anthropic_answers.error(status, message)


def _head(request: Request, status: int, length: int | None) -> bytes:
    script = request.script
    extra = (_OPENAI_HEAD if request.route in _OPENAI else _ANTHROPIC_HEAD) % request.id.encode()
    if script.retry_after is not None:
        extra += b"retry-after: %g\r\n" % script.retry_after
    elif status == 429:
        extra += b"retry-after: 1\r\n"
    return head(status, length, extra)


def head(status: int, length: int | None, extra: bytes = b"") -> bytes:
    """`length` None = an event stream."""
    body = (
        b"content-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n"
        if length is None
        else b"content-type: application/json\r\ncontent-length: %d\r\n" % length
    )
    reason = _REASONS.get(status, "Error").encode()
    return b"HTTP/1.1 %d %b\r\n%b%b\r\n" % (status, reason, body, extra)

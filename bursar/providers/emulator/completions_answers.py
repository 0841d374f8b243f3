"""Legacy completions in OpenAI's shape: whole and streamed, one prompt or several."""

from typing import Any

import msgspec

from bursar.providers.emulator.counts import Counts, lie_about
from bursar.providers.emulator.generation import Generation, words
from bursar.providers.emulator.openai_answers import CREATED, sse, usage
from bursar.providers.emulator.request import Prompt, Request
from bursar.providers.emulator.steps import Event, pieces


def _echoed(prompt: Prompt) -> str:
    return prompt if isinstance(prompt, str) else words(len(prompt), 0, accents=False)


def _shown(request: Request) -> list[Prompt]:
    """The prompt of each choice that is shown: n of the first, n of the second, ..."""
    return [prompt for prompt in request.prompts for _ in range(request.body.n or 1)]


def _finish(generation: Generation) -> str:
    return "length" if generation.cut else "stop"


def _logprobs(request: Request, text: str) -> dict[str, Any] | None:
    if len(request.body.logprobs) == 0 or bytes(request.body.logprobs) in (b"null", b"false"):
        return None
    tokens = text.split(" ")
    return {
        "tokens": tokens,
        "token_logprobs": [-0.5] * len(tokens),
        "top_logprobs": [{token: -0.5} for token in tokens],
        "text_offset": list(range(len(tokens))),
    }


def whole(request: Request, generation: Generation, counts: Counts) -> bytes:
    choices = []
    for index, prompt in enumerate(_shown(request)):
        text = (_echoed(prompt) if request.body.echo else "") + generation.text
        choice = {"text": text, "index": index, "logprobs": _logprobs(request, text)}
        choices.append({**choice, "finish_reason": _finish(generation)})
    answer: dict[str, Any] = {**_common(request), "choices": choices}
    if (told := lie_about(usage(counts), request.script.usage)) is not None:
        answer["usage"] = told
    return msgspec.json.encode(answer)


def _common(request: Request) -> dict[str, Any]:
    return {
        "id": f"cmpl-{request.id}",
        "object": "text_completion",
        "created": CREATED,
        "model": request.body.model,
        "system_fingerprint": "fp_emulator",
    }


def events(request: Request, generation: Generation, counts: Counts) -> list[Event]:
    """The stream's events in order, without malformations. An echo comes first, and is not generated."""
    options = request.body.stream_options
    with_usage = options is not None and bool(options.include_usage)
    common, tail = _common(request), {"usage": None} if with_usage else {}
    shown = _shown(request)

    def chunk(text: str, index: int, finish: str | None = None) -> bytes:
        choice = {"text": text, "index": index, "logprobs": None, "finish_reason": finish}
        return sse({**common, "choices": [choice], **tail})

    found = [Event(chunk(_echoed(prompt), index)) for index, prompt in enumerate(shown) if request.body.echo]
    done = 0
    for piece in pieces(generation.text, generation.visible, request.script.chunks):
        for index in range(len(shown)):
            done += piece.tokens
            found.append(Event(chunk(piece.text, index), done))
    found += [Event(chunk("", index, _finish(generation)), counts.output) for index in range(len(shown))]
    lie = request.script.usage
    told = lie_about(usage(counts), lie)
    if with_usage and told is not None:
        found.append(Event(sse({**common, "choices": [], "usage": told}), counts.output, usage=True))
        if lie == "twice":
            less = {**told, "completion_tokens": 1, "total_tokens": 1}
            found.append(Event(sse({**common, "choices": [], "usage": less}), counts.output, usage=True))
    found.append(Event(b"data: [DONE]\n\n", counts.output, last=True))
    return found

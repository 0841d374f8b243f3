"""Embeddings in OpenAI's shape: vectors that the text alone decides, so that equal texts lie at the same place."""

import base64
import hashlib
import math
import struct
from typing import Any

import msgspec

from bursar.providers.emulator.counts import Counts, lie_about
from bursar.providers.emulator.request import Prompt, Request

_DIMENSIONS = 1536  # of text-embedding-3-small
_MOST_DIMENSIONS = 3072


def count(request: Request) -> Counts:
    """Input is all that is billed."""
    return Counts(
        input=request.input_tokens,
        output=0,
        reasoning=0,
        cached=0,
        cache_write_5m=0,
        cache_write_1h=0,
        searches=0,
    )


def whole(request: Request, counts: Counts) -> bytes:
    size = min(request.body.dimensions or _DIMENSIONS, _MOST_DIMENSIONS)
    as_text = request.body.encoding_format == "base64"
    data = []
    for index, prompt in enumerate(request.prompts):
        vector = _vector(prompt, size)
        shown: object = base64.b64encode(struct.pack(f"<{size}f", *vector)).decode() if as_text else vector
        data.append({"object": "embedding", "index": index, "embedding": shown})
    answer: dict[str, Any] = {"object": "list", "data": data, "model": request.body.model}
    told = lie_about({"prompt_tokens": counts.input, "total_tokens": counts.input}, request.script.usage)
    if told is not None:
        answer["usage"] = told
    return msgspec.json.encode(answer)


def _vector(prompt: Prompt, size: int) -> list[float]:
    """Of length one: what a digest of the prompt repeats, so that other prompts point elsewhere."""
    digest = hashlib.sha512(prompt.encode() if isinstance(prompt, str) else repr(prompt).encode()).digest()
    raw = [(digest[at % len(digest)] - 127.5) / 128 for at in range(size)]
    length = math.sqrt(sum(number * number for number in raw))
    return [number / length for number in raw]

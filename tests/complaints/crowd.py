"""Many calls at once through one gateway, whose provider answers none of them before all have been decided."""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

from tests.gateway.answers import completion, usage
from tests.gateway.fakes import FakeResponse
from tests.gateway.ground import Stand


def short_answer() -> FakeResponse:
    return completion("Hi", usage(10, 2))


async def crowd(
    stand: Stand, calls: int, *, answer: Callable[[], FakeResponse] = short_answer, **asked: Any
) -> Counter[str]:
    """That many calls at once -> how often each word was the answer; "sent" = it went up to the provider."""
    gate, sent = asyncio.Event(), len(stand.upstream.sent)
    request = stand.upstream.request

    async def patiently(*parts: Any) -> FakeResponse:
        response = await request(*parts)
        await gate.wait()
        return response

    stand.upstream.request = patiently  # type: ignore[method-assign]
    stand.upstream.will(*(answer() for _ in range(calls)))
    exchanges = [stand.exchange(**asked) for _ in range(calls)]
    running = [asyncio.create_task(stand.pipeline.serve(exchange)) for exchange in exchanges]
    async with asyncio.timeout(60):
        while len(stand.upstream.sent) - sent + sum(exchange.started for exchange in exchanges) < calls:  # noqa: ASYNC110
            await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(*running)
    stand.upstream.request = request  # type: ignore[method-assign]
    stand.upstream.answers.clear()
    stand.at_rest()
    return Counter(exchange.word or "sent" for exchange in exchanges)

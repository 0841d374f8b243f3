"""A task that is cancelled wherever it waits leaves nothing behind: no open hold, no slot, no reservation, no drain.

The coroutine is driven by hand: run to its n-th suspension, thrown CancelledError into, for every n there is.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from bursar.core.directory import LimitDef, Policy
from bursar.core.ledger import Settlement
from bursar.core.limits import Limited, Reservation
from bursar.gateway.pipeline import _ON_LOOP_BYTES
from bursar.stores.memory_rates import MemoryRates
from tests.gateway.answers import (
    DONE,
    broken,
    chat,
    chunk,
    completion,
    error,
    message,
    message_delta,
    message_start,
    stream,
    text_delta,
    unsent,
    usage,
    usage_chunk,
    whole_stream,
)
from tests.gateway.fakes import FakeExchange, turns
from tests.gateway.ground import ANTHROPIC_KEY, PLENTY, TWO_KEYS, Stand, budget

LIMITS = tuple(
    LimitDef(id=f"{unit}-{scope}", unit=unit, amount=amount, scope=scope)
    for scope in ("key", "model", "provider_key")
    for unit, amount in (("requests", 100), ("concurrency", 3), ("tokens", 10**6))
)
CHAT, STREAM = chat(max_tokens=50), chat(max_tokens=50, stream=True)
LONG = chat(max_tokens=50, messages=[{"role": "user", "content": "x" * 70_000}])  # screened off the loop
LARGE = chat(max_tokens=50, messages=[{"role": "user", "content": "x" * _ON_LOOP_BYTES}])  # read off the loop


class Passing:
    """A guard that finds nothing: over 64 kB it looks from a thread."""

    name = "passing"

    def look(self, call: Any, content: Any) -> None:
        return None


class WatchedRates(MemoryRates):
    """Notes what was reserved. Each act that takes waits first, as one does that asks a store."""

    def __init__(self) -> None:
        super().__init__()
        self.reserved: list[Reservation] = []

    async def admit(self, *asked: Any) -> Limited | None:
        await asyncio.sleep(0)
        return await super().admit(*asked)

    async def hold(self, *asked: Any) -> Reservation | Limited:
        await asyncio.sleep(0)
        found = await super().hold(*asked)
        if isinstance(found, Reservation):
            self.reserved.append(found)
        return found


class Driven:
    """A coroutine that is stepped from one suspension to the next."""

    def __init__(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self._coroutine = coroutine
        self.done = False

    async def step(self) -> None:
        """To the next suspension or the end, when what it waits for has happened."""
        try:
            waits_for = self._coroutine.send(None)
        except StopIteration:
            self.done = True
            return
        await self._wait(waits_for)

    def cancel(self) -> None:
        """Go on to the next suspension and cancel it there; it must not wait for anything more."""
        try:
            self._coroutine.send(None)
        except StopIteration:
            return  # nothing waited this time: files were warm
        finally:
            self.done = True
        with pytest.raises(asyncio.CancelledError):
            self._coroutine.throw(asyncio.CancelledError())

    async def _wait(self, waits_for: Any) -> None:
        if waits_for is None:
            await asyncio.sleep(0)
            return
        waits_for._asyncio_future_blocking = False
        await asyncio.wait([waits_for])


SCENES: dict[str, tuple[Any, str, Callable[[FakeExchange], list[Any]]]] = {
    "plain": (CHAT, "/v1/chat/completions", lambda _: [completion("Hi", usage(10, 2))]),
    "streamed": (STREAM, "/v1/chat/completions", lambda _: [whole_stream()]),
    "long": (LONG, "/v1/chat/completions", lambda _: [completion("Hi", usage(10, 2))]),
    "large": (LARGE, "/v1/chat/completions", lambda _: [completion("Hi", usage(10, 2))]),
    "second attempt": (CHAT, "/v1/chat/completions", lambda _: [error(429), completion("Hi", usage(10, 2))]),
    "after a fault": (CHAT, "/v1/chat/completions", lambda _: [broken(), unsent()]),
    "drained": (
        STREAM,
        "/v1/chat/completions",
        lambda exchange: [stream(chunk("He"), exchange.leave, chunk("llo"), usage_chunk(10, 2), DONE)],
    ),
    "anthropic": (
        message(max_tokens=50, stream=True),
        "/v1/messages",
        lambda _: [stream(message_start(10), text_delta("Hi"), message_delta(2))],
    ),
}


ONE_ATTEMPT = set(SCENES) - {"second attempt", "after a fault"}


@pytest.fixture(params=["process", "power"])
async def stands(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Callable[[], Stand]]:
    made: list[Stand] = []

    def make() -> Stand:
        stand = Stand(
            tmp_path / f"journal-{len(made)}",
            policy=Policy(limits=LIMITS),
            team_policy=Policy(limits=LIMITS, modes={"limits": "shadow"}),
            budgets=[budget(PLENTY), budget(PLENTY, "soft", hard=False)],
            provider_keys=[*TWO_KEYS, ANTHROPIC_KEY],
            durability=request.param,
        )
        stand.node.screens = [Passing()]
        stand.rates = stand.node.rates = WatchedRates()
        made.append(stand)
        return stand

    yield make
    for stand in made:
        stand.close()


def begin(stand: Stand, scene: str) -> tuple[Driven, FakeExchange]:
    body, path, answers = SCENES[scene]
    exchange = stand.exchange(path, body)
    stand.upstream.answers = answers(exchange)
    return Driven(stand.pipeline.serve(exchange)), exchange


async def suspensions(stand: Stand, scene: str) -> int:
    driven, _ = begin(stand, scene)
    count = 0
    while not driven.done:
        await driven.step()
        count += not driven.done
    stand.at_rest()
    return count


@pytest.mark.parametrize("scene", SCENES)
async def test_cancelled_wherever_it_waits(stands: Callable[[], Stand], scene: str) -> None:
    """litellm 27639, PR 29493: a reservation was not released. Here whatever was taken is given back, or paid for."""
    stand = stands()
    waits = await suspensions(stand, scene)
    assert waits >= 3
    for number in range(waits):
        ends, sent = len(stand.ends), len(stand.upstream.sent)
        rates = stand.rates = stand.node.rates = WatchedRates()
        for key in stand.node.tenants.provider_keys:
            stand.leases.forget(key)  # as the first call of its kind: the provider key is asked for
        driven, exchange = begin(stand, scene)
        for _ in range(number):
            await driven.step()
        driven.cancel()
        await turns()
        stand.at_rest()
        assert exchange.on_gone is exchange.on_flow is None
        ended = stand.ends[ends:]
        sent = len(stand.upstream.sent) - sent
        unknown = [end for end in ended if isinstance(end, Settlement) and end.usage is None]
        if not sent:
            assert all(isinstance(end, str) for end in ended)
        elif scene in ONE_ATTEMPT:
            assert all(isinstance(end, Settlement) and end.cost_pico > 0 for end in ended)
        # Tokens stay as charged only where nobody knows what was used: one enforced and one in shadow.
        assert sum(not taken.settled for taken in rates.reserved) == 2 * len(unknown)
    stand.upstream.answers.clear()
    exchange = await stand.ask(completion("Hi", usage(10, 2)), body=CHAT)
    assert exchange.status == 200


async def test_cancelled_at_the_hold_nothing_is_sent(stands: Callable[[], Stand]) -> None:
    stand = stands()
    hold, seen = stand.journal.hold, asyncio.Event()

    async def slow(request: Any, token: str) -> Any:
        held = await hold(request, token)
        stand.journal.void(held.hold_id, "cancelled")
        seen.set()
        await asyncio.Event().wait()
        raise AssertionError("never")

    stand.journal.hold = slow  # type: ignore[method-assign]
    exchange = stand.exchange(body=CHAT)
    task = asyncio.ensure_future(stand.pipeline.serve(exchange))
    await seen.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    stand.at_rest()
    assert stand.upstream.sent == []
    for limit in LIMITS:
        if limit.unit == "tokens" and limit.scope == "key":
            assert stand.tokens_taken(limit, stand.key.id) == 0

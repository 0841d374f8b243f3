"""What an operator changes while calls are under way: prices, policies, keys, budgets. The next hold sees it."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from bursar.core.units import pico_to_usd
from bursar.stores.catalogue import load as load_catalogue
from tests.e2e.broker import Broker
from tests.e2e.tenants import MadeKey, Tenants
from tests.faults.books import Books, covers, price_of
from tests.faults.caller import Answer, ask, asking, raw_request, script


class Crowd:
    """Callers who call again and again; what they got, in the order of their calls' beginning."""

    def __init__(self, broker: Broker, key: MadeKey, numbers: Iterator[int]) -> None:
        self.broker = broker
        self.key = key
        self.numbers = numbers
        self.asked: list[int] = []
        self.seen: list[tuple[float, Answer]] = []

    async def call(self) -> Answer:
        number = next(self.numbers)
        self.asked.append(number)
        began = time.monotonic()
        body = asking("openai", "x" * 2500 + script(input=number, output=8, chunk_ms=2), stream=number % 2 == 0)
        answer = await ask(self.broker.data_port, self.key.text, body)
        self.seen.append((began, answer))
        return answer

    @asynccontextmanager
    async def calling(self, callers: int = 6) -> AsyncIterator[None]:
        stop = asyncio.Event()

        async def call_on() -> None:
            while not stop.is_set():
                await self.call()

        tasks = [asyncio.create_task(call_on()) for _ in range(callers)]
        try:
            yield
        finally:
            stop.set()
            await asyncio.gather(*tasks)

    def words_since(self, instant: float) -> Counter[str]:
        """Of the calls that began later than that."""
        return Counter(answer.word or "ok" for began, answer in self.seen if began > instant)

    async def until(self, *words: str, seconds: float = 30.0) -> float:
        """Until a call that began from now on was answered by one of these; an instant at which it was true."""
        entered = time.monotonic()
        while not any(word in self.words_since(entered) for word in words):
            assert time.monotonic() < entered + seconds, f"nobody was told {' or '.join(words)}"
            await asyncio.sleep(0.01)
        return time.monotonic()


async def act(work: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """An operator's call, in a thread of its own."""
    return await asyncio.to_thread(work, *arguments, **named)


async def wait_for(condition: Callable[[], Awaitable[bool]], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


def patch(tenants: Tenants, path: str, **body: Any) -> None:
    answer = tenants.broker.admin("PATCH", f"/v1/admin{path}", json=body)
    assert answer.status_code == 200, answer.text


def test_a_price_that_changes_under_way_counts_from_the_next_hold_on(
    impatient: Broker, tenants: Tenants, books: Books, numbers: Iterator[int]
) -> None:
    key, model = tenants.key(budget={"limit_usd": "5"}), "gpt-4.1-nano"
    asked = [next(numbers), next(numbers)]
    texts = ["x" * 900 + script(input=n, output=30, stall="mid_stream", stall_s=0.6, chunk_ms=1) for n in asked]

    async def both() -> None:
        bodies = [asking("openai", text, model=model, stream=True) for text in texts]
        first = asyncio.create_task(ask(impatient.data_port, key.text, bodies[0]))
        await wait_for(lambda: act(lambda: any(row.state == "HELD" for row in books.attempts(key.id))))
        await act(tenants.post, f"/prices/openai/{model}", input="7", output="11", source="test")
        assert not first.done(), "the price has to change while the stream is under way"
        assert (await first).whole
        await wait_for(lambda: act(lambda: applied(impatient)))
        assert (await ask(impatient.data_port, key.text, bodies[1])).whole

    asyncio.run(both())
    old, new = books.settled(key.id, 2)
    charges = {charge.input: charge for charge in books.billed(asked, 2)}
    table = load_catalogue().find("openai", model, charges[asked[0]].t)
    assert table is not None
    assert (old.exact, old.price_id) == (True, table.id)
    assert old.cost == price_of(charges[asked[0]])
    assert new.price_id != table.id
    assert new.cost == asked[1] * 7_000_000 + 30 * 11_000_000


def applied(broker: Broker) -> bool:
    """Does the gateway serve by the directory as it is now?"""
    status = broker.admin("GET", "/v1/admin/status").json()
    return [gateway["directory_version"] for gateway in status["gateways"]] == [status["directory_version"]]


def test_a_key_switched_off_under_load_spends_no_more(
    impatient: Broker, tenants: Tenants, books: Books, numbers: Iterator[int]
) -> None:
    key = tenants.key(budget={"limit_usd": "50"})
    crowd = Crowd(impatient, key, numbers)
    long = asking("openai", script(output=60, chunk_ms=15), stream=True)

    async def scene() -> float:
        under_way = asyncio.create_task(ask(impatient.data_port, key.text, long))
        async with crowd.calling():
            await crowd.until("ok")
            await act(tenants.disable, key)
            since = await crowd.until("key_disabled")
            await asyncio.sleep(0.1)
        assert (await under_way).whole, "what was held goes on"
        return since

    since = asyncio.run(scene())
    later = crowd.words_since(since)
    assert set(later) == {"key_disabled"}, later
    assert later["key_disabled"] > 10
    assert set(crowd.words_since(0)) == {"ok", "key_disabled"}
    rows = books.settled(key.id)
    covers(rows, books.billed(crowd.asked, crowd.words_since(0)["ok"]))


@pytest.mark.parametrize("change", ["disable", "narrow"])
def test_a_body_that_takes_its_time_is_held_against_the_rules_of_its_end(
    impatient: Broker, tenants: Tenants, books: Books, change: str
) -> None:
    """The key was in order when the head came; before the body is whole it is not."""
    key = tenants.key(budget={"limit_usd": "1"})
    request = raw_request("/v1/chat/completions", key.text, b'{"model":"gpt-4o-mini","messages":[]}' + b" " * 3000)

    async def scene() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", impatient.data_port)
        writer.write(request[:-1000])
        await writer.drain()
        if change == "disable":
            await act(tenants.disable, key)
            wanted = "key_disabled"
        else:
            await act(patch, tenants, f"/keys/{key.id}", policy={"models": ["claude-*"]})
            wanted = "model_not_allowed"
        quick = asking("openai", "Hi")

        async def refused() -> bool:
            return (await ask(impatient.data_port, key.text, quick)).word == wanted

        await wait_for(refused)
        writer.write(request[-1000:])
        answer = await reader.read(-1)
        writer.close()
        assert b"x-bursar-word: " + wanted.encode() in answer, answer
        return answer

    assert asyncio.run(scene()).startswith(b"HTTP/1.1 403")
    assert all(row.outcome == "ok" for row in books.attempts(key.id))


def test_a_policy_narrowed_under_load(impatient: Broker, tenants: Tenants, numbers: Iterator[int]) -> None:
    key = tenants.key(budget={"limit_usd": "50"})
    crowd = Crowd(impatient, key, numbers)

    async def scene() -> float:
        async with crowd.calling():
            await crowd.until("ok")
            await act(patch, tenants, f"/keys/{key.id}", policy={"models": ["claude-*"]})
            since = await crowd.until("model_not_allowed")
            await asyncio.sleep(0.1)
        return since

    later = crowd.words_since(asyncio.run(scene()))
    assert set(later) == {"model_not_allowed"}
    assert set(crowd.words_since(0)) == {"ok", "model_not_allowed"}


def test_a_budget_lowered_and_raised_under_load(
    impatient: Broker, tenants: Tenants, books: Books, numbers: Iterator[int]
) -> None:
    """Lowered below what is spent it refuses, raised it serves; never more than it says is admitted (verify)."""
    key = tenants.key(budget={"limit_usd": "50"})
    crowd, budget = Crowd(impatient, key, numbers), key.budgets[0]

    async def scene() -> None:
        async with crowd.calling():
            for _ in range(3):
                await crowd.until("ok")
                spent = sum(row.cost for row in await act(books.attempts, key.id))
                await act(patch, tenants, f"/budgets/{budget}", limit_usd=pico_to_usd(spent // 2 + 1))
                since = await crowd.until("can_never_fit", "budget_exhausted")  # as one call's ceiling compares to it
                await asyncio.sleep(0.1)
                assert "ok" not in crowd.words_since(since)
                await act(patch, tenants, f"/budgets/{budget}", limit_usd="50")

    asyncio.run(scene())
    served = crowd.words_since(0)["ok"]
    assert set(crowd.words_since(0)) <= {"ok", "budget_exhausted", "can_never_fit", "held_by_requests_in_flight"}
    rows = books.settled(key.id, served)
    covers(rows, books.billed(crowd.asked, served))
    (total,) = [found for found in books.proven().budgets if found.id == budget]
    assert (total.held, total.lowered, total.overage) == (0, 3, 0)
    assert total.posted == sum(row.cost for row in rows)


def test_a_budget_that_is_given_under_load_binds_at_once(
    impatient: Broker, tenants: Tenants, books: Books, numbers: Iterator[int]
) -> None:
    """Also for a key that had none: its first hold under it already counts."""
    key = tenants.key()
    crowd = Crowd(impatient, key, numbers)

    async def scene() -> tuple[float, str]:
        async with crowd.calling():
            await crowd.until("ok")
            made = await act(tenants.budget, "key", key.id, limit_usd="0.0000001")
            since = await crowd.until("can_never_fit")
            await asyncio.sleep(0.1)
        return since, made

    since, made = asyncio.run(scene())
    assert set(crowd.words_since(since)) == {"can_never_fit"}
    assert all(total.posted == 0 for total in books.proven().budgets if total.id == made)

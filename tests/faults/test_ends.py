"""Every way in which a call or the whole node ends gives back what it took: leases, tokens, holds."""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from bursar.providers.emulator import Charge
from tests.e2e.broker import Broker
from tests.e2e.tenants import MadeKey, Tenants
from tests.faults.books import Books, covers, price_of, until
from tests.faults.caller import Answer, ask, asking, script
from tests.providers.emulated import Emulated

ENDINGS: dict[str, dict[str, Any]] = {
    "whole": {},
    "slow": {"stall": "head"},
    "silent": {"stall": "mid_stream"},
    "gone": {"disconnect": "before_head"},
    "broken": {"disconnect": "mid_stream"},
    "failing": {"status": 500},
    "busy": {"status": 429},
    "moved": {"status": 302},
    "unfit": {"status": 400},
    "lying": {"usage": "huge"},
    "garbled": {"sse": "garbage_event"},
    "endless": {"output": 5000, "ignore_max_tokens": True, "chunks": 300},
}


def limits(*given: dict[str, Any]) -> dict[str, Any]:
    return {"limits": [{"id": f"limit-{at}", **one} for at, one in enumerate(given)]}


@pytest.mark.parametrize("on_disconnect", ["drain", "abort"])
def test_a_concurrency_lease_is_given_back_on_every_way_out(
    impatient: Broker, tenants: Tenants, books: Books, numbers: Iterator[int], on_disconnect: str
) -> None:
    """As many calls at once as the limit allows, ended in every way: afterwards as many fit again, and no more."""
    most = 2 * len(ENDINGS)
    policy = limits({"unit": "concurrency", "amount": most}) | {"on_disconnect": on_disconnect}
    key = tenants.key(policy=policy, budget={"limit_usd": "20", "hard": False})

    async def call(name: str, leave_after: int | None, stream: bool) -> Answer:
        text = script(**{"input": 50, "output": 20, "chunk_ms": 1, **ENDINGS[name]})
        return await ask(impatient.data_port, key.text, asking("openai", text, stream=stream), leave_after=leave_after)

    async def every_way() -> None:
        for leave_after in (None, 0, 2):
            await asyncio.gather(*(call(name, leave_after, stream) for name in ENDINGS for stream in (False, True)))
            await asyncio.to_thread(until, lambda: not books.proven().open_holds)

    async def as_many_as_fit() -> list[str]:
        body = asking("openai", script(output=8, chunk_ms=200), stream=True)
        calls = [asyncio.create_task(ask(impatient.data_port, key.text, body)) for _ in range(most + 3)]
        return sorted(answer.word or "ok" for answer in await asyncio.gather(*calls))

    asyncio.run(every_way())
    assert asyncio.run(as_many_as_fit()) == ["concurrency_limited"] * 3 + ["ok"] * most


def test_tokens_that_were_not_used_are_given_back(impatient: Broker, tenants: Tenants, numbers: Iterator[int]) -> None:
    """Refused, unsent and short calls do not use up a minute's tokens."""
    key = tenants.key(
        policy=limits({"unit": "output_tokens", "amount": 1000, "per_seconds": 86_400}), budget={"limit_usd": "5"}
    )

    def word(**said: Any) -> str:
        body = asking("openai", script(**{"output": 1, **said}), max_tokens=400)
        return asyncio.run(ask(impatient.data_port, key.text, body)).word or "ok"

    assert {word(status=400) for _ in range(15)} == {"ok"}  # the provider's own refusal, passed on
    assert {word() for _ in range(15)} == {"ok"}, "each was charged what it used, not what it might have"
    assert word(output=400) == "ok"
    for _ in range(4):
        if word(output=400) == "rate_limited":
            return
    raise AssertionError("the limit does not bind")


def test_counting_tokens_costs_nothing(impatient: Broker, tenants: Tenants, books: Books) -> None:
    key = tenants.key(budget={"limit_usd": "0.01"})
    body = {"model": "claude-haiku-4-5", "messages": [{"role": "user", "content": "Hi"}]}
    before = len(books.charges())
    for _ in range(5):
        answer = asyncio.run(ask(impatient.data_port, key.text, body, path="/v1/messages/count_tokens"))
        assert answer.status == 200, answer.body
    assert len(books.charges()) == before
    assert sum(row.cost for row in books.attempts(key.id)) == 0
    assert not books.proven().open_holds


def test_an_estimate_takes_nothing_however_its_caller_leaves_and_whatever_the_provider_would_do(
    impatient: Broker, tenants: Tenants, books: Books
) -> None:
    """Nothing is dispatched, so no provider can stall it, break it or lie to it; a killed gateway leaves nothing."""
    policy = limits({"unit": "concurrency", "amount": 2}, {"unit": "output_tokens", "amount": 150, "per_seconds": 9000})
    key = tenants.key(policy=policy, budget={"limit_usd": "1"})
    before = len(books.charges())

    async def every_way(*leaving: int | None) -> list[Answer]:
        answers = []
        for leave_after in leaving:
            for said in ENDINGS.values():
                body = asking("openai", script(**{"output": 20, **said}))
                call = ask(impatient.data_port, key.text, body, path="/v1/estimate", leave_after=leave_after)
                answers.append(await call)
                await asyncio.sleep(0.06)  # a key may ask for twenty in a second
        return answers

    for answer in asyncio.run(every_way(0, None)):
        assert answer.left or answer.json["decision"] == "run", answer.body
    old = impatient.kill("gateway")
    asyncio.run(every_way(0))
    impatient.wait_replaced("gateway", old)
    impatient.wait_ready()
    until(lambda: asyncio.run(every_way(None))[-1].status == 200)
    assert len(books.charges()) == before
    assert books.attempts(key.id) == []
    assert not books.proven().open_holds
    done = asyncio.run(ask(impatient.data_port, key.text, asking("openai", script(output=1))))
    assert done.status == 200, done.body


def test_each_attempt_has_a_hold_of_its_own(
    make_broker: Callable[..., Broker], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Two providers of one model: what each may have billed is booked, what was never sent is not."""
    emulators = [Emulated(tmp_path_factory.mktemp(name)) for name in ("one", "two")]
    away = "http://127.0.0.1:9"  # nobody listens there
    try:
        bases = {"away": away, "one": emulators[0].url, "two": emulators[1].url}
        broker = make_broker(config={"providers": {name: served(f"{url}/v1") for name, url in bases.items()}}).start()
        for name in bases:
            put = {"address": f"{name}/*/api_key/prod/*", "value": f"key-of-{name}-0123456789"}
            put |= {"tags": {"billing_owner": "demo", "purpose": "inference"}}
            assert broker.admin("POST", "/v1/admin/provider-keys", json=put).status_code == 201
        key, books = Tenants(broker).key(budget={"limit_usd": "5"}), Books(broker.data)
        for number, said, ends in [
            (301, {}, ["VOIDED", "POSTED"]),
            (302, {"stall": "head"}, ["VOIDED", "POSTED", "POSTED"]),
            (303, {"disconnect": "before_head"}, ["VOIDED", "POSTED", "POSTED"]),
            (304, {"status": 429}, ["VOIDED", "VOIDED", "VOIDED"]),
            (305, {"disconnect": "mid_stream", "stream": True}, ["VOIDED", "POSTED"]),
        ]:
            before = len(books.attempts(key.id))
            stream = bool(said.pop("stream", False))
            text = "x" * number + script(input=number, output=30, **said)
            body = asking("openai", text, model="some-model", stream=stream)
            asyncio.run(ask(broker.data_port, key.text, body))
            rows = books.settled(key.id, before + len(ends))[before:]
            assert [row.state for row in rows] == ends, (number, rows)
            assert [row.attempt for row in rows] == list(range(1, len(ends) + 1))
            charges = billed_by(emulators, number, ends.count("POSTED"))
            covers(rows, [charge for charge in charges if not rows[-1].exact] or charges)
            assert sum(price_of(charge) for charge in charges) <= sum(row.cost for row in rows)
    finally:
        for emulator in emulators:
            emulator.stop()


def served(url: str) -> dict[str, Any]:
    return {
        "dialect": "openai",
        "base_url": url,
        "deployments": {"some-model": "gpt-4o-mini"},
        "prices": "openai",
        "allow_private": True,
        "timeouts": {"head": "700ms", "between_bytes": "700ms"},
    }


def billed_by(emulators: list[Emulated], number: int, wanted: int) -> list[Charge]:
    """The charges of one call, priced as the model that the deployment stands for."""
    found: list[Charge] = []

    def there() -> bool:
        found[:] = [charge for emulator in emulators for charge in emulator.bill() if charge.input == number]
        return len(found) >= wanted

    until(there)
    return [charge_as(charge, "gpt-4o-mini") for charge in found]


def charge_as(charge: Charge, model: str) -> Charge:
    fields = {name: getattr(charge, name) for name in charge.__struct_fields__}
    return Charge(**(fields | {"model": model}))


class Streams:
    """A broker of a test's own with streams of a given length under way."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.books = Books(broker.data)
        self.key: MadeKey = Tenants(broker).key(budget={"limit_usd": "50"})
        self.numbers = count(301)
        self.asked: list[int] = []

    async def under_way(self, seconds: list[float]) -> list["asyncio.Task[Answer]"]:
        calls = []
        for span in seconds:
            number = next(self.numbers)
            self.asked.append(number)
            text = "x" * 900 + script(input=number, output=20, chunk_ms=span * 50)
            body = asking("openai", text, stream=True)
            calls.append(asyncio.create_task(ask(self.broker.data_port, self.key.text, body)))
        await asyncio.to_thread(until, lambda: len(self.books.attempts(self.key.id)) >= len(self.asked))
        return calls


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_lets_streams_end_and_settles_those_it_cuts(make_broker: Callable[..., Broker], number: int) -> None:
    broker = make_broker(config={"drain": "2s"}).start()
    streams = Streams(broker)

    async def play() -> tuple[list[Answer], int]:
        calls = await streams.under_way([0.8, 0.8, 1.2, 60, 60])
        code = await asyncio.to_thread(broker.stop, number)
        return [await call for call in calls], code

    answers, code = asyncio.run(play())
    assert code == 0
    assert [answer.whole for answer in answers] == [True, True, True, False, False]
    rows = streams.books.attempts(streams.key.id)
    assert [row.state for row in rows] == ["POSTED"] * 5, rows
    assert [row.exact for row in rows] == [True, True, True, False, False]
    until(lambda: len(streams.books.charges(streams.asked)) >= 3)
    covers(rows, streams.books.charges(streams.asked))
    assert not streams.books.proven().open_holds
    assert broker.cli("ledger", "verify").returncode == 0


def test_a_supervisor_that_is_killed_leaves_nothing_running(make_broker: Callable[..., Broker]) -> None:
    broker = make_broker(config={"drain": "2s"}).start()
    streams, pids = Streams(broker), broker.pids()

    async def play() -> list[Answer]:
        calls = await streams.under_way([60, 60])
        os.kill(pids["supervisor"], signal.SIGKILL)
        return [await call for call in calls]

    assert not any(answer.whole for answer in asyncio.run(play())), "the emulator has ended with its supervisor"
    until(lambda: not any(alive(pid) for pid in pids.values()), 15, "all children to end")
    assert broker.process is not None
    broker.process.wait(5)
    began = time.monotonic()
    broker.start()
    assert time.monotonic() - began < 10
    rows = streams.books.settled(streams.key.id, 2)
    covers(rows, streams.books.charges(streams.asked))
    assert [row.state for row in rows] == ["POSTED"] * 2


def alive(pid: int) -> bool:
    """A zombie is not."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False

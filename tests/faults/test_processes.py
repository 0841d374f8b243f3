"""The real supervisor under load: gateway and control are killed, calls go on, metrics come back, money is whole."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest

from bursar.app import supervisor
from bursar.app.supervisor import CannotStart, Supervisor
from bursar.config import Config
from tests.e2e.broker import Broker
from tests.e2e.tenants import Tenants
from tests.faults.books import Books, covers, until
from tests.faults.caller import Answer, ask, asking, script

CALLERS = 6
BACK_WITHIN = 10  # seconds; the bar is one on a quiet machine


class Traffic:
    """Callers who call on whatever happens; a call that breaks off is made anew."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.books = Books(broker.data)
        self.key = Tenants(broker).key(budget={"limit_usd": "90"})
        self.numbers = count(301)
        self.asked: list[int] = []
        self.broken = 0
        self.allowed: set[str] = set()  # words that callers may be told
        self.served: list[float] = []  # instants at which an answer was whole

    async def call(self) -> Answer:
        number = next(self.numbers)
        self.asked.append(number)
        body = asking("openai", "x" * 3000 + script(input=number, output=10, chunk_ms=3), stream=number % 2 == 0)
        return await ask(self.broker.data_port, self.key.text, body)

    async def _call_on(self) -> None:
        while True:
            answer = await self.call()
            assert answer.status in (0, 200) or answer.word in self.allowed, answer.body
            if answer.status == 503:
                continue
            if answer.whole:
                self.served.append(time.monotonic())
            else:
                self.broken += 1
            await asyncio.sleep(0.01)

    @asynccontextmanager
    async def going(self) -> AsyncIterator[None]:
        callers = [asyncio.create_task(self._call_on()) for _ in range(CALLERS)]
        try:
            yield
            for caller in callers:
                assert not caller.done(), caller.exception()
        finally:
            for caller in callers:
                caller.cancel()
            await asyncio.gather(*callers, return_exceptions=True)

    async def served_after(self, instant: float, seconds: float) -> float:
        """When the first answer after that instant was whole."""
        while time.monotonic() < instant + seconds:
            later = [at for at in self.served if at > instant]
            if later:
                return later[0]
            await asyncio.sleep(0.005)
        raise AssertionError(f"nobody was served within {seconds} s:\n{self.broker.printed()}")


@pytest.fixture
def traffic(make_broker: Callable[..., Broker]) -> Traffic:
    return Traffic(make_broker().start())


def test_the_gateway_is_killed_again_and_again(traffic: Traffic) -> None:
    """The port is never refused: who calls meanwhile waits. What was in flight is unreconciled, nothing else."""
    broker, times = traffic.broker, 3

    async def play() -> None:
        async with traffic.going():
            await traffic.served_after(time.monotonic(), 30)
            for _ in range(times):
                old = broker.kill("gateway")
                died = time.monotonic()
                await asyncio.to_thread(broker.wait_replaced, "gateway", old)
                assert await traffic.served_after(died + 0.05, 30) - died < BACK_WITHIN
                await asyncio.sleep(2.1)  # dying sooner than that counts as failing to start

    asyncio.run(play())
    assert 0 < traffic.broken <= times * CALLERS, "only what was in flight was lost"
    until(lambda: not traffic.books.proven().open_holds)
    rows = traffic.books.attempts(traffic.key.id)
    covers(rows, traffic.books.charges(traffic.asked))
    assert 0 < sum(row.outcome == "unreconciled" for row in rows) <= times * 2 * CALLERS
    assert all(row.exact for row in rows if row.outcome == "ok")


def counted(broker: Broker) -> float:
    """Calls in the metrics; -1 while there are none."""
    with contextlib.suppress(httpx.HTTPError):
        lines = [line for line in broker.metrics().splitlines() if line.startswith("bursar_requests_total{")]
        return sum(float(line.rpartition(" ")[2]) for line in lines) if lines else -1.0
    return -1.0


def test_control_is_killed(traffic: Traffic) -> None:
    """Not one call breaks off or is refused; metrics, admin API and ledger.db come back."""
    broker = traffic.broker

    async def play() -> None:
        async with traffic.going():
            await traffic.served_after(time.monotonic(), 30)
            for _ in range(2):
                old = broker.kill("control")
                died = time.monotonic()
                for _ in range(5):
                    await traffic.served_after(time.monotonic(), 30)
                await asyncio.to_thread(broker.wait_replaced, "control", old)
                await asyncio.to_thread(until, lambda: counted(broker) > 0, 30, "metrics")
                assert time.monotonic() - died < 30
                await asyncio.sleep(2.1)

    asyncio.run(play())
    assert traffic.broken == 0
    served = len(traffic.served)
    rows = traffic.books.settled(traffic.key.id, served)
    covers(rows, traffic.books.charges(traffic.asked))
    until(lambda: traffic.books.projected(traffic.key.id) == rows, told="ledger.db")
    balance = Tenants(broker).balance(traffic.key.budgets[0])
    assert float(balance["held_usd"]) == 0


def test_control_hangs(traffic: Traffic) -> None:
    """As dead as it looks: what is counted meanwhile is not lost."""
    broker = traffic.broker

    async def play() -> int:
        async with traffic.going():
            await traffic.served_after(time.monotonic(), 30)
            await asyncio.to_thread(until, lambda: counted(broker) > 0, 30, "metrics")
            old = broker.kill("control", signal.SIGSTOP)
            try:
                for _ in range(20):
                    await traffic.served_after(time.monotonic(), 30)
            finally:
                os.kill(old, signal.SIGCONT)
        return len(traffic.served)

    served = asyncio.run(play())
    assert traffic.broken == 0
    until(lambda: counted(broker) >= served, 10, "all calls to be counted")


def test_both_are_killed_at_once(traffic: Traffic) -> None:
    """There is no directory until control is back: callers are told to come again, and then it all goes on."""
    broker = traffic.broker
    traffic.allowed = {"not_ready", "no_provider_key"}

    async def play() -> None:
        async with traffic.going():
            await traffic.served_after(time.monotonic(), 30)
            old = {name: broker.kill(name) for name in ("control", "gateway")}  # type: ignore[arg-type]
            died = time.monotonic()
            for name, pid in old.items():
                await asyncio.to_thread(broker.wait_replaced, name, pid)
            await traffic.served_after(died + 0.05, 10)

    asyncio.run(play())
    until(lambda: not traffic.books.proven().open_holds)
    covers(traffic.books.attempts(traffic.key.id), traffic.books.charges(traffic.asked))


def test_the_gateway_is_killed_while_control_hangs(traffic: Traffic) -> None:
    broker = traffic.broker
    hanging = broker.kill("control", signal.SIGSTOP)
    try:
        old = broker.kill("gateway")
        broker.wait_replaced("gateway", old)
        answer = asyncio.run(traffic.call())
        assert (answer.status, answer.word) == (503, "not_ready")
        assert answer.headers["x-should-retry"] == "true"
    finally:
        os.kill(hanging, signal.SIGCONT)
    until(lambda: asyncio.run(traffic.call()).status == 200)


def test_the_emulator_is_killed(traffic: Traffic) -> None:
    """A provider that dies in the middle of everything: each caller gets an end, each hold is settled."""
    broker, words = traffic.broker, set()

    async def insist() -> None:
        while True:
            answer = await traffic.call()
            words.add(answer.word if answer.status != 200 else "ok")

    async def play() -> None:
        callers = [asyncio.create_task(insist()) for _ in range(CALLERS)]
        await asyncio.sleep(0.3)
        old = broker.kill("emulator")
        await asyncio.to_thread(broker.wait_replaced, "emulator", old)
        await asyncio.sleep(0.5)
        for caller in callers:
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)

    asyncio.run(play())
    assert words <= {"ok", "upstream_broken", "upstream_unreachable", "upstream_unavailable"}
    until(lambda: not traffic.books.proven().open_holds)
    covers(traffic.books.attempts(traffic.key.id), traffic.books.charges(traffic.asked))


class DyingChild:
    """One that ends at each start, as the supervisor sees it; it is told to stop after a while."""

    failing, start_at = True, 0.0

    def __init__(self, name: str, stop: list[int], tries: int) -> None:
        self.name = name
        self._stop = stop
        self._left = tries
        self.pid = 0

    def start(self, _: object) -> None:
        self.pid = 1

    def died(self) -> int | None:
        if not self.pid:
            return None
        self.pid = 0
        self._left -= 1
        if not self._left:
            self._stop.append(signal.SIGTERM)
        return 1


@pytest.mark.parametrize(("name", "gives_up"), [("control", False), ("emulator", False), ("gateway", True)])
def test_only_a_gateway_that_cannot_start_ends_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, gives_up: bool
) -> None:
    """Without control, calls go on: it is tried for ever."""
    monkeypatch.setattr(supervisor, "_TICK", 0.001)
    (tmp_path / "run").mkdir()
    watching = Supervisor(Config(), {}, seal_env=False)
    watching._folder = tmp_path
    child: Any = DyingChild(name, watching._stop_signals, 20)
    watching._children = [(child, None)]
    wake, poke = os.pipe()
    os.set_blocking(wake, False)
    try:
        if gives_up:
            with pytest.raises(CannotStart):
                watching._watch(wake)
        else:
            watching._watch(wake)
    finally:
        os.close(wake)
        os.close(poke)

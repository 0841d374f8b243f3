"""kill -9 of a gateway that serves, at named points and at any moment: the ledger covers the bill, to the pico where
the settle was written, and nothing is open once it is started again.
"""

import asyncio
import os
import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.crash.gateway_node import OwnNode
from tests.e2e.tenants import Tenants
from tests.faults.books import Attempt, Books, covers, until
from tests.faults.caller import ask, asking, script

POINTS = {  # name -> how often it may be passed before the process ends there
    "before_hold": 25,
    "hold_encoded": 25,
    "hold_written": 25,  # after the hold, before anything is sent
    "upstream_bytes": 60,  # a piece of the answer has come and been passed on
    "usage_known": 25,  # the whole answer is read, nothing is settled
    "settle_buffered": 40,
    "settle_written": 25,
    "rotate_begun": 2,
    "rotate_tmp_written": 2,
    "rotate_renamed": 2,
    "write": 40,  # in the middle of a record
}
GROUPED = [point for point in POINTS if not point.startswith("hold_")]  # of power: holds are committed in groups
TIMES, TIMES_IN_POWER = 20, 8
AT_RANDOM = 40
CALLERS = 6
OUTCOMES = {"ok", "unreconciled", "unsent", "client_gone"}  # gone: was waiting at the door when its test had ended


class Load:
    """Callers who go on until the gateway dies. Every call has input tokens that no other has."""

    def __init__(self, node: OwnNode, keys: list[str], chance: random.Random) -> None:
        self.node = node
        self.keys = keys
        self.chance = chance
        self.numbers = count(301)
        self.whole = 0

    def body(self) -> dict[str, Any]:
        number, chance = next(self.numbers), self.chance
        said: dict[str, Any] = {"input": number, "output": chance.randint(1, 40), "chunks": chance.randint(1, 4)}
        if chance.random() < 0.3:
            said["chunk_ms"] = 2
        text = "x" * number + script(**said)
        return asking(chance.choice(["openai", "anthropic"]), text, max_tokens=40, stream=chance.random() < 0.6)

    async def run(self, enough: float = 30.0) -> None:
        """Until the gateway is gone."""
        died = asyncio.create_task(asyncio.to_thread(self.node.wait_killed))
        callers = [asyncio.create_task(self._call_on()) for _ in range(CALLERS)]
        try:
            await asyncio.wait_for(died, enough)
        finally:
            for caller in callers:
                caller.cancel()
            await asyncio.gather(*callers, return_exceptions=True)

    async def _call_on(self) -> None:
        while True:
            answer = await ask(self.node.data_port, self.chance.choice(self.keys), self.body())
            self.whole += answer.whole
            assert answer.status in (0, 200), answer.body


class Ground:
    """A node, callers with a hard and a soft budget, and the accounts of both sides."""

    def __init__(self, node: OwnNode) -> None:
        self.node = node
        self.books = Books(node.data)
        tenants = Tenants(node)
        team = tenants.team()
        tenants.budget("team", team, limit_usd="100")
        hard = tenants.key(budget={"limit_usd": "60"}, team=team)
        soft = tenants.key(budget={"limit_usd": "60", "hard": False})
        self.load = Load(node, [hard.text, soft.text], random.Random(2))


@contextmanager
def running(folder: Path, durability: str) -> Iterator[Ground]:
    node = OwnNode(folder, config={"durability": durability})
    try:
        yield Ground(node.begin())
    finally:
        node.close()


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with running(tmp_path_factory.mktemp("process"), "process") as ground:
        yield ground


@pytest.fixture(scope="module")
def power(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with running(tmp_path_factory.mktemp("power"), "power") as ground:
        yield ground


class Story:
    """A row of deaths that begins and ends with nothing open, so that its part of both accounts can be compared."""

    def __init__(self, ground: Ground, seed: str) -> None:
        self.node, self.load, self.books = ground.node, ground.load, ground.books
        books = self.books
        self.load.chance.seed(seed)
        self._segment = max((int(path.stem[-8:]) for path in books.journal.glob("journal-*.log")), default=0)
        known = books.attempts() if self._segment else []
        assert all(row.state != "HELD" for row in known)
        self._after = known[-1].hold_id if known else 0
        self._billed = len(books.charges())
        self._left: list[Attempt] = []

    def dies_at(self, point: str) -> None:
        self._start(point=point, nth=self.load.chance.randint(1, POINTS[point]))
        asyncio.run(self.load.run())
        self._look()

    def dies_after(self, seconds: float) -> None:
        async def kill() -> None:
            dying = asyncio.create_task(self.load.run())
            await asyncio.sleep(seconds)  # which moment is what is left to chance here
            os.kill(self.node.gateway, signal.SIGKILL)
            await dying

        self._start()
        asyncio.run(kill())
        self._look()

    def _start(self, **faults: Any) -> None:
        self.node.start_gateway(segment_bytes=12_000, **faults)  # how soon it serves is bench row F5

    def _look(self) -> None:
        """What must be true of the files of a dead gateway."""
        self.node.wait_forsaken()
        self.books.proven(self._segment)
        attempts = self.books.attempts(after=self._after)
        covers(attempts, self.books.charges(after=self._billed))
        assert {row.outcome for row in attempts if row.state != "HELD"} <= OUTCOMES
        # A stream that broke after its usage was told is exact as well; what nobody saw the end of never is.
        assert all(row.exact for row in attempts if row.outcome == "ok")
        assert not any(row.exact for row in attempts if row.outcome == "unreconciled")
        now = {row.hold_id: row for row in attempts}
        for row in self._left:
            later = now[row.hold_id]
            assert (later.state, later.outcome, later.cost) == ("POSTED", "unreconciled", row.held)
        self._left = [row for row in attempts if row.state == "HELD"]
        # Those who wait at the door when the gateway dies are the next one's callers, besides its own; in power
        # durability a call may have ended whose settlement waits for the same flush as the caller's next hold.
        assert len(self._left) <= 3 * CALLERS, "more holds are open than calls were in flight"

    def end(self) -> None:
        """Started once more, the gateway closes what was open; the whole journal, and control's copy, are in order."""
        self._start()
        self.node.stop_gateway()
        self._look()
        assert not self._left
        report = self.books.proven()
        assert report.torn is None
        until(lambda: self.books.projected() == self.books.attempts(), told="ledger.db to catch up with the journal")
        spent = sum(row.cost for row in self.books.projected() if row.state == "POSTED")
        assert spent == sum(spend.cost for spend in report.spend)


@pytest.mark.parametrize("point", POINTS)
def test_killed_at(process: Ground, point: str) -> None:
    story = Story(process, point)
    for _ in range(TIMES):
        story.dies_at(point)
    story.end()
    assert process.load.whole > 0


@pytest.mark.parametrize("point", GROUPED)
def test_killed_at_in_power_durability(power: Ground, point: str) -> None:
    story = Story(power, point)
    for _ in range(TIMES_IN_POWER):
        story.dies_at(point)
    story.end()


def test_killed_at_any_moment(process: Ground) -> None:
    story = Story(process, "any moment")
    for _ in range(AT_RANDOM):
        story.dies_after(process.load.chance.uniform(0.0, 0.2))
    story.end()


def test_killed_at_any_moment_in_power_durability(power: Ground) -> None:
    story = Story(power, "any moment")
    for _ in range(AT_RANDOM // 2):
        story.dies_after(power.load.chance.uniform(0.0, 0.2))
    story.end()

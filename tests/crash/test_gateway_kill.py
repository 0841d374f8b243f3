"""kill -9 of a gateway that serves, at named points and at any moment: the ledger covers the bill, to the pico where
the settle was written, and nothing is open once it is started again.
"""

import asyncio
import os
import random
import signal
from collections.abc import Iterator
from itertools import count
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
    "rotate_begun": 3,
    "rotate_tmp_written": 3,
    "rotate_renamed": 3,
    "write": 40,  # in the middle of a record
}
TIMES = 20
AT_RANDOM = 30
CALLERS = 6
OUTCOMES = {"ok", "unreconciled", "unsent"}


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


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnNode]:
    running = OwnNode(tmp_path_factory.mktemp("node"))
    try:
        yield running.begin()
    finally:
        running.close()


@pytest.fixture(scope="module")
def load(node: OwnNode) -> Load:
    tenants = Tenants(node)
    team = tenants.team()
    tenants.budget("team", team, limit_usd="100")
    keys = [tenants.key(budget={"limit_usd": "60"}, team=team), tenants.key(budget={"limit_usd": "60", "hard": False})]
    return Load(node, [key.text for key in keys], random.Random(2))


@pytest.fixture(scope="module")
def books(node: OwnNode) -> Books:
    return Books(node.data)


def after_death(node: OwnNode, books: Books, open_before: list[Attempt], since: int) -> list[Attempt]:
    """What must be true of the files of a dead gateway. -> the holds it left open."""
    node.wait_forsaken()
    books.proven(since)
    attempts = books.attempts()
    covers(attempts, books.charges())
    assert {row.outcome for row in attempts if row.state != "HELD"} <= OUTCOMES
    assert all(row.exact == (row.outcome == "ok") for row in attempts if row.state == "POSTED")
    now = {row.hold_id: row for row in attempts}
    for row in open_before:
        later = now[row.hold_id]
        assert (later.state, later.outcome, later.cost) == ("POSTED", "unreconciled", row.held)
    left = [row for row in attempts if row.state == "HELD"]
    # those who wait at the door when the gateway dies are the next one's callers, besides its own
    assert len(left) <= 2 * CALLERS, "more holds are open than calls were in flight"
    return left


def settled_at_last(node: OwnNode, books: Books, left: list[Attempt]) -> None:
    """Started once more, the gateway closes what was open, and nothing else is amiss in the whole journal."""
    assert node.start_gateway() < 2.0, "the bar is a second on a quiet machine"
    until(lambda: not books.proven().open_holds)  # callers who had been waiting at the door are served as well
    assert books.proven().torn is None
    os.kill(node.gateway, signal.SIGKILL)
    node.wait_killed()
    assert not after_death(node, books, left, 0)


@pytest.mark.parametrize("point", POINTS)
def test_killed_at(node: OwnNode, load: Load, books: Books, point: str) -> None:
    load.chance.seed(point)
    left: list[Attempt] = []
    since = newest(books)
    for _ in range(TIMES):
        nth = load.chance.randint(1, POINTS[point])
        started = node.start_gateway(point=point, nth=nth, segment_bytes=12_000)
        assert started < 2.0, "the bar is a second on a quiet machine"
        asyncio.run(load.run())
        left = after_death(node, books, left, since)
    settled_at_last(node, books, left)
    assert load.whole > 0


def newest(books: Books) -> int:
    """Number of the newest segment."""
    return max((int(path.stem[-8:]) for path in books.journal.glob("journal-*.log")), default=0)


def test_killed_at_any_moment(node: OwnNode, load: Load, books: Books) -> None:
    load.chance.seed("any moment")
    left: list[Attempt] = []
    since = newest(books)
    for _ in range(AT_RANDOM):
        node.start_gateway(segment_bytes=12_000)
        asyncio.run(killed_after(node, load, load.chance.uniform(0.0, 0.25)))
        left = after_death(node, books, left, since)
    settled_at_last(node, books, left)


async def killed_after(node: OwnNode, load: Load, seconds: float) -> None:
    dying = asyncio.create_task(load.run())
    await asyncio.sleep(seconds)  # which moment is what is left to chance here
    os.kill(node.gateway, signal.SIGKILL)
    await dying


def test_ledger_db_has_followed_through_all_deaths(books: Books) -> None:
    until(lambda: books.projected() == books.attempts(), told="ledger.db to catch up with the journal")
    spent = sum(row.cost for row in books.projected() if row.state == "POSTED")
    assert spent == sum(spend.cost for spend in books.proven().spend)

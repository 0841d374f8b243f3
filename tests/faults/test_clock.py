"""The machine's clock is set forth and back while calls are made, over ends of days and changes of daylight saving
time: no window gives its money twice, and none that is due is kept back.
"""

import asyncio
import os
import sqlite3
import struct
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count, pairwise

import pytest

from bursar.core.units import pico_to_usd
from tests.crash.gateway_node import OwnNode
from tests.e2e.tenants import MadeKey, Tenants
from tests.faults.books import Books, covers, until
from tests.faults.caller import Answer, ask, asking, script

HOUR = 3600
CALENDARS = ("day", "week", "month")


class Moved:
    """A node whose gateway has a clock of its own."""

    def __init__(self, node: OwnNode) -> None:
        self.node = node
        self.books = Books(node.data)
        self.tenants = Tenants(node)
        self.numbers = count(301)
        self.asked: list[int] = []
        path = node.folder / "clock"
        path.write_bytes(bytes(8))
        self._clock = os.open(path, os.O_RDWR)
        node.start_gateway(clock=str(path))

    def by(self, seconds: float) -> None:
        os.pwrite(self._clock, struct.pack("<q", int(seconds * 10**9)), 0)

    def to(self, text: str) -> None:
        """The gateway's clock shows this instant from now on."""
        self.by(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() - time.time())

    async def call(self, key: MadeKey, **said: object) -> Answer:
        number = next(self.numbers)
        self.asked.append(number)
        text = "x" * 1500 + f"{script(input=number, output=40, **said):<99}"  # all of one length: one ceiling
        return await ask(self.node.data_port, key.text, asking("openai", text, max_tokens=40, stream=bool(said)))

    def word(self, key: MadeKey) -> str:
        return asyncio.run(self.call(key)).word or "ok"

    def one_call(self) -> int:
        """What a call holds, pico-USD."""
        key = self.tenants.key(budget={"limit_usd": "1"})
        assert self.word(key) == "ok"
        return self.books.settled(key.id)[0].held


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Moved]:
    node = OwnNode(tmp_path_factory.mktemp("moved"))
    try:
        yield Moved(node.begin())
    finally:
        node.close()


@pytest.fixture(scope="module")
def one(moved: Moved) -> int:
    return moved.one_call()


def enough_for_one(moved: Moved, one: int, **window: object) -> MadeKey:
    return moved.tenants.key(budget={"limit_usd": pico_to_usd(one * 11 // 10), "window": window})


def test_an_hour_forth_and_back_under_load(moved: Moved) -> None:
    windows = [{"kind": "calendar", "period": "day"}, {"kind": "rolling", "seconds": HOUR}, {"kind": "lifetime"}]
    keys = [moved.tenants.key(budget={"limit_usd": "20", "window": window}) for window in windows]
    moved.asked.clear()

    async def call_on(key: MadeKey, stop: asyncio.Event) -> int:
        served = 0
        while not stop.is_set():
            answer = await moved.call(key, chunk_ms=1)
            assert answer.status == 200, answer.body
            assert answer.whole
            served += 1
        return served

    async def play() -> int:
        stop = asyncio.Event()
        calls = [asyncio.create_task(call_on(key, stop)) for key in keys for _ in range(2)]
        for hours in (0, 1, 0, -1, 0, 2, -2, 0):
            moved.by(hours * HOUR)
            await asyncio.sleep(0.15)
        stop.set()
        return sum(await asyncio.gather(*calls))

    served = asyncio.run(play())
    assert served > 30
    rows = [row for key in keys for row in moved.books.settled(key.id)]
    assert len(rows) == served
    assert all(row.exact for row in rows)
    covers(rows, moved.books.billed(moved.asked, served))
    instants = [row.t_ns for row in sorted(rows, key=lambda row: row.hold_id)]
    assert any(later < earlier - HOUR * 10**9 // 2 for earlier, later in pairwise(instants))
    assert not moved.books.proven().open_holds


def test_a_clock_set_back_over_midnight_gives_no_window_twice(moved: Moved, one: int) -> None:
    key = enough_for_one(moved, one, period="day")
    moved.to("2026-11-28T23:30:00")
    assert [moved.word(key) for _ in range(2)] == ["ok", "budget_exhausted"]
    moved.to("2026-11-29T00:30:00")
    assert [moved.word(key) for _ in range(2)] == ["ok", "budget_exhausted"]
    for instant in ("2026-11-28T23:40:00", "2026-11-29T00:10:00", "2026-11-28T22:00:00", "2026-11-29T23:59:00"):
        moved.to(instant)
        assert moved.word(key) == "budget_exhausted", instant
    moved.to("2026-11-30T00:00:01")
    assert moved.word(key) == "ok"
    moved.books.proven()


def test_a_rolling_window_set_back_gives_nothing_twice(moved: Moved, one: int) -> None:
    key = enough_for_one(moved, one, kind="rolling", seconds=HOUR)
    moved.to("2026-12-01T12:00:00")
    assert [moved.word(key) for _ in range(2)] == ["ok", "budget_exhausted"]
    for instant in ("2026-12-01T11:00:00", "2026-12-01T12:30:00", "2026-12-01T12:59:00"):
        moved.to(instant)
        assert moved.word(key) == "budget_exhausted", instant
    moved.to("2026-12-01T13:02:00")
    assert moved.word(key) == "ok"
    moved.books.proven()


@pytest.mark.parametrize(
    ("first", "last", "following", "hours"),
    [
        ("2026-10-24T22:05:00", "2026-10-25T22:55:00", "2026-10-25T23:00:05", 25),
        ("2027-03-27T23:05:00", "2027-03-28T21:55:00", "2027-03-28T22:00:05", 23),
    ],
    ids=["the long day", "the short day"],
)
def test_days_of_changing_time(moved: Moved, one: int, first: str, last: str, following: str, hours: int) -> None:
    """Berlin's days of 25 and 23 hours are one window each."""
    key = enough_for_one(moved, one, period="day", zone="Europe/Berlin")
    moved.to(first)
    assert [moved.word(key) for _ in range(2)] == ["ok", "budget_exhausted"]
    moved.to(last)
    assert moved.word(key) == "budget_exhausted"
    moved.to(following)
    assert moved.word(key) == "ok"
    until(lambda: len(window_hours(moved, key)) == 2)
    assert window_hours(moved, key)[0] == hours
    moved.books.proven()


def window_hours(moved: Moved, key: MadeKey) -> list[float]:
    """Lengths of the key's windows, the first one first, as control's ledger.db has them."""
    with sqlite3.connect(f"file:{moved.books.database}?mode=ro", uri=True) as db:
        found = "SELECT (end_ns - start_ns) / 3.6e12 FROM balances WHERE budget_id = ? ORDER BY window"
        return [hours for (hours,) in db.execute(found, (key.budgets[0],))]


@pytest.mark.parametrize("period", CALENDARS)
def test_a_call_that_ends_in_the_next_window_counts_in_its_own(moved: Moved, one: int, period: str) -> None:
    key = enough_for_one(moved, one, period=period)
    moved.to("2027-01-31T23:59:30")  # a Sunday: the end of a day, of a week and of a month

    async def play() -> list[str]:
        late = asyncio.create_task(moved.call(key, chunk_ms=12))
        await asyncio.to_thread(until, lambda: moved.books.attempts(key.id) or late.done())
        assert not late.done(), late.result()
        moved.to("2027-02-01T00:00:30")
        during = await moved.call(key)  # the new window is whole: what is under way belongs to the old one
        assert not late.done()
        return [answer.word or "ok" for answer in (during, await late, await moved.call(key))]

    assert asyncio.run(play()) == ["ok", "ok", "budget_exhausted"]
    moved.to("2027-01-31T23:59:45")
    assert moved.word(key) == "budget_exhausted"
    moved.books.proven()

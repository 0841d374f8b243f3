"""The projection says what the journal says: whatever was torn, killed or written meanwhile."""

import asyncio
import os
import random
import signal
from pathlib import Path

import pytest

import bursar.stores.projection
from bursar.core.calls import Usage
from bursar.core.directory import WindowDef
from bursar.core.ledger import Settlement
from bursar.core.ledger_records import MAX_AMOUNT
from bursar.stores.journal import Journal, JournalDamaged
from bursar.stores.projection import Projection
from bursar.stores.projection_view import LedgerView, ProjectionFault
from tests.stores.journal_kit import NOON, FakeClock, asking, budget, last_segment, settled

HOUR = 3_600 * 10**9


class World:
    def __init__(self, folder: Path) -> None:
        self.folder = folder / "journal"
        self.database = folder / "ledger.db"
        self.clock = FakeClock()
        self.journal = Journal.open(self.folder, self.clock, segment_bytes=5000)
        self.journal.define(budget(10**6, thresholds=()))
        self.journal.define(budget(10**6, "hour", window=WindowDef(kind="rolling", seconds=3600), thresholds=()))

    def call(self, cost: int | None = 10, ceiling: int = 50, **names) -> int:
        hold = self.journal.hold_now(asking(ceiling, "b", "hour", **names))
        if cost is not None:
            self.journal.post(hold.hold_id, settled(cost))
            self.journal.flush()
        return hold.hold_id

    def projected(self) -> Projection:
        projection = Projection(self.folder, self.database)
        while projection.catch_up():
            pass
        return projection


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def rows(projection: Projection, query: str) -> list[tuple]:
    return projection._db.execute(query).fetchall()


def dump(projection: Projection) -> list[list[tuple]]:
    tables = ("attempts", "balances", "corrections", "budget_defs", "position")
    named_hours = "SELECT hour, key_id, model, attempts, cost, overage FROM hourly JOIN labels ON labels.id = label_id"
    return [sorted(rows(projection, f"SELECT * FROM {table}"), key=repr) for table in tables] + [
        sorted(rows(projection, named_hours))
    ]


def test_it_says_what_the_journal_says(world):
    first = world.call(cost=None)
    world.call(cost=20, team_id="other")
    world.journal.void(world.call(cost=None), "unsent")
    world.journal.shrink(first, 30)
    world.journal.flush()
    projection = world.projected()
    assert projection.balances(world.clock.wall) == world.journal.balances()
    assert rows(projection, "SELECT hold_id, state, held, cost, overage, team_id FROM attempts ORDER BY 1") == [
        (1, "HELD", 30, None, None, "t"),
        (2, "POSTED", 50, 20, 0, "other"),
        (3, "VOIDED", 50, None, None, "t"),
    ]
    world.journal.post(first, settled(45))
    world.journal.flush()
    projection.catch_up()
    assert rows(projection, "SELECT state, held, cost, overage, exact, outcome FROM attempts WHERE hold_id = 1") == [
        ("POSTED", 30, 45, 15, 1, "ok")
    ]
    assert rows(projection, "SELECT posted, held, overage, closed FROM balances WHERE budget_id = 'b'") == [
        ("65", "0", "15", 1)
    ]


def test_usage_is_kept_whole(world):
    usage = Usage(input_tokens=9, output_tokens=8, cache_read=7, reasoning=6, tool_uses=(("web_search", 2),))
    world.journal.post(world.call(cost=None), Settlement(5, usage, True, "ok"))
    world.journal.flush()
    columns = "input_tokens, output_tokens, cache_read, reasoning, usage_more"
    assert rows(world.projected(), f"SELECT {columns} FROM attempts") == [
        (9, 8, 7, 6, '{"tool_uses":[["web_search",2]]}')
    ]


def test_it_goes_on_where_it_stopped_over_segments_and_restarts(world):
    projection = world.projected()
    for number in range(120):
        world.clock.advance(60)
        world.call(cost=number % 50, model=f"m{number % 3}")
        if number % 17 == 0:
            projection.close()
            projection = world.projected()
        elif number % 5 == 0:
            while projection.catch_up():
                pass
    while projection.catch_up():
        pass
    assert world.journal._segment.number > 4
    assert projection.balances(world.clock.wall) == world.journal.balances()
    whole = dump(projection)
    projection.close()
    world.database.unlink()
    assert dump(world.projected()) == whole


def test_an_unfinished_record_is_waited_for(world):
    world.call()
    path = last_segment(world.folder)
    whole = path.read_bytes()
    projection = Projection(world.folder, world.database)
    seen = 0
    for end in range(0, len(whole), 3):
        if end < 64:
            continue  # a header appears at once: segments are renamed into place
        path.write_bytes(whole[:end])
        seen += projection.catch_up()
    path.write_bytes(whole)
    seen += projection.catch_up()
    assert seen == 7  # snapshot, two definitions, two windows, hold, post
    assert rows(projection, "SELECT cost FROM attempts") == [(10,)]


def test_damage_is_told_and_nothing_behind_it_is_believed(world):
    for _ in range(5):
        world.call()
    path = last_segment(world.folder)
    data = bytearray(path.read_bytes())
    data[-200] ^= 1
    path.write_bytes(data)
    projection = Projection(world.folder, world.database)
    with pytest.raises(JournalDamaged):
        list(iter(projection.catch_up, None))
    assert len(rows(projection, "SELECT 1 FROM attempts")) < 5


def test_killed_anywhere_it_counts_once(world):
    for number in range(60):
        world.clock.advance(300)
        world.call(cost=number % 50)
    world.call(cost=None)
    chance, killed = random.Random(7), 0
    for _ in range(25):
        child = os.fork()
        if child == 0:
            try:
                slow_projection(world, chance.randint(1, 60))
            finally:
                os._exit(1)
        killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
        chance.random()
    assert killed > 10
    projection = world.projected()
    whole = dump(projection)
    assert projection.balances(world.clock.wall) == world.journal.balances()
    projection.close()
    for path in world.database.parent.glob("ledger.db*"):
        path.unlink()
    assert dump(world.projected()) == whole


def slow_projection(world: World, statements: int) -> None:
    """Projects in small bites and is killed before its nth statement."""
    bursar.stores.projection._CHUNK = 700
    projection = Projection(world.folder, world.database)
    left = statements

    def trace(_: str) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    projection._db.set_trace_callback(trace)
    while projection.catch_up():
        pass


def test_it_can_begin_with_a_later_segment(world):
    for _ in range(60):
        world.call()
    opened = world.call(cost=None)
    world.journal._rotate()
    world.journal.post(opened, settled(9))
    world.journal.flush()
    for path in sorted(world.folder.glob("journal-*.log"))[:-1]:
        path.unlink()
    projection = world.projected()
    assert projection.balances(world.clock.wall) == world.journal.balances()
    assert rows(projection, "SELECT hold_id, state, cost FROM attempts") == [(opened, "POSTED", 9)]


async def test_a_correction_counts_in_the_hour_of_its_hold(world):
    hold = world.call(cost=50)
    world.clock.advance(7200)
    world.call(cost=1)
    await world.journal.correct(hold, -20, "bill")
    await world.journal.correct(hold, 3, "again")
    world.journal.flush()
    projection = world.projected()
    assert rows(projection, "SELECT hour, cost FROM hourly ORDER BY 1") == [
        (NOON // HOUR, "33"),
        (NOON // HOUR + 2, "1"),
    ]
    assert rows(projection, "SELECT hold_id, delta, reason FROM corrections ORDER BY t_ns") == [
        (hold, "-20", "bill"),
        (hold, "3", "again"),
    ]


def test_sums_pass_64_bits(world):
    world.journal.define(budget(10**30, version=2, thresholds=()))
    world.journal.define(
        budget(10**30, "hour", version=2, thresholds=(), window=WindowDef(kind="rolling", seconds=3600))
    )
    for _ in range(3):
        world.call(cost=MAX_AMOUNT, ceiling=MAX_AMOUNT)
    projection = world.projected()
    assert rows(projection, "SELECT cost FROM hourly") == [(str(3 * MAX_AMOUNT),)]
    assert rows(projection, "SELECT posted FROM balances WHERE budget_id = 'b'") == [(str(3 * MAX_AMOUNT),)]
    assert rows(projection, "SELECT DISTINCT cost FROM attempts") == [(MAX_AMOUNT,)]


def test_buckets_that_are_over_do_not_pile_up(world):
    for _ in range(300):
        world.clock.advance(60)
        world.call(cost=1)
    projection = world.projected()
    ((count,),) = rows(projection, "SELECT count(*) FROM balances WHERE budget_id = 'hour'")
    assert count < 200


# ---- the view -----------------------------------------------------------------------------------------------------


async def test_usage_by_every_group(world):
    view = LedgerView(world.folder, world.database, world.clock)
    for number in range(10):
        world.call(cost=number, model=f"m{number % 2}", team_id="team", key_id=f"k{number % 3}")
        world.clock.advance(6 * 3600)
    assert await view.catch_up() > 20
    end = world.clock.wall
    models = await view.usage(("model",), NOON, end, 100, "")
    assert [(row.group, row.attempts, row.cost_pico) for row in models] == [("m0", 5, 20), ("m1", 5, 25)]
    (team,) = await view.usage(("team",), NOON, end, 100, "")
    assert (team.input_tokens, team.output_tokens, team.cached_tokens) == (1000, 200, 500)
    days = await view.usage(("day",), NOON, end, 100, "")
    assert [row.group for row in days] == ["2026-11-23", "2026-11-24", "2026-11-25"]
    assert sum(row.cost_pico for row in days) == 45
    assert [row.group for row in await view.usage(("key",), NOON, end, 1, "k0")] == ["k1"]
    assert await view.usage(("user",), end, end + HOUR, 10, "") == []
    assert await view.balances() == world.journal.balances()
    view.close()


async def test_attempts_of_a_span_begin_where_it_begins(world):
    view = LedgerView(world.folder, world.database, world.clock)
    for number in range(50):
        world.call(cost=number, request_id=f"r{number}")
        world.clock.advance(60)
    await view.catch_up()
    for since in (0, 1, 17, 49, 50):
        start = NOON + since * 60 * 10**9
        found = await view.history(start, world.clock.wall, 0, 100)
        assert [past.request_id for _, past in found] == [f"r{number}" for number in range(since, 50)]
    view.close()


async def test_it_follows_and_tells_a_fault_once(world):
    view = LedgerView(world.folder, world.database, world.clock)
    faults: list[ProjectionFault] = []
    task = asyncio.create_task(view.follow(faults.append))
    world.call()
    async with asyncio.timeout(5):
        while not await view.usage(("team",), NOON, NOON + HOUR, 10, ""):  # noqa: ASYNC110 - a thread brings it about
            await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert faults == []
    view.close()


async def test_no_journal_yet_is_no_fault(tmp_path):
    view = LedgerView(tmp_path / "nowhere", tmp_path / "ledger.db", FakeClock())
    assert await view.catch_up() == 0
    assert await view.balances() == []
    view.close()
    blocked = LedgerView(tmp_path / "nowhere", tmp_path, FakeClock())
    with pytest.raises(ProjectionFault):
        await blocked.catch_up()
    blocked.close()

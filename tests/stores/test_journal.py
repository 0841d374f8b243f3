"""What was acknowledged is there; what was refused is not; a disk that fails closes money and loses nothing."""

import asyncio
import os
import resource
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from bursar.control.verify_ledger import verify
from bursar.core.directory import WindowDef
from bursar.core.errors import Refusal
from bursar.stores.journal import Journal, JournalDamaged
from bursar.stores.journal_segment import Header, frames
from tests.stores.journal_kit import (
    FailingFiles,
    FakeClock,
    asking,
    budget,
    last_segment,
    proven,
    settled,
    sums,
)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def reopened(journal: Journal, folder: Path, clock: FakeClock, **options) -> Journal:
    journal.close()
    return Journal.open(folder, clock, **options)


# ---- what is acknowledged is there -----------------------------------------------------------------------------------


def test_a_restart_finds_the_same_balances(tmp_path, clock):
    journal = Journal.open(tmp_path, clock)
    journal.define(budget(1000))
    journal.define(budget(500, "hourly", window=WindowDef(kind="rolling", seconds=3600)))
    for cost in (10, 20, 30):
        hold = journal.hold_now(asking(100, "b", "hourly"))
        journal.post(hold.hold_id, settled(cost))
    journal.void(journal.hold_now(asking(100)).hold_id, "unsent")
    before = journal.balances()
    journal = reopened(journal, tmp_path, clock)
    assert journal.balances() == before
    assert sums(journal) == (60, 0, 0)
    assert journal.open_holds == 0
    journal.close()
    assert proven(tmp_path).counts.posted == 3


@pytest.mark.parametrize("segments", [1, 2])
def test_holds_found_open_cost_their_ceiling_and_are_told(tmp_path, clock, segments):
    journal = Journal.open(tmp_path, clock)
    journal.define(budget(1000))
    shrunk = journal.hold_now(asking(300))
    journal.shrink(shrunk.hold_id, 120)
    journal.hold_now(asking(200, request_id="lost"))
    if segments == 2:
        journal._rotate()
    events = []
    journal = reopened(journal, tmp_path, clock, on_event=events.append)
    assert sums(journal) == (320, 0, 0)
    assert [(event.kind, event.amount_pico, event.request_id) for event in events] == [
        ("unreconciled", 120, "r"),
        ("unreconciled", 200, "lost"),
    ]
    journal = reopened(journal, tmp_path, clock, on_event=events.append)
    assert sums(journal) == (320, 0, 0)
    assert len(events) == 2
    journal.close()
    assert proven(tmp_path).counts.unreconciled == 2


def test_a_hold_is_in_the_file_when_it_is_reported(tmp_path, clock):
    journal = Journal.open(tmp_path, clock)
    journal.define(budget())
    journal.hold_now(asking(10))
    report = proven(tmp_path)
    assert (report.open_holds, report.budgets[0].held) == (1, 10)
    journal.close()


def test_two_processes_cannot_write_one_journal(tmp_path, clock):
    journal = Journal.open(tmp_path, clock)
    with pytest.raises(BlockingIOError):
        Journal.open(tmp_path, clock)
    journal.close()
    Journal.open(tmp_path, clock).close()


async def test_settles_are_written_at_the_end_of_the_turn(tmp_path, clock):
    journal = Journal.open(tmp_path, clock)
    journal.define(budget())
    hold = await journal.hold(asking(10))
    journal.post(hold.hold_id, settled(5))
    assert verify(tmp_path).open_holds == 1
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert proven(tmp_path).open_holds == 0
    journal.close()


async def test_a_correction_finds_its_hold_in_older_segments(tmp_path, clock):
    journal = Journal.open(tmp_path, clock, segment_bytes=4096)
    journal.define(budget(10**6, thresholds=()))
    first = journal.hold_now(asking(100))
    journal.post(first.hold_id, settled(100, "unreconciled", exact=False))
    for _ in range(150):
        journal.post(journal.hold_now(asking(10)).hold_id, settled(10))
        journal.flush()
    assert len(list(tmp_path.glob("journal-*.log"))) > 2
    await journal.correct(first.hold_id, -40, "the provider's bill")
    assert sums(journal) == (1560, 0, 0)
    with pytest.raises(ValueError):
        await journal.correct(10**6, 1, "never held")
    held = journal.hold_now(asking(10))
    with pytest.raises(ValueError):
        await journal.correct(held.hold_id, 1, "still open")
    journal.close()
    report = proven(tmp_path)
    assert (report.counts.corrections, report.budgets[0].adjusted) == (1, -40)


def test_a_closed_budget_is_told_again_after_a_restart(tmp_path, clock):
    events = []
    journal = Journal.open(tmp_path, clock, on_event=events.append)
    journal.define(budget(thresholds=()))
    journal.post(journal.hold_now(asking(10)).hold_id, settled(15))
    reopened(journal, tmp_path, clock, on_event=events.append).close()
    assert [event.kind for event in events] == ["closed", "overage", "closed"]
    assert events[0].dedupe == events[2].dedupe


# ---- segments --------------------------------------------------------------------------------------------------------


def test_segments_follow_one_another_and_a_start_reads_only_the_last(tmp_path, clock):
    journal = Journal.open(tmp_path, clock, segment_bytes=8192)
    journal.define(budget(10**6, thresholds=()))
    journal.define(budget(10**6, "daily", window=WindowDef(period="day")))
    open_hold = journal.hold_now(asking(7, "b", "daily"))
    for _ in range(200):
        clock.advance(600)
        journal.post(journal.hold_now(asking(10, "b", "daily")).hold_id, settled(3))
        journal.flush()
    balances = journal.balances()
    journal.post(open_hold.hold_id, settled(7))
    journal.close()
    report = proven(tmp_path)
    assert report.last_segment > 3
    assert report.budgets[0].posted == 607
    for path in sorted(tmp_path.glob("journal-*.log"))[:-1]:
        path.write_bytes(b"")
    journal = Journal.open(tmp_path, clock)
    assert [b.posted_pico - a.posted_pico for a, b in zip(balances, journal.balances(), strict=True)] == [7, 0]
    journal.close()
    assert verify(tmp_path, start=report.last_segment).ok


def test_a_rotation_that_cannot_be_written_is_put_off(tmp_path, clock):
    files = FailingFiles()
    journal = Journal.open(tmp_path, clock, segment_bytes=4096, files=files)
    journal.define(budget(10**6, thresholds=()))
    while last_segment(tmp_path).stat().st_size < 4000:
        journal.post(journal.hold_now(asking(10)).hold_id, settled(3))
        journal.flush()
    journal.post(journal.hold_now(asking(10)).hold_id, settled(3))
    files.room = 200  # enough for the settle, not for the snapshot
    journal.flush()
    assert len(list(tmp_path.glob("journal-*.log"))) == 1
    files.room = None
    for _ in range(5):
        journal.post(journal.hold_now(asking(10)).hold_id, settled(3))
        journal.flush()
    assert len(list(tmp_path.glob("journal-*.log"))) == 2
    journal.close()
    proven(tmp_path)


# ---- torn tails and damage -------------------------------------------------------------------------------------------


def two_holds(folder: Path, clock: FakeClock) -> tuple[bytes, int]:
    """A journal with a settled hold and an open one: its bytes, and where the last record begins."""
    journal = Journal.open(folder, clock)
    journal.define(budget())
    journal.post(journal.hold_now(asking(10)).hold_id, settled(4))
    journal.flush()
    begin = last_segment(folder).stat().st_size
    journal.hold_now(asking(20))
    journal.close()
    return last_segment(folder).read_bytes(), begin


def test_a_tail_torn_at_any_byte_is_cut_off_and_kept(tmp_path, clock):
    data, begin = two_holds(tmp_path / "whole", clock)
    for cut in range(begin, len(data) + 1):
        folder = tmp_path / str(cut)
        folder.mkdir()
        (folder / "journal-00000001.log").write_bytes(data[:cut])
        torn = 0 if cut in (begin, len(data)) else cut - begin
        report = verify(folder)
        assert report.ok
        assert (report.torn is not None) == bool(torn)
        journal = Journal.open(folder, clock)
        assert sums(journal) == (24 if cut == len(data) else 4, 0, 0)
        journal.close()
        proven(folder)
        assert sum(path.stat().st_size for path in folder.glob("*.torn")) == torn


def test_damage_before_the_last_record_is_not_repaired_away(tmp_path, clock):
    data, begin = two_holds(tmp_path / "whole", clock)
    for place in range(0, begin, 7):
        folder = tmp_path / str(place)
        folder.mkdir()
        damaged = bytearray(data)
        damaged[place] ^= 0x55
        (folder / "journal-00000001.log").write_bytes(damaged)
        with pytest.raises(JournalDamaged):
            Journal.open(folder, clock)
        assert (folder / "journal-00000001.log").read_bytes() == damaged


def test_a_segment_whose_creation_was_cut_off_is_set_aside(tmp_path, clock):
    """A power cut between the new name and the new content; kill -9 cannot do it."""
    two_holds(tmp_path, clock)
    head = Header(2, 3, bytes(32)).encode()
    whole = head + frames([bytes(50)], 2, len(head))
    for rest in (b"", bytes(100), head, whole[:-20]):
        (tmp_path / "journal-00000002.log").write_bytes(rest)
        journal = Journal.open(tmp_path, clock)
        assert sums(journal) == (24, 0, 0)
        journal.close()
        proven(tmp_path)


# ---- a disk that fails -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("room", [0, 1, 9, 50])
def test_a_full_disk_closes_money_holds_nothing_and_loses_no_settle(tmp_path, clock, room):
    files = FailingFiles()
    journal = Journal.open(tmp_path, clock, files=files)
    journal.define(budget())
    kept = journal.hold_now(asking(10))
    files.room = room
    for _ in range(3):
        with pytest.raises(Refusal) as caught:
            journal.hold_now(asking(10))
        assert caught.value.word == "store_unavailable"
    assert journal.down
    journal.post(kept.hold_id, settled(6))
    assert not journal.flush()
    assert (journal.open_holds, sums(journal)) == (0, (6, 0, 0))
    proven(tmp_path)  # the file is whole, though the settle is not in it yet
    files.room = None
    with pytest.raises(Refusal):
        journal.hold_now(asking(10))  # probed again only after a while
    clock.advance(1)
    journal.post(journal.hold_now(asking(10)).hold_id, settled(1))
    assert not journal.down
    journal.close()
    report = proven(tmp_path)
    assert (report.counts.holds, report.budgets[0].posted) == (2, 7)


async def test_settles_are_tried_again_by_the_clock(tmp_path, clock):
    files, written = FailingFiles(), asyncio.Event()

    def trace(point: str) -> None:
        if point == "settle_written":
            written.set()

    journal = Journal.open(tmp_path, clock, files=files, trace=trace)
    journal.define(budget())
    hold = await journal.hold(asking(10))
    files.room = 0
    journal.post(hold.hold_id, settled(6))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(written.wait(), 0.12)
    assert journal.down
    files.room = None
    await asyncio.wait_for(written.wait(), 5)
    assert not journal.down
    assert proven(tmp_path).open_holds == 0
    journal.close()


def test_nothing_is_written_behind_a_tail_that_could_not_be_cut_off(tmp_path, clock):
    files = FailingFiles()
    journal = Journal.open(tmp_path, clock, files=files)
    journal.define(budget())
    files.room, files.truncates = 20, False
    with pytest.raises(Refusal):
        journal.hold_now(asking(10))
    files.room = None
    clock.advance(1)
    with pytest.raises(Refusal):
        journal.hold_now(asking(10))
    files.truncates = True
    clock.advance(1)
    journal.post(journal.hold_now(asking(10)).hold_id, settled(3))
    journal.close()
    assert proven(tmp_path).budgets[0].posted == 3


def test_a_real_file_size_limit_closes_money(tmp_path):
    """The kernel's own refusal, in a process of its own."""
    script = textwrap.dedent("""
        import resource, sys
        from pathlib import Path
        from tests.stores.journal_kit import *
        from bursar.core.errors import Refusal
        folder, clock = Path(sys.argv[1]), FakeClock()
        journal = Journal.open(folder, clock)
        journal.define(budget(10**9))
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, resource.RLIM_INFINITY))
        held = []
        try:
            while True:
                held.append(journal.hold_now(asking(10)))
        except Refusal as refusal:
            print(refusal.word, len(held))
        for hold in held:
            journal.post(hold.hold_id, settled(1))
        assert not journal.flush()
        proven(folder)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        clock.advance(1)
        journal.void(journal.hold_now(asking(10)).hold_id, "unsent")
        journal.close()
        report = proven(folder)
        assert (report.counts.posted, report.counts.voided, report.open_holds) == (len(held), 1, 0)
    """)
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    word, count = done.stdout.split()
    assert (word, int(count) > 5) == ("store_unavailable", True)
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


# ---- durability: power -----------------------------------------------------------------------------------------------


async def test_many_holds_share_a_sync_and_each_waits_for_one(tmp_path, clock):
    files = FailingFiles()
    journal = Journal.open(tmp_path, clock, "power", files=files)
    journal.define(budget(10**6, thresholds=()))
    before = files.synced
    holds = await asyncio.gather(*(journal.hold(asking(10)) for _ in range(100)))
    assert 1 <= files.synced - before <= 3
    assert len({hold.hold_id for hold in holds}) == 100
    assert sums(journal) == (0, 1000, 0)
    for hold in holds:
        journal.post(hold.hold_id, settled(1))
    journal.close()
    assert proven(tmp_path).budgets[0].posted == 100
    with pytest.raises(RuntimeError):
        journal.hold_now(asking(1))


async def test_a_hold_whose_sync_failed_is_voided_and_never_reported(tmp_path, clock):
    files = FailingFiles()
    journal = Journal.open(tmp_path, clock, "power", files=files)
    journal.define(budget())
    files.syncs = False
    results = await asyncio.gather(*(journal.hold(asking(10)) for _ in range(3)), return_exceptions=True)
    assert [getattr(result, "word", "") for result in results] == ["store_unavailable"] * 3
    assert (journal.open_holds, sums(journal)) == (0, (0, 0, 0))
    files.syncs = True
    clock.advance(1)
    hold = await journal.hold(asking(10))  # goes on in a new segment: the old one may have lost pages
    journal.post(hold.hold_id, settled(4))
    journal.close()
    report = proven(tmp_path)
    assert (report.counts.voided, report.counts.posted, report.last_segment) == (3, 1, 2)


async def test_a_cancelled_hold_is_voided(tmp_path, clock):
    journal = Journal.open(tmp_path, clock, "power")
    journal.define(budget())
    task = asyncio.create_task(journal.hold(asking(10)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (journal.open_holds, sums(journal)) == (0, (0, 0, 0))
    journal.close()
    assert proven(tmp_path).counts.voided == 1


async def test_segments_change_under_way_with_power_durability(tmp_path, clock):
    journal = Journal.open(tmp_path, clock, "power", segment_bytes=4096)
    journal.define(budget(10**6, thresholds=()))

    async def call(cost: int) -> None:
        for _ in range(20):
            hold = await journal.hold(asking(10))
            journal.post(hold.hold_id, settled(cost))

    await asyncio.gather(*(call(cost) for cost in range(8)))
    journal.close()
    report = proven(tmp_path)
    assert report.last_segment > 2
    assert report.budgets[0].posted == 20 * sum(range(8))


async def test_what_is_noted_while_a_segment_is_made_goes_into_the_new_one(tmp_path, clock):
    class SlowFiles(FailingFiles):
        """Writes in a thread wait for leave: only a new segment is written there."""

        def write(self, fd: int, data: bytes) -> int:
            if threading.current_thread() is not threading.main_thread():
                loop.call_soon_threadsafe(making.set)
                assert leave.wait(10)
            return super().write(fd, data)

    loop, making, leave = asyncio.get_running_loop(), asyncio.Event(), threading.Event()
    journal = Journal.open(tmp_path, clock, "power", segment_bytes=1, files=SlowFiles())
    journal.define(budget(10**6))
    first = await journal.hold(asking(10))
    await making.wait()  # the segment was full: the next one is being made
    journal.post(first.hold_id, settled(4))
    second = asyncio.create_task(journal.hold(asking(20)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not second.done()
    assert proven(tmp_path).counts.posted == 0
    leave.set()
    journal.post((await second).hold_id, settled(5))
    journal.close()
    report = proven(tmp_path)
    assert (report.counts.posted, report.budgets[0].posted) == (2, 9)
    assert report.last_segment > 1


async def test_a_segment_under_way_when_the_journal_closes_is_given_up(tmp_path, clock):
    """It lacks what the close still writes: in its place it would lose that, and break the chain of digests."""

    class SlowFiles(FailingFiles):
        def write(self, fd: int, data: bytes) -> int:
            if threading.current_thread() is not threading.main_thread():
                loop.call_soon_threadsafe(making.set)
                assert leave.wait(10)
            return super().write(fd, data)

    loop, making, leave = asyncio.get_running_loop(), asyncio.Event(), threading.Event()
    journal = Journal.open(tmp_path, clock, "power", segment_bytes=1, files=SlowFiles())
    journal.define(budget(10**6))
    first = await journal.hold(asking(10))
    await making.wait()
    journal.post(first.hold_id, settled(4))
    leave.set()
    journal.close()
    for _ in range(10):
        await asyncio.sleep(0)
    again = Journal.open(tmp_path, clock, "power")
    again.close()
    report = proven(tmp_path)
    assert (report.counts.posted, report.budgets[0].posted, report.open_holds) == (1, 4, 0)


async def test_a_snapshot_never_runs_ahead_of_its_segment(tmp_path, clock):
    journal = Journal.open(tmp_path, clock, "power")
    journal.define(budget(10**6))
    hold = await journal.hold(asking(10))
    journal.post(hold.hold_id, settled(4))  # noted, not written yet
    await journal._rotate_durably()
    journal.close()
    assert proven(tmp_path).last_segment == 2


# ---- size ------------------------------------------------------------------------------------------------------------


def test_a_snapshot_of_many_holds_and_budgets_is_taken_in_a_moment(tmp_path, clock):
    """10,000 open holds, 1,000 budgets: what a rotation costs the loop."""
    journal = Journal.open(tmp_path, clock, segment_bytes=1 << 30)
    for number in range(1000):
        journal.define(budget(10**9, f"budget-{number}"))
    for number in range(10_000):
        journal.hold_now(asking(10, f"budget-{number % 1000}", f"budget-{(number + 1) % 1000}"))
    began = os.times().user
    journal._segment_bytes = journal._rotate_at = 1
    journal.flush()
    spent = os.times().user - began
    assert len(list(tmp_path.glob("journal-*.log"))) == 2
    assert spent < 0.5, f"{spent:.3f} s"
    journal.close()

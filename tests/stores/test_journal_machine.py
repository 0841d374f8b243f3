"""Any history of the journal against a plain model: crashes, torn tails, clock jumps, changed limits, failing disk."""

import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bursar.core.directory import WindowDef
from bursar.core.errors import Refusal
from bursar.core.windows import span_of
from bursar.stores.journal import Journal
from bursar.stores.projection import Projection
from tests.stores.journal_kit import FailingFiles, FakeClock, asking, budget, last_segment, proven, settled, sums

AMOUNTS = st.integers(0, 400)
DAILY = WindowDef(period="day", zone="Europe/Berlin")


class Model:
    """The rules in their plainest form: lists of what was held and posted. Two hard budgets and a soft one."""

    def __init__(self) -> None:
        self.limits = {"life": 1000, "day": 600, "soft": 500}
        self.closed: dict[tuple[str, str], set[int]] = {}  # (budget, window) -> holds whose overage closed it
        self.holds: dict[int, dict] = {}  # all that were ever made

    def window(self, name: str, now: int) -> str:
        return span_of(DAILY, now).id if name == "day" else "ever"

    def total(self, name: str, window: str) -> int:
        return sum(
            hold["cost"] if hold["ended"] else hold["expected" if name == "soft" else "ceiling"]
            for hold in self.holds.values()
            if hold["windows"].get(name) == window
        )

    def admits(self, ceiling: int, expected: int, names: tuple[str, ...], now: int) -> bool:
        for name in names:
            amount = expected if name == "soft" else ceiling
            window = self.window(name, now)
            if amount and ((name, window) in self.closed or self.total(name, window) + amount > self.limits[name]):
                return False
        return True

    def hold(self, hold_id: int, ceiling: int, expected: int, names: tuple[str, ...], now: int) -> None:
        assert hold_id not in self.holds, "an id was used twice"
        windows = {name: self.window(name, now) for name in names}
        self.holds[hold_id] = {"ceiling": ceiling, "expected": expected, "windows": windows, "ended": False, "cost": 0}

    def end(self, hold_id: int, cost: int) -> None:
        hold = self.holds[hold_id]
        if hold["ended"]:
            return
        hold["ended"], hold["cost"] = True, cost
        if cost > hold["ceiling"]:
            for name, window in hold["windows"].items():
                if name != "soft":
                    self.closed.setdefault((name, window), set()).add(hold_id)

    def reopen(self, name: str) -> None:
        self.closed = {place: holds for place, holds in self.closed.items() if place[0] != name}

    def post_ceiling_instead(self, hold_id: int) -> None:
        """The settle was lost in a crash."""
        hold = self.holds[hold_id]
        hold["ended"], hold["cost"] = True, hold["ceiling"]
        self.closed = {place: left for place, holds in self.closed.items() if (left := holds - {hold_id})}


class JournalMachine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="journal-machine-"))
        self.clock, self.files, self.model = FakeClock(), FailingFiles(), Model()
        self.versions = dict.fromkeys(self.model.limits, 0)
        self.open: list[int] = []
        self.ended: list[int] = []
        self.unwritten: list[int] = []  # settled, perhaps not on disk yet
        self.start()
        for name in self.model.limits:
            self.define(name)
        self.journal.flush()

    def start(self) -> None:
        self.files.room = None
        self.journal = Journal.open(self.folder, self.clock, segment_bytes=500, files=self.files)

    def define(self, name: str) -> None:
        self.versions[name] += 1
        window = DAILY if name == "day" else WindowDef(kind="lifetime")
        limit = self.model.limits[name]
        self.journal.define(budget(limit, name, version=self.versions[name], window=window, hard=name != "soft"))

    # ---- rules

    @rule(
        ceiling=AMOUNTS,
        expected=AMOUNTS,
        names=st.sets(st.sampled_from(("life", "day", "soft")), min_size=1).map(lambda it: tuple(sorted(it))),
    )
    def hold(self, ceiling: int, expected: int, names: tuple[str, ...]) -> None:
        self.clock.advance(1)
        admitted = self.model.admits(ceiling, expected, names, self.clock.wall)
        word, held = "", None
        try:
            held = self.journal.hold_now(asking(ceiling, *names, expected=expected))
        except Refusal as refusal:
            word = refusal.word
        if word == "store_unavailable":
            assert self.files.room is not None
            return
        assert admitted == (not word), f"admits: {admitted}, but {word!r}"
        if held is None:
            return
        self.model.hold(held.hold_id, ceiling, expected, names, self.clock.wall)
        self.open.append(held.hold_id)
        self.unwritten.clear()  # they travelled with the hold

    @precondition(lambda self: self.open)
    @rule(data=st.data(), cost=AMOUNTS)
    def post(self, data: st.DataObject, cost: int) -> None:
        hold_id = self.take(data)
        self.journal.post(hold_id, settled(cost))
        self.model.end(hold_id, cost)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def void(self, data: st.DataObject) -> None:
        hold_id = self.take(data)
        self.journal.void(hold_id, "unsent")
        self.model.end(hold_id, 0)

    def take(self, data: st.DataObject) -> int:
        hold_id = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        self.ended.append(hold_id)
        self.unwritten.append(hold_id)
        return hold_id

    @precondition(lambda self: self.open)
    @rule(data=st.data(), ceiling=AMOUNTS)
    def shrink(self, data: st.DataObject, ceiling: int) -> None:
        """Written at once, so that a crash leaves no doubt about the ceiling."""
        if self.files.room is not None:
            return
        hold_id = data.draw(st.sampled_from(self.open))
        self.journal.shrink(hold_id, ceiling)
        self.journal.flush()
        self.unwritten.clear()
        hold = self.model.holds[hold_id]
        hold["ceiling"] = min(ceiling, hold["ceiling"])

    @precondition(lambda self: self.ended)
    @rule(data=st.data(), cost=AMOUNTS)
    def settle_again(self, data: st.DataObject, cost: int) -> None:
        hold_id = data.draw(st.sampled_from(self.ended))
        self.journal.post(hold_id, settled(cost))
        self.journal.void(hold_id, "again")

    @rule(name=st.sampled_from(("life", "day", "soft")), limit=st.integers(0, 3000))
    def change_limit(self, name: str, limit: int) -> None:
        if limit > self.model.limits[name]:
            self.model.reopen(name)
        self.model.limits[name] = limit
        self.define(name)
        if self.files.room is None:
            self.journal.flush()
            self.unwritten.clear()

    @rule(hours=st.sampled_from((-1, 1, 1, 5, 24)))
    def jump(self, hours: int) -> None:
        self.clock.advance(hours * 3600)

    @precondition(lambda self: self.files.room is None)
    @rule()
    def flush(self) -> None:
        self.journal.flush()
        self.unwritten.clear()

    @rule(room=st.integers(0, 200))
    def fill_disk(self, room: int) -> None:
        if self.files.room is None:
            self.journal.flush()
            self.unwritten.clear()
            self.files.room = room

    @precondition(lambda self: self.files.room is not None)
    @rule()
    def free_disk(self) -> None:
        self.files.room = None
        self.clock.advance(1)
        assert self.journal.flush()
        self.unwritten.clear()

    @precondition(lambda self: self.files.room is None)
    @rule(data=st.data())
    def crash(self, data: st.DataObject) -> None:
        """kill -9, in the middle of writing what is pending: any part of it may have reached the file."""
        path = last_segment(self.folder)
        before = path.stat().st_size
        self.journal.flush()
        if last_segment(self.folder) == path and (size := path.stat().st_size) > before:
            os.truncate(path, data.draw(st.integers(before, size), label="bytes kept"))
        os.close(self.journal._segment.fd)
        os.close(self.journal._lock)
        self.start()
        outcomes = outcomes_of(self.folder)
        order = [outcomes[hold_id][0] for hold_id in self.unwritten]
        assert order == sorted(order, key=("written", "unreconciled").index), "a later settle outlived an earlier one"
        for hold_id in self.unwritten:
            hold = self.model.holds[hold_id]
            if outcomes[hold_id] != ("written", hold["cost"]):
                assert outcomes[hold_id] == ("unreconciled", hold["ceiling"])
                self.model.post_ceiling_instead(hold_id)
        for hold_id in self.open:
            assert outcomes[hold_id] == ("unreconciled", self.model.holds[hold_id]["ceiling"])
            self.model.end(hold_id, self.model.holds[hold_id]["ceiling"])
        self.ended += self.open
        self.open, self.unwritten = [], []

    # ---- what holds always

    @invariant()
    def balances_are_those_of_the_model(self) -> None:
        for name in self.model.limits:
            posted, held, _ = sums(self.journal, name)
            assert posted + held == self.model.total(name, self.model.window(name, self.clock.wall))
        assert self.journal.open_holds == len(self.open)

    def teardown(self) -> None:
        if not hasattr(self, "journal"):
            return
        self.files.room = None
        self.journal.close()
        report = proven(self.folder)
        assert report.open_ids == sorted(self.open)
        projection = Projection(self.folder, self.folder / "ledger.db")
        while projection.catch_up():
            pass
        assert projection.balances(self.clock.wall) == self.journal.balances()
        projection.close()
        shutil.rmtree(self.folder)


def outcomes_of(folder: Path) -> dict[int, tuple[str, int]]:
    """How each ended hold ended, as a fresh projection tells it."""
    database = folder / "outcomes.db"
    projection = Projection(folder, database)
    while projection.catch_up():
        pass
    rows = projection._db.execute("SELECT hold_id, outcome, cost FROM attempts WHERE state != 'HELD'").fetchall()
    projection.close()
    for leftover in folder.glob("outcomes.db*"):
        leftover.unlink()
    return {
        hold_id: ("unreconciled" if outcome == "unreconciled" else "written", cost or 0)
        for hold_id, outcome, cost in rows
    }


TestJournalMachine = JournalMachine.TestCase
TestJournalMachine.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)

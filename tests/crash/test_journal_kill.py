"""kill -9 of a process at every named point of the journal: what was dispatched is in the ledger, once."""

import random
from pathlib import Path

import pytest

from bursar.stores.journal import Journal
from bursar.stores.projection import Projection
from tests.crash.journal_child import CEILING, bill_of, killed_at
from tests.stores.journal_kit import FakeClock, proven, sums

POINTS = (
    "hold_encoded",
    "hold_written",
    "settle_buffered",
    "settle_written",
    "rotate_begun",
    "rotate_tmp_written",
    "rotate_renamed",
    "write",
)
TIMES = 20


@pytest.mark.parametrize("point", POINTS)
def test_the_ledger_covers_the_bill_after_kill(tmp_path: Path, point: str):
    chance = random.Random(point)
    rare = point.startswith("rotate")
    for time in range(TIMES):
        folder = tmp_path / str(time)
        folder.mkdir()
        nth = chance.randint(1, 12 if rare else 120)
        assert killed_at(folder, point, nth), f"{point} was not reached {nth} times"
        recovered(folder, point)


def recovered(folder: Path, point: str) -> None:
    bill = bill_of(folder)
    events = []
    journal = Journal.open(folder / "journal", FakeClock(), on_event=events.append)
    report = proven(folder / "journal")
    assert journal.open_holds == report.open_holds == 0
    posted, held, _ = sums(journal)
    assert held == 0
    assert posted >= sum(bill.values()) - sum(max(0, cost - CEILING) for cost in bill.values())
    rows = attempts(folder)
    assert bill.keys() <= rows.keys(), "dispatched, but not in the ledger"
    assert len(rows) - len(bill) <= 1, "at most the hold that was being made is there besides"
    for hold_id, (state, outcome, cost, ceiling) in rows.items():
        assert state == "POSTED"
        if outcome == "unreconciled":
            assert cost == ceiling
        else:
            assert cost == bill[hold_id]
    assert sum(row[2] for row in rows.values()) == posted
    unreconciled = {hold_id for hold_id, row in rows.items() if row[1] == "unreconciled"}
    assert unreconciled == {event.hold_id for event in events if event.kind == "unreconciled"}
    assert len(unreconciled) <= 4, "only what was in flight is unreconciled"
    if point == "rotate_renamed":
        assert not unreconciled, "the settles were written before the rotation"
    journal.close()


def attempts(folder: Path) -> dict[int, tuple[str, str, int, int]]:
    projection = Projection(folder / "journal", folder / "ledger.db")
    while projection.catch_up():
        pass
    rows = projection._db.execute("SELECT hold_id, state, outcome, cost, held FROM attempts").fetchall()
    projection.close()
    return {row[0]: row[1:] for row in rows}

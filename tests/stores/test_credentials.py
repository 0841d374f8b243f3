"""By what credential a call came: kept with the hold, summed by team; and what was written before tokens reads on."""

import sqlite3
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.core.ledger import HoldRequest
from bursar.core.ledger_budget import TOKEN_KEPT_NS, forgotten_at
from bursar.core.ledger_records import JOINT, HoldRecord, UsageBy
from bursar.core.units import NS_PER_S
from bursar.stores.journal import Journal
from bursar.stores.journal_recovery import decoder, encode
from bursar.stores.projection import Projection
from bursar.stores.projection_view import LedgerView
from bursar.stores.schema import MIGRATIONS, open_database
from tests.stores.journal_kit import NOON, FakeClock, asking, budget, proven, settled


def test_a_hold_written_before_tokens_is_one_by_a_key() -> None:
    record = HoldRecord(1, 2, (("b", 1, 1, True),), asking(5))
    old = msgspec.msgpack.decode(encode(record))
    assert old[4][17:] == ["", "", ""]
    del old[4][17:]
    assert decoder.decode(msgspec.msgpack.encode(old)) == record


async def test_usage_is_summed_by_credential_and_the_caller_kept(tmp_path: Path) -> None:
    clock = FakeClock()
    journal = Journal.open(tmp_path / "journal", clock)
    journal.define(budget(10**6, thresholds=()))
    for credential, caller in (("", ""), ("token", "ci-1"), ("token", "ci-2"), ("federation", "")):
        hold = journal.hold_now(asking(50, credential=credential, caller=caller))
        journal.post(hold.hold_id, settled(10))
    journal.flush()
    view = LedgerView(tmp_path / "journal", tmp_path / "ledger.db", clock)
    await view.catch_up()
    found = await view.usage(("credential",), 0, NOON * 2, 100, "")
    assert [(row.group, row.attempts, row.cost_pico) for row in found] == [
        ("t/federation", 1, 10),
        ("t/key", 1, 10),
        ("t/token", 2, 20),
    ]
    view.close()
    journal.close()
    with sqlite3.connect(tmp_path / "ledger.db") as db:
        callers = db.execute("SELECT credential, caller FROM attempts ORDER BY hold_id").fetchall()
        labels = db.execute("SELECT count(*) FROM labels").fetchone()
    assert callers == [("", None), ("token", "ci-1"), ("token", "ci-2"), ("federation", None)]
    assert labels == (3,)  # callers are many: they make no labels


async def test_usage_is_summed_by_purpose(tmp_path: Path) -> None:
    clock = FakeClock()
    journal = Journal.open(tmp_path / "journal", clock)
    journal.define(budget(10**6, thresholds=()))
    for purpose, cost in (("", 10), ("embedding", 1), ("embedding", 2), ("", 20)):
        hold = journal.hold_now(asking(50, purpose=purpose))
        journal.post(hold.hold_id, settled(cost))
    journal.close()
    view = LedgerView(tmp_path / "journal", tmp_path / "ledger.db", clock)
    await view.catch_up()
    asked: dict[str, tuple[UsageBy, ...]] = {"": ("purpose",), f"t{JOINT}": ("team", "purpose")}
    for team, by in asked.items():
        found = await view.usage(by, 0, NOON * 2, 100, "")
        assert [(row.group, row.attempts, row.cost_pico) for row in found] == [
            (f"{team}embedding", 2, 3),
            (f"{team}inference", 2, 30),
        ]
    view.close()


def test_a_database_of_before_is_brought_along(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with sqlite3.connect(path) as db:
        db.executescript((MIGRATIONS / "ledger" / "0001_ledger.sql").read_text() + "PRAGMA user_version = 1;")
        db.execute("INSERT INTO labels VALUES (7, 'k', 't', 'o', '', 'p', 'm', 's', 'p/m@1', 'd')")
        ended = (1, "r", 1, 7, 5, 1, "POSTED", 9, 4, 0, 6, 1, "ok", 1, 2, 0, 0, None)
        db.execute(f"INSERT INTO attempt VALUES ({', '.join('?' * 18)})", ended)
        db.execute("INSERT INTO hourly VALUES (0, 7, 1, 0, 1, 2, 0, '4', '0')")
    db = open_database(path, "ledger")
    assert db.execute("SELECT key_id, state, cost, outcome, credential, caller, purpose FROM attempts").fetchall() == [
        ("k", "POSTED", 4, "ok", "", None, "")
    ]
    assert db.execute("SELECT attempts, cost FROM hourly JOIN labels ON labels.id = label_id").fetchall() == [(1, "4")]
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()


# ---- the budgets of tokens


@pytest.mark.parametrize("name", ["b", "token", "token:", "token:x:j", "token-1-j", "tokens:1:j", "token:-1:j"])
def test_only_a_budget_that_says_when_is_ever_forgotten(name: str) -> None:
    assert forgotten_at(name) is None


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["hold", "end", "pass", "turn"])), max_size=25))
def test_nothing_that_is_held_is_forgotten_and_the_ledger_is_proven(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, str]]
) -> None:
    folder = tmp_path_factory.mktemp("ledger")
    clock = FakeClock()
    journal = Journal.open(folder / "journal", clock, segment_bytes=1200)
    journal.define(budget(10**9, thresholds=()))
    projection = Projection(folder / "journal", folder / "ledger.db")
    open_holds: list[tuple[int, str]] = []
    for token, step in steps:
        if step == "hold":
            end = clock.wall // NS_PER_S + 900
            name = f"token:{end}:{token}"
            journal.define(budget(10**6, name, thresholds=()))
            hold = journal.hold_now(asking(50, "b", name, credential="token"))
            open_holds.append((hold.hold_id, name))
        elif step == "end" and open_holds:
            hold_id, name = open_holds.pop(token % len(open_holds))
            assert name in journal._ledger.budgets
            journal.post(hold_id, settled(10))
        elif step == "pass":
            clock.advance(TOKEN_KEPT_NS / NS_PER_S / 2 + 900)
        journal.flush()
        while projection.catch_up():
            pass
        assert set(projection._ledger.budgets) >= {name for _, name in open_holds}
    for hold_id, _ in open_holds:
        journal.post(hold_id, settled(10))
    journal.close()
    projection.close()
    proven(folder / "journal")
    again = Projection(folder / "journal", folder / "ledger.db")  # goes on where it stopped
    while again.catch_up():
        pass
    again.close()


def test_the_old_shape_is_the_beginning_of_the_new() -> None:
    assert HoldRequest.__struct_fields__[17:] == ("credential", "caller", "purpose")

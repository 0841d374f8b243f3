"""In control a restored node lends no provider key, and is released on record only; budgets are noted as they move."""

from pathlib import Path

import pytest

from bursar.control.restored import RestoredNode
from bursar.control.spend_notes import SpendNotes
from bursar.core.audit import AuditFailed, Event
from bursar.core.errors import Refusal
from bursar.core.ledger_records import Balance
from bursar.core.restore import BALANCES_ACTION, Known, Restored
from bursar.stores.restore_marker import MarkerFile, is_paused
from tests.control.tenants import SetClock


class Audit:
    def __init__(self) -> None:
        self.events: list[tuple[str, str, dict[str, str | int]]] = []
        self.away = False

    async def append(self, actor: str, action: str, target: str, facts: object, outcome: str = "allowed") -> None:
        if self.away:
            raise AuditFailed("away")
        self.events.append((actor, action, dict(facts)))  # type: ignore[call-overload]

    async def append_all(self, events: list[Event]) -> None:
        for event in events:
            await self.append(event.actor, event.action, event.target, event.facts)


async def test_it_is_released_on_record_only(tmp_path: Path) -> None:
    MarkerFile(tmp_path).write(Restored(restored_ns=9, taken_ns=4, node="main", audit_seq=3))
    audit = Audit()
    node = RestoredNode(MarkerFile(tmp_path), audit, SetClock())
    with pytest.raises(Refusal) as refused:
        node.check()
    assert refused.value.word == "restore_unacknowledged"
    audit.away = True
    with pytest.raises(AuditFailed):
        await node.acknowledge("ann")
    assert node.paused
    assert is_paused(tmp_path)
    audit.away = False
    await node.acknowledge("ann")
    node.check()
    assert not is_paused(tmp_path)
    assert audit.events == [("ann", "restore.acknowledge", {"backup_ns": 4, "restored_ns": 9, "replayed_until_ns": 0})]
    with pytest.raises(Refusal):
        await node.acknowledge("ann")


class Ledger:
    def __init__(self) -> None:
        self.rows: list[Balance] = []

    async def balances(self) -> list[Balance]:
        return self.rows

    async def catch_up(self) -> int:
        return 0


def row(name: str, posted: int, held: int = 0) -> Balance:
    return Balance(
        budget_id=name,
        name="",
        hard=True,
        window_start_ns=1,
        window_end_ns=100,
        limit_pico=10**12,
        posted_pico=posted,
        held_pico=held,
        overage_pico=0,
        closed=False,
    )


async def test_only_what_moved_is_noted_and_nothing_is_lost_by_a_failure() -> None:
    ledger, audit = Ledger(), Audit()
    notes = SpendNotes(ledger, audit)
    ledger.rows = [row("a", 5, 2), row("unused", 0)]
    assert await notes.note() == 1
    assert audit.events == [("control", BALANCES_ACTION, {"budget/a": "1 100 5 2"})]
    assert Known.read("1 100 5 2") == Known(1, 100, 5, 2)
    assert await notes.note() == 0
    ledger.rows = [row("a", 7), row("unused", 0)]
    audit.away = True
    with pytest.raises(AuditFailed):
        await notes.note()
    audit.away = False
    assert await notes.note() == 1
    ledger.rows = [row(f"b{n}", 1) for n in range(1200)]
    assert await notes.note() == 1200
    assert [len(facts) for _, _, facts in audit.events[2:]] == [500, 500, 200]

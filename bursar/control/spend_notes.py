"""Where each budget stands, noted in the audit every few seconds: after a loss of the node, its other sinks tell it.

One record holds many budgets, and only those that moved: what is noted is posted and held in the present window, so
that a restored node can count what it has forgotten (`bursar.core.restore`).
"""

import asyncio
import logging
from collections.abc import Iterable
from typing import Protocol

from bursar.core.audit import Event
from bursar.core.errors import Refusal
from bursar.core.ledger_records import Balance
from bursar.core.restore import BALANCES_ACTION, Known, written_balances

NOTE_S = 10.0
_AT_ONCE = 500  # budgets in one record
_log = logging.getLogger("bursar.spend")


class LedgerReader(Protocol):
    async def balances(self) -> list[Balance]: ...

    async def catch_up(self) -> int: ...


class Audit(Protocol):
    async def append_all(self, events: list[Event]) -> object: ...


class SpendNotes:
    def __init__(self, ledger: LedgerReader, audit: Audit) -> None:
        self._ledger = ledger
        self._audit = audit
        self._noted: dict[str, Known] = {}

    async def note(self) -> int:
        """Note what moved since the last note -> how many budgets. Raises Refusal: then all of it comes next time."""
        known = {balance.budget_id: _known(balance) for balance in await self._ledger.balances()}
        moved = [name for name, at in known.items() if self._noted.get(name) != at and (at.posted or at.held)]
        events = [
            Event(
                actor="control",
                action=BALANCES_ACTION,
                target="budgets",
                facts=written_balances({name: known[name] for name in some}),
            )
            for some in _pieces(moved)
        ]
        if events:
            await self._audit.append_all(events)
        self._noted = known
        return len(moved)

    async def note_the_end(self) -> None:
        """The gateway has stopped: where budgets stand now is where they stood at the end."""
        try:
            await self._ledger.catch_up()
            await self.note()
        except Refusal as refusal:
            _log.error("where budgets stand at the end could not be noted: %s", refusal.message)

    async def for_ever(self, seconds: float = NOTE_S) -> None:
        """What fails is tried again with the next note."""
        while True:
            await asyncio.sleep(seconds)
            try:
                await self.note()
            except Refusal as refusal:
                _log.error("where budgets stand could not be noted: %s", refusal.message)


def _known(balance: Balance) -> Known:
    return Known(balance.window_start_ns, balance.window_end_ns, balance.posted_pico, balance.held_pico)


def _pieces(names: list[str]) -> Iterable[list[str]]:
    return (names[at : at + _AT_ONCE] for at in range(0, len(names), _AT_ONCE))

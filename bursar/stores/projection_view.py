"""Questions to the projected ledger, and the thread in which it is kept up to date.

Everything runs in one thread of its own: a long report holds up the next batch, never the event loop. Sums are made
in Python: amounts may pass the 63 bits of SQLite's integers.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

from bursar.core.errors import Refusal
from bursar.core.holders import AttemptRow, Holder
from bursar.core.ledger_records import JOINT, Balance, UsageBy, UsageRow
from bursar.core.replay import Past
from bursar.ports import Clock
from bursar.stores.journal_segment import JournalDamaged
from bursar.stores.projection import HOUR_NS, Projection
from bursar.stores.projection_attempts import read_attempts
from bursar.stores.schema import SchemaFault

T = TypeVar("T")
FOLLOW_S = 0.25

_COLUMNS: dict[UsageBy, str] = {
    "key": "key_id",
    "team": "team_id",
    "owner": "owner_id",
    "user": "user",
    "provider": "provider",
    "model": "model",
    "day": "hour",
    "credential": "CASE credential WHEN '' THEN 'key' ELSE credential END",
    "purpose": "CASE purpose WHEN '' THEN 'inference' ELSE purpose END",
}
_BY_TEAM = "team_id || '/' || "  # kinds of credentials alone are told for each team


class ProjectionFault(Refusal):
    """The ledger's projection cannot go on; the message says why. Calls go on: money does not depend on it."""

    def __init__(self, message: str) -> None:
        hint = "Control's log has the details; `bursar ledger verify` checks the journal itself"
        super().__init__("ledger_unreadable", message, hint, retry_after=5)


class LedgerView:
    """Opens in its thread with the first call, and anew after a fault. Every call raises ProjectionFault."""

    def __init__(self, journal: Path, database: Path, clock: Clock) -> None:
        self._journal = journal
        self._database = database
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, "ledger")
        self._projection: Projection | None = None
        self._page_of: tuple[object, ...] | None = None
        self._pages: list[UsageRow] = []

    async def usage(
        self, by: Sequence[UsageBy], since_ns: int, until_ns: int, limit: int, after: str, zone: str = "UTC"
    ) -> list[UsageRow]:
        """At most `limit` groups later than `after` in the order of their names, which `JOINT` joins.

        Attempts count in the hour in which they were held; the hours that begin before `until_ns` count, from the one
        around `since_ns` on. An hour belongs to the day in which it begins in `zone`.
        """
        columns = [_COLUMNS[one] for one in by]
        if list(by) == ["credential"]:
            columns = [_BY_TEAM + columns[0]]
        since, until = since_ns // HOUR_NS, -(-until_ns // HOUR_NS)
        asked = (tuple(by), since, until, zone)
        if not after or self._page_of != asked:  # further pages are of the sums of the first
            self._pages = await self._run(lambda it: _grouped(it.hours(columns, since, until), by, zone))
            self._page_of = asked
        rows = [row for row in self._pages if row.group > after or (not after and not row.group)]
        if len(rows) <= limit:
            self._pages, self._page_of = [], None
        return rows[:limit]

    async def balances(self) -> list[Balance]:
        """Every living budget in its current window, as far as the projection has come."""
        return await self._run(lambda it: it.balances(self._clock.now()))

    async def last_uses(self) -> dict[str, int]:
        """Instant (ns, to the hour) of the last call under each provider key that was ever used."""
        rows = await self._run(Projection.last_hours)
        return {secret_id: hour * HOUR_NS for secret_id, hour in rows}

    async def attempts(self, request_id: str) -> list[AttemptRow]:
        """Of one request, in their order, as far as the projection has come."""
        return await self._run(lambda it: it.attempts(request_id))

    async def open_holds(self, budget_id: str) -> list[Holder]:
        """Of one budget; "" = all."""
        return await self._run(lambda it: it.open_holds(budget_id))

    async def history(self, since_ns: int, until_ns: int, after: int, limit: int) -> list[tuple[int, Past]]:
        """(number, attempt) of up to `limit` that were held in the span, in their order, behind number `after`."""
        return await self._run(lambda it: read_attempts(it.database, since_ns, until_ns, after, limit))

    async def catch_up(self) -> int:
        """Project all that the journal has; the number of records."""
        total = 0
        while count := await self._run(Projection.catch_up):
            total += count
        return total

    async def follow(self, on_fault: Callable[[ProjectionFault], None]) -> None:
        """Keep up for ever; cancel to stop. A fault is told once for each kind, and tried again."""
        told = ""
        while True:
            try:
                # What comes meanwhile waits for the next round: a batch of few records costs as much as a large one.
                while await self._run(_next_batch):
                    pass
                told = ""
            except ProjectionFault as fault:
                if str(fault) != told:
                    told = str(fault)
                    on_fault(fault)
            await asyncio.sleep(FOLLOW_S)

    def close(self) -> None:
        self._thread.submit(self._drop)
        self._thread.shutdown()

    async def _run(self, act: Callable[[Projection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._act, act)

    def _act(self, act: Callable[[Projection], T]) -> T:
        try:
            if self._projection is None:
                self._projection = Projection(self._journal, self._database)
            return act(self._projection)
        except (sqlite3.Error, SchemaFault, OSError, JournalDamaged) as error:
            self._drop()
            raise ProjectionFault(f"{type(error).__name__}: {error}") from error

    def _drop(self) -> None:
        if self._projection is not None:
            self._projection.close()
            self._projection = None


def _next_batch(projection: Projection) -> bool:
    """Whether there is more."""
    projection.catch_up()
    return projection.behind


def _grouped(rows: Iterable[tuple[Any, ...]], by: Sequence[UsageBy], zone: str) -> list[UsageRow]:
    """Sums by group, in the order of their names. Of many rows: a year's ledger is read in a second or two."""
    width, at, place = len(by), by.index("day") if "day" in by else -1, ZoneInfo(zone)
    days: dict[int, str] = {}
    sums: dict[tuple[Any, ...], list[int]] = {}
    for row in rows:
        group = row[:width]
        if at >= 0:
            hour = row[at]
            day = days.get(hour) or days.setdefault(hour, f"{datetime.fromtimestamp(hour * 3_600, place):%Y-%m-%d}")
            group = (*row[:at], day, *row[at + 1 : width])
        known = sums.get(group)
        attempts, inexact, inputs, outputs, cached, cost, overage = row[width:]
        if known is None:
            sums[group] = [attempts, inexact, inputs, outputs, cached, int(cost), int(overage)]
            continue
        known[0] += attempts
        known[1] += inexact
        known[2] += inputs
        known[3] += outputs
        known[4] += cached
        known[5] += int(cost)
        known[6] += 0 if overage == "0" else int(overage)
    named = {JOINT.join(map(str, group)): values for group, values in sums.items()}
    return [_row(name, named[name]) for name in sorted(named)]


def _row(name: str, values: Sequence[int]) -> UsageRow:
    attempts, inexact, input_tokens, output_tokens, cached, cost, overage = values
    return UsageRow(
        group=name,
        attempts=attempts,
        inexact=inexact,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cached_tokens=cached,
        cost_pico=cost,
        overage_pico=overage,
    )

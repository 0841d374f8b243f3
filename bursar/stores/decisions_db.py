"""`explain.db`: what was decided about single requests, on one node. May be deleted at any time; is pruned.

Opened with the first call, in a thread of its own, and anew after a fault: a disk that is full or a file that is
damaged costs explanations, and nothing else.
"""

import asyncio
import json
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from bursar.core.decisions import HOUR_NS, Batch, Decision, Dropped, ShadowSum, Wanted, decode, number
from bursar.core.errors import Refusal
from bursar.stores.schema import SchemaFault, open_database, transaction

T = TypeVar("T")

_INSERT = "INSERT OR IGNORE INTO decision VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?)"
_FIND = "SELECT record, node FROM decision WHERE request_id = ?"
_OF_REQUESTS = "SELECT record FROM decision WHERE request_id IN (SELECT value FROM json_each(?))"
_PAGE = """SELECT seq, record, node FROM decision WHERE seq < ? AND at_ns >= ? AND at_ns < ? AND (? = '' OR team_id = ?)
    AND (? = '' OR key_id = ?) AND (? = '' OR word = ?) AND (? IS NULL OR ordinary = ?) ORDER BY seq DESC LIMIT ?"""
_SHIPPED = "SELECT number FROM shipped WHERE session = ?"
_NOTE = "INSERT OR REPLACE INTO shipped VALUES (?, ?, ?)"
_SUM = """SELECT calls, expected, ceiling, cost, saved FROM shadow_sum WHERE hour = ? AND team_id = ? AND key_id = ?
    AND control = ? AND rule = ? AND verdict = ? AND word = ?"""
_PUT_SUM = "INSERT OR REPLACE INTO shadow_sum VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_DROP = """INSERT INTO dropped VALUES (?, ?, ?, ?)
    ON CONFLICT (hour, key_id, why) DO UPDATE SET count = count + excluded.count"""
_SUMS = "SELECT * FROM shadow_sum WHERE hour >= ? AND hour < ? ORDER BY hour, team_id, key_id, control, rule, verdict"
_DROPPED = "SELECT hour, key_id, why, count FROM dropped WHERE hour >= ? ORDER BY hour, key_id, why"
_OLD = "DELETE FROM decision WHERE seq IN (SELECT seq FROM decision WHERE at_ns < ? LIMIT ?)"
# The newest `OFFSET` of a kind stay.
_MANY = """DELETE FROM decision WHERE seq IN (SELECT seq FROM decision WHERE ordinary = ? AND seq <=
    coalesce((SELECT seq FROM decision WHERE ordinary = ? ORDER BY seq DESC LIMIT 1 OFFSET ?), -1) LIMIT ?)"""
_HOURS = ("shadow_sum", "dropped", "shipped")
_AT_ONCE = 5_000  # records taken away in one transaction: writers get their turn in between


class DecisionsDb:
    """`bursar.control.decisions.DecisionStore`. Every call raises Refusal(decisions_unavailable)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, "explain")
        self._opened: sqlite3.Connection | None = None

    async def keep(self, node: str, batch: Batch, decisions: Sequence[Decision]) -> bool:
        """Write a batch, all of it or nothing; False: it is here already. `decisions` are its records, decoded."""
        return await self._run(lambda db: _keep(db, node, batch, decisions))

    async def find(self, request_id: str) -> tuple[Decision, str] | None:
        """(the decision, the node that made it)."""
        row = await self._run(lambda db: db.execute(_FIND, (request_id,)).fetchone())
        return None if row is None else (decode(row[0]), row[1])

    async def of_requests(self, request_ids: Sequence[str]) -> list[Decision]:
        """Those of these requests that were recorded."""
        wanted = json.dumps(list(request_ids))
        rows = await self._run(lambda db: db.execute(_OF_REQUESTS, (wanted,)).fetchall())
        return [decode(record) for (record,) in rows]

    async def page(self, wanted: Wanted, before: int, limit: int) -> list[tuple[int, Decision, str]]:
        """(number, decision, node) of up to `limit` that came before number `before`, the newest first."""
        kind = None if wanted.ordinary is None else int(wanted.ordinary)
        texts = [text for given in (wanted.team_id, wanted.key_id, wanted.word) for text in (given, given)]
        values = (before, wanted.since_ns, wanted.until_ns, *texts, kind, kind, limit)
        rows = await self._run(lambda db: db.execute(_PAGE, values).fetchall())
        return [(seq, decode(record), node) for seq, record, node in rows]

    async def sums(self, since_hour: int, until_hour: int) -> list[ShadowSum]:
        """What rules in shadow would have done in these hours (since <= hour < until)."""
        rows = await self._run(lambda db: db.execute(_SUMS, (since_hour, until_hour)).fetchall())
        return [_sum(row) for row in rows]

    async def dropped(self, since_hour: int) -> list[Dropped]:
        """What was not kept since then."""
        rows = await self._run(lambda db: db.execute(_DROPPED, (since_hour,)).fetchall())
        return [Dropped(*row) for row in rows]

    async def prune(self, before_ns: int, before_hour: int, most: int) -> int:
        """Take away what is older, and the oldest of too many; at most half are ordinary ones. The number taken."""
        total = 0
        while taken := await self._run(lambda db: _prune(db, before_ns, most)):
            total += taken
        await self._run(lambda db: _prune_hours(db, before_hour))
        return total

    def close(self) -> None:
        """Once what is under way has ended; does not wait for a disk that hangs."""
        self._thread.submit(self._drop)
        self._thread.shutdown(wait=False)

    async def _run(self, act: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._act, act)

    def _act(self, act: Callable[[sqlite3.Connection], T]) -> T:
        try:
            if self._opened is None:
                self._opened = open_database(self._path, "explain")
                self._opened.execute("PRAGMA synchronous = NORMAL")  # the last records may go with the power
            return act(self._opened)
        except (sqlite3.Error, SchemaFault, OSError) as fault:
            self._drop()
            hint = "Calls go on. See the disk below it; a damaged explain.db may be deleted"
            raise Refusal("decisions_unavailable", f"{self._path.name}: {fault}", hint, retry_after=5) from None

    def _drop(self) -> None:
        if self._opened is not None:
            self._opened.close()
            self._opened = None


def _keep(db: sqlite3.Connection, node: str, batch: Batch, decisions: Sequence[Decision]) -> bool:
    with transaction(db):
        seen = db.execute(_SHIPPED, (batch.session,)).fetchone()
        new = seen is None or seen[0] < batch.number
        if new:
            rows = [
                (d.request_id, d.at_ns, node, d.key_id, d.team_id, d.word, int(d.ordinary), record)
                for d, record in zip(decisions, batch.records, strict=True)
            ]
            db.executemany(_INSERT, rows)
            for it in batch.sums:
                _add(db, it)
            db.executemany(_DROP, [(it.hour, it.key_id, it.why, it.count) for it in batch.dropped])
            db.execute(_NOTE, (batch.session, batch.number, batch.at_ns // HOUR_NS))
    return new


def _add(db: sqlite3.Connection, it: ShadowSum) -> None:
    """Sums are made in Python: they may pass 63 bits."""
    place = (it.hour, it.team_id, it.key_id, it.control, it.rule, it.verdict, it.word)
    known = db.execute(_SUM, place).fetchone() or (0, 0, 0, 0, 0)
    more = (it.expected_pico, it.ceiling_pico, it.cost_pico, it.saved_pico)
    amounts = (str(int(a) + number(b)) for a, b in zip(known[1:], more, strict=True))
    db.execute(_PUT_SUM, (*place, known[0] + it.calls, *amounts))


def _sum(row: Sequence[object]) -> ShadowSum:
    hour, team_id, key_id, control, rule, verdict, word, calls, *amounts = row
    return ShadowSum(
        hour=hour,  # type: ignore[arg-type]
        team_id=str(team_id),
        key_id=str(key_id),
        control=str(control),
        rule=str(rule),
        verdict=verdict,  # type: ignore[arg-type]
        word=str(word),
        calls=calls,  # type: ignore[arg-type]
        **dict(zip(("expected_pico", "ceiling_pico", "cost_pico", "saved_pico"), map(str, amounts), strict=True)),
    )


def _prune(db: sqlite3.Connection, before_ns: int, most: int) -> int:
    with transaction(db):
        taken = db.execute(_OLD, (before_ns, _AT_ONCE)).rowcount
        taken += db.execute(_MANY, (1, 1, most // 2, _AT_ONCE)).rowcount
        (ordinary,) = db.execute("SELECT count(*) FROM decision WHERE ordinary = 1").fetchone()
        taken += db.execute(_MANY, (0, 0, most - ordinary, _AT_ONCE)).rowcount
    return taken


def _prune_hours(db: sqlite3.Connection, before_hour: int) -> None:
    for table in _HOURS:
        db.execute(f"DELETE FROM {table} WHERE hour < ?", (before_hour,))  # noqa: S608 - our own words

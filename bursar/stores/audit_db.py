"""The audit's own trail: `audit.db`. The chain lives here; other sinks follow it and are caught up from it.

Write-ahead log with `synchronous = FULL`: a record is on the disk when `write` returns and survives power loss.
With `durability="process"` it is NORMAL: it survives kill -9, and a power loss may take the last records.
All calls run in one thread of their own, so that a disk that hangs holds up this sink and nothing else.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from bursar.core.audit import GENESIS, AuditFailed, Run, Wanted, decode_record, frame, unframe
from bursar.stores.audit_query import connect, page
from bursar.stores.schema import SchemaFault, open_database, transaction

T = TypeVar("T")
Durability = Literal["process", "power"]

_INSERT = "INSERT INTO record VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_LAST = "SELECT seq, hash FROM record ORDER BY seq DESC LIMIT 1"
_AFTER = "SELECT hash, payload FROM record WHERE seq > ? ORDER BY seq LIMIT ?"


_GLANCE = "SELECT seq, at_ns, action, hash FROM record WHERE seq > ? AND seq < ? ORDER BY seq LIMIT ?"


class AuditDb:
    """`bursar.ports.AuditTrail`. Opened at construction: raises AuditFailed when the file cannot be used."""

    name = "audit.db"
    required = True

    def __init__(self, path: Path, timeout: float = 2.0, durability: Durability = "power") -> None:
        self.timeout = timeout
        self._thread = ThreadPoolExecutor(1, "audit-db")
        self._searching = ThreadPoolExecutor(1, "audit-search")  # a long search holds up no record
        try:
            self._db = open_database(path, "audit")
            if durability == "process":
                self._db.execute("PRAGMA synchronous = NORMAL")
            self._reader = connect(path)
        except (sqlite3.Error, SchemaFault, OSError) as error:
            raise _failed(error) from None

    async def write(self, records: Sequence[bytes]) -> None:
        """All lines in one transaction. Raises AuditFailed; whether it then stands is for `position` to tell."""
        await self._run(lambda: self._insert(records))

    async def position(self) -> tuple[int, bytes]:
        """(seq, hash) of the last record; (0, GENESIS) before the first."""
        row = await self._run(lambda: self._db.execute(_LAST).fetchone())
        return (0, GENESIS) if row is None else (row[0], row[1])

    async def read(self, after: int, limit: int) -> list[bytes]:
        """Up to `limit` lines that follow the record `after`."""
        rows = await self._run(lambda: self._db.execute(_AFTER, (after, limit)).fetchall())
        return [frame(record_hash, payload) for record_hash, payload in rows]

    async def glance(self, after: int, before: int, limit: int) -> list[tuple[int, int, str, bytes]]:
        """Up to `limit` records between two numbers as (seq, at_ns, action, hash), in order."""
        return await self._run(
            lambda: self._reader.execute(_GLANCE, (after, before, limit)).fetchall(), self._searching
        )

    async def prune(self, runs: Sequence[Run], digest: bytes) -> None:
        """Take these records away, in one transaction, and put their runs in their place."""
        await self._run(lambda: self._prune(runs, digest))

    async def pruned(self) -> list[tuple[Run, bytes]]:
        """Every run that was ever taken away, with its pass, in order."""
        sql = "SELECT first, last, hash, pass FROM pruned ORDER BY first"
        rows = await self._run(lambda: self._reader.execute(sql).fetchall(), self._searching)
        return [(Run(first, last, last_hash), digest) for first, last, last_hash, digest in rows]

    async def search(self, wanted: Wanted, before: int, limit: int) -> list[bytes]:
        """Up to `limit` lines of records older than number `before` that match, the newest first."""
        return await self._run(lambda: page(self._reader, wanted, before, limit), self._searching)

    def close(self) -> None:
        """Closes the file once what is under way has ended; does not wait for a disk that hangs."""
        self._searching.submit(self._reader.close)
        self._searching.shutdown(wait=False)
        self._thread.submit(self._db.close)
        self._thread.shutdown(wait=False)

    def _prune(self, runs: Sequence[Run], digest: bytes) -> None:
        with transaction(self._db):
            rows = [(run.first, run.last, run.hash, digest) for run in runs]
            self._db.executemany("INSERT INTO pruned VALUES (?, ?, ?, ?)", rows)
            spans = [(run.first, run.last) for run in runs]
            self._db.executemany("DELETE FROM record WHERE seq BETWEEN ? AND ?", spans)

    def _insert(self, records: Sequence[bytes]) -> None:
        rows = [_row(line) for line in records]
        with transaction(self._db):
            self._db.executemany(_INSERT, rows)

    async def _run(self, act: Callable[[], T], thread: ThreadPoolExecutor | None = None) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(thread or self._thread, act)
        except (sqlite3.Error, ValueError, msgspec.MsgspecError) as error:
            raise _failed(error) from None


def _row(line: bytes) -> tuple[int, int, str, str, str, str, bytes, bytes]:
    record_hash, payload = unframe(line)
    r = decode_record(payload)
    return r.seq, r.at_ns, r.actor, r.action, r.target, r.outcome, record_hash, payload


def _failed(error: Exception) -> AuditFailed:
    hint = "See whether its disk is full or its folder read-only"
    return AuditFailed(f"audit.db failed: {error}", hint, {"sink": "audit.db"})

"""The audit from one node's `audit.db` to a chain in PostgreSQL, and back: record for record, hash for hash.

A chain names its own place: what is there of it tells how far a run before has come, and by its last hash that it is
the same chain.
"""

import sqlite3
from collections.abc import Iterator
from itertools import islice
from typing import Any

from bursar.stores.moving import LONGEST_S, CannotMove, Progress
from bursar.stores.postgres import Connection, Postgres

PIECE = 5_000  # records a transaction

_COLUMNS = ("seq", "at_ns", "actor", "action", "target", "outcome", "hash", "payload")
_HERE = f"SELECT {', '.join(_COLUMNS)} FROM record WHERE seq > ? ORDER BY seq"  # noqa: S608 - our own words
_HASH_HERE = "SELECT hash FROM record WHERE seq = ?"
_RUNS_HERE = "SELECT first, last, hash, pass FROM pruned ORDER BY first"
_THERE = f"SELECT {', '.join(_COLUMNS)} FROM bursar.audit_record WHERE chain = $1 ORDER BY seq"  # noqa: S608 - the same
_LAST = "SELECT seq, hash FROM bursar.audit_record WHERE chain = $1 ORDER BY seq DESC LIMIT 1"
_RUNS_THERE = "SELECT first, last, hash, pass FROM bursar.audit_pruned WHERE chain = $1 ORDER BY first"
_PUT_RUN = "INSERT INTO bursar.audit_pruned VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING"


async def bring_chain_there(
    here: sqlite3.Connection, store: Postgres, chain: str, progress: Progress | None = None
) -> int:
    """All of it that is not there yet; how many records this run brought. Raises CannotMove, or what is in AWAY."""
    async with store.transaction() as db:
        last = await db.fetchrow(store.sql(_LAST), chain)
        reached = 0 if last is None else last["seq"]
        known = here.execute(_HASH_HERE, (reached,)).fetchone()
        if last is not None and (known is None or known[0] != last["hash"]):
            raise CannotMove(f"there is another audit of {chain} in that database already")
        await db.executemany(store.sql(_PUT_RUN), [(chain, *run) for run in here.execute(_RUNS_HERE)])
    rows, brought = iter(here.execute(_HERE, (reached,))), 0
    while piece := list(islice(rows, PIECE)):
        async with store.transaction() as db:
            await db.copy_records_to_table(
                "audit_record",
                schema_name=store.address.schema,
                records=[(chain, *row) for row in piece],
                columns=["chain", *_COLUMNS],
                timeout=LONGEST_S,
            )
        brought += len(piece)
        if progress is not None:
            progress("audit", brought)
    return brought


async def bring_chain_here(
    db: Connection, store: Postgres, chain: str, here: sqlite3.Connection, progress: Progress | None = None
) -> int:
    """A chain whole into an empty file, in one transaction of each; how many records it has."""
    here.execute("BEGIN IMMEDIATE")
    brought = 0
    runs = [tuple(row) for row in await db.fetch(store.sql(_RUNS_THERE), chain)]
    here.executemany("INSERT INTO pruned VALUES (?, ?, ?, ?)", runs)
    pending = list[Any]()
    async for row in db.cursor(store.sql(_THERE), chain, prefetch=PIECE, timeout=LONGEST_S):
        pending.append(tuple(row))
        if len(pending) == PIECE:
            brought += _put(here, pending, progress, brought)
    brought += _put(here, pending, progress, brought)
    here.execute("COMMIT")
    return brought


def _put(here: sqlite3.Connection, pending: list[Any], progress: Progress | None, before: int) -> int:
    here.executemany("INSERT INTO record VALUES (?, ?, ?, ?, ?, ?, ?, ?)", pending)
    done = len(pending)
    pending.clear()
    if progress is not None:
        progress("audit", before + done)
    return done


def chain_here(here: sqlite3.Connection) -> Iterator[tuple[Any, ...]]:
    """Every record and every run of a file, for comparing."""
    yield from here.execute(_HERE, (0,))
    yield from here.execute(_RUNS_HERE)


async def same_chain(db: Connection, store: Postgres, chain: str, here: sqlite3.Connection) -> bool:
    """Whether a file says what the chain says: to the byte."""
    rows = chain_here(here)
    async for row in db.cursor(store.sql(_THERE), chain, prefetch=PIECE, timeout=LONGEST_S):
        if tuple(row) != next(rows, None):
            return False
    for run in await db.fetch(store.sql(_RUNS_THERE), chain):
        if tuple(run) != next(rows, None):
            return False
    return next(rows, None) is None

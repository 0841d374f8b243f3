"""Numbered migrations of the PostgreSQL store: ``NNNN_name.sql`` in ``migrations/postgres/PART``, applied in order.

Each part (directory, money, ...) counts for itself, in the table `bursar.schema_version`. A migration runs in a
transaction under an advisory lock: of several nodes that start at once, one does it and the others find it done.
Forward only, and additive, so that nodes one version apart share the schema: an older node goes on where a newer one
has been, unless a migration says ``-- needs: N``, the oldest version of its part that may still be running then.
"""

import asyncio
import re
from pathlib import Path

import asyncpg

from bursar.stores.postgres import Connection, Postgres
from bursar.stores.schema import SchemaFault

MIGRATIONS = Path(__file__).parent / "migrations" / "postgres"
PARTS = ("fleet", "directory", "secrets", "audit", "money", "explain", "made_ids")

_NEEDS = re.compile(r"^-- needs: (\d+)$", re.MULTILINE)
_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))"
_SEEN = "SELECT version, needs FROM bursar.schema_version WHERE part = $1"
_NOTE = """INSERT INTO bursar.schema_version (part, version, needs) VALUES ($1, $2, $3)
           ON CONFLICT (part) DO UPDATE SET version = excluded.version, needs = excluded.needs, at = now()"""
_TABLE = """CREATE TABLE IF NOT EXISTS bursar.schema_version (
    part text PRIMARY KEY,
    version integer NOT NULL,
    needs integer NOT NULL DEFAULT 0, -- the oldest version of the part whose program may still be running
    at timestamptz NOT NULL DEFAULT now()
)"""
# A table's lock is waited for briefly: whoever waits for it holds up all who come after.
_BRIEFLY = "SET LOCAL lock_timeout = '2s'; SET LOCAL statement_timeout = 0"
_ATTEMPTS = 30
_LONGEST_S = 3600.0


async def migrate(store: Postgres, part: str, folder: Path = MIGRATIONS) -> int:
    """Bring one part forward -> the version it has. Raises SchemaFault, or what is in postgres.AWAY."""
    scripts = sorted((folder / part).glob("[0-9]*.sql"))
    for number, script in enumerate(scripts, start=1):
        if int(script.name[:4]) != number:
            raise SchemaFault(f"{script.name} should have number {number:04d}")
    await _begin(store)
    while True:
        seen, needs = await _seen(store, part)
        if needs > len(scripts):
            raise SchemaFault(
                f"{part} in PostgreSQL has schema {seen}, this Bursar knows {len(scripts)}: start a newer Bursar on it"
            )
        if seen >= len(scripts):
            return seen
        await _step(store, part, seen + 1, scripts[seen].read_text("utf-8"))


def known_version(part: str) -> int:
    """The schema that this Bursar has of a part."""
    return len(list((MIGRATIONS / part).glob("[0-9]*.sql")))


async def _begin(store: Postgres) -> None:
    """The schema and the table of versions. Looked for first: making them needs rights that a role may have lost."""
    async with store.transaction() as db:
        if await db.fetchval("SELECT to_regclass($1)", f"{store.address.schema}.schema_version") is not None:
            return
        await db.execute(_LOCK, f"{store.address.schema} schema")
        if await db.fetchval("SELECT to_regnamespace($1)", store.address.schema) is None:
            await db.execute(f"CREATE SCHEMA {store.address.schema}")  # the name was checked with the configuration
        await db.execute(store.sql(_TABLE))


async def _seen(store: Postgres, part: str) -> tuple[int, int]:
    async with store.connection() as db:
        row = await db.fetchrow(store.sql(_SEEN), part)
    return (row["version"], row["needs"]) if row is not None else (0, 0)


async def _step(store: Postgres, part: str, number: int, script: str) -> None:
    for attempt in range(_ATTEMPTS):
        try:
            async with store.transaction() as db:
                await _apply(db, store, part, number, script)
            return
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
            if attempt == _ATTEMPTS - 1:
                raise
            await asyncio.sleep(0.5)  # what holds the table, or has locked tables in another order, goes on meanwhile


async def _apply(db: Connection, store: Postgres, part: str, number: int, script: str) -> None:
    await db.execute(_BRIEFLY)
    await db.execute(_LOCK, f"{store.address.schema} schema")
    row = await db.fetchrow(store.sql(_SEEN), part)
    if row is not None and row["version"] >= number:
        return  # another node was faster
    found = _NEEDS.search(script)
    needs = max(int(found[1]) if found else 0, row["needs"] if row is not None else 0)
    await db.execute(store.sql(script), timeout=_LONGEST_S)
    await db.execute(store.sql(_NOTE), part, number, needs)

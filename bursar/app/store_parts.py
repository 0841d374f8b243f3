"""What of a store is tables in SQLite on one node and tables in PostgreSQL for many: sealed secrets and directory."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from bursar.secrets.database import open_database as open_secrets
from bursar.stores.directory_postgres import pause_all
from bursar.stores.moving import (
    CannotMove,
    Progress,
    Sum,
    Table,
    bring_here,
    bring_there,
    rows_here,
    rows_there,
    sum_here,
    sum_there,
)
from bursar.stores.postgres import Connection, Postgres
from bursar.stores.schema import open_database

# What lasts longer than any statement of a node; the transaction alone is meant.
NO_HASTE = "SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0"


class Part(NamedTuple):
    """Tables that are one file on one node, and go together."""

    name: str
    file: str
    open: Callable[[Path], sqlite3.Connection]
    tables: tuple[Table, ...]


_SECRET = Table(
    "secret",
    "secret",
    ("id", "address", "tags", "disabled", "created_at", "updated_at", "destroyed_at"),
    texts=frozenset({"id"}),
    key=("id",),
    flags=frozenset({"disabled"}),
)
_VERSION = Table(
    "version",
    "secret_version",
    ("secret_id", "version", "state", "sealed", "fingerprint", "created_at"),
    texts=frozenset({"secret_id"}),
    key=("secret_id", "version"),
)
_INTERNAL = Table(
    "internal", "secret_internal", ("name", "sealed", "created_at"), texts=frozenset({"name"}), key=("name",)
)
_ENTITY = Table(
    "entity",
    "directory_entity",
    ("kind", "id", "version", "body"),
    texts=frozenset({"kind", "id"}),
    key=("kind", "id"),
)
_CHANGE = Table(
    "change",
    "directory_change",
    ("version", "part", "kind", "id", "before", "after", "body", "action", "actor", "at_ns"),
    texts=frozenset(),
    key=("version", "part"),
    only_there={"commit_id": "moved"},
)
SECRETS = Part("sealed secrets", "secrets.db", open_secrets, (_SECRET, _VERSION, _INTERNAL))
DIRECTORY = Part("directory", "directory.db", lambda path: open_database(path, "directory"), (_ENTITY, _CHANGE))
PARTS = (SECRETS, DIRECTORY)

_HEAD_HERE = "SELECT version FROM head"
_HEAD_THERE = "SELECT version FROM {schema}.directory_head"


async def bring_part_there(
    part: Part, folder: Path, store: Postgres, db: Connection, progress: Progress | None = None
) -> list[Sum]:
    """All of it or nothing, compared before it is committed; what a run before has brought is compared only.

    -> what each table says; nothing where the folder has no such file. Raises CannotMove, or what is in AWAY.
    """
    path, schema = folder / part.file, store.address.schema
    if not path.exists():
        return []
    with closing(part.open(path)) as here:
        async with db.transaction():
            await db.execute(NO_HASTE)
            if not await is_empty(part, store, db):
                return await _compared(part, here, store, db, f"there is another {part.name} in that database already")
            for table in part.tables:
                await bring_there(here, db, schema, table, progress)
            if part is DIRECTORY:
                (version,) = here.execute(_HEAD_HERE).fetchone()
                await db.execute(f"UPDATE {schema}.directory_head SET version = $1", version)  # noqa: S608
                await pause_all(db, store)
            return await _compared(part, here, store, db, f"{part.name} did not arrive as it was")


async def bring_part_here(
    part: Part, folder: Path, store: Postgres, db: Connection, progress: Progress | None = None
) -> list[Sum]:
    """The same, the other way: the file is made beside its place and put there when it is whole.

    `db` is in a transaction that sees one moment.
    """
    path, partial = folder / part.file, folder / "moving" / part.file
    if path.exists():
        with closing(part.open(path)) as here:
            return await _compared(part, here, store, db, f"there is another {part.file} in {folder} already")
    if await is_empty(part, store, db):
        return []
    partial.unlink(missing_ok=True)
    with closing(part.open(partial)) as here:
        here.execute("BEGIN IMMEDIATE")
        for table in part.tables:
            await bring_here(db, store.address.schema, here, table, progress)
        if part is DIRECTORY:
            head = await db.fetchval(_HEAD_THERE.format(schema=store.address.schema))
            here.execute("UPDATE head SET version = ?", (head,))
        here.execute("COMMIT")
        sums = await _compared(part, here, store, db, f"{part.name} did not arrive as it was")
    partial.rename(path)
    return sums


async def is_empty(part: Part, store: Postgres, db: Connection) -> bool:
    schema = store.address.schema
    for table in part.tables:
        if await db.fetchval(f"SELECT EXISTS (SELECT FROM {schema}.{table.there})"):  # noqa: S608 - our own words
            return False
    return True


async def _compared(part: Part, here: sqlite3.Connection, store: Postgres, db: Connection, why: str) -> list[Sum]:
    """What each table says, when both sides say it. Raises CannotMove(why)."""
    schema, sums = store.address.schema, []
    for table in part.tables:
        sums.append(sum_here(here, table))
        if await sum_there(db, schema, table) != sums[-1]:
            raise CannotMove(why)
    if part is DIRECTORY:
        (version,) = here.execute(_HEAD_HERE).fetchone()
        if await db.fetchval(_HEAD_THERE.format(schema=schema)) != version:
            raise CannotMove(why)
    return sums


def sealed_here(folder: Path) -> list[bytes]:
    """Every sealed value of the folder's file."""
    path = folder / SECRETS.file
    if not path.exists():
        return []
    with closing(SECRETS.open(path)) as here:
        found = [(table, row) for table in (_VERSION, _INTERNAL) for row in rows_here(here, table)]
    return [blob for table, row in found if (blob := row[table.columns.index("sealed")]) is not None]


async def sealed_there(db: Connection, schema: str) -> list[bytes]:
    """Every sealed value of the database. `db` is in a transaction."""
    found = []
    for table in (_VERSION, _INTERNAL):
        at = table.columns.index("sealed")
        found += [row[at] async for row in rows_there(db, schema, table) if row[at] is not None]
    return found

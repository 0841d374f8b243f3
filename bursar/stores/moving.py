"""Tables that lie in SQLite on one node and in PostgreSQL for many: brought there and back, and compared.

A row is the same on both sides, but for columns that only one of them has. A digest over all rows, in the order of
their key, tells whether two tables are the same.
"""

import hashlib
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from bursar.stores.postgres import Connection

Row = tuple[Any, ...]
Progress = Callable[[str, int], None]  # (what, how many rows so far)
LONGEST_S = 3600.0
_TELL_EVERY = 20_000
_AT_ONCE = 2_000


class CannotMove(Exception):
    """One clear line: why nothing can be moved there. Nothing was changed."""


class Table(NamedTuple):
    """`here` in SQLite, `there` in PostgreSQL."""

    here: str
    there: str
    columns: tuple[str, ...]
    texts: frozenset[str]  # columns of the key that are text: both sides must order them by their bytes
    key: tuple[str, ...]
    flags: frozenset[str] = frozenset()  # 0 or 1 here, boolean there
    only_there: Mapping[str, object] = {}


class Sum(NamedTuple):
    """What a table says, in short."""

    rows: int
    digest: bytes


class _Summing:
    def __init__(self) -> None:
        self.rows = 0
        self._digest = hashlib.sha256()

    def add(self, row: Row) -> Row:
        self.rows += 1
        self._digest.update(msgspec.msgpack.encode(row))
        return row

    def done(self) -> Sum:
        return Sum(self.rows, self._digest.digest())


def rows_here(db: sqlite3.Connection, table: Table) -> Iterator[Row]:
    columns = ", ".join(f'"{name}"' for name in table.columns)
    yield from db.execute(f"SELECT {columns} FROM {table.here} ORDER BY {', '.join(table.key)}")  # noqa: S608 - our own words


async def rows_there(db: Connection, schema: str, table: Table) -> AsyncIterator[Row]:
    """As they would be here. `db` is in a transaction."""
    order = ", ".join(f'{name} COLLATE "C"' if name in table.texts else name for name in table.key)
    sql = f"SELECT {', '.join(table.columns)} FROM {schema}.{table.there} ORDER BY {order}"  # noqa: S608 - our own words
    flags = [n for n, name in enumerate(table.columns) if name in table.flags]
    async for found in db.cursor(sql, prefetch=_AT_ONCE, timeout=LONGEST_S):
        row = list(found)
        for n in flags:
            row[n] = int(row[n])
        yield tuple(row)


def sum_here(db: sqlite3.Connection, table: Table) -> Sum:
    summing = _Summing()
    for row in rows_here(db, table):
        summing.add(row)
    return summing.done()


async def sum_there(db: Connection, schema: str, table: Table) -> Sum:
    summing = _Summing()
    async for row in rows_there(db, schema, table):
        summing.add(row)
    return summing.done()


async def bring_there(
    db: sqlite3.Connection, other: Connection, schema: str, table: Table, progress: Progress | None = None
) -> Sum:
    """Copy a table whole into an empty one, in the caller's transaction. Raises what is in postgres.AWAY."""
    summing = _Summing()
    flags = [n for n, name in enumerate(table.columns) if name in table.flags]
    besides = tuple(table.only_there.values())

    def rows() -> Iterator[Row]:
        for row in told(rows_here(db, table), table.there, progress):
            summing.add(row)
            plain = list(row)
            for n in flags:
                plain[n] = bool(plain[n])
            yield (*plain, *besides)

    await other.copy_records_to_table(
        table.there,
        schema_name=schema,
        records=rows(),
        columns=[*table.columns, *table.only_there],
        timeout=LONGEST_S,
    )
    return summing.done()


async def bring_here(
    other: Connection, schema: str, db: sqlite3.Connection, table: Table, progress: Progress | None = None
) -> Sum:
    """Copy a table whole into an empty one, in the callers' transactions on both sides."""
    summing, pending = _Summing(), list[Row]()
    columns = ", ".join(f'"{name}"' for name in table.columns)
    places = ", ".join("?" * len(table.columns))
    sql = f"INSERT INTO {table.here} ({columns}) VALUES ({places})"  # noqa: S608 - our own words
    async for row in rows_there(other, schema, table):
        pending.append(summing.add(row))
        if len(pending) == _AT_ONCE:
            db.executemany(sql, pending)
            pending.clear()
        if progress is not None and summing.rows % _TELL_EVERY == 0:
            progress(table.here, summing.rows)
    db.executemany(sql, pending)
    return summing.done()


def told(rows: Iterable[Row], what: str, progress: Progress | None) -> Iterator[Row]:
    """The same rows; now and then it is told how many there were."""
    for number, row in enumerate(rows, start=1):
        if progress is not None and number % _TELL_EVERY == 0:
            progress(what, number)
        yield row

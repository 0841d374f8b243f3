"""From a node's journal to PostgreSQL: every record a row, in the same order, and at the end the balances.

A piece a transaction, with the place it has reached: what was interrupted goes on there. Holds keep their ids; in the
ledger of many nodes they are those of session 0, which is over from the beginning, so that what was open is booked by
the first node that looks. Nobody can spend before the last transaction.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bursar.core.ledger import Ledger, OpenHold
from bursar.core.ledger_budget import Budget
from bursar.core.ledger_records import (
    CorrectRecord,
    Counts,
    DefineRecord,
    HoldRecord,
    Leg,
    PostRecord,
    Record,
    ShrinkRecord,
    SnapshotRecord,
    VoidRecord,
    WindowRecord,
)
from bursar.stores.journal_recovery import decoder
from bursar.stores.journal_segment import (
    HEADER_BYTES,
    read_frames,
    read_header,
    segment_numbers,
    segment_path,
)
from bursar.stores.moving import CannotMove
from bursar.stores.postgres import Connection, Postgres
from bursar.stores.postgres_money_act import MORE
from bursar.stores.postgres_money_labels import Labels
from bursar.stores.postgres_money_write import write_back, write_definitions

PIECE = 5_000  # records a transaction

_COLUMNS = [
    "seq",
    "t_ns",
    "kind",
    "hold_id",
    "label",
    "request_id",
    "attempt",
    "directory_version",
    "amount",
    "held",
    "expected",
    "overage",
    "input_tokens",
    "output_tokens",
    "cache_read",
    "reasoning",
    "usage_more",
    "held_ns",
    "exact",
    "word",
    "legs",
    "asked",
    "body",
]
_STATE = "SELECT source, records, rows, done_ns FROM bursar.ledger_moving"
_IS_EMPTY = """SELECT NOT EXISTS (SELECT FROM bursar.ledger) AND NOT EXISTS (SELECT FROM bursar.ledger_budget)
    AND NOT EXISTS (SELECT FROM bursar.ledger_session)"""
_BEGIN = "INSERT INTO bursar.ledger_moving VALUES (1, $1, 0, 0, NULL)"
_REACHED = "UPDATE bursar.ledger_moving SET records = $1, rows = $2"
_MONTH = "SELECT bursar.ledger_month_of($1)"
_NUMBERS = "SELECT id, budget FROM bursar.ledger_definition"
_OLD_SESSION = """INSERT INTO bursar.ledger_session (id, node, began_ns, seen_ns, lease_ns, last_hold, ended_ns,
    ended_by) OVERRIDING SYSTEM VALUE VALUES (0, 'journal', $1, $1, 0, $2, $1, 0)"""
_OPEN = "INSERT INTO bursar.ledger_hold VALUES ($1, $2, $3, $4, $5, $6, $7)"
_SEQ = "SELECT setval('bursar.ledger_seq', greatest(1, $1))"
_DONE = "UPDATE bursar.ledger_moving SET done_ns = bursar.ledger_now()"


def read_records(folder: Path) -> Iterator[Record]:
    """All records of a journal that lies still, from the first segment on. Raises JournalDamaged, OSError."""
    for number in segment_numbers(folder):
        path = segment_path(folder, number)
        data = path.read_bytes()
        read_header(path, data)
        for _, payload in read_frames(data, number, 0, HEADER_BYTES):
            yield decoder.decode(payload)


def source_of(folder: Path) -> bytes:
    """What tells one journal from another. Raises CannotMove for one that does not begin at its beginning."""
    numbers = segment_numbers(folder) if folder.is_dir() else []
    if not numbers:
        raise CannotMove(f"there is no journal in {folder}")
    if numbers[0] != 1:
        raise CannotMove(
            f"the journal begins with segment {numbers[0]}: bring back the older ones, for they are its proof"
        )
    with segment_path(folder, 1).open("rb") as file:
        return hashlib.sha256(file.read(256)).digest()


class Import:
    """One journal on its way. `run` raises CannotMove, JournalDamaged, OSError, or what is in postgres.AWAY."""

    def __init__(self, store: Postgres, folder: Path, progress: Callable[[int], None] | None = None) -> None:
        self._store = store
        self._folder = folder
        self._progress = progress
        self._labels = Labels(store)
        self._ledger = Ledger()  # a replica
        self._numbers: dict[str, int] = {}
        self._held: dict[int, tuple[int, int, int]] = {}  # open holds: label, when, expected
        self._rows = 0

    async def is_there(self) -> int:
        """How many rows a run before has brought, if it brought all; else 0."""
        sql = "SELECT rows FROM bursar.ledger_moving WHERE done_ns IS NOT NULL AND source = $1"
        async with self._store.connection() as db:
            return int(await db.fetchval(self._store.sql(sql), source_of(self._folder)) or 0)

    async def run(self) -> int:
        """Bring all records there; how many rows there are. What is there already is not written again."""
        source = source_of(self._folder)
        done = await self._begin(source)
        read, piece = 0, list[Record]()
        for record in read_records(self._folder):
            read += 1
            piece.append(record)
            if len(piece) == PIECE:
                await self._piece(piece, read, write=read > done)
                piece = []
        await self._piece(piece, read, write=read > done)
        await self._finish()
        return self._rows

    async def _begin(self, source: bytes) -> int:
        """Records that a run before has brought."""
        sql = self._store.sql
        async with self._store.transaction() as db:
            state = await db.fetchrow(sql(_STATE))
            if state is None:
                if not await db.fetchval(sql(_IS_EMPTY)):
                    raise CannotMove("there is a ledger in that database already; give an empty one")
                await db.execute(sql(_BEGIN), source)
                return 0
            if state["source"] != source:
                raise CannotMove(
                    "another journal is half way into that database; finish that one, or give an empty one"
                )
            if state["done_ns"] is not None:
                raise CannotMove("this journal has been brought there already")
            self._numbers = {row["id"]: row["budget"] for row in await db.fetch(sql(_NUMBERS))}
            return int(state["records"])

    async def _piece(self, records: Sequence[Record], read: int, *, write: bool) -> None:
        """Records in one transaction; or, when they are there, only what they mean for those that follow."""
        requests = [record.request for record in records if isinstance(record, HoldRecord)]
        if requests:
            await self._labels.make(requests)
        if not write:
            for record in records:
                self._row(record)
            return
        async with self._store.transaction() as db:
            await self._define(db, [record for record in records if isinstance(record, DefineRecord)])
            rows = [row for record in records if (row := self._row(record)) is not None]
            for month in sorted({row[1] // (86_400 * 10**9) for row in rows}):
                await db.execute(self._store.sql(_MONTH), month * 86_400 * 10**9)
            await db.copy_records_to_table(
                "ledger", schema_name=self._store.address.schema, records=rows, columns=_COLUMNS, timeout=600
            )
            await db.execute(self._store.sql(_REACHED), read, self._rows)
        if self._progress is not None:
            self._progress(self._rows)

    async def _define(self, db: Connection, records: Sequence[DefineRecord]) -> None:
        """Numbers for budgets that are new."""
        fresh = {record.id: Budget(record) for record in records if record.id not in self._numbers}
        if fresh:
            ledger = Ledger()
            ledger.budgets = fresh
            self._numbers = await write_back(self._store, db, ledger, [], {}, self._numbers)
            await write_definitions(self._store, db, [budget.definition for budget in fresh.values()], self._numbers)

    def _row(self, record: Record) -> tuple[Any, ...] | None:
        """The record as a row, and what it does to the replica. None for a snapshot: the rows say the same."""
        ledger = self._ledger
        if isinstance(record, SnapshotRecord):
            ledger.apply(record)
            return None
        self._rows += 1
        row = self._written(record)
        ledger.apply(record)
        ledger.events.clear()
        return row

    def _written(self, record: Record) -> tuple[Any, ...]:
        values: dict[str, Any] = {"seq": self._rows, "t_ns": record.t, "kind": 0}
        if isinstance(record, DefineRecord | WindowRecord):
            values |= {"kind": 2 if isinstance(record, DefineRecord) else 3, "body": _json(record)}
        elif isinstance(record, HoldRecord):
            values |= self._hold(record)
        elif isinstance(record, ShrinkRecord):
            values |= {"kind": 5, "hold_id": record.id, "amount": record.ceiling, "held": record.released}
        elif isinstance(record, PostRecord):
            values |= self._post(record)
        elif isinstance(record, VoidRecord):
            held, expected = record.released
            values |= {"kind": 7, "hold_id": record.id, "held": held, "expected": expected, "word": record.reason}
            self._held.pop(record.id)
        elif isinstance(record, CorrectRecord):
            values |= {"kind": 8, "hold_id": record.id, "amount": record.pair[0], "word": record.reason}
            values["legs"] = self._legs(record.legs)
        return tuple(values.get(column) for column in _COLUMNS)

    def _hold(self, record: HoldRecord) -> dict[str, Any]:
        request = record.request
        label = self._labels.find(request)
        assert label is not None
        self._held[record.id] = label, record.t, request.expected_pico
        numbers = self._numbers
        known = [numbers[name] for name in request.budgets]
        legs = self._legs(record.legs)
        return {
            "kind": 4,
            "hold_id": record.id,
            "label": label,
            "request_id": request.request_id,
            "attempt": request.attempt,
            "directory_version": request.directory_version,
            "amount": request.ceiling_pico,
            "expected": request.expected_pico,
            "input_tokens": request.input_ceiling,
            "output_tokens": request.output_ceiling,
            "legs": legs,
            "asked": None if known == legs[::4] else known,
        }

    def _post(self, record: PostRecord) -> dict[str, Any]:
        label, held_ns, expected = self._held.pop(record.id)
        held, _, _, overage = record.hard
        values = {"kind": 6, "hold_id": record.id, "label": label, "amount": record.cost, "held": held}
        values |= {"expected": expected, "overage": overage, "held_ns": held_ns, "exact": record.exact}
        return values | {"word": record.outcome} | _usage(record.usage)

    def _legs(self, legs: Sequence[Leg]) -> list[int]:
        return [n for name, version, window, hard in legs for n in (self._numbers[name], version, window, int(hard))]

    async def _finish(self) -> None:
        """Balances, windows, open holds: the state that the rows add up to."""
        sql, ledger = self._store.sql, self._ledger
        async with self._store.transaction() as db:
            blank = {name: Budget(budget.definition).image() for name, budget in ledger.budgets.items()}
            await write_back(self._store, db, ledger, [], blank, self._numbers)
            definitions = [budget.definition for budget in ledger.budgets.values()]
            await write_definitions(self._store, db, definitions, self._numbers)
            now = await db.fetchval(sql("SELECT bursar.ledger_now()"))
            await db.execute(sql(_OLD_SESSION), now, ledger.next_id - 1)
            await db.executemany(sql(_OPEN), [self._opened(hold) for hold in ledger.open.values()])
            await db.execute(sql(_SEQ), self._rows)
            await db.execute(sql(_DONE))

    def _opened(self, hold: OpenHold) -> tuple[Any, ...]:
        record, request = hold.record, hold.record.request
        label = self._held[record.id][0]
        amounts = hold.ceiling, request.expected_pico
        return (record.id, record.t, label, request.request_id, *amounts, self._legs(record.legs))


def _json(record: object) -> str:
    return msgspec.json.encode(record).decode()


def _usage(counts: Counts | None) -> dict[str, Any]:
    if counts is None:
        return {}
    rare = (counts[3], counts[4], *counts[6:])
    more = {name: count for name, count in zip(MORE, rare, strict=True) if count}
    values = {"input_tokens": counts[0], "output_tokens": counts[1], "cache_read": counts[2], "reasoning": counts[5]}
    return values | {"usage_more": msgspec.json.encode(more).decode() if more else None}

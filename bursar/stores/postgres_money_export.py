"""From PostgreSQL back to one node's journal: every row a record, in the same order, in a folder of its own.

A journal counts its holds, so they get new ids in the order of the ledger; what names them (request, attempt) stays.
Holds that were given up were never made, and have no record. The journal is written beside its place and put there
when it is whole: what was interrupted begins anew, and nothing was lost.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from bursar.core.ledger import Ledger
from bursar.core.ledger_records import (
    CorrectRecord,
    Counts,
    DefineRecord,
    HoldRecord,
    HoldRequest,
    PostRecord,
    Record,
    ShrinkRecord,
    VoidRecord,
    WindowRecord,
)
from bursar.stores.journal import SEGMENT_BYTES
from bursar.stores.journal_recovery import begin, encode
from bursar.stores.journal_segment import Files, Header, NewSegment, Segment, segment_numbers, sync_folder
from bursar.stores.moving import CannotMove
from bursar.stores.postgres import Postgres
from bursar.stores.postgres_money_act import MORE
from bursar.stores.postgres_money_budgets import named_legs
from bursar.stores.postgres_money_labels import NAMES

_TELL_EVERY = 20_000  # rows
_WRITE_EVERY = 500  # records
_PARTIAL = "journal.partial"

_ALIVE = """SELECT string_agg(DISTINCT node, ', ') FROM bursar.ledger_session
    WHERE ended_ns IS NULL AND seen_ns + lease_ns > bursar.ledger_now()"""
_IDS = "SELECT budget, id FROM bursar.ledger_definition"
_LABELS = "SELECT id, names FROM bursar.ledger_label"
_ROWS = "SELECT l.* FROM bursar.ledger l ORDER BY l.seq"

_define = msgspec.json.Decoder(DefineRecord).decode
_window = msgspec.json.Decoder(WindowRecord).decode


class Export:
    """`run` raises CannotMove, OSError, or what is in postgres.AWAY. `data` is the data folder."""

    def __init__(self, store: Postgres, data: Path, progress: Callable[[int], None] | None = None) -> None:
        self._store = store
        self._data = data
        self._progress = progress
        self._ledger = Ledger()
        self._ids: dict[int, int] = {}  # there -> here
        self._names: dict[int, str] = {}
        self._labels: dict[int, dict[str, Any]] = {}
        self._files = Files()

    async def run(self) -> int:
        """Write the whole ledger; how many rows it had."""
        target, partial = self._data / "journal", self._data / _PARTIAL
        if target.is_dir() and segment_numbers(target):
            raise CannotMove(f"there is a journal in {target} already; give an empty data folder")
        if target.is_dir() and (left := sorted(path.name for path in target.iterdir() if path.suffix != ".lock")):
            raise CannotMove(f"{target} has {left[0]} in it: start a node on it once more, so that it is sent")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True, mode=0o700)
        rows = await self._read(partial)
        if target.is_dir():
            (target / "journal.lock").unlink(missing_ok=True)
            target.rmdir()
        partial.rename(target)
        sync_folder(self._data)
        return rows

    async def _read(self, folder: Path) -> int:
        sql, rows = self._store.sql, 0
        db = await self._store.dedicated()
        try:
            if alive := await db.fetchval(sql(_ALIVE)):
                raise CannotMove(f"these nodes are running: {alive}; stop them first")
            async with db.transaction(isolation="repeatable_read", readonly=True):
                self._names = {row["budget"]: row["id"] for row in await db.fetch(sql(_IDS))}
                self._labels = {row["id"]: msgspec.json.decode(row["names"]) for row in await db.fetch(sql(_LABELS))}
                segment, pending = None, list[bytes]()
                async for row in db.cursor(sql(_ROWS), prefetch=1000):
                    rows += 1
                    record = self._record(row)
                    if record is None:
                        continue
                    if segment is None:
                        segment = begin(folder, self._ledger.snapshot(record.t), self._files)
                    pending.append(encode(record))
                    self._ledger.apply(record)
                    self._ledger.events.clear()
                    if len(pending) == _WRITE_EVERY:
                        segment = self._append(folder, segment, pending, record.t)
                    if self._progress is not None and rows % _TELL_EVERY == 0:
                        self._progress(rows)
        finally:
            await db.close()
        if segment is None:
            segment = begin(folder, self._ledger.snapshot(0), self._files)
        segment.append(pending)
        os.fsync(segment.fd)
        os.close(segment.fd)
        return rows

    def _append(self, folder: Path, segment: Segment, pending: list[bytes], t: int) -> Segment:
        """Write; go on in a new segment if this one is full."""
        segment.append(pending)
        pending.clear()
        if segment.end < SEGMENT_BYTES:
            return segment
        header = Header(segment.number + 1, self._ledger.next_id, segment.digest())
        new = NewSegment(folder, header, encode(self._ledger.snapshot(t)), self._files, lambda _: None)
        fresh = new.prepare(durable=True)
        new.place()
        os.fsync(segment.fd)
        os.close(segment.fd)
        return fresh

    def _record(self, row: Any) -> Record | None:
        kind = row["kind"]
        if kind == 2:
            return _define(row["body"])
        if kind == 3:
            return _window(row["body"])
        if kind == 4:
            return self._hold(row)
        here = self._ids.get(row["hold_id"])
        return None if here is None else self._later(row, here)  # None: it was given up

    def _later(self, row: Any, here: int) -> Record:
        """What happened to a hold."""
        kind, t = row["kind"], row["t_ns"]
        if kind == 5:
            return ShrinkRecord(t, here, row["amount"], row["held"])
        if kind == 6:
            cost, held, expected, overage = row["amount"], row["held"], row["expected"], row["overage"]
            hard = held, cost - overage, held - cost + overage, overage
            soft = expected, cost, expected - cost
            return PostRecord(t, here, cost, hard, soft, row["exact"], row["word"], _counts(row))
        if kind == 7:
            return VoidRecord(t, here, (row["held"], row["expected"]), row["word"])
        pair = row["amount"], -row["amount"]
        return CorrectRecord(t, here, pair, row["word"], named_legs(row["legs"], self._names))

    def _hold(self, row: Any) -> HoldRecord:
        here = self._ids[row["hold_id"]] = self._ledger.next_id
        names = self._labels[row["label"]]
        legs = named_legs(row["legs"], self._names)
        asked = [leg[0] for leg in legs] if row["asked"] is None else [self._names[no] for no in row["asked"]]
        request = HoldRequest(
            request_id=row["request_id"],
            attempt=row["attempt"],
            directory_version=row["directory_version"],
            ceiling_pico=row["amount"],
            expected_pico=row["expected"],
            input_ceiling=row["input_tokens"],
            output_ceiling=row["output_tokens"],
            budgets=tuple(asked),
            **{name: names.get(name, "") for name in NAMES},
        )
        return HoldRecord(row["t_ns"], here, legs, request)


def _counts(row: Any) -> Counts | None:
    if row["input_tokens"] is None:
        return None
    more: dict[str, Any] = dict.fromkeys(MORE, 0) | {"service_tier": "", "tool_uses": ()}
    if row["usage_more"] is not None:
        more |= msgspec.json.decode(row["usage_more"])
    five, hour, *others = (more[name] for name in MORE)
    tool_uses = tuple((name, count) for name, count in others[3])
    head = row["input_tokens"], row["output_tokens"], row["cache_read"], five, hour, row["reasoning"]
    return (*head, others[0], others[1], others[2], tool_uses, others[4])

"""The ledger as control reads it: follows the journal into `ledger.db`, whatever either process is doing.

Another process writes the journal. An unfinished record at its end is waited for. Each batch and the position behind
it are one transaction, so that a crash of either side loses nothing and counts nothing twice; the database may be
deleted at any time and is built anew. Not safe across threads: one `catch_up` at a time.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import takewhile
from pathlib import Path
from typing import Any

import msgspec

from bursar.core.holders import AttemptRow, Holder
from bursar.core.ledger import Ledger, OpenHold
from bursar.core.ledger_budget import Budget, Row
from bursar.core.ledger_records import (
    Balance,
    CorrectRecord,
    DefineRecord,
    HoldRecord,
    PostRecord,
    Record,
    ShrinkRecord,
    SnapshotRecord,
    VoidRecord,
    WindowRecord,
)
from bursar.core.units import NS_PER_S
from bursar.stores.journal_recovery import decoder
from bursar.stores.journal_segment import (
    FRAME,
    FRAME_BYTES,
    HEADER_BYTES,
    JournalDamaged,
    read_frames,
    read_header,
    segment_numbers,
    segment_path,
)
from bursar.stores.projection_requests import attempts_of, open_holds
from bursar.stores.schema import open_database

HOUR_NS = 3_600 * NS_PER_S
_CHUNK = 1 << 20
_PATIENCE = 50  # readings of the same bytes that do not check before they count as damaged

_MOST_LABELS = 20_000  # remembered

_INSERT_ATTEMPT = "INSERT OR REPLACE INTO attempt VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_INSERT_CORRECTION = "INSERT INTO corrections VALUES (?, ?, ?, ?, ?, ?)"
_INSERT_DEFINITION = "INSERT OR REPLACE INTO budget_defs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_UPSERT_BALANCE = "INSERT OR REPLACE INTO balances VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_DELETE_BUCKETS = "DELETE FROM balances WHERE budget_id = ? AND end_ns < ?"
_UPSERT_HOUR = "INSERT OR REPLACE INTO hourly VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_SELECT_HOUR = """SELECT attempts, inexact, input_tokens, output_tokens, cached_tokens, cost, overage FROM hourly
    WHERE hour = ? AND label_id = ?"""
_SELECT_HOURS = """SELECT {columns}, attempts, inexact, input_tokens, output_tokens, cached_tokens, cost, overage
    FROM hourly JOIN labels ON labels.id = label_id WHERE hour >= ? AND hour < ?"""
_SELECT_LAST_HOURS = """SELECT secret_id, max(hour) FROM hourly JOIN labels ON labels.id = label_id
    WHERE secret_id != '' GROUP BY secret_id"""
_INSERT_LABEL = "INSERT INTO labels VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_SELECT_LABEL = """SELECT id FROM labels WHERE key_id = ? AND team_id = ? AND owner_id = ? AND user = ? AND provider = ?
    AND model = ? AND secret_id = ? AND price_id = ? AND price_digest = ? AND credential = ?
    AND purpose = ?"""
_SELECT_HOUR_OF = "SELECT t_ns, label_id FROM attempt WHERE hold_id = ?"
_MORE = ("cache_write_5m", "cache_write_1h", "audio_input", "audio_output", "image_input", "tool_uses", "service_tier")
_OPEN = (None,) * 10
_NO_USAGE = (None,) * 5


class Projection:
    """Opened at construction. Raises SchemaFault, sqlite3.Error, OSError, JournalDamaged."""

    def __init__(self, folder: Path, database: Path) -> None:
        self._folder = folder
        self._db = open_database(database, "ledger")
        self._db.execute("PRAGMA synchronous = NORMAL")  # a lost batch is projected again
        self._ledger = Ledger()  # a replica, for balances and for the holds that are open
        self._segment = self._offset = self.records = 0
        self.behind = False
        self._stuck = (0, 0, 0)  # segment, offset, times seen
        self._first_new = 1  # holds from this one on are made in the present batch
        self._labels: dict[tuple[object, ...], int] = {}
        self._forget_batch()
        self._resume()

    def close(self) -> None:
        self._db.close()

    @property
    def database(self) -> sqlite3.Connection:
        """For questions that have a file of their own, in the thread of this one."""
        return self._db

    def balances(self, now: int) -> list[Balance]:
        """Every budget in use, in its window at `now`, as far as the journal is projected."""
        return self._ledger.balances(now)

    def hours(self, columns: Sequence[str], since: int, until: int) -> Iterator[tuple[Any, ...]]:
        """(columns, attempts, inexact, input, output, cached tokens, cost, overage) of hours since <= h < until."""
        return self._db.execute(_SELECT_HOURS.format(columns=", ".join(columns)), (since, until))

    def last_hours(self) -> list[tuple[str, int]]:
        """(provider key, last hour in which an attempt under it was posted) of every one that was ever used."""
        return self._db.execute(_SELECT_LAST_HOURS).fetchall()

    def attempts(self, request_id: str) -> list[AttemptRow]:
        return attempts_of(self._db, request_id)

    def open_holds(self, budget_id: str) -> list[Holder]:
        return list(open_holds(self._ledger, budget_id))

    # ---- where to go on

    def _resume(self) -> None:
        """Go on behind what is committed: the replica starts from its segment's snapshot."""
        row = self._db.execute("SELECT segment, offset, records FROM position").fetchone()
        if row is None:
            return
        self._segment, self._offset, self.records = row
        path = segment_path(self._folder, self._segment)
        data = path.read_bytes()[: self._offset]
        read_header(path, data)
        reached = HEADER_BYTES
        for behind, payload in read_frames(data, self._segment, 0, HEADER_BYTES):
            self._ledger.apply(decoder.decode(payload))
            reached = behind
        self._ledger.events.clear()
        if reached != self._offset:
            raise JournalDamaged(path, reached, "what was projected is no longer there")

    def catch_up(self) -> int:
        """Project the next batch, at most about a megabyte; the number of records, 0 = nothing new.

        `behind` says whether more was there than one batch takes. Raises JournalDamaged, sqlite3.Error, OSError; then
        nothing of the batch is kept and the next call tries again.
        """
        self.behind = False
        if not self._segment and not self._enter_first():
            return 0
        follower = segment_path(self._folder, self._segment + 1)
        complete = follower.exists()  # looked at first: behind it, nothing is added to this segment
        data = self._read(_CHUNK)
        count, used = self._project(data)
        if count:
            self.behind = complete or len(data) >= _CHUNK
            return count
        if complete and not data:
            self._enter(follower)
            return self.catch_up()
        if len(data) > used:
            self._wait_for_rest(data, complete)
        return 0

    def _enter_first(self) -> bool:
        numbers = segment_numbers(self._folder) if self._folder.is_dir() else []
        if not numbers:
            return False
        self._enter(segment_path(self._folder, numbers[0]))
        return True

    def _enter(self, path: Path) -> None:
        with path.open("rb") as file:
            header = read_header(path, file.read(HEADER_BYTES))
        self._segment, self._offset = header.number, HEADER_BYTES

    def _read(self, size: int) -> bytes:
        """From the position on: at least one record, however large, if it is all there."""
        with segment_path(self._folder, self._segment).open("rb") as file:
            file.seek(self._offset)
            data = file.read(size)
            if len(data) == size:
                needed = FRAME.unpack_from(data)[0] + FRAME_BYTES
                data += file.read(max(0, needed - size))
        return data

    def _wait_for_rest(self, data: bytes, complete: bool) -> None:
        """The writer may be in the middle of a record. Not for ever."""
        path = segment_path(self._folder, self._segment)
        if complete:
            raise JournalDamaged(path, self._offset, "a record in the middle of the journal is not whole")
        if len(data) < FRAME_BYTES or FRAME.unpack_from(data)[0] + FRAME_BYTES > len(data):
            return
        segment, offset, times = self._stuck
        times = times + 1 if (segment, offset) == (self._segment, self._offset) else 1
        self._stuck = (self._segment, self._offset, times)
        if times > _PATIENCE:
            raise JournalDamaged(path, self._offset, "the checksum does not fit the record")

    # ---- one batch

    def _forget_batch(self) -> None:
        self._ended: list[tuple[object, ...]] = []  # rows of attempts
        self._changed: set[int] = set()  # older holds that were shrunk
        self._touched: dict[Row, Budget] = {}
        self._hours: dict[tuple[int, int], list[int]] = {}  # (hour, label) -> sums as in _SELECT_HOUR
        self._definitions: list[tuple[object, ...]] = []
        self._corrections: list[tuple[object, ...]] = []
        self._stale: list[tuple[str, int]] = []

    def _project(self, data: bytes) -> tuple[int, int]:
        """(records, bytes) of the whole records in `data`, committed."""
        count = used = 0
        offset, self._first_new = self._offset, self._ledger.next_id
        try:
            self._db.execute("BEGIN IMMEDIATE")
            for used, payload in read_frames(data, self._segment, offset):
                self._take(decoder.decode(payload), offset + used)
                count += 1
            self._write(offset + used, self.records + count)
            self._db.execute("COMMIT")
        except (KeyError, msgspec.MsgspecError) as error:
            path = segment_path(self._folder, self._segment)
            self._start_over()
            raise JournalDamaged(path, offset, f"a record makes no sense: {error!r}") from error
        except sqlite3.Error:
            self._start_over()
            raise
        self._offset += used
        self.records += count
        self._forget_batch()
        self._ledger.events.clear()
        return count, used

    def _start_over(self) -> None:
        """The replica has run ahead of the database: both go back to what is committed."""
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")
        self._ledger = Ledger()
        self._labels.clear()
        self._segment = self._offset = self.records = 0
        self._forget_batch()
        self._resume()

    def _take(self, record: Record, behind: int) -> None:
        ledger = self._ledger
        if isinstance(record, HoldRecord):
            ledger.apply_hold(record)
        elif isinstance(record, PostRecord):
            hold = ledger.open[record.id]
            ledger.apply_post(record)
            self._touch(hold)
            self._post(hold.record, record)
        elif isinstance(record, VoidRecord):
            hold = ledger.open[record.id]
            ledger.apply(record)
            self._touch(hold)
            end = (None, None, record.t, None, record.reason, *_NO_USAGE)
            self._ended.append((*self._attempt(hold.record), "VOIDED", record.released[0], *end))
        else:
            self._take_rare(record, behind)

    def _take_rare(self, record: Record, behind: int) -> None:
        if isinstance(record, SnapshotRecord):
            if not self.records and not self._ledger.budgets:
                self._ledger.apply(record)  # later ones say what the replica knows
                self._snapshot(record)
            else:
                self._ledger.keep_only(record)
            return
        self._ledger.apply(record)
        if isinstance(record, ShrinkRecord):
            self._changed.add(record.id)
        elif isinstance(record, DefineRecord):
            self._define(record)
        elif isinstance(record, WindowRecord):
            budget = self._ledger.budgets[record.budget]
            self._touched[budget.rows[record.number]] = budget
            if budget.definition.window.kind == "rolling":
                self._stale.append((record.budget, min(row.start for row in budget.rows.values())))
        elif isinstance(record, CorrectRecord):
            self._correct(record, behind)

    def _touch(self, hold: OpenHold) -> None:
        for budget, row, _ in hold.legs:
            self._touched[row] = budget

    def _snapshot(self, record: SnapshotRecord) -> None:
        """The first record of the first segment that is there: mostly empty, else what came before is not known."""
        for image in record.budgets:
            self._define(image.definition)
        self._changed.update(hold.id for _, hold in record.holds)

    def _post(self, hold: HoldRecord, record: PostRecord) -> None:
        usage, cost, overage = record.usage, record.cost, record.hard[3]
        attempt = self._attempt(hold)
        sums = self._hour(hold.t, attempt[3])
        sums[0] += 1
        sums[1] += not record.exact
        sums[5] += cost
        sums[6] += overage
        counts: tuple[object, ...] = _NO_USAGE
        if usage is not None:
            sums[2] += usage[0]
            sums[3] += usage[1]
            sums[4] += usage[2]
            counts = (usage[0], usage[1], usage[2], usage[5], _more((*usage[3:5], *usage[6:])))
        end = (record.hard[0], cost, overage, record.t, record.exact, record.outcome)
        self._ended.append((*attempt, "POSTED", *end, *counts))

    def _hour(self, t: int, label: int) -> list[int]:
        key = (t // HOUR_NS, label)
        return self._hours.get(key) or self._hours.setdefault(key, [0] * 7)

    def _attempt(self, hold: HoldRecord) -> tuple[int, str, int, int, int, int, str | None]:
        """The first seven columns."""
        it = hold.request
        who = (it.key_id, it.team_id, it.owner_id, it.user, it.provider, it.model, it.secret_id)
        names = (*who, it.price_id, it.price_digest, it.credential, it.purpose)
        label = self._labels.get(names) or self._label(names)
        return hold.id, it.request_id, it.attempt, label, hold.t, it.directory_version, it.caller or None

    def _label(self, names: tuple[object, ...]) -> int:
        found = self._db.execute(_SELECT_LABEL, names).fetchone()
        label = int(found[0]) if found else self._db.execute(_INSERT_LABEL, names).lastrowid
        assert label is not None
        if len(self._labels) >= _MOST_LABELS:
            self._labels.clear()
        self._labels[names] = label
        return label

    def _define(self, record: DefineRecord) -> None:
        window, thresholds = (msgspec.json.encode(value).decode() for value in (record.window, record.thresholds))
        flags = (record.hard, record.mode, record.deleted, window, thresholds)
        about = (record.name, record.subject_kind, record.subject)
        self._definitions.append((record.id, record.version, record.t, str(record.limit), *flags, *about))
        budget = self._ledger.budgets[record.id]
        self._touched.update((row, budget) for row in budget.rows.values())

    def _correct(self, record: CorrectRecord, behind: int) -> None:
        delta = record.pair[0]
        self._corrections.append((self._segment, behind, record.id, record.t, str(delta), record.reason))
        for budget_id, _, number, _ in record.legs:
            budget = self._ledger.budgets.get(budget_id)
            if budget is not None and number in budget.rows:
                self._touched[budget.rows[number]] = budget
        db = self._db
        db.executemany(_INSERT_ATTEMPT, self._ended)  # the hold may have ended in this very batch
        self._ended.clear()
        hour = db.execute(_SELECT_HOUR_OF, (record.id,)).fetchone()
        if hour is not None:
            self._hour(hour[0], hour[1])[5] += delta

    def _write(self, offset: int, records: int) -> None:
        db = self._db
        db.executemany(_INSERT_ATTEMPT, self._ended)
        db.executemany(_INSERT_ATTEMPT, self._still_held())
        db.executemany(_INSERT_DEFINITION, self._definitions)
        db.executemany(_INSERT_CORRECTION, self._corrections)
        db.executemany(_UPSERT_BALANCE, [_balance(budget, row) for row, budget in self._touched.items() if row.end])
        db.executemany(_DELETE_BUCKETS, self._stale)
        db.executemany(_UPSERT_HOUR, [self._summed(key, sums) for key, sums in self._hours.items()])
        db.execute("INSERT OR REPLACE INTO position VALUES (1, ?, ?, ?)", (self._segment, offset, records))

    def _still_held(self) -> list[tuple[object, ...]]:
        """Rows of the open holds that are new or changed: made in this batch, they have not ended in it."""
        opened = self._ledger.open
        rows: list[tuple[object, ...]] = []
        for hold_id in (*takewhile(lambda it: it >= self._first_new, reversed(opened)), *self._changed):
            hold = opened.get(hold_id)
            if hold is not None:
                self._touch(hold)
                rows.append((*self._attempt(hold.record), "HELD", hold.ceiling, *_OPEN))
        return rows

    def _summed(self, key: tuple[int, int], sums: list[int]) -> tuple[object, ...]:
        known = self._db.execute(_SELECT_HOUR, key).fetchone()
        if known is not None:
            sums = [mine + int(theirs) for mine, theirs in zip(sums, known, strict=True)]
        return (*key, *sums[:5], str(sums[5]), str(sums[6]))


@lru_cache(maxsize=1024)  # mostly nothing, or a service tier
def _more(rare: tuple[object, ...]) -> str | None:
    if not any(rare):
        return None
    return msgspec.json.encode({name: count for name, count in zip(_MORE, rare, strict=True) if count}).decode()


def _balance(budget: Budget, row: Row) -> tuple[object, ...]:
    sums = (str(row.posted), str(row.held), str(row.overage))
    return (budget.definition.id, row.number, row.start, row.end, str(budget.limit), *sums, row.closed)

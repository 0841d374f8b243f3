"""`bursar ledger verify`: an independent reader of the journal. It shares no code with what wrote it.

From the raw segments alone it proves, record by record:

- frames and checksums are whole, the chain of segments is unbroken, each snapshot equals the replayed state;
- each hold ends at most once, on what was held; its entries sum to zero, overage stands apart;
- every hold stood on all budgets asked for, in their current windows, and left posted + held <= limit for every
  budget that is enforced. What ends a hold can raise that sum by its overage only; corrections and lowered limits
  are records of their own.

The first record that fails is named by segment, offset and number. Amounts are pico-USD, instants nanoseconds.
"""

import hashlib
import re
import struct
from collections.abc import Callable
from pathlib import Path
from zlib import crc32

import msgspec

from bursar.control.verify_ledger_replay import BudgetTotal, Counts, Replay, SpendTotal, Wrong

_HEADER = struct.Struct("<8sIQQ32sI")
_FRAME = struct.Struct("<II")
_NAME = re.compile(r"journal-(\d{8})\.log\Z")
_SNAPSHOT = 1
_OPEN_SHOWN = 1000


class Problem(msgspec.Struct, frozen=True):
    """Where the proof ends: `record` counts from 1 within the segment, 0 = its header."""

    segment: int
    offset: int
    record: int
    why: str


class Report(msgspec.Struct):
    """What was proven. `torn` is an unfinished record at the very end: the next start cuts it off."""

    first_segment: int = 0  # 1 = from the beginning; else the state of that segment's snapshot was taken on trust
    last_segment: int = 0
    records: int = 0
    counts: Counts = msgspec.field(default_factory=Counts)
    open_holds: int = 0
    open_ids: list[int] = []  # at most 1000
    budgets: list[BudgetTotal] = []
    spend: list[SpendTotal] = []
    problem: Problem | None = None
    torn: Problem | None = None

    @property
    def ok(self) -> bool:
        return self.problem is None


def verify(folder: Path, progress: Callable[[int, int, int], None] | None = None, start: int = 0) -> Report:
    """Replay the journal in `folder`, from segment `start` or the first that is there.

    `progress` gets (segments done, segments in all, records so far). Raises OSError, ValueError for no journal.
    """
    found = (_NAME.match(path.name) for path in folder.iterdir())
    numbers = sorted(number for match in found if match and (number := int(match[1])) >= start)
    if not numbers:
        raise ValueError(f"there is no journal in {folder}")
    reader = _Reader(Report(first_segment=numbers[0], last_segment=numbers[-1]))
    before = b""
    for done, number in enumerate(numbers, 1):
        data = (folder / f"journal-{number:08d}.log").read_bytes()
        before = reader.segment(number, data, before, number == numbers[-1])
        if reader.report.problem is not None:
            break
        if progress is not None:
            progress(done, len(numbers), reader.report.records)
    return reader.finish()


class _Reader:
    """Takes segments apart and hands their records to the replay."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.offset = self.record = 0  # where the reading stands in its segment
        self.replay = Replay()
        self.replay.trusting = report.first_segment != 1

    def segment(self, number: int, data: bytes, before: bytes, last: bool) -> bytes:
        """Replay one segment; its digest. The first fault goes to the report."""
        self.offset = self.record = 0
        try:
            self._header(number, data, before)
            self._records(number, data)
        except EOFError:
            self._cut_off(Problem(number, self.offset, self.record + 1, "the record is cut off"), data, last)
        except Wrong as wrong:
            self.report.problem = Problem(number, self.offset, self.record, str(wrong))
        except (msgspec.MsgspecError, KeyError, IndexError, TypeError, ValueError) as error:
            why = f"the record makes no sense: {error!r}"
            self.report.problem = Problem(number, self.offset, self.record, why)
        self.report.records += self.record
        return hashlib.sha256(data).digest()

    def _records(self, number: int, data: bytes) -> None:
        offset, end, place = _HEADER.size, len(data), number * 0x9E3779B1
        view, decode, handlers = memoryview(data), msgspec.msgpack.Decoder().decode, self.replay.handlers
        frame = _FRAME.unpack_from
        while offset < end:
            self.offset = offset
            if offset + _FRAME.size > end:
                raise EOFError
            size, crc = frame(data, offset)
            begin = offset + _FRAME.size
            if begin + size > end:
                raise EOFError
            self.record += 1
            payload = view[begin : begin + size]
            if crc32(payload, (place + offset) & 0xFFFFFFFF) != crc:
                raise Wrong("the checksum does not fit the record")
            values = decode(payload)
            if (values[0] == _SNAPSHOT) != (self.record == 1):
                raise Wrong("a snapshot must be the first record of a segment, and nowhere else")
            handlers[values[0]](values)
            offset = begin + size
        if not self.record:
            raise Wrong("the segment has no snapshot")

    def _header(self, number: int, data: bytes, before: bytes) -> None:
        if len(data) < _HEADER.size:
            raise Wrong("the header is cut off")
        magic, version, stated, next_id, previous, crc = _HEADER.unpack_from(data)
        if magic != b"BURSARJ1" or crc != crc32(data[: _HEADER.size - 4]):
            raise Wrong("the header is damaged")
        if version != 1:
            raise Wrong(f"format {version} is not known")
        if stated != number:
            raise Wrong(f"the header says segment {stated}")
        if before:
            if previous != before:
                raise Wrong("the segment before this one is not the one it continues")
            if next_id != self.replay.next_id:
                raise Wrong("the header's next hold id does not follow")
        elif number == 1 and (previous != bytes(32) or next_id != 1):
            raise Wrong("the first segment continues another")
        self.replay.next_id = next_id

    def _cut_off(self, where: Problem, data: bytes, last: bool) -> None:
        """At the very end a record may be unfinished, unless whole ones follow: then its length was damaged."""
        if last and not _whole_record_in(data, where.offset + 1, where.segment):
            self.report.torn = where
        else:
            self.report.problem = where

    def finish(self) -> Report:
        report, replay = self.report, self.replay
        report.counts = replay.counts
        report.open_holds = len(replay.open)
        report.open_ids = sorted(replay.open)[:_OPEN_SHOWN]
        report.budgets = replay.budget_totals()
        report.spend = [spend for _, spend in sorted(replay.spend.items())]
        return report


def _whole_record_in(data: bytes, start: int, segment: int) -> bool:
    view, place = memoryview(data), segment * 0x9E3779B1
    for at in range(start, len(data) - 8):
        size, crc = _FRAME.unpack_from(data, at)
        if 0 < size <= len(data) - at - 8 and crc32(view[at + 8 : at + 8 + size], (place + at) & 0xFFFFFFFF) == crc:
            return True
    return False

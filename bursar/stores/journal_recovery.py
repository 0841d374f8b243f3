"""Opening the journal: find the last segment, repair a torn tail, replay it.

Only the last segment is read, for it begins with a snapshot of the whole state. A tail that was being written when
the process or the machine stopped is cut off and kept in a `.torn` file. Anything else that is not whole is damage:
the journal does not open, so that no acknowledged record is lost unseen.
"""

import os
from pathlib import Path
from typing import NamedTuple

import msgspec

from bursar.core.ledger import Ledger
from bursar.core.ledger_records import HoldRecord, Leg, Record, SnapshotRecord
from bursar.stores.journal_segment import (
    HEADER_BYTES,
    Files,
    Header,
    JournalDamaged,
    NewSegment,
    Segment,
    holds_whole_record,
    read_frames,
    read_header,
    segment_numbers,
    segment_path,
    sync_folder,
)

TORN_MOST = 1 << 20  # one write of settles and a hold is far smaller: more than this behind the last record is damage
HOLD_TAG = 4

encode = msgspec.msgpack.Encoder().encode
decoder: msgspec.msgpack.Decoder[Record] = msgspec.msgpack.Decoder(Record)


class Replayed(NamedTuple):
    segment: Segment
    ledger: Ledger
    records: int


def begin(folder: Path, state: SnapshotRecord, files: Files) -> Segment:
    """The first segment of a new journal. Raises OSError."""
    first = NewSegment(folder, Header(1, state.next_id, bytes(32)), encode(state), files, None)
    segment = first.prepare(durable=True)
    first.place()
    sync_folder(folder)
    return segment


def replay(folder: Path, files: Files) -> Replayed | None:
    """The ledger as the journal in `folder` tells it; None when there is none yet. Raises JournalDamaged, OSError."""
    for leftover in folder.glob("journal-*.tmp"):
        leftover.unlink()
    numbers = segment_numbers(folder)
    while numbers:
        path = segment_path(folder, numbers[-1])
        data = path.read_bytes()
        replayed = _replay_segment(path, data, files)
        if replayed is not None:
            return replayed
        if len(numbers) == 1:
            raise JournalDamaged(path, 0, "the only segment has no whole snapshot")
        path.rename(path.with_suffix(".torn"))
        numbers.pop()
    return None


def _replay_segment(path: Path, data: bytes, files: Files) -> Replayed | None:
    """None when the segment was still being created as the machine stopped: its state is the one before it."""
    begun = data[:HEADER_BYTES].strip(b"\0")
    if not begun or len(data) <= HEADER_BYTES:
        return None
    header = read_header(path, data)
    ledger = Ledger()
    end, count = HEADER_BYTES, 0
    for behind, payload in read_frames(data, header.number, 0, HEADER_BYTES):
        try:
            record = decoder.decode(payload)
            if not count and not isinstance(record, SnapshotRecord):
                raise JournalDamaged(path, end, "the segment does not begin with a snapshot")
            ledger.apply(record)
        except (msgspec.MsgspecError, KeyError) as error:
            raise JournalDamaged(path, end, f"a record makes no sense: {error!r}") from error
        end, count = behind, count + 1
    torn = data[end:]
    if torn:
        if (count and len(torn) > TORN_MOST) or holds_whole_record(torn, header.number, end):
            raise JournalDamaged(path, end, "a record is damaged, and more records follow it")
        if not count:
            return None
        _keep_torn(path, end, torn)
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    if torn:
        files.truncate(fd, end)
    ledger.events.clear()
    return Replayed(Segment(fd, header.number, data[:end], files), ledger, count)


def _keep_torn(path: Path, end: int, torn: bytes) -> None:
    path.with_name(f"{path.stem}-{end}.torn").write_bytes(torn)


def find_hold(folder: Path, hold_id: int) -> tuple[Leg, ...] | None:
    """The budgets and windows of a hold that has ended, from the segments themselves; None = never held."""
    for number in reversed(segment_numbers(folder)):
        path = segment_path(folder, number)
        data = path.read_bytes()
        if read_header(path, data).next_id > hold_id:
            continue
        for _, payload in read_frames(data, number, 0, HEADER_BYTES):
            if payload[1] == HOLD_TAG:
                record = decoder.decode(payload)
                if isinstance(record, HoldRecord) and record.id == hold_id:
                    return record.legs
        return None
    return None

"""The journal's files: numbered segments of framed records.

    header  magic "BURSARJ1" | u32 format | u64 segment number | u64 next hold id | SHA-256 of the whole segment
            before it (zeros in the first) | u32 CRC of all that
    frame   u32 length | u32 CRC of the payload | payload: a MessagePack array of tag and fields

All numbers are little-endian. A frame's CRC-32 starts from its segment number and offset, so that a record is whole
only where it was written: one that is missing, moved or doubled breaks all that follow.
"""

import fcntl
import hashlib
import os
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from bursar.core.errors import Refusal

MAGIC = b"BURSARJ1"
FORMAT = 1
HEADER = struct.Struct("<8sIQQ32s")
HEADER_BYTES = HEADER.size + 4
FRAME = struct.Struct("<II")
FRAME_BYTES = FRAME.size
MASK = 0xFFFFFFFF
_STRIDE = 0x9E3779B1
_NAME = re.compile(r"journal-(\d{8})\.log\Z")


class JournalDamaged(Exception):
    """A segment is not what was written. Nothing is repaired that could hide an acknowledged record."""

    def __init__(self, path: Path, offset: int, why: str) -> None:
        super().__init__(f"{path.name} at byte {offset}: {why}")
        self.path = path
        self.offset = offset
        self.why = why


class Files:
    """The system calls that can fail, behind a door."""

    def write(self, fd: int, data: bytes) -> int:
        return os.write(fd, data)

    def truncate(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def sync(self, fd: int) -> None:
        os.fdatasync(fd)


class Header(NamedTuple):
    number: int
    next_id: int
    previous: bytes  # digest

    def encode(self) -> bytes:
        head = HEADER.pack(MAGIC, FORMAT, self.number, self.next_id, self.previous)
        return head + crc32(head).to_bytes(4, "little")


def segment_path(folder: Path, number: int) -> Path:
    return folder / f"journal-{number:08d}.log"


def segment_numbers(folder: Path) -> list[int]:
    found = (_NAME.match(path.name) for path in folder.iterdir())
    return sorted(int(match[1]) for match in found if match)


def read_header(path: Path, data: bytes) -> Header:
    """Raises JournalDamaged when the header is not whole or of another format."""
    if len(data) < HEADER_BYTES:
        raise JournalDamaged(path, 0, "the header is cut off")
    head, crc = data[: HEADER.size], int.from_bytes(data[HEADER.size : HEADER_BYTES], "little")
    magic, version, number, next_id, previous = HEADER.unpack(head)
    if magic != MAGIC or crc != crc32(head):
        raise JournalDamaged(path, 0, "the header is damaged")
    if version != FORMAT:
        raise JournalDamaged(path, 0, f"format {version} is newer than this Bursar reads")
    if path.name != segment_path(path.parent, number).name:
        raise JournalDamaged(path, 0, f"the header says segment {number}")
    return Header(number, next_id, previous)


def frames(payloads: list[bytes], number: int, offset: int) -> bytes:
    """The bytes of these records for the place where they will be written."""
    parts = []
    place = number * _STRIDE + offset
    for payload in payloads:
        size = len(payload)
        parts.append(FRAME.pack(size, crc32(payload, place & MASK)) + payload)
        place += size + FRAME_BYTES
    return b"".join(parts)


def read_frames(data: bytes, number: int, base: int, start: int = 0) -> Iterator[tuple[int, bytes]]:
    """Whole records from `data[start:]`, where `data[0]` stands at offset `base` of segment `number`.

    Yields (position in `data` behind the record, payload) and ends before the first that is not whole.
    """
    at, last = start, len(data) - FRAME_BYTES
    place = number * _STRIDE + base
    unpack = FRAME.unpack_from
    while at <= last:
        size, crc = unpack(data, at)
        begin = at + FRAME_BYTES
        behind = begin + size
        payload = data[begin:behind]  # a copy of some hundred bytes is cheaper than a view of them
        if len(payload) < size or crc32(payload, (place + at) & MASK) != crc or not size:
            return
        at = behind
        yield at, payload


def holds_whole_record(data: bytes, number: int, base: int) -> bool:
    """Does any whole record begin anywhere in `data`? Tells damage in the middle from a torn tail."""
    view = memoryview(data)
    place = number * _STRIDE + base
    for at in range(len(data) - FRAME_BYTES):
        size, crc = FRAME.unpack_from(data, at)
        behind = at + FRAME_BYTES + size
        if size and behind <= len(data) and crc32(view[at + FRAME_BYTES : behind], (place + at) & MASK) == crc:
            return True
    return False


class Segment:
    """The segment that is being written. `append` is all or nothing; `end` is the last whole record's end."""

    def __init__(self, fd: int, number: int, data: bytes, files: Files) -> None:
        self.fd = fd
        self.number = number
        self.end = len(data)
        self._digest = hashlib.sha256(data)
        self._files = files
        self._dirty = False  # bytes of a failed write may stand behind `end`

    def append(self, payloads: list[bytes]) -> None:
        """Raises OSError; then the file is as before, or will be made so before the next append."""
        if self._dirty:
            self._restore()
        data = frames(payloads, self.number, self.end)
        size = len(data)
        try:
            written = self._files.write(self.fd, data)
            while written < size:
                written += self._files.write(self.fd, data[written:])
        except OSError:
            self._dirty = True
            self._restore()
            raise
        self.end += size
        self._digest.update(data)

    def _restore(self) -> None:
        self._files.truncate(self.fd, self.end)
        self._dirty = False

    def digest(self) -> bytes:
        return self._digest.digest()


class NewSegment(NamedTuple):
    """A segment to be created: `prepare` writes it whole beside its name, `place` gives it the name.

    `prepare` may run in a thread. From `place` on the older segment must not be written any more.
    """

    folder: Path
    header: Header
    snapshot: bytes  # payload of its first record
    files: Files
    trace: Callable[[str], None] | None

    def prepare(self, durable: bool) -> Segment:
        """Raises OSError; nothing is left behind then but a `.tmp` file that the next start removes."""
        head = self.header.encode()
        data = head + frames([self.snapshot], self.header.number, len(head))
        flags = os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC
        fd = os.open(self._path.with_suffix(".tmp"), flags, 0o600)
        try:
            written = 0
            while written < len(data):
                written += self.files.write(fd, data[written:])
            if durable:
                self.files.sync(fd)
        except BaseException:
            os.close(fd)
            raise
        if self.trace is not None:
            self.trace("rotate_tmp_written")
        return Segment(fd, self.header.number, data, self.files)

    def place(self) -> None:
        """Raises OSError; then there is no such segment."""
        self._path.with_suffix(".tmp").rename(self._path)
        if self.trace is not None:
            self.trace("rotate_renamed")

    @property
    def _path(self) -> Path:
        return segment_path(self.folder, self.header.number)


def sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_and_close(old: int, fresh: int, folder: Path) -> None:
    """After a rotation, off the loop: bring both segments and their names to the disk, close the descriptors."""
    try:
        os.fdatasync(old)
        os.fsync(fresh)
        sync_folder(folder)
    finally:
        os.close(old)
        os.close(fresh)


def take_lock(folder: Path) -> int:
    """The descriptor that holds the journal's lock. Raises BlockingIOError while another process has it."""
    fd = os.open(folder / "journal.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd


def unavailable() -> Refusal:
    """What callers are told while the journal cannot be written."""
    hint = "Free space or mend the disk below the data folder; it opens again by itself."
    return Refusal("store_unavailable", "the money journal cannot be written, so nothing may be spent", hint, 1.0)

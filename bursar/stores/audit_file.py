"""A sink that appends lines to a file: the audit as JSON lines, or the checkpoints beside it.

A write is followed by fsync. What a crash or a full disk left half-written is cut off before the next write, so that
the file always ends with a whole line. All calls run in one thread of their own: a disk that hangs holds up this sink
and nothing else.
"""

import asyncio
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from bursar.core.audit import GENESIS, AuditFailed, Run, decode_record, frame_pruned, unframe

T = TypeVar("T")
_STEP = 64 * 1024
_SEQ = re.compile(rb'\{"hash":"[0-9a-f]{64}","record":\{"seq":(\d+),')


class AuditFile:
    """`bursar.ports.AuditSink`. The file is opened at the first use and opened anew after a fault."""

    def __init__(self, path: Path, required: bool = False, timeout: float = 2.0, name: str = "") -> None:
        self.name = name or path.name
        self.required = required
        self.timeout = timeout
        self._path = path
        self._thread = ThreadPoolExecutor(1, "audit-file")
        self._descriptor: int | None = None
        self._end: int | None = None  # where the last durable line ends, once known

    async def write(self, records: Sequence[bytes]) -> None:
        """Append the lines, durable when this returns. Raises AuditFailed, and then none of them stands."""
        await self._run(lambda: self._append(b"".join(line + b"\n" for line in records)))

    async def position(self) -> tuple[int, bytes]:
        """(seq, hash) of the last record in the file; (0, GENESIS) before the first. Raises AuditFailed."""
        line = await self._run(self._last_line)
        if not line:
            return 0, GENESIS
        try:
            record_hash, payload = unframe(line)
            return decode_record(payload).seq, record_hash
        except ValueError:
            hint = "Move it away; the audit writes a new one from its trail"
            raise AuditFailed(
                f"{self.name} does not end with a record of the audit", hint, {"sink": self.name}
            ) from None

    async def prune(self, runs: Sequence[tuple[Run, bytes]]) -> None:
        """Write the file anew with these runs (in order, each with its pass) in the place of their records."""
        await self._run(lambda: self._rewrite(runs))

    def close(self) -> None:
        """Closes the file once what is under way has ended; does not wait for a disk that hangs."""
        self._thread.submit(self._drop)
        self._thread.shutdown(wait=False)

    # ---- in the thread

    def _append(self, content: bytes) -> None:
        descriptor, end = self._opened()
        try:
            view = memoryview(content)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        except BaseException:
            self._drop()  # the next use opens anew and cuts off what is half-written
            raise
        self._end = end + len(content)

    def _rewrite(self, runs: Sequence[tuple[Run, bytes]]) -> None:
        descriptor, _ = self._opened()
        fresh = self._path.with_name(f".{self._path.name}.pruned")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with (
            os.fdopen(os.dup(descriptor), "rb") as source,
            os.fdopen(os.open(fresh, flags, 0o600), "wb") as target,
        ):
            source.seek(0)
            target.writelines(_without(iter(source.readline, b""), runs))
            target.flush()
            os.fsync(target.fileno())
        fresh.replace(self._path)
        self._drop()
        self._end = None

    def _opened(self) -> tuple[int, int]:
        """The descriptor, and the offset at which the next line begins."""
        if self._descriptor is None or self._end is None:
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(self._path, flags, 0o600)
            try:
                self._end = self._repair(descriptor)
            except BaseException:
                os.close(descriptor)
                raise
            self._descriptor = descriptor
        return self._descriptor, self._end

    def _repair(self, descriptor: int) -> int:
        """Cut off what follows the last durable line: known from before a fault, else the last line end."""
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"{self._path} is not a plain file")
        end = self._end
        if end is None or end > status.st_size:
            end = _last_line_end(descriptor, status.st_size)
        if end < status.st_size:
            os.ftruncate(descriptor, end)
            os.fsync(descriptor)
        return end

    def _last_line(self) -> bytes:
        descriptor, end = self._opened()
        start = _last_line_end(descriptor, end - 1)
        return os.pread(descriptor, end - 1 - start, start) if end else b""

    def _drop(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    async def _run(self, act: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, act)
        except OSError as error:
            hint = "See whether its disk is full or its folder read-only"
            raise AuditFailed(f"{self.name} failed: {error.strerror or error}", hint, {"sink": self.name}) from None


def _without(lines: Iterator[bytes], runs: Sequence[tuple[Run, bytes]]) -> Iterator[bytes]:
    """The lines with each run in the place of its first record."""
    remaining = iter(runs)
    current = next(remaining, None)
    for line in lines:
        found = _SEQ.match(line)
        if found is None:  # a run of an earlier pass
            yield line
            continue
        seq = int(found[1])
        while current is not None and current[0].last < seq:
            current = next(remaining, None)
        if current is None or seq < current[0].first:
            yield line
        elif seq == current[0].first:
            yield frame_pruned(*current) + b"\n"


def _last_line_end(descriptor: int, end: int) -> int:
    """The offset after the last line end before `end`; 0 when there is none."""
    while end > 0:
        start = max(0, end - _STEP)
        found = os.pread(descriptor, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0

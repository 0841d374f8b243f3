"""How far a sink that keeps no place of its own has come: a small file beside the trail, one a sink.

The trail is the spool: what the sink lacks is read from there, in order, however long it was away. The file is replaced
whole after each delivery. It is not synced: an older place found after a loss of power means that the sink gets some
records twice (delivery is at least once), never that it misses one.
"""

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import msgspec

from bursar.core.audit import GENESIS, AuditFailed

T = TypeVar("T")
_PIECE_BYTES = 256 * 1024


class _Place(msgspec.Struct, frozen=True):
    seq: int
    hash: str  # hex


class AuditCursor:
    """`sink` is the name for faults. All calls run in one thread of their own, as with every disk of the audit."""

    def __init__(self, path: Path, sink: str) -> None:
        self._path = path
        self._sink = sink
        self._thread = ThreadPoolExecutor(1, "audit-cursor")

    async def read(self) -> tuple[int, bytes]:
        """(seq, hash) of the last record delivered; (0, GENESIS) for a sink that is new. Raises AuditFailed."""
        try:
            raw = await self._run(self._path.read_bytes)
        except FileNotFoundError:
            return 0, GENESIS
        except OSError as error:
            raise self._failed(error.strerror or str(error)) from None
        try:
            place = msgspec.json.decode(raw, type=_Place)
            return place.seq, bytes.fromhex(place.hash)
        except (msgspec.MsgspecError, ValueError):
            raise self._failed("it cannot be read") from None

    async def write(self, seq: int, record_hash: bytes) -> None:
        """Everything up to this record is delivered. Raises AuditFailed."""
        content = msgspec.json.encode(_Place(seq, record_hash.hex()))
        try:
            await self._run(lambda: self._replace(content))
        except OSError as error:
            raise self._failed(error.strerror or str(error)) from None

    def close(self) -> None:
        self._thread.shutdown(wait=False)

    def _replace(self, content: bytes) -> None:
        self._path.parent.mkdir(mode=0o700, exist_ok=True)
        fresh = self._path.with_suffix(".new")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        fresh.replace(self._path)

    async def _run(self, act: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, act)

    def _failed(self, why: str) -> AuditFailed:
        hint = f"Remove {self._path} to send this sink the whole audit again"
        return AuditFailed(f"The place of the audit sink {self._sink} is unknown: {why}", hint, {"sink": self._sink})


def pieces(lines: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """The lines in pieces of bounded size: a slow receiver takes each in time, and the place is kept after each."""
    piece: list[bytes] = []
    size = 0
    for line in lines:
        if piece and size + len(line) > _PIECE_BYTES:
            yield piece
            piece, size = [], 0
        piece.append(line)
        size += len(line)
    if piece:
        yield piece

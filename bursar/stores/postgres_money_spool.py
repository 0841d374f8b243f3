"""Settles that could not be sent before a node had to stop: a small file, sent by its next life.

Without it they are not lost either, only less exact: the lease runs out, and their holds are booked at the ceiling.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from bursar.stores.postgres_money_act import End

Shrink = tuple[int, int]
_NAME = "money-spool.msgpack"


class Spool:
    """In the data folder; None = there is no folder, and nothing is kept."""

    def __init__(self, folder: Path | None) -> None:
        self._path = None if folder is None else folder / _NAME

    def read(self) -> list[End | Shrink]:
        """Raises OSError, ValueError for a file that is not whole."""
        if self._path is None or not self._path.exists():
            return []
        rows = msgspec.msgpack.decode(self._path.read_bytes(), type=list[tuple[object, ...]])
        return [End(*row) if len(row) > 2 else (int(str(row[0])), int(str(row[1]))) for row in rows]  # type: ignore[arg-type]

    def write(self, settles: Sequence[End | Shrink]) -> None:
        """Whole or not at all; nothing to keep = no file. Raises OSError."""
        if self._path is None:
            return
        if not settles:
            self._path.unlink(missing_ok=True)
            return
        new = self._path.with_suffix(".tmp")
        fd = os.open(new, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(msgspec.msgpack.encode(list(settles)))
            file.flush()
            os.fsync(file.fileno())
        new.rename(self._path)

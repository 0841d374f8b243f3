"""What keeps a restored node paused: `restored.json` in the data folder. While it is there, nobody is served."""

import os
from pathlib import Path

import msgspec

from bursar.core.restore import MARKER, Restored


def is_paused(folder: Path) -> bool:
    """Also by a marker that cannot be read: who wrote it meant it."""
    return (folder / MARKER).exists()


class MarkerFile:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self) -> Restored | None:
        """None = not restored, or released. A marker that cannot be read says nothing but that it is there."""
        try:
            return msgspec.json.decode((self._folder / MARKER).read_bytes(), type=Restored)
        except FileNotFoundError:
            return None
        except msgspec.MsgspecError:
            return Restored(restored_ns=0, taken_ns=0, node="", audit_seq=0)

    def write(self, marker: Restored) -> None:
        """Whole and durable when this returns."""
        temporary = self._folder / f"{MARKER}.tmp"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(marker), indent=2) + b"\n")
            file.flush()
            os.fsync(descriptor)
        temporary.replace(self._folder / MARKER)
        self._sync()

    def retire(self, now: int) -> None:
        """Release the node. What the marker said is kept beside it."""
        (self._folder / MARKER).rename(self._folder / f"restored-{now}.json")
        self._sync()

    def _sync(self) -> None:
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

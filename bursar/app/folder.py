"""The data folder: made, checked, locked. Everything that can be wrong with it is said in one line."""

import fcntl
import os
import secrets
from pathlib import Path


class FolderFault(Exception):
    """The data folder cannot be used; the message says why and what to do."""


def prepare(path: Path) -> Path:
    """Make the folder (0700) and its rooms. Raises FolderFault."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for room in ("journal", "run"):
            (path / room).mkdir(mode=0o700, exist_ok=True)
        probe = path / "run" / f".write-probe-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as fault:
        raise FolderFault(
            f"the data folder {path} cannot be used: {fault.strerror}; choose another with --data"
        ) from fault
    if path.stat().st_uid != os.getuid():
        raise FolderFault(f"the data folder {path} belongs to another user; choose another with --data")
    return path.resolve()


def identity_of(folder: Path) -> str:
    """A random word, made once: by it a fleet knows this folder's node again. The folder's lock is held."""
    path = folder / "identity"
    if not path.exists():
        temporary = folder / "identity.tmp"
        temporary.write_text(f"{secrets.token_hex(16)}\n", encoding="ascii")
        temporary.replace(path)
    return path.read_text(encoding="ascii").strip()


class FolderLock:
    """Held by the running supervisor, and by offline commands while they work. Released with the process."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "run" / "lock"
        self._fd = -1

    def take(self) -> None:
        """Raises FolderFault when somebody else holds it."""
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(fd)
            raise FolderFault(
                f"the data folder {self._path.parent.parent} is in use by another bursar (process {holder}); "
                "stop it first or choose another with --data"
            ) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._fd = fd

    def release(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

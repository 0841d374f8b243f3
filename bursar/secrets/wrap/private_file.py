"""A file that holds a key as one line of text, readable by its owner alone.

Refused (`wrapper_unsafe`): a file that others can read or that belongs to another user, a symbolic link, a folder that
everybody can write to.
"""

import os
import stat
from pathlib import Path

from bursar.core.secret import Secret
from bursar.secrets.sealing import WrapperError

_MAX_FILE = 4096


def write_private(path: Path, text: Secret) -> None:
    """Make the file, 0600, durable before this returns.

    Raises WrapperError(wrapper_unsafe) for an unsafe folder, FileExistsError when there is one already (a key is never
    overwritten), OSError.
    """
    _check_folder(path)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, 0o600)
        file.write(text.reveal().encode())
        file.flush()
        os.fsync(descriptor)
    _sync_folder(path.parent)


def read_private(path: Path) -> Secret:
    """Its text. Raises WrapperError: wrapper_lost (no file), wrapper_unsafe (open to others)."""
    _check_folder(path)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        hint = "Restore the key file that belongs to this database"
        raise WrapperError("wrapper_lost", f"There is no key file at {path}", hint) from None
    except OSError as error:
        raise _unsafe(path, error.strerror or "it cannot be opened", "Use a plain file, not a link") from None
    try:
        _check_file(path, os.fstat(descriptor))
        return Secret(os.read(descriptor, _MAX_FILE).decode("ascii", "replace"))
    finally:
        os.close(descriptor)


def fields_of(text: Secret, count: int) -> list[str] | None:
    """The words of its one line that is not a note; None when there is not just one, of so many words."""
    lines = [line.split(" ") for line in text.reveal().splitlines() if line and not line.startswith("#")]
    return lines[0] if len(lines) == 1 and len(lines[0]) == count else None


def _unsafe(path: Path, what: str, hint: str) -> WrapperError:
    return WrapperError("wrapper_unsafe", f"The key file {path} is refused: {what}", hint)


def _check_folder(path: Path) -> None:
    try:
        folder = path.parent.stat()
    except OSError as error:
        raise _unsafe(path, f"its folder: {error.strerror}", "Create the folder with mode 0700") from None
    if folder.st_mode & stat.S_IWOTH:
        raise _unsafe(path, "everybody can write to its folder", f"chmod o-w {path.parent}")
    if folder.st_uid not in (0, os.geteuid()):
        raise _unsafe(path, "its folder belongs to another user", "Keep it in a folder of the user Bursar runs as")


def _check_file(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise _unsafe(path, "it is not a plain file", "Use a plain file")
    if status.st_uid != os.geteuid():
        raise _unsafe(path, "it belongs to another user", "Run Bursar as the file's owner")
    if status.st_mode & 0o077:
        raise _unsafe(path, f"others can read it (mode {stat.S_IMODE(status.st_mode):04o})", f"chmod 600 {path}")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

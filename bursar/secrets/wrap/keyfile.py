"""The key-encryption key in a file of its own, readable by its owner alone.

One text line: ``bursar-key-file-1 <id, 16 hex> <key, base64>``; lines with # are for people. The id is computed from
the key, so that a damaged file is noticed when it is loaded. Refused (`wrapper_unsafe`): a file that others can read
or that belongs to another user, a symbolic link, a folder that everybody can write to.
"""

import base64
import binascii
import os
import stat
from pathlib import Path

from bursar.core.secret import Secret
from bursar.ports import Entropy
from bursar.secrets.sealing import WrapperError
from bursar.secrets.wrap.local import KEY_BYTES, LocalWrapper, check_value

_MARK = "bursar-key-file-1"
_MAX_FILE = 4096
_NOTE = (
    "# Bursar's wrapping key. Whoever has this file and secrets.db can open every provider key;\n"
    "# without it nobody can. Keep a copy in another place than the database's backup.\n"
)


class KeyFileWrapper(LocalWrapper):
    """Made by `create` and `load`."""


def create(path: Path, entropy: Entropy) -> KeyFileWrapper:
    """Write a new key file, 0600, durable before this returns, and load it.

    Raises WrapperError(wrapper_unsafe) for an unsafe folder, FileExistsError when there is one already (a key is never
    overwritten), OSError.
    """
    _check_folder(path)
    text = _text(entropy.token_bytes(KEY_BYTES))
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, 0o600)
        file.write(text.reveal().encode())
        file.flush()
        os.fsync(descriptor)
    _sync_folder(path.parent)
    return load(path, entropy)


def load(path: Path, entropy: Entropy) -> KeyFileWrapper:
    """The wrapper of an existing key file.

    Raises WrapperError: wrapper_lost (no file), wrapper_unsafe (open to others), wrapper_wrong (damaged).
    """
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
        text = Secret(os.read(descriptor, _MAX_FILE).decode("ascii", "replace"))
    finally:
        os.close(descriptor)
    wrapper = _read(text, entropy)
    if wrapper is None:
        raise WrapperError("wrapper_wrong", f"{path} is not an intact key file", "Restore it from its copy")
    return wrapper


def _text(key: bytes) -> Secret:
    return Secret(f"{_NOTE}{' '.join(_fields(key))}\n")


def _fields(key: bytes) -> tuple[str, str, str]:
    return _MARK, check_value(key, 8), base64.b64encode(key).decode()


def _read(text: Secret, entropy: Entropy) -> KeyFileWrapper | None:
    lines = [line.split(" ") for line in text.reveal().splitlines() if line and not line.startswith("#")]
    if len(lines) != 1 or len(lines[0]) != 3:
        return None
    mark, stated, encoded = lines[0]
    try:
        key = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return None
    if len(key) != KEY_BYTES or (mark, stated, encoded) != _fields(key):
        return None
    return KeyFileWrapper(f"keyfile:{stated}", key, entropy)


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

"""The key-encryption key in a file of its own, readable by its owner alone (`bursar.secrets.wrap.private_file`).

One text line: ``bursar-key-file-1 <id, 16 hex> <key, base64>``; lines with # are for people. The id is computed from
the key, so that a damaged file is noticed when it is loaded.
"""

import base64
import binascii
from pathlib import Path

from bursar.core.secret import Secret
from bursar.ports import Entropy
from bursar.secrets.sealing import WrapperError
from bursar.secrets.wrap.local import KEY_BYTES, LocalWrapper, check_value
from bursar.secrets.wrap.private_file import fields_of, read_private, write_private

_MARK = "bursar-key-file-1"
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
    write_private(path, _text(entropy.token_bytes(KEY_BYTES)))
    return load(path, entropy)


def load(path: Path, entropy: Entropy) -> KeyFileWrapper:
    """The wrapper of an existing key file.

    Raises WrapperError: wrapper_lost (no file), wrapper_unsafe (open to others), wrapper_wrong (damaged).
    """
    wrapper = _read(read_private(path), entropy)
    if wrapper is None:
        raise WrapperError("wrapper_wrong", f"{path} is not an intact key file", "Restore it from its copy")
    return wrapper


def _text(key: bytes) -> Secret:
    return Secret(f"{_NOTE}{' '.join(_fields(key))}\n")


def _fields(key: bytes) -> list[str]:
    return [_MARK, check_value(key, 8), base64.b64encode(key).decode()]


def _read(text: Secret, entropy: Entropy) -> KeyFileWrapper | None:
    fields = fields_of(text, 3)
    if fields is None:
        return None
    try:
        key = base64.b64decode(fields[2], validate=True)
    except (binascii.Error, ValueError):
        return None
    if len(key) != KEY_BYTES or fields != _fields(key):
        return None
    return KeyFileWrapper(f"keyfile:{fields[1]}", key, entropy)

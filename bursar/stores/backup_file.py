"""A backup as one file: a tar whose last member is the manifest, with the size and the digest of every other.

Nothing is taken from a file before all of it was read and found whole: a cut, a changed or an added byte, a missing or
an unexpected member is `backup_damaged`.
"""

import hashlib
import io
import os
import re
import tarfile
from pathlib import Path
from typing import IO

import msgspec

from bursar.core.errors import Refusal
from bursar.core.restore import BackedUp, Manifest

FORMAT = 1
MANIFEST = "manifest.json"
_NAMES = re.compile(
    r"(secrets|directory|audit|audit-people)\.db|audit-checkpoints\.jsonl|made-ids\.log|journal/journal-\d{8}\.log|manifest\.json"
    r"|audit-chains/[A-Za-z0-9%][\w.%-]{0,250}\.db",
    re.ASCII,
)
_STEP = 1 << 20
_MAX_MANIFEST = 16 << 20


class BackupWriter:
    """Adds members one by one; `finish` writes the manifest. The file is 0600 and never replaces another."""

    def __init__(self, path: Path) -> None:
        """Raises FileExistsError, OSError."""
        self.files: list[BackedUp] = []
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        self._file = os.fdopen(self._descriptor, "wb")
        self._tar = tarfile.TarFile(fileobj=self._file, mode="w", format=tarfile.PAX_FORMAT)

    def add(self, name: str, source: IO[bytes], size: int) -> None:
        """Copy `size` bytes. Raises OSError, also when there are fewer."""
        reader = _Digesting(source)
        self._tar.addfile(_member(name, size), reader)
        self.files.append(BackedUp(name=name, size=size, sha256=reader.digest.hexdigest()))

    def finish(self, manifest: Manifest) -> None:
        """Durable when this returns."""
        raw = msgspec.json.encode(manifest)
        self._tar.addfile(_member(MANIFEST, len(raw)), io.BytesIO(raw))
        self._tar.close()
        self._file.flush()
        os.fsync(self._descriptor)
        self._file.close()

    def abandon(self) -> None:
        self._file.close()


class _Digesting(io.RawIOBase):
    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(size)
        self.digest.update(data)
        return data


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o600
    return member


def read_backup(path: Path) -> Manifest:
    """Read the whole file and prove it whole. Raises Refusal(backup_damaged), OSError."""
    seen: dict[str, BackedUp] = {}
    manifest: Manifest | None = None
    try:
        with path.open("rb") as raw, tarfile.open(fileobj=raw, mode="r:") as tar:
            for member in tar:
                fits = member.isreg() and member.name not in seen and _NAMES.fullmatch(member.name)
                if manifest is not None or not fits:
                    raise _damaged(path, f"the member {member.name[:64]!r} does not belong there")
                source = tar.extractfile(member)
                assert source is not None
                if member.name == MANIFEST:
                    manifest = msgspec.json.decode(source.read(_MAX_MANIFEST), type=Manifest)
                else:
                    seen[member.name] = _digested(member.name, source)
            _check_padding(path, raw, tar.offset)
    except (tarfile.TarError, EOFError, msgspec.MsgspecError) as fault:
        raise _damaged(path, str(fault) or "it is cut off") from None
    if manifest is None:
        raise _damaged(path, "it is cut off")
    if manifest.format != FORMAT:
        raise Refusal("backup_damaged", f"{path.name} has the format {manifest.format}", "Use a newer Bursar")
    if {file.name: file for file in manifest.files} != seen:
        wrong = next((f.name for f in manifest.files if seen.get(f.name) != f), "a member that is not listed")
        raise _damaged(path, f"{wrong} is not as it was written")
    return manifest


def _check_padding(path: Path, raw: IO[bytes], end: int) -> None:
    """Behind the last member nothing but zeros, up to a whole record of the tar. Raises Refusal(backup_damaged)."""
    raw.seek(end)
    while data := raw.read(_STEP):
        if data.strip(b"\0"):
            raise _damaged(path, "something was added to it")
    if raw.tell() % tarfile.RECORDSIZE:
        raise _damaged(path, "it is cut off, or something was added to it")


def _digested(name: str, source: IO[bytes]) -> BackedUp:
    digest, size = hashlib.sha256(), 0
    while data := source.read(_STEP):
        digest.update(data)
        size += len(data)
    return BackedUp(name=name, size=size, sha256=digest.hexdigest())


def extract(path: Path, folder: Path, manifest: Manifest) -> None:
    """Put every file into an empty folder, durable. Raises Refusal(backup_damaged) when the file changed meanwhile."""
    (folder / "journal").mkdir(mode=0o700)
    expected = {file.name: file for file in manifest.files}
    with tarfile.open(path, "r|") as tar:
        for member in tar:
            if member.name == MANIFEST:
                continue
            source = tar.extractfile(member)
            assert source is not None
            (folder / member.name).parent.mkdir(mode=0o700, exist_ok=True)
            if _copied(member.name, source, folder / member.name) != expected.get(member.name):
                raise _damaged(path, "it changed while it was read")
    for room in (*{(folder / name).parent for name in expected}, folder):
        _sync_folder(room)


def _copied(name: str, source: IO[bytes], target: Path) -> BackedUp:
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    digest, size = hashlib.sha256(), 0
    with os.fdopen(descriptor, "wb") as file:
        while data := source.read(_STEP):
            file.write(data)
            digest.update(data)
            size += len(data)
        file.flush()
        os.fsync(descriptor)
    return BackedUp(name=name, size=size, sha256=digest.hexdigest())


def _damaged(path: Path, why: str) -> Refusal:
    message = f"{path.name} is no whole backup: {why}"
    return Refusal("backup_damaged", message, "Use another backup; nothing was restored")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

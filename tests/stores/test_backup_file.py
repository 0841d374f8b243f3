"""A backup is taken from only when all of it is whole, and never replaces a file."""

import io
import stat
import tarfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bursar.core.errors import Refusal
from bursar.core.restore import Manifest
from bursar.stores.backup_file import FORMAT, MANIFEST, BackupWriter, extract, read_backup

PARTS = {
    "secrets.db": b"s" * 5000,
    "journal/journal-00000001.log": bytes(range(256)) * 100,
    "audit.db": b"",
    "made-ids.log": b"x" * 90,
    "audit-chains/b.db": b"c" * 9,
}


def manifest_of(writer: BackupWriter, format_: int = FORMAT) -> Manifest:
    return Manifest(
        format=format_,
        version="1",
        node="main",
        taken_ns=1,
        audit_seq=0,
        audit_hash="",
        directory_version=0,
        wrapped_by=(),
        files=tuple(writer.files),
    )


def written(path: Path) -> bytes:
    writer = BackupWriter(path)
    for name, data in PARTS.items():
        writer.add(name, io.BytesIO(data), len(data))
    writer.finish(manifest_of(writer))
    return path.read_bytes()


def refused(path: Path) -> str:
    with pytest.raises(Refusal) as refusal:
        read_backup(path)
    return refusal.value.word


def test_what_is_written_is_read_and_put_back(tmp_path: Path) -> None:
    written(tmp_path / "b")
    assert stat.S_IMODE((tmp_path / "b").stat().st_mode) == 0o600
    (tmp_path / "to").mkdir()
    extract(tmp_path / "b", tmp_path / "to", read_backup(tmp_path / "b"))
    assert {name: (tmp_path / "to" / name).read_bytes() for name in PARTS} == PARTS
    with pytest.raises(FileExistsError):
        BackupWriter(tmp_path / "b")


def test_every_cut_is_refused(tmp_path: Path) -> None:
    data = written(tmp_path / "b")
    for length in [*range(0, len(data), 512), len(data) - 1]:
        (tmp_path / "b").write_bytes(data[:length])
        assert refused(tmp_path / "b") == "backup_damaged", length


@given(at=st.integers(0, 36_000), bit=st.integers(0, 7))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_flipped_bit_is_refused_or_changes_nothing(tmp_path: Path, at: int, bit: int) -> None:
    """A tar has fields that nobody reads (names of owners): what is put back is as it was, or nothing is."""
    path = tmp_path / "b"
    path.unlink(missing_ok=True)
    data = bytearray(written(path))
    data[at % len(data)] ^= 1 << bit
    path.write_bytes(data)
    with suppress(Refusal):
        manifest = read_backup(path)
        assert {file.name: file.size for file in manifest.files} == {name: len(part) for name, part in PARTS.items()}


def test_what_was_added_behind_is_refused(tmp_path: Path) -> None:
    data = written(tmp_path / "b")
    for more in (b"x", data, bytes(100)):
        (tmp_path / "b").write_bytes(data + more)
        assert refused(tmp_path / "b") == "backup_damaged"


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd", "wrapping.key", "journal/../x.db", "journal/journal-1.log"])
def test_a_member_that_does_not_belong_there_is_refused(tmp_path: Path, name: str) -> None:
    writer = BackupWriter(tmp_path / "b")
    writer.add(name, io.BytesIO(b"x"), 1)
    writer.finish(manifest_of(writer))
    assert refused(tmp_path / "b") == "backup_damaged"


def test_a_link_and_a_later_format_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "link", "w") as tar:
        member = tarfile.TarInfo("secrets.db")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(member)
    assert refused(tmp_path / "link") == "backup_damaged"
    writer = BackupWriter(tmp_path / "later")
    writer.finish(manifest_of(writer, FORMAT + 1))
    assert refused(tmp_path / "later") == "backup_damaged"
    with tarfile.open(tmp_path / "later") as tar:
        assert tar.getnames() == [MANIFEST]

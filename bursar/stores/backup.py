"""Takes a backup of a data folder, also of one that is being served from.

The parts are copied in an order in which each later one knows at least what an earlier one does:

    journal      whole segments, the last one up to its last whole record
    made ids     what providers keep, and whose it is; one that was made since is unknown after a restore
    secrets      by SQLite's backup API, as all databases: one consistent instant each
    directory    knows every budget that the journal names
    checkpoints  of the audit, where they lie in the folder
    audit        every act that the other parts show has its record (the audit is written first)
    chains       of a fleet from which this node's store once came, if it did: they lie still
    people       the keys of the persons in the audit: a key is made before the record that needs it

What is left out can be made anew (`ledger.db`, `audit.jsonl`, `admin.token`), is only there to explain what is past
(`explain.db`), or must never be in it (`wrapping.key`).
"""

import io
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

from bursar.core.errors import Refusal
from bursar.core.restore import Manifest
from bursar.stores.backup_file import FORMAT, BackupWriter
from bursar.stores.journal_segment import HEADER_BYTES, read_frames, read_header, segment_numbers, segment_path
from bursar.stores.made_ids_file import FILE

CHECKPOINTS, PEOPLE, CHAINS = "audit-checkpoints.jsonl", "audit-people.db", "audit-chains"


def take_backup(folder: Path, target: Path, node: str, version: str, now: int, wrapped_by: tuple[str, ...]) -> Manifest:
    """Write `target`, which must not exist. Raises Refusal(backup_failed), FileExistsError, OSError."""
    partial = target.with_name(target.name + ".partial")
    writer = BackupWriter(partial)
    try:
        _add_journal(folder / "journal", writer)
        _add_lines(folder / FILE, writer)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".bursar-backup-") as room:
            heads = _add_databases(folder, Path(room), writer)
        manifest = Manifest(
            format=FORMAT,
            version=version,
            node=node,
            taken_ns=now,
            audit_seq=heads[0],
            audit_hash=heads[1],
            directory_version=heads[2],
            wrapped_by=wrapped_by,
            files=tuple(writer.files),
        )
        writer.finish(manifest)
        target.hardlink_to(partial)  # as a rename, but it never replaces a file
    finally:
        writer.abandon()
        partial.unlink(missing_ok=True)
    return manifest


def _add_journal(folder: Path, writer: BackupWriter) -> None:
    numbers = segment_numbers(folder) if folder.is_dir() else []
    for number in numbers[:-1]:
        path = segment_path(folder, number)
        with path.open("rb") as file:
            writer.add(f"journal/{path.name}", file, path.stat().st_size)
    for number in numbers[-1:]:
        path = segment_path(folder, number)
        data = path.read_bytes()
        read_header(path, data)
        whole = HEADER_BYTES
        for behind, _ in read_frames(data, number, 0, HEADER_BYTES):
            whole = behind
        writer.add(f"journal/{path.name}", io.BytesIO(data[:whole]), whole)


def _add_lines(path: Path, writer: BackupWriter) -> None:
    """A file of lines, where it is there, up to its last whole one."""
    if path.exists():
        data = path.read_bytes()
        data = data[: data.rfind(b"\n") + 1]
        writer.add(path.name, io.BytesIO(data), len(data))


def _add_databases(folder: Path, room: Path, writer: BackupWriter) -> tuple[int, str, int]:
    """-> (seq and hash of the audit's last record, version of the directory)."""
    for name in ("secrets.db", "directory.db"):
        _add_database(folder / name, room, writer)
    _add_lines(folder / CHECKPOINTS, writer)
    _add_database(folder / "audit.db", room, writer)
    for chain in sorted((folder / CHAINS).glob("*.db")):
        _add_database(chain, room, writer, f"{CHAINS}/")
    if (folder / PEOPLE).exists():
        _add_database(folder / PEOPLE, room, writer)
    with closing(sqlite3.connect(room / "audit.db")) as audit:
        row = audit.execute("SELECT seq, hash FROM record ORDER BY seq DESC LIMIT 1").fetchone() or (0, b"")
    with closing(sqlite3.connect(room / "directory.db")) as directory:
        (version,) = directory.execute("SELECT version FROM head").fetchone()
    return row[0], row[1].hex(), version


def _add_database(path: Path, room: Path, writer: BackupWriter, under: str = "") -> None:
    copy = room / under / path.name
    copy.parent.mkdir(mode=0o700, exist_ok=True)
    try:
        with (
            closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=10)) as source,
            closing(sqlite3.connect(copy)) as target,
        ):
            source.backup(target)
            (found,) = target.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.Error as fault:
        raise Refusal("backup_failed", f"{path.name} cannot be copied: {fault}", "See the disk below it") from None
    if found != "ok":
        raise Refusal("backup_failed", f"{path.name} is damaged: {found}", "Restore from the backup before")
    with copy.open("rb") as file:
        writer.add(under + path.name, file, copy.stat().st_size)

"""Backup and restore as the command line does them: on the files, on this machine."""

import asyncio
import shutil
import tempfile
from pathlib import Path

from bursar import __version__
from bursar.app import replay
from bursar.app.clock import SystemClock
from bursar.app.folder import FolderFault, FolderLock
from bursar.app.places import keyfile_path
from bursar.app.settings import read_config
from bursar.config import Config
from bursar.core.errors import Refusal
from bursar.core.restore import Effects, Manifest, Restored
from bursar.faces.cli_backup import BackupDesk, Outcome
from bursar.faces.cli_terminal import Trouble
from bursar.secrets.sealed_file import sealed_under
from bursar.stores.backup import take_backup
from bursar.stores.backup_file import extract, read_backup
from bursar.stores.restore_marker import MarkerFile

_FILE = "Name a file that `bursar backup FILE` has written"
_AUDIT = "Name the audit as another sink has it, a record a line: bursar audit export"


def _embedded(config: str | None, data: str | None) -> tuple[Config, Path]:
    settings = read_config(config, data)
    if settings.store.kind != "embedded":
        hint = "Back up the database with its own tools (pg_dump, PITR); see docs/backup.md"
        raise Trouble("Money, directory and audit of this node lie in PostgreSQL", hint)
    return settings, Path(settings.data).absolute()


def take(config: str | None, data: str | None, file: Path) -> Manifest:
    """Raises Trouble, Faults."""
    settings, folder = _embedded(config, data)
    try:
        if not (folder / "secrets.db").exists():
            raise Trouble(f"{folder} is no data folder of Bursar", "Name it with --data")
        wrapped_by = sorted({name for ids in sealed_under(folder / "secrets.db") for name in ids})
        return take_backup(folder, file.absolute(), settings.node, __version__, SystemClock().now(), tuple(wrapped_by))
    except Refusal as refusal:
        raise _trouble(refusal) from None
    except FileExistsError:
        raise Trouble(f"{file} is there already", "Name another file: a backup replaces nothing") from None
    except OSError as fault:
        raise Trouble(f"The backup cannot be written: {fault.strerror or fault}", "", word="backup_failed") from None


def examine(file: Path) -> Manifest:
    """Read a backup and prove it whole. Raises Trouble."""
    try:
        return read_backup(file)
    except Refusal as refusal:
        raise _trouble(refusal) from None
    except OSError as fault:
        raise Trouble(f"{file} cannot be read: {fault.strerror}", _FILE) from None


def standing(config: str | None, data: str | None) -> list[str]:
    """What lies in the data folder now, but for what every start makes. Raises Trouble, Faults."""
    _, folder = _embedded(config, data)
    return sorted(path.name for path in folder.iterdir() if path.name != "run") if folder.is_dir() else []


def restore(config: str | None, data: str | None, file: Path, manifest: Manifest) -> str:
    """Put the backup in the place of the data folder, paused -> where the present content was moved, "" for none.

    Raises Trouble, Faults. Stopped at any point, the folder is either as before or restored.
    """
    settings, folder = _embedded(config, data)
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FolderLock(folder)
    room = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.restoring-"))
    try:
        if (folder / "run").is_dir():
            lock.take()
        extract(file, room, manifest)
        now = SystemClock().now()
        taken = Restored(restored_ns=now, taken_ns=manifest.taken_ns, node=manifest.node, audit_seq=manifest.audit_seq)
        MarkerFile(room).write(taken)
        key = keyfile_path(settings.wrapper, folder)
        if key.is_relative_to(folder) and key.exists():
            shutil.copy2(key, room / key.relative_to(folder))  # the key stays in its place
        return _swap(room, folder, now)
    except FolderFault as fault:
        raise Trouble(str(fault)) from None
    except Refusal as refusal:
        raise _trouble(refusal) from None
    finally:
        lock.release()
        shutil.rmtree(room, ignore_errors=True)


def _swap(room: Path, folder: Path, now: int) -> str:
    aside = folder.with_name(f"{folder.name}.before-{now}")
    if folder.is_dir():
        folder.rename(aside)
    room.rename(folder)
    if aside.is_dir() and not any(path.name != "run" for path in aside.iterdir()):
        shutil.rmtree(aside)
        return ""
    return str(aside) if aside.is_dir() else ""


def look(config: str | None, data: str | None, file: Path) -> tuple[int, int]:
    """(records behind the backup, instant of the last in ns) of another audit sink. Raises Trouble, Faults."""
    _, folder = _embedded(config, data)
    _, later = _looked(folder, file)
    return len(later.records), later.records[-1].at_ns if later.records else 0


def run_replay(config: str | None, data: str | None, file: Path) -> Outcome:
    """Raises Trouble, Faults."""
    settings, folder = _embedded(config, data)
    lock = FolderLock(folder)
    try:
        (folder / "run").mkdir(mode=0o700, exist_ok=True)
        lock.take()
        marker, later = _looked(folder, file)
        effects, done = asyncio.run(replay.replay(settings, folder, marker, later))
    except FolderFault as fault:
        raise Trouble(str(fault)) from None
    except Refusal as refusal:
        raise _trouble(refusal) from None
    finally:
        lock.release()
    return Outcome(
        records=len(later.records),
        until_ns=done.until_ns,
        off=[f"{kind} {name} ({why})" for kind, table in _tables(effects) for name, why in sorted(table.items())],
        repeat=list(done.repeat),
        released=not effects.unknown,
    )


def _tables(effects: Effects) -> list[tuple[str, dict[str, str]]]:
    return [
        ("key", effects.keys),
        ("team", effects.teams),
        ("admin", effects.admins),
        ("provider key", effects.secrets | dict.fromkeys(effects.destroyed, "destroy")),
    ]


def _looked(folder: Path, file: Path) -> tuple[Restored, replay.Later]:
    try:
        return asyncio.run(replay.look(folder, file))
    except Refusal as refusal:
        raise _trouble(refusal) from None
    except OSError as fault:
        raise Trouble(f"{file} cannot be read: {fault.strerror}", _AUDIT) from None


def _trouble(refusal: Refusal) -> Trouble:
    return Trouble(refusal.message, refusal.hint, word=refusal.word)


DESK = BackupDesk(take, examine, standing, restore, look, run_replay)

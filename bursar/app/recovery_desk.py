"""What the command line does with a recovery key: made, tried and used on this machine, on the files themselves."""

import asyncio
import os
from pathlib import Path

from bursar.app.clock import SystemClock, SystemEntropy
from bursar.app.folder import FolderFault, FolderLock
from bursar.app.settings import read_config
from bursar.app.vault import open_vault
from bursar.core.errors import Refusal
from bursar.faces.cli_terminal import Trouble
from bursar.faces.cli_vault import RecoveryDesk, RecoveryKey
from bursar.secrets.sealed_file import sealed_under, try_on
from bursar.secrets.wrap import recovery


def make(key: RecoveryKey) -> str:
    """Raises Trouble."""
    try:
        if key.passphrase is not None:
            return recovery.create_passphrase(key.passphrase, SystemEntropy()).id
        assert key.file is not None
        return recovery.create_file(key.file.absolute(), SystemEntropy()).id
    except Refusal as refusal:
        raise _trouble(refusal) from None
    except FileExistsError:
        raise Trouble(f"{key.file} is there already", "A key is never overwritten: name another file") from None
    except OSError as fault:
        raise Trouble(f"{key.file} cannot be written: {fault.strerror}") from None


def test(data: Path, key: RecoveryKey) -> tuple[int, int, str]:
    """(values, of which it opens, the first fault). Raises Trouble."""
    database = data / "secrets.db"
    if not database.exists():
        raise Trouble(f"There is no {database}", "Name the data folder with --data")
    try:
        return asyncio.run(try_on(database, _private(key, database)))
    except Refusal as refusal:
        raise _trouble(refusal) from None


def use(config: str | None, data: str | None, key: RecoveryKey) -> int:
    """Bring every value under the configured wrapping key -> how many. Raises Trouble, Faults."""
    settings = read_config(config, data)
    folder = Path(settings.data)
    database = folder / "secrets.db"
    lock = FolderLock(folder)

    async def rewrap_all() -> int:
        besides = [_private(key, database)]
        vault = await open_vault(settings, folder, os.environ.copy(), SystemClock(), SystemEntropy(), besides)
        try:
            return (await vault.store.rewrap()).done
        finally:
            vault.store.close()

    try:
        lock.take()
        return asyncio.run(rewrap_all())
    except FolderFault as fault:
        raise Trouble(str(fault)) from None
    except Refusal as refusal:
        raise _trouble(refusal) from None
    finally:
        lock.release()


def _private(key: RecoveryKey, database: Path) -> recovery.RecoveryWrapper:
    if key.file is not None:
        return recovery.load_file(key.file.absolute())
    assert key.passphrase is not None
    named = {name for ids in sealed_under(database) for name in ids if name.startswith(recovery.PREFIX)}
    if not named:
        raise Trouble("Nothing is sealed under a recovery key yet", "bursar secrets recovery make")
    if len(named) > 1:
        raise Trouble("A change of the recovery key is not done yet", "bursar secrets rewrap")
    return recovery.unlock_passphrase(key.passphrase, named.pop())


def _trouble(refusal: Refusal) -> Trouble:
    return Trouble(refusal.message, refusal.hint, word=refusal.word)


DESK = RecoveryDesk(make, test, use)

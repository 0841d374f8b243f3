"""The file of the embedded store: opened private to its owner, migrated, and written in whole transactions."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bursar.core.errors import Refusal

_MIGRATIONS = Path(__file__).parent / "migrations"


def open_database(path: Path) -> sqlite3.Connection:
    """Open or make the file, 0600 whatever its mode was, at the newest schema.

    Autocommit; write-ahead log; a commit is on the disk when it returns; deleted content is overwritten.
    Raises Refusal(secrets_unavailable).
    """
    with named_faults():
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        os.fchmod(descriptor, 0o600)
        os.close(descriptor)
        database = sqlite3.connect(path, isolation_level=None, timeout=2)
        try:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")
            database.execute("PRAGMA foreign_keys = ON")
            database.execute("PRAGMA secure_delete = ON")
            _migrate(database)
        except BaseException:
            database.close()
            raise
        return database


@contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """All of it or nothing. Raises Refusal(secrets_unavailable) when SQLite fails."""
    with named_faults():
        database.execute("BEGIN IMMEDIATE")
        try:
            yield database
            database.execute("COMMIT")
        except BaseException:
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise


@contextmanager
def reading(database: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Names the faults of a single read. Raises Refusal(secrets_unavailable)."""
    with named_faults():
        yield database


@contextmanager
def named_faults() -> Iterator[None]:
    """Raises Refusal(secrets_unavailable) for what SQLite or the disk refuses."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        message = f"The secret store failed: {error}"
        raise Refusal("secrets_unavailable", message, "See whether its disk is full or its folder read-only") from None


def _migrate(database: sqlite3.Connection) -> None:
    scripts = sorted(_MIGRATIONS.glob("[0-9]*.sql"))
    (seen,) = database.execute("PRAGMA user_version").fetchone()
    if seen > len(scripts):
        raise Refusal("secrets_unavailable", "The secret store was written by a newer Bursar", "Start that version")
    for number, script in enumerate(scripts[seen:], start=seen + 1):
        database.executescript(f"BEGIN IMMEDIATE;\n{script.read_text()}\nPRAGMA user_version = {number};\nCOMMIT;")

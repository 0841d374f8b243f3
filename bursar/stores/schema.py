"""Numbered migrations of an SQLite file: ``NNNN_name.sql`` in a folder, applied in order, each in its transaction.

The file's `user_version` says how many it has seen. A file from a newer Bursar is refused, never guessed at.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MIGRATIONS = Path(__file__).parent / "migrations"


class SchemaFault(Exception):
    """The file cannot be used by this version; the message says why."""


def open_database(path: Path, folder: str) -> sqlite3.Connection:
    """Open (or make, 0600) the file and bring it to the newest schema of `migrations/<folder>`.

    Autocommit; write-ahead log; a commit is on the disk when it returns. Raises SchemaFault or sqlite3.Error.
    """
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        migrate(connection, MIGRATIONS / folder)
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All of it or nothing, with the right to write from the start. Raises sqlite3.Error."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def migrate(connection: sqlite3.Connection, folder: Path) -> int:
    """Apply what is missing -> the version reached."""
    scripts = sorted(folder.glob("[0-9]*.sql"))
    (seen,) = connection.execute("PRAGMA user_version").fetchone()
    if seen > len(scripts):
        raise SchemaFault(f"the file has schema {seen}, this Bursar knows {len(scripts)}: start a newer Bursar on it")
    for number, script in enumerate(scripts[seen:], start=seen + 1):
        if int(script.name[:4]) != number:
            raise SchemaFault(f"{script.name} should have number {number:04d}")
        connection.executescript(f"BEGIN IMMEDIATE;\n{script.read_text()}\nPRAGMA user_version = {number};\nCOMMIT;")
    return len(scripts)

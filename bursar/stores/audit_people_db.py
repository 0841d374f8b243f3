"""The keys under which the audit knows people: `audit-people.db`. A row that is gone is overwritten."""

import sqlite3
from pathlib import Path
from typing import Any

from bursar.core.audit import AuditFailed
from bursar.stores.schema import SchemaFault, open_database


class PeopleDb:
    """Opened at construction. Every call raises AuditFailed when the file cannot be used. Short calls, no thread."""

    def __init__(self, path: Path) -> None:
        try:
            self._db = open_database(path, "people")
            self._db.execute("PRAGMA secure_delete = ON")
        except (sqlite3.Error, SchemaFault, OSError) as error:
            raise _failed(error) from None

    def by_lookup(self, lookup: bytes) -> tuple[str, bytes] | None:
        """(pseudonym, sealed key)"""
        row = self._one("SELECT pseudonym, sealed FROM person WHERE lookup = ?", lookup)
        return None if row is None else (row[0], row[1])

    def by_pseudonym(self, pseudonym: str) -> bytes | None:
        row = self._one("SELECT sealed FROM person WHERE pseudonym = ?", pseudonym)
        return None if row is None else row[0]

    def put(self, lookup: bytes, pseudonym: str, sealed: bytes) -> None:
        self._one("INSERT INTO person (lookup, pseudonym, sealed) VALUES (?, ?, ?)", lookup, pseudonym, sealed)

    def shred(self, pseudonym: str) -> None:
        """The row is overwritten in the file and in its log."""
        self._one("DELETE FROM person WHERE pseudonym = ?", pseudonym)
        self._one("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        self._db.close()

    def _one(self, sql: str, *values: object) -> tuple[Any, ...] | None:
        try:
            row: tuple[Any, ...] | None = self._db.execute(sql, values).fetchone()
        except sqlite3.Error as error:
            raise _failed(error) from None
        return row


def _failed(error: Exception) -> AuditFailed:
    hint = "See whether its disk is full or its folder read-only"
    return AuditFailed(f"audit-people.db failed: {error}", hint, {"sink": "audit-people.db"})

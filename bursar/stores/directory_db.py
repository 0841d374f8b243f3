"""The directory in SQLite: `directory.db`. Every change bumps one version and leaves rows that say what it changed.

One process writes (the data folder's lock); a commit still compares the version it was decided on, so that a second
writer is refused and not merged. Bodies are JSON, so that a person can read the file.
"""

import sqlite3
from pathlib import Path
from typing import cast

from bursar.core.directory import Delta, Edit, Kind, Snapshot
from bursar.core.errors import Refusal
from bursar.stores.directory_rows import deltas_of, digest, edits_of, rows_of, snapshot_of
from bursar.stores.schema import open_database

MAX_DELTAS = 10_000
"""Further behind than this many changes, a reader takes a snapshot instead."""

_UPSERT = """INSERT INTO entity (kind, id, version, body) VALUES (?, ?, ?, ?)
             ON CONFLICT (kind, id) DO UPDATE SET version = excluded.version, body = excluded.body"""
_CHANGE = """INSERT INTO change (version, part, kind, id, before, after, body, action, actor, at_ns)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
_HISTORY = """SELECT version, action, actor, at_ns, kind, id, body, (
                  SELECT b.body FROM change b WHERE b.kind = c.kind AND b.id = c.id AND b.version < c.version
                  ORDER BY b.version DESC LIMIT 1) AS before
              FROM change c WHERE version IN (
                  SELECT DISTINCT version FROM change
                  WHERE version < :before AND (:kind IS NULL OR kind = :kind AND id = :id)
                  ORDER BY version DESC LIMIT :limit)
              ORDER BY version DESC, part"""
_SINCE = "SELECT version, kind, id, body FROM change WHERE version > ? ORDER BY version, part"


class DirectoryDb:
    """Opened at construction; `close()` when done. Errors of SQLite become Refusal(directory_unavailable)."""

    def __init__(self, path: Path) -> None:
        self._db = open_database(path, "directory")

    def close(self) -> None:
        self._db.close()

    def version(self) -> int:
        (version,) = self._db.execute("SELECT version FROM head").fetchone()
        return cast(int, version)

    async def snapshot(self) -> Snapshot:
        return self.load()

    def load(self) -> Snapshot:
        """Everything at the present version, ordered by id."""
        self._db.execute("BEGIN")
        try:
            return snapshot_of(self.version(), self._db.execute("SELECT kind, body FROM entity ORDER BY kind, id"))
        finally:
            self._db.execute("ROLLBACK")

    async def changes_since(self, version: int) -> list[Delta] | None:
        """One Delta for each later version; None when a snapshot is cheaper, or `version` is not of this directory."""
        now = self.version()
        if not 0 <= version <= now or now - version > MAX_DELTAS:
            return None
        names = ("version", "kind", "id", "body")
        return deltas_of(dict(zip(names, row, strict=True)) for row in self._db.execute(_SINCE, (version,)))

    async def commit(self, delta: Delta, actor: str, action: str, at_ns: int) -> None:
        """Make `delta` the present: all of it or nothing. It must be decided on the version before its own.

        Raises Refusal(directory_changed | directory_unavailable).
        """
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._write(delta, (action, actor, at_ns))
                self._db.execute("COMMIT")
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
        except sqlite3.Error as error:
            hint = "Check the disk of the data folder, then repeat the change"
            raise Refusal("directory_unavailable", f"The directory was not written: {error}", hint) from error

    async def history(self, before: int, limit: int, subject: tuple[Kind, str] | None = None) -> list[Edit]:
        """What the `limit` versions below `before` did, newest first; with `subject` those that touched it."""
        kind, entity_id = subject or (None, None)
        rows = self._db.execute(_HISTORY, {"before": before, "limit": limit, "kind": kind, "id": entity_id})
        names = [column[0] for column in rows.description]
        return edits_of(dict(zip(names, row, strict=True)) for row in rows)

    def _write(self, delta: Delta, provenance: tuple[str, str, int]) -> None:
        present = self.version()
        if delta.version != present + 1:
            message = f"The directory is at version {present}, the change was decided on {delta.version - 1}"
            raise Refusal("directory_changed", message, "Repeat the change")
        for part, (kind, entity_id, body) in enumerate(rows_of(delta)):
            before = self._body_digest(kind, entity_id)
            if body is None:
                self._db.execute("DELETE FROM entity WHERE kind = ? AND id = ?", (kind, entity_id))
            else:
                self._db.execute(_UPSERT, (kind, entity_id, delta.version, body))
            self._db.execute(_CHANGE, (delta.version, part, kind, entity_id, before, digest(body), body, *provenance))
        self._db.execute("UPDATE head SET version = ?", (delta.version,))

    def _body_digest(self, kind: str, entity_id: str) -> bytes | None:
        row = self._db.execute("SELECT body FROM entity WHERE kind = ? AND id = ?", (kind, entity_id)).fetchone()
        return None if row is None else digest(row[0])

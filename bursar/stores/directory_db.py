"""The directory in SQLite: `directory.db`. Every change bumps one version and leaves rows that say what it changed.

One process writes (the data folder's lock); a commit still compares the version it was decided on, so that a second
writer is refused and not merged. Bodies are JSON, so that a person can read the file.
"""

import hashlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import msgspec

from bursar.core.directory import KINDS, Delta, Entity, Kind, Snapshot, id_of, kind_of
from bursar.core.errors import Refusal
from bursar.stores.schema import open_database

MAX_DELTAS = 10_000
"""Further behind than this many changes, a reader takes a snapshot instead."""

_UPSERT = """INSERT INTO entity (kind, id, version, body) VALUES (?, ?, ?, ?)
             ON CONFLICT (kind, id) DO UPDATE SET version = excluded.version, body = excluded.body"""
_CHANGE = """INSERT INTO change (version, part, kind, id, before, after, body, action, actor, at_ns)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
_SINCE = "SELECT version, kind, id, body FROM change WHERE version > ? ORDER BY version, part"


class ChangeRow(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the history: who changed what, when. Digests are SHA-256 of the bodies; None = not there."""

    version: int
    kind: str
    id: str
    action: str
    actor: str
    at_ns: int
    before: bytes | None
    after: bytes | None


class DirectoryDb:
    """Opened at construction; `close()` when done. Errors of SQLite become Refusal(directory_unavailable)."""

    def __init__(self, path: Path) -> None:
        self._db = open_database(path, "directory")

    def close(self) -> None:
        self._db.close()

    def version(self) -> int:
        (version,) = self._db.execute("SELECT version FROM head").fetchone()
        return cast(int, version)

    def snapshot(self) -> Snapshot:
        """Everything at the present version, ordered by id."""
        self._db.execute("BEGIN")
        try:
            snapshot = Snapshot(version=self.version())
            for kind, body in self._db.execute("SELECT kind, body FROM entity ORDER BY kind, id"):
                getattr(snapshot, KINDS[kind].field).append(_entity(kind, body))
            return snapshot
        finally:
            self._db.execute("ROLLBACK")

    def changes_since(self, version: int) -> list[Delta] | None:
        """One Delta for each later version; None when a snapshot is cheaper, or `version` is not of this directory."""
        now = self.version()
        if not 0 <= version <= now or now - version > MAX_DELTAS:
            return None
        deltas: list[Delta] = []
        for number, kind, entity_id, body in self._db.execute(_SINCE, (version,)):
            if not deltas or deltas[-1].version != number:
                deltas.append(Delta(version=number))
            if body is None:
                deltas[-1].gone.append((kind, entity_id))
            else:
                getattr(deltas[-1], KINDS[kind].field).append(_entity(kind, body))
        return deltas

    def commit(self, delta: Delta, actor: str, action: str, at_ns: int) -> None:
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

    def history(self, kind: Kind, entity_id: str) -> Iterator[ChangeRow]:
        """What happened to one entity, oldest first."""
        rows = self._db.execute(
            "SELECT version, kind, id, action, actor, at_ns, before, after FROM change"
            " WHERE kind = ? AND id = ? ORDER BY version, part",
            (kind, entity_id),
        )
        for row in rows:
            yield ChangeRow(**dict(zip(ChangeRow.__struct_fields__, row, strict=True)))

    def _write(self, delta: Delta, provenance: tuple[str, str, int]) -> None:
        present = self.version()
        if delta.version != present + 1:
            message = f"The directory is at version {present}, the change was decided on {delta.version - 1}"
            raise Refusal("directory_changed", message, "Repeat the change")
        changes: list[tuple[str, str, bytes | None]] = [(kind, entity_id, None) for kind, entity_id in delta.gone]
        changes += [(kind_of(entity), id_of(entity), msgspec.json.encode(entity)) for entity in _entities(delta)]
        for part, (kind, entity_id, body) in enumerate(changes):
            before = self._body_digest(kind, entity_id)
            if body is None:
                self._db.execute("DELETE FROM entity WHERE kind = ? AND id = ?", (kind, entity_id))
            else:
                self._db.execute(_UPSERT, (kind, entity_id, delta.version, body))
            after = None if body is None else _digest(body)
            self._db.execute(_CHANGE, (delta.version, part, kind, entity_id, before, after, body, *provenance))
        self._db.execute("UPDATE head SET version = ?", (delta.version,))

    def _body_digest(self, kind: str, entity_id: str) -> bytes | None:
        row = self._db.execute("SELECT body FROM entity WHERE kind = ? AND id = ?", (kind, entity_id)).fetchone()
        return None if row is None else _digest(row[0])


def _entities(delta: Delta) -> Iterator[Entity]:
    for row in KINDS.values():
        yield from getattr(delta, row.field)


def _entity(kind: str, body: bytes) -> Entity:
    return msgspec.json.decode(body, type=KINDS[cast(Kind, kind)].type)


def _digest(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()

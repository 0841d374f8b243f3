"""The directory in PostgreSQL: the same rows as `directory_db` has, shared by all nodes of a fleet.

A commit takes the head's row, compares the version it was decided on, and writes entities, history and the set of
paused subjects in one transaction; listeners are notified as it commits. A commit whose answer was lost is looked up by
its id before it is called a failure.

A standby that has become the primary may lack the last versions, and count on from there: what was read before is read
anew as a whole.
"""

import secrets
from typing import Any, cast

import msgspec

from bursar.core.access_tokens import trust_plan
from bursar.core.directory import Delta, Edit, Kind, Snapshot
from bursar.core.errors import Refusal
from bursar.stores.directory_rows import Row, deltas_of, digest, edits_of, rows_of, snapshot_of
from bursar.stores.postgres import AWAY, Connection, Postgres, named_faults, said

MAX_DELTAS = 500
"""Of one answer of `changes_since`."""

PAUSABLE = ("key", "team", "owner", "provider_key")

_HEAD = """SELECT version, left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) AS timeline
           FROM bursar.directory_head WHERE id = 1"""
_TAKE_HEAD = f"{_HEAD} FOR UPDATE"
_ENTITIES = "SELECT kind, body FROM bursar.directory_entity ORDER BY kind, id"
# One statement, so that head and changes are of one moment.
_SINCE = """SELECT h.version AS head, left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) AS timeline,
                c.version, c.kind, c.id, c.body
            FROM bursar.directory_head h
            LEFT JOIN bursar.directory_change c ON c.version > $1 AND c.version <= $2
            ORDER BY c.version, c.part"""
_BEFORE = """SELECT kind, id, body FROM bursar.directory_entity
             WHERE (kind, id) IN (SELECT * FROM unnest($1::text[], $2::text[]))"""
_REMOVE = "DELETE FROM bursar.directory_entity WHERE (kind, id) IN (SELECT * FROM unnest($1::text[], $2::text[]))"
_PUT = """INSERT INTO bursar.directory_entity (kind, id, body, version)
          SELECT *, $4 FROM unnest($1::text[], $2::text[], $3::bytea[])
          ON CONFLICT (kind, id) DO UPDATE SET version = excluded.version, body = excluded.body"""
_CHANGE = """INSERT INTO bursar.directory_change
             (part, kind, id, before, after, body, version, action, actor, at_ns, commit_id)
             SELECT n - 1, kind, id, before, after, body, $6, $7, $8, $9, $10 FROM unnest(
                 $1::text[], $2::text[], $3::bytea[], $4::bytea[], $5::bytea[]
             ) WITH ORDINALITY AS row (kind, id, before, after, body, n)"""
_UNPAUSE = "DELETE FROM bursar.directory_paused WHERE (kind, id) IN (SELECT * FROM unnest($1::text[], $2::text[]))"
_PAUSE = """INSERT INTO bursar.directory_paused (kind, id, reason, version)
            SELECT *, $4 FROM unnest($1::text[], $2::text[], $3::text[])"""
_LATEST = """SELECT DISTINCT ON (kind, id) kind, id, body, version FROM bursar.directory_change
             WHERE kind = ANY($1::text[]) ORDER BY kind, id, version DESC, part DESC"""
_PAUSED = "INSERT INTO bursar.directory_paused (kind, id, reason, version) VALUES ($1, $2, $3, $4)"
_SET_HEAD = "UPDATE bursar.directory_head SET version = $1 WHERE id = 1"
_STANDS = "SELECT EXISTS (SELECT 1 FROM bursar.directory_change WHERE version = $1 AND commit_id = $2)"
_HISTORY = """SELECT version, action, actor, at_ns, kind, id, body, (
                  SELECT b.body FROM bursar.directory_change b
                  WHERE b.kind = c.kind AND b.id = c.id AND b.version < c.version
                  ORDER BY b.version DESC LIMIT 1) AS before
              FROM bursar.directory_change c WHERE version IN (
                  SELECT DISTINCT version FROM bursar.directory_change
                  WHERE version < $1 AND ($3::text IS NULL OR kind = $3 AND id = $4)
                  ORDER BY version DESC LIMIT $2)
              ORDER BY version DESC, part"""
_NOTIFY = "SELECT pg_notify($1, $2)"


def channel_of(store: Postgres) -> str:
    """Where a commit is announced: the name of the channel for LISTEN."""
    return f"{store.address.schema}_directory"


async def pause_all(db: Connection, store: Postgres) -> None:
    """The set of subjects that may not spend, anew from the history: for a directory that was brought here whole."""
    rows = await db.fetch(store.sql(_LATEST), [*PAUSABLE, "trust"], timeout=600)
    paused = [
        ("key" if kind == "trust" else kind, trust_plan(entity_id) if kind == "trust" else entity_id, reason, version)
        for kind, entity_id, body, version in rows
        if (reason := _reason(body))
    ]
    await db.executemany(store.sql(_PAUSED), paused, timeout=600)


class _Disabled(msgspec.Struct):
    """The one field of a body that pauses its subject."""

    disabled: bool = False


class DirectoryPostgres:
    """`bursar.control.directory.DirectoryStore`. The schema must be there (`postgres_schema.migrate`)."""

    def __init__(self, store: Postgres) -> None:
        self._store = store
        self._timeline = ""  # of the database whose versions were read last: see `postgres.TIMELINE`

    async def snapshot(self) -> Snapshot:
        """Everything at one version, ordered by id. Raises Refusal(directory_unavailable)."""
        with named_faults("directory_unavailable", "The directory was not read"):
            async with self._store.transaction() as db:
                await db.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                head = await db.fetchrow(self._store.sql(_HEAD))
                rows = await db.fetch(self._store.sql(_ENTITIES), timeout=60)
        self._timeline = head["timeline"]
        return snapshot_of(head["version"], rows)

    async def changes_since(self, version: int) -> list[Delta] | None:
        """At most MAX_DELTAS later changes; none = that version is the present one, None = it is none of this store."""
        with named_faults("directory_unavailable", "The directory was not read"):
            async with self._store.connection() as db:
                rows = await db.fetch(self._store.sql(_SINCE), version, version + MAX_DELTAS)
        head = rows[0]["head"]
        if self._is_elsewhere(rows[0]["timeline"]):
            return None
        deltas = deltas_of(row for row in rows if row["version"] is not None)
        if head == version:
            return []
        return deltas if deltas and deltas[0].version == version + 1 else None

    async def commit(self, delta: Delta, actor: str, action: str, at_ns: int) -> None:
        """Make `delta` the present, unless the present is not the version before it.

        Raises Refusal(directory_changed | directory_unavailable).
        """
        commit_id = secrets.token_hex(12)
        try:
            async with self._store.transaction() as db:
                await self._write(db, delta, (action, actor, at_ns, commit_id))
        except AWAY as fault:
            if not await self._stands(delta.version, commit_id):
                message = f"The directory was not written: {said(fault)}"
                raise Refusal("directory_unavailable", message, "Look whether the change stands, then repeat") from None

    async def history(self, before: int, limit: int, subject: tuple[Kind, str] | None = None) -> list[Edit]:
        """What the `limit` versions below `before` did, newest first; with `subject` those that touched it."""
        kind, entity_id = subject or (None, None)
        with named_faults("directory_unavailable", "The directory was not read"):
            async with self._store.connection() as db:
                return edits_of(await db.fetch(self._store.sql(_HISTORY), before, limit, kind, entity_id))

    def _is_elsewhere(self, timeline: str) -> bool:
        """Whether these are not the versions that were read before."""
        if not self._timeline:
            self._timeline = timeline
        return self._timeline != timeline

    async def _stands(self, version: int, commit_id: str) -> bool:
        """Whether a commit without an answer was done. Raises Refusal(directory_unavailable) when nobody can tell."""
        with named_faults("directory_unavailable", "Whether the change stands is not known"):
            async with self._store.connection() as db:
                return cast(bool, await db.fetchval(self._store.sql(_STANDS), version, commit_id))

    async def _write(self, db: Connection, delta: Delta, provenance: tuple[str, str, int, str]) -> None:
        sql = self._store.sql
        head = await db.fetchrow(sql(_TAKE_HEAD))
        if delta.version != head["version"] + 1 or self._is_elsewhere(head["timeline"]):
            message = f"The directory is at version {head['version']}, the change was decided on {delta.version - 1}"
            raise Refusal("directory_changed", message, "Repeat the change")
        rows = rows_of(delta)
        kinds, ids, bodies = _columns(rows)
        before = {(row["kind"], row["id"]): digest(row["body"]) for row in await db.fetch(sql(_BEFORE), kinds, ids)}
        await db.execute(sql(_REMOVE), *_columns([row for row in rows if row[2] is None])[:2])
        await db.execute(sql(_PUT), *_columns([row for row in rows if row[2] is not None]), delta.version)
        digests = [before.get((kind, entity_id)) for kind, entity_id, _ in rows], [digest(body) for body in bodies]
        await db.execute(sql(_CHANGE), kinds, ids, *digests, bodies, delta.version, *provenance)
        await self._pause(db, rows, delta.version)
        await db.execute(sql(_SET_HEAD), delta.version)
        await db.execute(_NOTIFY, channel_of(self._store), str(delta.version))

    async def _pause(self, db: Connection, rows: list[Row], version: int) -> None:
        """Keep the set of subjects that may not spend in step with what was written."""
        subjects = [row for row in rows if row[0] in PAUSABLE]
        # The tokens of a trust rule are held under the rule's name among the keys.
        subjects += [("key", trust_plan(entity_id), body) for kind, entity_id, body in rows if kind == "trust"]
        if not subjects:
            return
        paused = [(kind, entity_id, reason) for kind, entity_id, body in subjects if (reason := _reason(body))]
        sql = self._store.sql
        await db.execute(sql(_UNPAUSE), *_columns(subjects)[:2])
        if paused:
            await db.execute(sql(_PAUSE), *_columns(paused), version)


def _reason(body: bytes | None) -> str:
    if body is None:
        return "gone"
    return "disabled" if msgspec.json.decode(body, type=_Disabled).disabled else ""


def _columns(rows: list[Any]) -> tuple[list[Any], list[Any], list[Any]]:
    """Rows of three -> three columns, as unnest() takes them."""
    kinds, ids, rest = zip(*rows, strict=True) if rows else ((), (), ())
    return list(kinds), list(ids), list(rest)

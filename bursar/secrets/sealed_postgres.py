"""The sealed store of a fleet: what `embedded` keeps in a file, in PostgreSQL, in the same seal, shared by all nodes.

Every node needs the same wrapping key (or one of several under which values are sealed). Changes take turns across the
fleet: each is one transaction under one advisory lock, sealing included. A value appears here as `Secret` only.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from typing import Any, Protocol, Self, cast

from bursar.core.errors import Refusal
from bursar.core.provider_keys import EMBEDDED, Put, SecretEntry, check_address, check_apart, check_tags, tag_digest
from bursar.core.secret import Secret
from bursar.ports import Clock, Entropy, KeyWrapper
from bursar.secrets.entry_rows import duplicate, encode_tags, entry_of, fingerprint, new_id
from bursar.secrets.ring import Ringed, count_under
from bursar.secrets.sealed_file import Rewrapped
from bursar.secrets.sealing import open_sealed, rewrap, seal, wrapper_ids
from bursar.secrets.values import check_value

Connection = Any  # asyncpg's own: it has no types


class Database(Protocol):
    """What is needed of `bursar.stores.postgres.Postgres`."""

    def sql(self, text: str) -> str: ...

    def faults(self, word: str, what: str) -> AbstractContextManager[None]: ...

    def connection(self) -> AbstractAsyncContextManager[Connection]: ...

    def transaction(self) -> AbstractAsyncContextManager[Connection]: ...


_TURN = "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))"
_ENTRY = "SELECT id, address, tags, disabled, created_at, updated_at FROM bursar.secret"
_LIVING = _ENTRY + " WHERE id = $1 AND destroyed_at IS NULL"
_ALL = _ENTRY + " WHERE destroyed_at IS NULL ORDER BY address"
_AT = "SELECT id FROM bursar.secret WHERE address = $1 AND destroyed_at IS NULL"
_VERSIONS = "SELECT secret_id, version, state, created_at FROM bursar.secret_version"
_SEALED = """SELECT sealed FROM bursar.secret_version
    WHERE secret_id = $1 AND version = $2 AND sealed IS NOT NULL"""
_LIVE = """SELECT version, sealed FROM bursar.secret_version
    WHERE secret_id = $1 AND sealed IS NOT NULL ORDER BY version"""
_LAST = "SELECT coalesce(max(version), 0) FROM bursar.secret_version WHERE secret_id = $1"
_SAME = """SELECT s.id, s.address, v.version FROM bursar.secret_version v JOIN bursar.secret s ON s.id = v.secret_id
    WHERE v.fingerprint = $1 ORDER BY v.created_at LIMIT 1"""
_TWINS = """SELECT DISTINCT v.fingerprint, s.address FROM bursar.secret_version v
    JOIN bursar.secret s ON s.id = v.secret_id WHERE v.fingerprint IS NOT NULL ORDER BY s.address"""
_NEW = """INSERT INTO bursar.secret AS held (id, address, tags, created_at, updated_at) VALUES ($1, $2, $3, $4, $4)
    ON CONFLICT (id) DO UPDATE SET address = excluded.address, tags = excluded.tags, disabled = false,
    updated_at = excluded.updated_at, destroyed_at = NULL WHERE held.destroyed_at IS NOT NULL RETURNING id"""
_AGE = "UPDATE bursar.secret_version SET state = 'previous' WHERE secret_id = $1 AND state = 'current'"
_ADD = "INSERT INTO bursar.secret_version VALUES ($1, $2, 'current', $3, $4, $5)"
_TOUCH = "UPDATE bursar.secret SET updated_at = $2 WHERE id = $1"
_RESEAL = "UPDATE bursar.secret_version SET sealed = $3 WHERE secret_id = $1 AND version = $2"
_RETAG = "UPDATE bursar.secret SET tags = $2, updated_at = $3 WHERE id = $1"
_SWITCH = "UPDATE bursar.secret SET disabled = $2, updated_at = $3 WHERE id = $1"
_SHRED = """UPDATE bursar.secret_version SET state = 'destroyed', sealed = NULL, fingerprint = NULL
    WHERE secret_id = $1 AND version = ANY($2::integer[])"""
_DESTROY = "UPDATE bursar.secret SET destroyed_at = $2, updated_at = $2 WHERE id = $1"
_INTERNAL = "SELECT sealed FROM bursar.secret_internal WHERE name = $1"
_KEEP = """INSERT INTO bursar.secret_internal VALUES ($1, $2, $3)
    ON CONFLICT (name) DO UPDATE SET sealed = excluded.sealed, created_at = excluded.created_at"""
_EVERY_BLOB = """SELECT 'version' AS kind, secret_id AS id, version, sealed FROM bursar.secret_version
    WHERE sealed IS NOT NULL UNION ALL SELECT 'internal', name, 1, sealed FROM bursar.secret_internal"""
_REPLACE = {
    "version": "UPDATE bursar.secret_version SET sealed = $3 WHERE secret_id = $1 AND version = $2 AND sealed = $4",
    "internal": "UPDATE bursar.secret_internal SET sealed = $3 WHERE name = $1 AND $2 = 1 AND sealed = $4",
}


class SealedPostgres(Ringed):
    """Made by `open`. Calls raise Refusal(secrets_unavailable) when the database does not answer, or SealError.

    It stands in the place of the embedded store, and has its name.
    """

    name = EMBEDDED
    writable = True

    def __init__(
        self,
        database: Database,
        wrappers: Sequence[KeyWrapper],
        clock: Clock,
        entropy: Entropy,
        opening: Sequence[KeyWrapper],
    ) -> None:
        super().__init__(wrappers, opening)
        self._db = database
        self._clock = clock
        self._entropy = entropy
        self._fingerprint_key = Secret("")

    @classmethod
    async def open(
        cls,
        database: Database,
        wrappers: Sequence[KeyWrapper],
        clock: Clock,
        entropy: Entropy,
        opening: Sequence[KeyWrapper] = (),
    ) -> Self:
        """`opening` are further keys that only open. A store that no key opens is refused here, not at first use."""
        store = cls(database, wrappers, clock, entropy, opening)
        random = entropy.token_bytes
        store._fingerprint_key = await store.internal("fingerprint-key", lambda: Secret(random(32).hex()))
        return store

    def close(self) -> None:
        """Nothing is held open: the connections are the database's."""

    # ---- provider keys

    async def put(
        self,
        address: str,
        value: Secret,
        tags: Mapping[str, str],
        allow_duplicate: bool = False,
        secret_id: str | None = None,
    ) -> tuple[str, int]:
        """A new entry; or, where the address is taken, a new current version of that entry, which takes these tags.

        -> (id, version). Raises Refusal: invalid_address, invalid_tags, invalid_secret, duplicate_secret.
        """
        put = _checked(Put(address, value, tags))
        async with self._turn() as db:
            return await self._put(db, put, allow_duplicate, secret_id)

    async def put_many(self, puts: Sequence[Put]) -> list[tuple[str, int]]:
        """`put` for several: all of them or none."""
        check_apart(puts)
        checked = [_checked(put) for put in puts]
        async with self._turn() as db:
            return [await self._put(db, put, False, None) for put in checked]

    async def put_version(self, secret_id: str, value: Secret, allow_duplicate: bool = False) -> int:
        """A new current version under the entry's present tags -> its number."""
        async with self._turn() as db:
            entry = await self._entry(db, secret_id)
            check_value(value, (entry.address, *entry.tags, *entry.tags.values()))
            await self._check_duplicate(db, value, allow_duplicate)
            return await self._add(db, secret_id, tag_digest(entry.address, entry.tags), value)

    async def get(self, secret_id: str, version: int | None = None) -> Secret:
        """The value of the current or the given version. Raises Refusal(secret_not_found)."""
        async with self._reading() as db:
            entry = await self._entry(db, secret_id)
            number = entry.version if version is None else version
            blob = await db.fetchval(self._db.sql(_SEALED), secret_id, number)
        if blob is None:
            raise Refusal("secret_not_found", f"Provider key {secret_id} has no version {number} that can be opened")
        return await open_sealed(blob, secret_id, number, tag_digest(entry.address, entry.tags), self._ring)

    async def entry(self, secret_id: str) -> SecretEntry:
        """Metadata of one entry. Raises Refusal(secret_not_found)."""
        async with self._reading() as db:
            return await self._entry(db, secret_id)

    async def entries(self) -> list[SecretEntry]:
        """Metadata of every entry that is not destroyed, by address."""
        async with self._reading() as db:
            found = await db.fetch(self._db.sql(_VERSIONS + " ORDER BY secret_id, version"))
            rows = await db.fetch(self._db.sql(_ALL))
        versions: dict[str, list[tuple[int, str, int]]] = {}
        for secret_id, number, state, created in found:
            versions.setdefault(secret_id, []).append((number, state, created))
        return [entry_of(tuple(row), versions.get(row["id"], [])) for row in rows]

    async def twins(self) -> list[tuple[str, ...]]:
        """Addresses under which the same value is stored, each group by itself; nothing is opened."""
        found: dict[bytes, list[str]] = {}
        async with self._reading() as db:
            for mark, address in await db.fetch(self._db.sql(_TWINS)):
                found.setdefault(mark, []).append(address)
        return [tuple(addresses) for addresses in found.values() if len(addresses) > 1]

    async def tag(self, secret_id: str, changes: Mapping[str, str | None]) -> SecretEntry:
        """Set tags (None removes one) -> the entry as it is now. Every version is sealed anew, because tags bind."""
        return (await self.tag_many({secret_id: changes}))[0]

    async def tag_many(self, changes: Mapping[str, Mapping[str, str | None]]) -> list[SecretEntry]:
        """`tag` for several entries: all of them or none."""
        async with self._turn() as db:
            for secret_id, changed in changes.items():
                entry = await self._entry(db, secret_id)
                merged = {**entry.tags, **changed}
                tags = check_tags({name: value for name, value in merged.items() if value is not None})
                await self._bind(db, entry, tags)
            return [await self._entry(db, secret_id) for secret_id in changes]

    async def set_disabled(self, secret_id: str, disabled: bool) -> SecretEntry:
        """Switch an entry off or on -> the entry. Raises Refusal(secret_not_found)."""
        async with self._turn() as db:
            await self._entry(db, secret_id)
            await db.execute(self._db.sql(_SWITCH), secret_id, disabled, self._clock.now())
            return await self._entry(db, secret_id)

    async def destroy(self, secret_id: str, version: int | None = None) -> None:
        """Shred one version that is not current, or the whole entry. There is no undo.

        PostgreSQL keeps dead rows until it vacuums, and backups and standbys keep theirs: destroy the key at its
        provider as well. Raises Refusal: secret_not_found, in_use (the current version by itself).
        """
        async with self._turn() as db:
            entry = await self._entry(db, secret_id)
            if version is not None and version == entry.version:
                hint = "Store a newer version first, or destroy the whole entry"
                raise Refusal("in_use", "This is the current version", hint)
            doomed = [v.version for v in entry.versions if v.state != "destroyed" and version in (None, v.version)]
            if not doomed:
                raise Refusal("secret_not_found", f"Provider key {secret_id} has no version {version}")
            await db.execute(self._db.sql(_SHRED), secret_id, doomed)
            if version is None:
                await db.execute(self._db.sql(_DESTROY), secret_id, self._clock.now())

    async def find(self, value: Secret) -> SecretEntry | None:
        """The entry that holds this very value, by keyed fingerprint."""
        async with self._reading() as db:
            row = await db.fetchrow(self._db.sql(_SAME), fingerprint(self._fingerprint_key, value))
            return None if row is None else await self._entry(db, row["id"])

    # ---- Bursar's own small secrets

    async def internal(self, name: str, create: Callable[[], Secret] | None = None) -> Secret:
        """The secret of this name; made by `create` and kept when no node has made it yet.

        Raises Refusal(secret_not_found) when there is none and no `create`.
        """
        secret_id = f"internal/{name}"
        async with self._reading() as db:
            blob = await db.fetchval(self._db.sql(_INTERNAL), name)
        if blob is None and create is None:
            raise Refusal("secret_not_found", f"There is no {name}")
        if blob is None and create is not None:
            async with self._turn() as db:
                blob = await db.fetchval(self._db.sql(_INTERNAL), name)
                if blob is None:
                    value = create()
                    await self._keep(db, name, value)
                    return value
        return await open_sealed(blob, secret_id, 1, tag_digest(secret_id, {}), self._ring)

    async def set_internal(self, name: str, value: Secret) -> None:
        """Replace (or make) the secret of this name."""
        async with self._turn() as db:
            await self._keep(db, name, value)

    # ---- wrapping keys

    async def under(self) -> dict[tuple[str, ...], int]:
        """How many sealed values there are under which wrapping keys."""
        return count_under(row["sealed"] for row in await _blobs(self._db))

    async def rewrap(self, limit: int | None = None) -> Rewrapped:
        """Bring sealed values under just the present wrappers, at most `limit` of them.

        No value is decrypted. Each row is a statement of its own, done rows are skipped: it may be stopped and run
        again, on any node.
        """
        todo = [row for row in await _blobs(self._db) if wrapper_ids(row["sealed"]) != self.sealing]
        turn = todo if limit is None else todo[:limit]
        for kind, secret_id, version, blob in turn:
            moved = await rewrap(blob, self._ring, self._sealers)
            async with self._reading() as db:  # a row that was sealed anew meanwhile is under them already
                await db.execute(self._db.sql(_REPLACE[kind]), secret_id, version, moved, blob)
        return Rewrapped(len(turn), len(todo) - len(turn))

    # ---- inside a turn

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[Connection]:
        """A transaction in which no other node changes anything here."""
        with self._db.faults("secrets_unavailable", "The secret store was not written"):
            async with self._db.transaction() as db:
                await db.execute(_TURN, self._db.sql("bursar.secret"))
                yield db

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[Connection]:
        with self._db.faults("secrets_unavailable", "The secret store was not read"):
            async with self._db.connection() as db:
                yield db

    async def _entry(self, db: Connection, secret_id: str) -> SecretEntry:
        row = await db.fetchrow(self._db.sql(_LIVING), secret_id)
        if row is None:
            raise Refusal(
                "secret_not_found", f"There is no provider key {secret_id[:64]!r}", "See: bursar secrets list"
            )
        versions = await db.fetch(self._db.sql(_VERSIONS + " WHERE secret_id = $1 ORDER BY version"), secret_id)
        return entry_of(tuple(row), [(number, state, created) for _, number, state, created in versions])

    async def _put(self, db: Connection, put: Put, allow_duplicate: bool, secret_id: str | None) -> tuple[str, int]:
        await self._check_duplicate(db, put.value, allow_duplicate)
        present, tags = await db.fetchval(self._db.sql(_AT), put.address), dict(put.tags)
        if present is None:
            secret_id = secret_id or new_id(self._entropy)
            row = (secret_id, put.address, encode_tags(tags), self._clock.now())
            if await db.fetchval(self._db.sql(_NEW), *row) is None:
                raise Refusal("already_exists", f"The id {secret_id} is that of another entry")
        else:
            secret_id = str(present)
            await self._bind(db, await self._entry(db, secret_id), tags)
        return secret_id, await self._add(db, secret_id, tag_digest(put.address, tags), put.value)

    async def _add(self, db: Connection, secret_id: str, digest: bytes, value: Secret) -> int:
        now, sql = self._clock.now(), self._db.sql
        number = cast(int, await db.fetchval(sql(_LAST), secret_id)) + 1
        sealed = await seal(secret_id, number, digest, value, self._sealers, self._entropy)
        await db.execute(sql(_AGE), secret_id)
        await db.execute(sql(_ADD), secret_id, number, sealed, fingerprint(self._fingerprint_key, value), now)
        await db.execute(sql(_TOUCH), secret_id, now)
        return number

    async def _bind(self, db: Connection, entry: SecretEntry, tags: dict[str, str]) -> None:
        """Write the tags and seal every live version under them; each must still open under the old ones."""
        if tags == entry.tags:
            return
        before, after = tag_digest(entry.address, entry.tags), tag_digest(entry.address, tags)
        for number, blob in await db.fetch(self._db.sql(_LIVE), entry.id):
            value = await open_sealed(blob, entry.id, number, before, self._ring)
            sealed = await seal(entry.id, number, after, value, self._sealers, self._entropy)
            await db.execute(self._db.sql(_RESEAL), entry.id, number, sealed)
        await db.execute(self._db.sql(_RETAG), entry.id, encode_tags(tags), self._clock.now())

    async def _check_duplicate(self, db: Connection, value: Secret, allowed: bool) -> None:
        mark = fingerprint(self._fingerprint_key, value)
        row = None if allowed else await db.fetchrow(self._db.sql(_SAME), mark)
        if row is not None:
            raise duplicate(row["id"], row["address"], row["version"])

    async def _keep(self, db: Connection, name: str, value: Secret) -> None:
        secret_id = f"internal/{name}"
        sealed = await seal(secret_id, 1, tag_digest(secret_id, {}), value, self._sealers, self._entropy)
        await db.execute(self._db.sql(_KEEP), name, sealed, self._clock.now())


def _checked(put: Put) -> Put:
    tags = check_tags(put.tags)
    check_value(put.value, (check_address(put.address), *tags, *tags.values()))
    return put._replace(tags=tags)


async def sealed_under(database: Database) -> frozenset[tuple[str, ...]]:
    """By which wrapping keys the values of the store open, each combination once."""
    return frozenset(wrapper_ids(row["sealed"]) for row in await _blobs(database))


async def _blobs(database: Database) -> list[Any]:
    with database.faults("secrets_unavailable", "The secret store was not read"):
        async with database.connection() as db:
            return list(await db.fetch(database.sql(_EVERY_BLOB)))

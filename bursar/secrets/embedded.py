"""The embedded store: provider keys in one SQLite file, each version sealed, metadata in clear.

It is `bursar.ports.SecretStore`. What touches the file is short and synchronous, so it runs on the control process's
own loop, from one thread; sealing may wait for a wrapping key in another house. So a change seals first and then writes
in one transaction, and changes take turns: the store is its file's only writer. A value appears here as `Secret` only.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

from bursar.core.errors import Refusal
from bursar.core.provider_keys import EMBEDDED, Put, SecretEntry, check_address, check_apart, check_tags, tag_digest
from bursar.core.secret import Secret
from bursar.secrets.database import reading, transaction
from bursar.secrets.entry_rows import duplicate, encode_tags, entry_of, fingerprint, new_id
from bursar.secrets.sealed_file import SealedFile
from bursar.secrets.sealing import open_sealed, seal
from bursar.secrets.values import check_value

_NEW = """INSERT INTO secret (id, address, tags, created_at, updated_at) VALUES (?, ?, ?, ?, ?)
          ON CONFLICT (id) DO UPDATE SET address = excluded.address, tags = excluded.tags, disabled = 0,
          updated_at = excluded.updated_at, destroyed_at = NULL WHERE destroyed_at IS NOT NULL"""
_SECRETS = "SELECT id, address, tags, disabled, created_at, updated_at FROM secret"
_VERSIONS = "SELECT secret_id, version, state, created_at FROM version"
_LIVE = "SELECT version, sealed FROM version WHERE secret_id = ? AND sealed IS NOT NULL ORDER BY version"
_SAME = """SELECT s.id, s.address, v.version FROM version v JOIN secret s ON s.id = v.secret_id
           WHERE v.fingerprint = ? ORDER BY v.created_at LIMIT 1"""
_TWINS = """SELECT DISTINCT v.fingerprint, s.address FROM version v JOIN secret s ON s.id = v.secret_id
            WHERE v.fingerprint IS NOT NULL ORDER BY s.address"""


class _Made(NamedTuple):
    """What `put` will write."""

    put: Put
    secret_id: str
    bound: "_Bound | None"  # of the entry that is there already
    number: int
    sealed: bytes


class _Bound(NamedTuple):
    """An entry's tags and its live versions, sealed under them and ready to be written."""

    entry: SecretEntry
    tags: dict[str, str]
    sealed: list[tuple[int, bytes]]


class EmbeddedStore(SealedFile):
    """Made by `open`; `close()` when done."""

    name = EMBEDDED
    writable = True

    async def _prepare(self) -> None:
        random = self._entropy.token_bytes
        self._fingerprint_key = await self.internal("fingerprint-key", lambda: Secret(random(32).hex()))

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
        async with self._turn:
            made = await self._made(Put(address, value, tags), allow_duplicate, secret_id)
            with transaction(self._db):
                return self._write_made(made)

    async def put_many(self, puts: Sequence[Put]) -> list[tuple[str, int]]:
        """`put` for several: all of them or none."""
        check_apart(puts)
        async with self._turn:
            made = [await self._made(put, False, None) for put in puts]
            with transaction(self._db):
                return [self._write_made(one) for one in made]

    async def put_version(self, secret_id: str, value: Secret, allow_duplicate: bool = False) -> int:
        """A new current version under the entry's present tags -> its number.

        Raises Refusal: secret_not_found, invalid_secret, duplicate_secret.
        """
        async with self._turn:
            with reading(self._db):
                entry = self._entry(secret_id)
            check_value(value, (entry.address, *entry.tags, *entry.tags.values()))
            self._check_duplicate(value, allow_duplicate)
            number, sealed = await self._seal_next(secret_id, tag_digest(entry.address, entry.tags), value)
            with transaction(self._db):
                self._write_version(secret_id, number, sealed, value)
            return number

    async def get(self, secret_id: str, version: int | None = None) -> Secret:
        """The value of the current or the given version. Raises Refusal(secret_not_found) or SealError."""
        with reading(self._db):
            entry = self._entry(secret_id)
            number = entry.version if version is None else version
            sql = "SELECT sealed FROM version WHERE secret_id = ? AND version = ? AND sealed IS NOT NULL"
            row = self._db.execute(sql, (secret_id, number)).fetchone()
        if row is None:
            raise Refusal("secret_not_found", f"Provider key {secret_id} has no version {number} that can be opened")
        return await open_sealed(row[0], secret_id, number, tag_digest(entry.address, entry.tags), self._ring)

    async def entry(self, secret_id: str) -> SecretEntry:
        """Metadata of one entry. Raises Refusal(secret_not_found)."""
        with reading(self._db):
            return self._entry(secret_id)

    async def entries(self) -> list[SecretEntry]:
        """Metadata of every entry that is not destroyed, by address."""
        with reading(self._db) as db:
            versions: dict[str, list[tuple[int, str, int]]] = {}
            for secret_id, *rest in db.execute(_VERSIONS + " ORDER BY secret_id, version"):
                versions.setdefault(secret_id, []).append((rest[0], rest[1], rest[2]))
            rows = db.execute(_SECRETS + " WHERE destroyed_at IS NULL ORDER BY address").fetchall()
        return [entry_of(row, versions.get(row[0], [])) for row in rows]

    async def twins(self) -> list[tuple[str, ...]]:
        """Addresses under which the same value is stored, each group by itself; nothing is opened."""
        found: dict[bytes, list[str]] = {}
        with reading(self._db) as db:
            for mark, address in db.execute(_TWINS):
                found.setdefault(mark, []).append(address)
        return [tuple(addresses) for addresses in found.values() if len(addresses) > 1]

    async def tag(self, secret_id: str, changes: Mapping[str, str | None]) -> SecretEntry:
        """Set tags (None removes one) -> the entry as it is now. Every version is sealed anew, because tags bind.

        Raises Refusal: secret_not_found, invalid_tags; SealError when a version does not open under its old tags.
        """
        return (await self.tag_many({secret_id: changes}))[0]

    async def tag_many(self, changes: Mapping[str, Mapping[str, str | None]]) -> list[SecretEntry]:
        """`tag` for several entries: all of them or none."""
        async with self._turn:
            bound = []
            for secret_id, changed in changes.items():
                with reading(self._db):
                    entry = self._entry(secret_id)
                merged = {**entry.tags, **changed}
                tags = check_tags({name: value for name, value in merged.items() if value is not None})
                bound.append(await self._bind(entry, tags))
            with transaction(self._db):
                for each in bound:
                    self._write_bound(each)
                return [self._entry(secret_id) for secret_id in changes]

    async def set_disabled(self, secret_id: str, disabled: bool) -> SecretEntry:
        """Switch an entry off or on -> the entry. Raises Refusal(secret_not_found)."""
        async with self._turn:
            with transaction(self._db) as db:
                self._entry(secret_id)
                sql = "UPDATE secret SET disabled = ?, updated_at = ? WHERE id = ?"
                db.execute(sql, (int(disabled), self._clock.now(), secret_id))
                return self._entry(secret_id)

    async def destroy(self, secret_id: str, version: int | None = None) -> None:
        """Shred one version that is not current, or the whole entry. There is no undo.

        The sealed bytes are overwritten in the file and its log; backups keep theirs.
        Raises Refusal: secret_not_found, in_use (the current version by itself).
        """
        async with self._turn:
            with transaction(self._db) as db:
                entry = self._entry(secret_id)
                if version is not None and version == entry.version:
                    hint = "Store a newer version first, or destroy the whole entry"
                    raise Refusal("in_use", "This is the current version", hint)
                doomed = [v.version for v in entry.versions if v.state != "destroyed" and version in (None, v.version)]
                if not doomed:
                    raise Refusal("secret_not_found", f"Provider key {secret_id} has no version {version}")
                sql = """UPDATE version SET state = 'destroyed', sealed = NULL, fingerprint = NULL
                         WHERE secret_id = ? AND version = ?"""
                db.executemany(sql, [(secret_id, number) for number in doomed])
                if version is None:
                    now = self._clock.now()
                    db.execute("UPDATE secret SET destroyed_at = ?, updated_at = ? WHERE id = ?", (now, now, secret_id))
            with reading(self._db) as db:
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    async def find(self, value: Secret) -> SecretEntry | None:
        """The entry that holds this value in any version that is not destroyed."""
        with reading(self._db) as db:
            row = db.execute(_SAME, (self._fingerprint(value),)).fetchone()
            return None if row is None else self._entry(row[0])

    # ---- in one's turn

    def _entry(self, secret_id: str) -> SecretEntry:
        row = self._db.execute(_SECRETS + " WHERE id = ? AND destroyed_at IS NULL", (secret_id,)).fetchone()
        if row is None:
            raise Refusal(
                "secret_not_found", f"There is no provider key {secret_id[:64]!r}", "See: bursar secrets list"
            )
        versions = self._db.execute(_VERSIONS + " WHERE secret_id = ? ORDER BY version", (secret_id,)).fetchall()
        return entry_of(row, [(number, state, created) for _, number, state, created in versions])

    async def _made(self, put: Put, allow_duplicate: bool, secret_id: str | None) -> _Made:
        """Looked at and sealed, to be written in one transaction with others."""
        address, value = check_address(put.address), put.value
        tags = check_tags(put.tags)
        check_value(value, (address, *tags, *tags.values()))
        self._check_duplicate(value, allow_duplicate)
        with reading(self._db) as db:
            sql = "SELECT id FROM secret WHERE address = ? AND destroyed_at IS NULL"
            row = db.execute(sql, (address,)).fetchone()
            present = None if row is None else self._entry(row[0])
        bound = None if present is None else await self._bind(present, tags)
        secret_id = secret_id or new_id(self._entropy) if row is None else str(row[0])
        number, sealed = await self._seal_next(secret_id, tag_digest(address, tags), value)
        return _Made(Put(address, value, tags), secret_id, bound, number, sealed)

    async def _seal_next(self, secret_id: str, digest: bytes, value: Secret) -> tuple[int, bytes]:
        sql = "SELECT coalesce(max(version), 0) FROM version WHERE secret_id = ?"
        with reading(self._db) as db:
            (last,) = db.execute(sql, (secret_id,)).fetchone()
        number = cast(int, last) + 1
        return number, await seal(secret_id, number, digest, value, self._sealers, self._entropy)

    async def _bind(self, entry: SecretEntry, tags: dict[str, str]) -> _Bound:
        """Every live version sealed under the tags; each must still open under the old ones."""
        if tags == entry.tags:
            return _Bound(entry, tags, [])
        before, after = tag_digest(entry.address, entry.tags), tag_digest(entry.address, tags)
        with reading(self._db) as db:
            live = db.execute(_LIVE, (entry.id,)).fetchall()
        sealed = []
        for number, blob in live:
            value = await open_sealed(blob, entry.id, number, before, self._ring)
            sealed.append((number, await seal(entry.id, number, after, value, self._sealers, self._entropy)))
        return _Bound(entry, tags, sealed)

    # ---- inside a transaction

    def _write_made(self, made: _Made) -> tuple[str, int]:
        put, now = made.put, self._clock.now()
        if made.bound is None:
            row = (made.secret_id, put.address, encode_tags(put.tags), now, now)
            if self._db.execute(_NEW, row).rowcount != 1:
                raise Refusal("already_exists", f"The id {made.secret_id} is that of another entry")
        else:
            self._write_bound(made.bound)
        self._write_version(made.secret_id, made.number, made.sealed, put.value)
        return made.secret_id, made.number

    def _write_version(self, secret_id: str, number: int, sealed: bytes, value: Secret) -> None:
        db, now = self._db, self._clock.now()
        db.execute("UPDATE version SET state = 'previous' WHERE secret_id = ? AND state = 'current'", (secret_id,))
        db.execute(
            "INSERT INTO version VALUES (?, ?, 'current', ?, ?, ?)",
            (secret_id, number, sealed, self._fingerprint(value), now),
        )
        db.execute("UPDATE secret SET updated_at = ? WHERE id = ?", (now, secret_id))

    def _write_bound(self, bound: _Bound) -> None:
        if bound.tags == bound.entry.tags:
            return
        for number, sealed in bound.sealed:
            sql = "UPDATE version SET sealed = ? WHERE secret_id = ? AND version = ?"
            self._db.execute(sql, (sealed, bound.entry.id, number))
        sql = "UPDATE secret SET tags = ?, updated_at = ? WHERE id = ?"
        self._db.execute(sql, (encode_tags(bound.tags), self._clock.now(), bound.entry.id))

    def _check_duplicate(self, value: Secret, allowed: bool) -> None:
        with reading(self._db) as db:
            row = None if allowed else db.execute(_SAME, (self._fingerprint(value),)).fetchone()
        if row is not None:
            raise duplicate(*row)

    def _fingerprint(self, value: Secret) -> bytes:
        return fingerprint(self._fingerprint_key, value)

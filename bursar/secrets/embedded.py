"""The embedded store: provider keys in one SQLite file, each version sealed, metadata in clear.

It is `bursar.ports.SecretStore`. The calls are short and synchronous inside (a read takes well under a millisecond), so
they run on the control process's own loop, from one thread. A value appears here as `Secret` only.
"""

import asyncio
import hmac
from base64 import b32encode
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

import msgspec

from bursar.core.errors import Refusal
from bursar.core.provider_keys import (
    SecretEntry,
    SecretVersion,
    VersionState,
    check_address,
    check_tags,
    tag_digest,
)
from bursar.core.secret import Secret
from bursar.ports import Clock, Entropy, KeyWrapper
from bursar.secrets.database import open_database, reading, transaction
from bursar.secrets.sealing import SealError, open_sealed, rewrap, seal, wrapper_ids

_MAX_VALUE = 64 * 1024
_SECRETS = "SELECT id, address, tags, disabled, created_at, updated_at FROM secret"
_VERSIONS = "SELECT secret_id, version, state, created_at FROM version"
_LIVE = "SELECT version, sealed FROM version WHERE secret_id = ? AND sealed IS NOT NULL ORDER BY version"
_SAME = """SELECT s.id, s.address, v.version FROM version v JOIN secret s ON s.id = v.secret_id
           WHERE v.fingerprint = ? ORDER BY v.created_at LIMIT 1"""
_EVERY_BLOB = """SELECT 'version', rowid, sealed FROM version WHERE sealed IS NOT NULL
                 UNION ALL SELECT 'internal', rowid, sealed FROM internal"""


class EmbeddedStore:
    """Opened at construction; `close()` when done. Raises Refusal(secrets_unavailable) or SealError.

    New versions are sealed under every one of `wrappers`; `opening` are further ones that may only open (the old ones
    during a rewrap). A file that none of them opens is refused here, not at the first use.
    """

    def __init__(
        self,
        path: Path,
        wrappers: Sequence[KeyWrapper],
        clock: Clock,
        entropy: Entropy,
        opening: Sequence[KeyWrapper] = (),
    ) -> None:
        self._clock = clock
        self._entropy = entropy
        self._wrappers = tuple(wrappers)
        self._ring = (*wrappers, *opening)
        self._db = open_database(path)
        try:
            self._fingerprint_key = self.internal("fingerprint-key", lambda: Secret(entropy.token_bytes(32).hex()))
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        self._db.close()

    # ---- provider keys

    async def put(
        self, address: str, value: Secret, tags: Mapping[str, str], allow_duplicate: bool = False
    ) -> tuple[str, int]:
        """A new entry; or, where the address is taken, a new current version of that entry, which takes these tags.

        -> (id, version). Raises Refusal: invalid_address, invalid_tags, invalid_secret, duplicate_secret.
        """
        check_address(address)
        tags = check_tags(tags)
        _check_value(value, (address, *tags, *tags.values()))
        with transaction(self._db) as db:
            self._check_duplicate(value, allow_duplicate)
            row = db.execute("SELECT id FROM secret WHERE address = ? AND destroyed_at IS NULL", (address,)).fetchone()
            if row is None:
                secret_id = "sec_" + b32encode(self._entropy.token_bytes(10)).decode().lower()
                now = self._clock.now()
                sql = "INSERT INTO secret (id, address, tags, created_at, updated_at) VALUES (?, ?, ?, ?, ?)"
                db.execute(sql, (secret_id, address, _encode(tags), now, now))
            else:
                secret_id = row[0]
                self._bind(self._entry(secret_id), tags)
            return secret_id, self._add_version(secret_id, tag_digest(address, tags), value)

    async def put_version(self, secret_id: str, value: Secret, allow_duplicate: bool = False) -> int:
        """A new current version under the entry's present tags -> its number.

        Raises Refusal: secret_not_found, invalid_secret, duplicate_secret.
        """
        with transaction(self._db):
            entry = self._entry(secret_id)
            _check_value(value, (entry.address, *entry.tags, *entry.tags.values()))
            self._check_duplicate(value, allow_duplicate)
            return self._add_version(secret_id, tag_digest(entry.address, entry.tags), value)

    async def get(self, secret_id: str, version: int | None = None) -> Secret:
        """The value of the current or the given version. Raises Refusal(secret_not_found) or SealError."""
        with reading(self._db):
            entry = self._entry(secret_id)
            number = entry.version if version is None else version
            sql = "SELECT sealed FROM version WHERE secret_id = ? AND version = ? AND sealed IS NOT NULL"
            row = self._db.execute(sql, (secret_id, number)).fetchone()
        if row is None:
            raise Refusal("secret_not_found", f"Provider key {secret_id} has no version {number} that can be opened")
        return open_sealed(row[0], secret_id, number, tag_digest(entry.address, entry.tags), self._ring)

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
        return [_entry_of(row, versions.get(row[0], [])) for row in rows]

    async def tag(self, secret_id: str, changes: Mapping[str, str | None]) -> SecretEntry:
        """Set tags (None removes one) -> the entry as it is now. Every version is sealed anew, because tags bind.

        Raises Refusal: secret_not_found, invalid_tags; SealError when a version does not open under its old tags.
        """
        with transaction(self._db):
            entry = self._entry(secret_id)
            merged = {**entry.tags, **changes}
            self._bind(entry, check_tags({name: value for name, value in merged.items() if value is not None}))
            return self._entry(secret_id)

    async def set_disabled(self, secret_id: str, disabled: bool) -> SecretEntry:
        """Switch an entry off or on -> the entry. Raises Refusal(secret_not_found)."""
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

    # ---- Bursar's own small secrets

    def internal(self, name: str, create: Callable[[], Secret]) -> Secret:
        """The secret of this name, made by `create` and kept when there is none yet. Raises SealError."""
        secret_id = f"internal/{name}"
        with transaction(self._db) as db:
            row = db.execute("SELECT sealed FROM internal WHERE name = ?", (name,)).fetchone()
            if row is None:
                value = create()
                self._keep_internal(name, value)
                return value
        return open_sealed(row[0], secret_id, 1, tag_digest(secret_id, {}), self._ring)

    def set_internal(self, name: str, value: Secret) -> None:
        """Replace (or make) the secret of this name: a new admin token, say."""
        with transaction(self._db):
            self._keep_internal(name, value)

    def _keep_internal(self, name: str, value: Secret) -> None:
        secret_id = f"internal/{name}"
        sealed = seal(secret_id, 1, tag_digest(secret_id, {}), value, self._wrappers, self._entropy)
        sql = "INSERT OR REPLACE INTO internal (name, sealed, created_at) VALUES (?, ?, ?)"
        self._db.execute(sql, (name, sealed, self._clock.now()))

    # ---- wrapping keys

    async def rewrap(self) -> int:
        """Bring every sealed value under just the present `wrappers` -> how many were changed.

        No value is decrypted. Each row is a transaction of its own, done rows are skipped: it may be stopped and
        run again. Raises SealError for a row that does not unlock.
        """
        target = tuple(wrapper.id for wrapper in self._wrappers)
        with reading(self._db) as db:
            rows = [row for row in db.execute(_EVERY_BLOB).fetchall() if wrapper_ids(row[2]) != target]
        for table, rowid, blob in rows:
            moved = rewrap(blob, self._ring, self._wrappers)
            with transaction(self._db) as db:
                db.execute(_REPLACE_BLOB[table], (moved, rowid, blob))
            await asyncio.sleep(0)
        return len(rows)

    # ---- inside a transaction

    def _entry(self, secret_id: str) -> SecretEntry:
        row = self._db.execute(_SECRETS + " WHERE id = ? AND destroyed_at IS NULL", (secret_id,)).fetchone()
        if row is None:
            raise Refusal(
                "secret_not_found", f"There is no provider key {secret_id[:64]!r}", "See: bursar secrets list"
            )
        versions = self._db.execute(_VERSIONS + " WHERE secret_id = ? ORDER BY version", (secret_id,)).fetchall()
        return _entry_of(row, [(number, state, created) for _, number, state, created in versions])

    def _add_version(self, secret_id: str, digest: bytes, value: Secret) -> int:
        db, now = self._db, self._clock.now()
        (last,) = db.execute(
            "SELECT coalesce(max(version), 0) FROM version WHERE secret_id = ?", (secret_id,)
        ).fetchone()
        number = cast(int, last) + 1
        sealed = seal(secret_id, number, digest, value, self._wrappers, self._entropy)
        db.execute("UPDATE version SET state = 'previous' WHERE secret_id = ? AND state = 'current'", (secret_id,))
        db.execute(
            "INSERT INTO version VALUES (?, ?, 'current', ?, ?, ?)",
            (secret_id, number, sealed, self._fingerprint(value), now),
        )
        db.execute("UPDATE secret SET updated_at = ? WHERE id = ?", (now, secret_id))
        return number

    def _bind(self, entry: SecretEntry, tags: dict[str, str]) -> None:
        """Write the tags and seal every live version under them; the old ones must still open under the old tags."""
        if tags == entry.tags:
            return
        before, after = tag_digest(entry.address, entry.tags), tag_digest(entry.address, tags)
        for number, blob in self._db.execute(_LIVE, (entry.id,)).fetchall():
            value = open_sealed(blob, entry.id, number, before, self._ring)
            sealed = seal(entry.id, number, after, value, self._wrappers, self._entropy)
            sql = "UPDATE version SET sealed = ? WHERE secret_id = ? AND version = ?"
            self._db.execute(sql, (sealed, entry.id, number))
        sql = "UPDATE secret SET tags = ?, updated_at = ? WHERE id = ?"
        self._db.execute(sql, (_encode(tags), self._clock.now(), entry.id))

    def _check_duplicate(self, value: Secret, allowed: bool) -> None:
        row = None if allowed else self._db.execute(_SAME, (self._fingerprint(value),)).fetchone()
        if row is not None:
            secret_id, address, version = row
            raise Refusal(
                "duplicate_secret",
                f"The same provider key is already stored as {address}, version {version}",
                "Use that entry, or allow the duplicate",
                facts={"secret": secret_id, "address": address, "version": version},
            )

    def _fingerprint(self, value: Secret) -> bytes:
        """Keyed, so that a copied file does not tell whether it holds a key that somebody has found."""
        raw = value.reveal().encode
        return hmac.digest(bytes.fromhex(self._fingerprint_key.reveal()), raw("utf-8", "surrogatepass"), "sha256")


def sealed_under(path: Path) -> tuple[str, ...]:
    """The ids of the wrapping keys that open an existing file, so that the right one can be asked for; () = no file.

    Raises Refusal(secrets_unavailable | tampered | format_unknown).
    """
    if not path.exists():
        return ()
    database = open_database(path)
    try:
        with reading(database) as db:
            blobs = db.execute(_EVERY_BLOB).fetchall()
    finally:
        database.close()
    return tuple(dict.fromkeys(wrapper_id for _, _, blob in blobs for wrapper_id in wrapper_ids(blob)))


_REPLACE_BLOB = {
    "version": "UPDATE version SET sealed = ? WHERE rowid = ? AND sealed = ?",
    "internal": "UPDATE internal SET sealed = ? WHERE rowid = ? AND sealed = ?",
}


def _entry_of(row: Sequence[object], versions: Sequence[tuple[int, str, int]]) -> SecretEntry:
    secret_id, address, tags, disabled, created_at, updated_at = row
    return SecretEntry(
        id=cast(str, secret_id),
        address=cast(str, address),
        tags=_decode(cast(str, tags)),
        version=next((number for number, state, _ in versions if state == "current"), 0),
        versions=tuple(
            SecretVersion(version=number, state=cast(VersionState, state), created_at=created)
            for number, state, created in versions
        ),
        disabled=bool(disabled),
        created_at=cast(int, created_at),
        updated_at=cast(int, updated_at),
    )


def _encode(tags: Mapping[str, str]) -> str:
    return msgspec.json.encode(dict(sorted(tags.items()))).decode()


def _decode(tags: str) -> dict[str, str]:
    try:
        return msgspec.json.decode(tags, type=dict[str, str])
    except msgspec.MsgspecError:
        raise SealError("tags_changed", "The tags of a row cannot be read", "Restore the row from a backup") from None


def _check_value(value: Secret, shown: Sequence[str]) -> None:
    """A value of unknown shape is fine (providers change theirs); what is empty, or shown elsewhere, is not."""
    if not value.reveal().strip():
        raise Refusal("invalid_secret", "The value is empty")
    if len(value.reveal()) > _MAX_VALUE:
        raise Refusal("invalid_secret", f"The value has more than {_MAX_VALUE} characters")
    if value.reveal() != value.reveal().strip() or "\0" in value.reveal():
        raise Refusal("invalid_secret", "The value begins or ends with a blank", "Drop the line end or the blanks")
    if any(value.reveal() in text for text in shown):
        raise Refusal("invalid_secret", "The value also stands in the address or a tag, which are not sealed")

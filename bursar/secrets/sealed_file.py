"""A file of sealed values and the ring of keys that wraps them. Bursar's own small secrets lie in every such file.

New values are sealed under each wrapping key of `wrappers`, the first of which is the node's own; any key of the ring
opens. `rewrap` brings stored values under just the present ones, row by row.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple, Self

from bursar.core.errors import Refusal
from bursar.core.provider_keys import tag_digest
from bursar.core.secret import Secret
from bursar.ports import Clock, Entropy, KeyWrapper
from bursar.secrets.database import named_faults, open_database, reading, transaction
from bursar.secrets.ring import Ringed, count_under
from bursar.secrets.sealing import SealError, check_unlocks, open_sealed, rewrap, seal, wrapper_ids

_EVERY_BLOB = """SELECT 'version', rowid, sealed FROM version WHERE sealed IS NOT NULL
                 UNION ALL SELECT 'internal', rowid, sealed FROM internal"""


class Rewrapped(NamedTuple):
    """How far a rewrap is."""

    done: int  # brought under the present wrappers by this call
    left: int  # not yet


class SealedFile(Ringed):
    """Made by `open`; `close()` when done."""

    def __init__(
        self,
        database: sqlite3.Connection,
        wrappers: Sequence[KeyWrapper],
        clock: Clock,
        entropy: Entropy,
        opening: Sequence[KeyWrapper],
    ) -> None:
        super().__init__(wrappers, opening)
        self._db = database
        self._clock = clock
        self._entropy = entropy
        self._turn = asyncio.Lock()

    @classmethod
    async def open(
        cls,
        path: Path,
        wrappers: Sequence[KeyWrapper],
        clock: Clock,
        entropy: Entropy,
        opening: Sequence[KeyWrapper] = (),
    ) -> Self:
        """`opening` are further keys that only open: the old ones, until a rewrap is done.

        Raises Refusal(secrets_unavailable) or SealError: a file that no key opens is refused here, not at first use.
        """
        file = cls(open_database(path), wrappers, clock, entropy, opening)
        try:
            await file._prepare()
        except BaseException:
            file.close()
            raise
        return file

    async def _prepare(self) -> None:
        """What a kind of file needs to have opened before it is used."""

    def close(self) -> None:
        self._db.close()

    # ---- Bursar's own small secrets

    async def internal(self, name: str, create: Callable[[], Secret] | None = None) -> Secret:
        """The secret of this name; made by `create` and kept when there is none yet.

        Raises SealError; Refusal(secret_not_found) when there is none and no `create`.
        """
        secret_id = f"internal/{name}"
        async with self._turn:
            with reading(self._db) as db:
                row = db.execute("SELECT sealed FROM internal WHERE name = ?", (name,)).fetchone()
            if row is not None:
                return await open_sealed(row[0], secret_id, 1, tag_digest(secret_id, {}), self._ring)
            if create is None:
                raise Refusal("secret_not_found", f"There is no {name}")
            value = create()
            await self._keep_internal(name, value)
            return value

    async def set_internal(self, name: str, value: Secret) -> None:
        """Replace (or make) the secret of this name: a new admin token, say."""
        async with self._turn:
            await self._keep_internal(name, value)

    async def _keep_internal(self, name: str, value: Secret) -> None:
        secret_id = f"internal/{name}"
        sealed = await seal(secret_id, 1, tag_digest(secret_id, {}), value, self._sealers, self._entropy)
        with transaction(self._db) as db:
            sql = "INSERT OR REPLACE INTO internal (name, sealed, created_at) VALUES (?, ?, ?)"
            db.execute(sql, (name, sealed, self._clock.now()))

    # ---- wrapping keys

    async def under(self) -> dict[tuple[str, ...], int]:
        """How many sealed values there are under which wrapping keys."""
        return count_under(blob for _, _, blob in self._blobs())

    async def rewrap(self, limit: int | None = None) -> Rewrapped:
        """Bring sealed values under just the present wrappers, at most `limit` of them.

        No value is decrypted. Each row is a transaction of its own, done rows are skipped: it may be stopped, or
        killed, at any point and run again. Raises SealError for a row that does not unlock.
        """
        todo = [row for row in self._blobs() if wrapper_ids(row[2]) != self.sealing]
        turn = todo if limit is None else todo[:limit]
        for table, rowid, blob in turn:
            moved = await rewrap(blob, self._ring, self._sealers)
            with transaction(self._db) as db:  # a row that was sealed anew meanwhile is under them already
                db.execute(_REPLACE_BLOB[table], (moved, rowid, blob))
            await asyncio.sleep(0)
        return Rewrapped(len(turn), len(todo) - len(turn))

    def _blobs(self) -> list[tuple[str, int, bytes]]:
        with reading(self._db) as db:
            return db.execute(_EVERY_BLOB).fetchall()


def sealed_under(path: Path) -> frozenset[tuple[str, ...]]:
    """By which wrapping keys the values of a file open, each combination once; none for no file.

    Raises Refusal(secrets_unavailable | tampered | format_unknown).
    """
    if not path.exists():
        return frozenset()
    database = open_database(path)
    try:
        with reading(database) as db:
            blobs = db.execute(_EVERY_BLOB).fetchall()
    finally:
        database.close()
    return frozenset(wrapper_ids(blob) for _, _, blob in blobs)


class Tried(NamedTuple):
    """What came of trying a wrapping key on every value of a file."""

    values: int
    opened: int
    fault: str  # of the first that did not; "" = none


async def try_on(path: Path, wrapper: KeyWrapper) -> Tried:
    """Whether this key alone would open everything. No value is decrypted, nothing is written.

    Raises Refusal(secrets_unavailable).
    """
    blobs = _read_only(path)
    opened, faults = 0, []
    for _, _, blob in blobs:
        try:
            await check_unlocks(blob, [wrapper])
            opened += 1
        except SealError as fault:
            faults.append(f"{fault.word}: {fault.message}")
    return Tried(len(blobs), opened, faults[0] if faults else "")


def _read_only(path: Path) -> list[tuple[str, int, bytes]]:
    with named_faults(), closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
        return database.execute(_EVERY_BLOB).fetchall()


_REPLACE_BLOB = {
    "version": "UPDATE version SET sealed = ? WHERE rowid = ? AND sealed = ?",
    "internal": "UPDATE internal SET sealed = ? WHERE rowid = ? AND sealed = ?",
}

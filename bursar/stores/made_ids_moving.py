"""The ids that providers made, on their way between the file of one node and PostgreSQL: all that are known, compared.

Their order, by the time at which they were made, is what the file keeps of when each was made: a team's oldest is
forgotten first on either side. Jobs (`bursar.core.batches`) name holds, which have new numbers on one node: they do not
come along there, and what they would have corrected stays as it was booked.
"""

import hashlib
import os
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

from bursar.core.made_ids import MadeId
from bursar.stores.made_ids_file import FILE, encoded_line, read_lines, write_all
from bursar.stores.moving import LONGEST_S, CannotMove, Progress, Sum, told
from bursar.stores.postgres import Connection, Postgres
from bursar.stores.postgres_made_ids import COLUMNS, made_of, row_of

_ANY = "SELECT EXISTS (SELECT FROM bursar.made_id)"
_ALL = 'SELECT body FROM bursar.made_id {which} ORDER BY made_at, team COLLATE "C", kind COLLATE "C", id COLLATE "C"'
_EVERY, _BUT_JOBS = _ALL.format(which=""), _ALL.format(which="WHERE kind <> 'job'")
_AT_ONCE = 2_000
_WHAT = "ids that providers made"


class _Summing:
    def __init__(self) -> None:
        self._rows = 0
        self._digest = hashlib.sha256()

    def add(self, made: MadeId) -> bytes:
        """-> its line in the file, which is what is compared."""
        line = encoded_line(made)
        self._rows += 1
        self._digest.update(line)
        return line

    def done(self) -> Sum:
        return Sum(self._rows, self._digest.digest())


async def no_ids_there(store: Postgres, db: Connection) -> bool:
    return not await db.fetchval(store.sql(_ANY))


async def bring_ids_there(folder: Path, store: Postgres, db: Connection, progress: Progress | None = None) -> list[Sum]:
    """All or nothing, in the caller's transaction; what a run before has brought is compared only.

    -> what they say; nothing where there is no such file. Raises CannotMove, OSError, or what is in AWAY.
    """
    path = folder / FILE
    if not path.exists():
        return []
    known = _ids_here(path)
    if await no_ids_there(store, db):
        await db.copy_records_to_table(
            "made_id",
            schema_name=store.address.schema,
            records=told((row_of(made) for made in known), _WHAT, progress),
            columns=COLUMNS,
            timeout=LONGEST_S,
        )
    return await _compared(known, store, db, _EVERY, f"there are other {_WHAT} in that database already")


async def bring_ids_here(folder: Path, store: Postgres, db: Connection, progress: Progress | None = None) -> list[Sum]:
    """The same, the other way: written in the folder `moving`, and put in its place when it is whole and on the disk.

    `db` is in a transaction that sees one moment.
    """
    path, partial = folder / FILE, folder / "moving" / FILE
    if path.exists():
        why = f"there is another {path.name} in {path.parent} already"
        return await _compared(_ids_here(path), store, db, _BUT_JOBS, why)
    if await no_ids_there(store, db):
        return []
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        lines = list[bytes]()
        async for made in _ids_there(store, db, _BUT_JOBS):
            lines.append(encoded_line(made))
            if progress is not None and len(lines) % _AT_ONCE == 0:
                progress(_WHAT, len(lines))
        write_all(descriptor, b"".join(lines))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    sums = await _compared(_ids_here(partial), store, db, _BUT_JOBS, f"the {_WHAT} did not arrive as they were")
    partial.rename(path)
    return sums


def _ids_here(path: Path) -> list[MadeId]:
    with path.open("rb") as file:
        known, _ = read_lines(file)
    return sorted(known, key=lambda made: (made.made_at, *(part.encode() for part in made.name)))


async def _ids_there(store: Postgres, db: Connection, which: str) -> AsyncIterator[MadeId]:
    async for (body,) in db.cursor(store.sql(which), prefetch=_AT_ONCE, timeout=LONGEST_S):
        yield made_of(body)


async def _compared(known: Iterable[MadeId], store: Postgres, db: Connection, which: str, why: str) -> list[Sum]:
    here, there = _Summing(), _Summing()
    for made in known:
        here.add(made)
    async for made in _ids_there(store, db, which):
        there.add(made)
    if here.done() != there.done():
        raise CannotMove(why)
    return [here.done()]

"""Who made which provider id, on one node: `made-ids.log`, a line each, read back at the start and held in memory.

    CRC-32 of the rest (8 hex) | space | the id as JSON, or {"gone": [team, kind, id]} | LF

A line is written before `keep` returns: what is in the kernel's hands survives kill -9; under `durability: power` it is
on the disk. A line that is not whole (a crash, a full disk) is passed over: its id is unknown then, which is safe. When
most of the file says nothing any more, it is written anew beside and renamed.

Costs nothing until the first id: no file, no thread, no memory.
"""

import asyncio
import os
from collections.abc import Iterable, Iterator, Sequence
from heapq import nlargest, nsmallest
from pathlib import Path
from zlib import crc32

import msgspec

from bursar.core.errors import Refusal
from bursar.core.made_ids import KINDS, MadeId, MadeKind
from bursar.ports import Clock

FILE = "made-ids.log"
_SPARE_LINES = 20_000  # that may say nothing before the file is written anew
_SLICE = 500  # lines that are encoded at a time: others wait for half a millisecond

_Name = tuple[MadeKind, str]


class _Gone(msgspec.Struct):
    gone: tuple[str, MadeKind, str]


_encode = msgspec.json.Encoder().encode
_made = msgspec.json.Decoder(MadeId).decode
_gone = msgspec.json.Decoder(_Gone).decode


class MadeIdsFile:
    """`bursar.ports.MadeIds`. `most`: ids of one team, and of the node. Nothing is opened before it is needed."""

    def __init__(
        self, path: Path, clock: Clock, *, most_of_team: int, most: int, power: bool = False, spare: int = _SPARE_LINES
    ) -> None:
        self._path = path
        self._clock = clock
        self._most_of_team = most_of_team
        self._most = most
        self._power = power
        self._spare = spare
        self._teams: dict[str, dict[_Name, MadeId]] = {}  # each in the order in which its ids were made
        self._makers: dict[str, tuple[str, ...]] | None = None  # id -> teams; None until somebody asks by the id alone
        self._live = 0
        self._lines = 0  # of the file
        self._descriptor = -1
        self._opening: asyncio.Task[None] | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._meanwhile: list[bytes] | None = None  # written while the file is made anew

    async def keep(self, made: Sequence[MadeId]) -> None:
        """Raises Refusal(ids_unavailable), and then nothing of it is known."""
        await self._opened()
        self._append([encoded_line(one) for one in made])
        for one in made:
            self._take(one)
        await self._settle()

    async def find(self, team: str, kind: MadeKind, made_id: str) -> MadeId | None:
        await self._opened()
        found = self._teams.get(team, {}).get((kind, made_id))
        return found if found is not None and found.expires_at > self._clock.now() else None

    async def any_foreign(self, team: str, ids: Sequence[str]) -> bool:
        await self._opened()
        if self._makers is None:
            self._makers = {}
            for known in self._teams.values():
                for one in known.values():
                    self._list(one.team, one.id)
        makers, now = self._makers, self._clock.now()
        for made_id in ids:
            living = [maker for maker in makers.get(made_id, ()) if self._lives(maker, made_id, now)]
            if living and team not in living:
                return True
        return False

    def _lives(self, team: str, made_id: str, now: int) -> bool:
        known = self._teams[team]
        return any((made := known.get((kind, made_id))) is not None and made.expires_at > now for kind in KINDS)

    async def forget(self, team: str, kind: MadeKind, made_id: str) -> None:
        await self._opened()
        if (kind, made_id) in self._teams.get(team, {}):
            self._append([_line(_encode(_Gone(gone=(team, kind, made_id))))])
            self._drop(team, (kind, made_id))
            await self._settle()

    async def swap(self, old: MadeId, new: MadeId) -> bool:
        await self._opened()
        if self._teams.get(old.team, {}).get((old.kind, old.id)) != old:
            return False
        self._append([encoded_line(new)])  # nothing was awaited since it was looked at
        self._take(new)
        await self._settle()
        return True

    async def listed(
        self, team: str, kind: MadeKind, *, most: int, after: MadeId | None = None, newest_first: bool = True
    ) -> list[MadeId]:
        if self._descriptor < 0 and not self._path.exists():
            return []
        await self._opened()
        now = self._clock.now()
        ids = self._teams.get(team, {}).values()
        known = [one for one in ids if one.kind == kind and one.expires_at > now]
        if after is not None:
            edge = place_of(after)
            known = [one for one in known if (place_of(one) < edge if newest_first else place_of(one) > edge)]
        return (nlargest if newest_first else nsmallest)(most, known, key=place_of)

    async def close(self) -> None:
        if self._renewing is not None:  # not cancelled: a thread may be writing
            await asyncio.gather(self._renewing, return_exceptions=True)
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    # ---- the file

    async def _opened(self) -> None:
        """Read what is there, once; those who come meanwhile wait for it. A failure is tried again by the next."""
        if self._descriptor >= 0:
            return
        if self._opening is None:
            self._opening = asyncio.ensure_future(self._open())
            self._opening.add_done_callback(self._end_opening)
        await asyncio.shield(self._opening)

    def _end_opening(self, done: "asyncio.Task[None]") -> None:
        self._opening = None
        if not done.cancelled():
            done.exception()  # those who waited have been told

    async def _open(self) -> None:
        try:
            descriptor, made, lines = await asyncio.to_thread(_read, self._path)
        except OSError as fault:
            raise _unavailable(fault) from None
        self._lines = lines
        now = self._clock.now()
        for one in made:
            if one.expires_at > now:
                self._take(one)
        self._descriptor = descriptor
        self._renew_if_stale()

    def _append(self, lines: list[bytes]) -> None:
        """All of them or, as far as the file tells, none. Memory follows with nothing awaited in between, so that a
        file made anew holds what the old one does.
        """
        data = b"".join(lines)
        try:
            end = os.lseek(self._descriptor, 0, os.SEEK_END)
            if os.write(self._descriptor, data) != len(data):
                os.ftruncate(self._descriptor, end)
                raise OSError("the disk is full")
            self._lines += len(lines)
            if self._meanwhile is not None:
                self._meanwhile += lines
        except OSError as fault:
            raise _unavailable(fault) from None

    async def _settle(self) -> None:
        self._renew_if_stale()
        if self._power:
            try:
                await self._sync()
            except OSError as fault:
                raise _unavailable(fault) from None

    async def _sync(self) -> None:
        """What was written is on the disk; in both files, where one has just taken the place of the other."""
        synced = -1
        while synced != self._descriptor:
            synced = self._descriptor
            own = os.dup(synced)  # the file may be closed meanwhile
            try:
                await asyncio.to_thread(os.fdatasync, own)
            finally:
                os.close(own)

    # ---- the memory

    def _take(self, made: MadeId) -> None:
        team = self._teams.setdefault(made.team, {})
        name = (made.kind, made.id)
        if team.pop(name, None) is None:  # made again: it moves to the end
            self._live += 1
        team[name] = made
        self._list(made.team, made.id)
        if len(team) > self._most_of_team:
            self._drop(made.team, next(iter(team)))
        elif self._live > self._most:
            largest = max(self._teams, key=lambda one: len(self._teams[one]))
            self._drop(largest, next(iter(self._teams[largest])))

    def _drop(self, team: str, name: _Name) -> None:
        ids = self._teams[team]
        if ids.pop(name, None) is not None:
            self._live -= 1
            self._unlist(team, name[1])
        if not ids:
            del self._teams[team]

    def _list(self, team: str, made_id: str) -> None:
        if self._makers is not None and team not in (makers := self._makers.get(made_id, ())):
            self._makers[made_id] = (*makers, team)

    def _unlist(self, team: str, made_id: str) -> None:
        """A team may have made the same id as things of two kinds."""
        if self._makers is None or any((kind, made_id) in self._teams[team] for kind in KINDS):
            return
        self._makers[made_id] = tuple(maker for maker in self._makers[made_id] if maker != team)
        if not self._makers[made_id]:
            del self._makers[made_id]

    # ---- the file, made anew

    def _renew_if_stale(self) -> None:
        if self._renewing is None and self._lines > 2 * self._live + self._spare:
            self._renewing = asyncio.ensure_future(self._renew())
            self._renewing.add_done_callback(self._end_renewing)

    def _end_renewing(self, done: "asyncio.Task[None]") -> None:
        self._renewing = self._meanwhile = None
        if not done.cancelled() and isinstance(done.exception(), OSError):
            self._lines = 0  # the old file goes on; it is tried again when as much has been written

    async def _renew(self) -> None:
        """Write what is still known into a new file, then what came meanwhile, and take that for the file."""
        now = self._clock.now()
        for team, ids in list(self._teams.items()):
            for name in [name for name, one in ids.items() if one.expires_at <= now]:
                self._drop(team, name)
        known = [one for ids in self._teams.values() for one in ids.values()]
        self._meanwhile = []
        beside = self._path.with_name(self._path.name + ".new")
        descriptor = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            for part in _slices(known):
                lines = b"".join([encoded_line(one) for one in part])
                await asyncio.to_thread(write_all, descriptor, lines)
            await asyncio.to_thread(os.fdatasync, descriptor)
            write_all(descriptor, b"".join(self._meanwhile))  # nothing is awaited from here to the end
            os.rename(beside, self._path)  # noqa: PTH104 - one call, nothing in between
        except BaseException:
            os.close(descriptor)
            raise
        os.close(self._descriptor)
        self._descriptor = descriptor
        self._lines = len(known) + len(self._meanwhile)


def _slices(known: Sequence[MadeId]) -> Iterator[Sequence[MadeId]]:
    for start in range(0, len(known), _SLICE):
        yield known[start : start + _SLICE]


def place_of(made: MadeId) -> tuple[int, str]:
    """Where it stands among those of its kind."""
    return made.made_at, made.id


def encoded_line(made: MadeId) -> bytes:
    """The line that tells of it."""
    return _line(_encode(made))


def _line(body: bytes) -> bytes:
    return b"%08x %b\n" % (crc32(body), body)


def write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _read(path: Path) -> tuple[int, list[MadeId], int]:
    """-> (the file, open for appending, the ids that it tells of in their order, how many lines it has)."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "rb", closefd=False) as file:
            known, lines = read_lines(file)
            file.seek(0, os.SEEK_END)
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            os.write(descriptor, b"\n")  # a line that a crash cut off: the next one begins on its own
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, known, lines


def read_lines(file: Iterable[bytes]) -> tuple[list[MadeId], int]:
    """-> (the ids that are left at the end, in their order; lines read). Lines that are not whole are passed over."""
    known: dict[tuple[str, str, str], MadeId] = {}
    lines = 0
    for lines, line in enumerate(file, 1):  # noqa: B007 - counted
        body = line[9:].removesuffix(b"\n")
        if line[:9] != b"%08x " % crc32(body):
            continue
        try:
            if body.startswith(b'{"gone"'):
                known.pop(_gone(body).gone, None)
            else:
                made = _made(body)
                known.pop(made.name, None)
                known[made.name] = made
        except msgspec.DecodeError:
            continue  # whole, but of a newer Bursar
    return list(known.values()), lines


def _unavailable(fault: OSError) -> Refusal:
    return Refusal(
        "ids_unavailable",
        f"{FILE} cannot be used: {fault.strerror or fault}",
        "See whether the disk of the data folder is full or read-only",
        retry_after=1,
    )

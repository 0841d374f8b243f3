"""Who made which provider id, in a fleet: in PostgreSQL, so that every node knows it before its maker does."""

from collections.abc import Sequence
from contextlib import suppress

import msgspec

from bursar.core.made_ids import MadeId, MadeKind
from bursar.ports import Clock
from bursar.stores.postgres import AWAY, Postgres, named_faults

_KEEP = """INSERT INTO bursar.made_id (team, kind, id, made_at, expires_at, body)
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::text[])
    ON CONFLICT (team, kind, id) DO UPDATE
    SET made_at = excluded.made_at, expires_at = excluded.expires_at, body = excluded.body"""
_FIND = "SELECT body FROM bursar.made_id WHERE team = $1 AND kind = $2 AND id = $3 AND expires_at > $4"
_FOREIGN = """SELECT EXISTS (SELECT FROM bursar.made_id AS other
    WHERE other.id = ANY($2) AND other.team <> $1 AND other.expires_at > $3 AND NOT EXISTS (
        SELECT FROM bursar.made_id AS own WHERE own.id = other.id AND own.team = $1 AND own.expires_at > $3))"""
_FORGET = "DELETE FROM bursar.made_id WHERE team = $1 AND kind = $2 AND id = $3"
_LOCKED = "SELECT body FROM bursar.made_id WHERE team = $1 AND kind = $2 AND id = $3 FOR UPDATE"
_LISTED = """SELECT body FROM bursar.made_id
    WHERE team = $1 AND kind = $2 AND expires_at > $3 AND (made_at, id COLLATE "C") {side} ($4, $5)
    ORDER BY made_at {way}, id COLLATE "C" {way} LIMIT $6"""
_NEWEST_FIRST, _OLDEST_FIRST = _LISTED.format(side="<", way="DESC"), _LISTED.format(side=">", way="ASC")
_LATEST = 2**63 - 1  # ns
_EXPIRE = """DELETE FROM bursar.made_id WHERE (team, kind, id) IN (
    SELECT team, kind, id FROM bursar.made_id WHERE expires_at <= $1 ORDER BY expires_at LIMIT 1000
    FOR UPDATE SKIP LOCKED)"""
_CROWD_OUT = """DELETE FROM bursar.made_id WHERE (team, kind, id) IN (
    SELECT team, kind, id FROM bursar.made_id WHERE team = $1 ORDER BY made_at DESC, kind, id OFFSET $2)"""

_EVERY = 256  # ids kept by this node, of a team, before it looks again for what expired or is too much

made_of = msgspec.json.Decoder(MadeId).decode
COLUMNS = ("team", "kind", "id", "made_at", "expires_at", "body")


class PostgresMadeIds:
    """`bursar.ports.MadeIds`. A team has `most_of_team` ids, and for a moment up to `every` a node more."""

    def __init__(self, store: Postgres, clock: Clock, *, most_of_team: int, every: int = _EVERY) -> None:
        self._store = store
        self._clock = clock
        self._most_of_team = most_of_team
        self._every = every
        self._since: dict[str, int] = {}  # team -> ids kept since this node looked

    async def keep(self, made: Sequence[MadeId]) -> None:
        distinct = {one.name: one for one in made}
        rows = [row_of(distinct[name]) for name in sorted(distinct)]  # one order: two acts never wait for one another
        if not rows:
            return
        with named_faults("ids_unavailable", "The id was not kept"):
            async with self._store.connection() as db:
                await db.execute(self._store.sql(_KEEP), *map(list, zip(*rows, strict=True)))
        for team in {one.team for one in made}:
            await self._look_after(team, len(made))

    async def find(self, team: str, kind: MadeKind, made_id: str) -> MadeId | None:
        with named_faults("ids_unavailable", "The id was not looked up"):
            async with self._store.connection() as db:
                body = await db.fetchval(self._store.sql(_FIND), team, kind, made_id, self._clock.now())
        return None if body is None else made_of(body)

    async def any_foreign(self, team: str, ids: Sequence[str]) -> bool:
        with named_faults("ids_unavailable", "The ids were not looked up"):
            async with self._store.connection() as db:
                return bool(await db.fetchval(self._store.sql(_FOREIGN), team, list(ids), self._clock.now()))

    async def forget(self, team: str, kind: MadeKind, made_id: str) -> None:
        with named_faults("ids_unavailable", "The id was not forgotten"):
            async with self._store.connection() as db:
                await db.execute(self._store.sql(_FORGET), team, kind, made_id)

    async def swap(self, old: MadeId, new: MadeId) -> bool:
        with named_faults("ids_unavailable", "The id may have been changed or not"):
            async with self._store.transaction() as db:
                body = await db.fetchval(self._store.sql(_LOCKED), *old.name)
                if body is None or made_of(body) != old:
                    return False
                await db.execute(self._store.sql(_KEEP), *([value] for value in row_of(new)))
        return True

    async def listed(
        self, team: str, kind: MadeKind, *, most: int, after: MadeId | None = None, newest_first: bool = True
    ) -> list[MadeId]:
        edge = (after.made_at, after.id) if after is not None else (_LATEST if newest_first else 0, "")
        asked = self._store.sql(_NEWEST_FIRST if newest_first else _OLDEST_FIRST)
        with named_faults("ids_unavailable", "The ids were not looked up"):
            async with self._store.connection() as db:
                rows = await db.fetch(asked, team, kind, self._clock.now(), *edge, most)
        return [made_of(row[0]) for row in rows]

    async def _look_after(self, team: str, count: int) -> None:
        """Now and then take away what has expired, and what is beyond a team's share."""
        since = self._since.get(team, self._every) + count  # a node that was just started looks at once
        if since < self._every:
            self._since[team] = since
            return
        self._since[team] = 0
        with suppress(*AWAY):  # the ids are kept; it is done when as many more are
            async with self._store.connection() as db:
                await db.execute(self._store.sql(_EXPIRE), self._clock.now())
                await db.execute(self._store.sql(_CROWD_OUT), team, self._most_of_team)


def row_of(made: MadeId) -> tuple[object, ...]:
    """By COLUMNS."""
    return (*made.name, made.made_at, made.expires_at, msgspec.json.encode(made).decode())

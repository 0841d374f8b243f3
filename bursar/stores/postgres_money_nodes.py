"""The lives of nodes, and who books what a dead one left open.

A session is one life of one node. It is renewed with every act; silent for longer than its lease, it is taken for dead
by whoever notices first: the claim is one conditional update. From then on none of its holds can be made, and those it
left open are posted as `unreconciled`. A node that was only cut off finds its session over, takes a new one, and what
it settles late becomes a correction.

A standby that has become the primary may know nothing of a session that has begun: then its number may be given again.
"""

from collections.abc import Iterable

from bursar.stores.postgres import TIMELINE, Connection, Postgres
from bursar.stores.postgres_money_act import COUNT_BITS

_BEGIN = """INSERT INTO bursar.ledger_session (node, began_ns, seen_ns, lease_ns, last_hold)
    SELECT $1, bursar.ledger_now(), bursar.ledger_now(), $2, 0
    WHERE NOT EXISTS (SELECT FROM bursar.ledger_moving WHERE done_ns IS NULL)
    RETURNING id, began_ns"""
_END = """UPDATE bursar.ledger_session SET ended_ns = bursar.ledger_now(), ended_by = id
    WHERE id = $1 AND ended_ns IS NULL"""
_CLAIM = """UPDATE bursar.ledger_session SET ended_ns = coalesce(ended_ns, bursar.ledger_now()), ended_by = $1
    WHERE id IN (
        SELECT s.id FROM bursar.ledger_session s LEFT JOIN bursar.ledger_session o ON o.id = s.ended_by
        WHERE s.recovered_ns IS NULL AND s.id <> $1 AND (
            (s.ended_ns IS NULL AND s.seen_ns + s.lease_ns < bursar.ledger_now())
            OR (s.ended_ns IS NOT NULL AND (o.ended_ns IS NOT NULL OR o.seen_ns + o.lease_ns < bursar.ledger_now()))
        ) ORDER BY s.id FOR UPDATE OF s SKIP LOCKED
    )"""
_STANDING = """SELECT s.id FROM bursar.ledger_session s
    JOIN unnest($2::integer[], $3::bigint[]) AS mine(id, began_ns) ON mine.id = s.id AND mine.began_ns = s.began_ns
    WHERE s.node = $1"""
_MINE = """SELECT id FROM bursar.ledger_session WHERE recovered_ns IS NULL AND ended_ns IS NOT NULL AND ended_by = $1
    ORDER BY id"""
_LEFT_OPEN = "SELECT id FROM bursar.ledger_hold WHERE id >= $1 AND id < $2 ORDER BY id LIMIT $3"
_OPEN = "SELECT id FROM bursar.ledger_hold WHERE id >= $1 AND id < $2 AND id <> ALL($3::bigint[]) ORDER BY id"
_RECOVERED = "UPDATE bursar.ledger_session SET recovered_ns = bursar.ledger_now() WHERE id = $1"


def first_id(session: int) -> int:
    """No hold of the session has a lower id."""
    return session << COUNT_BITS


class Nodes:
    """Every call raises what is in postgres.AWAY."""

    def __init__(self, store: Postgres, node: str, lease_s: float) -> None:
        self._store = store
        self._node = node
        self._lease_ns = int(lease_s * 1e9)
        self._highest = 0
        self._begun: dict[int, int] = {}  # sessions of this node, and when, by the database's clock

    async def timeline(self, db: Connection) -> str:
        return str(await db.fetchval(TIMELINE))

    async def standing(self, db: Connection) -> set[int]:
        """The sessions of this node that the database has. What it has not, this node never comes back to."""
        rows = await db.fetch(self._store.sql(_STANDING), self._node, list(self._begun), list(self._begun.values()))
        found = {row["id"] for row in rows}
        self._begun = {session: began for session, began in self._begun.items() if session in found}
        return found

    async def open_but(self, db: Connection, session: int, known: Iterable[int]) -> list[int]:
        """Ids of a session's open holds that are not among these."""
        rows = await db.fetch(self._store.sql(_OPEN), first_id(session), first_id(session + 1), list(known))
        return [row["id"] for row in rows]

    async def begin(self) -> int:
        """A new session for this node, of a number that it never had. Raises ConnectionError while a ledger is being
        brought here.
        """
        async with self._store.connection() as db:
            begun = await db.fetchrow(self._store.sql(_BEGIN), self._node, self._lease_ns)
        if begun is None:
            raise ConnectionError(0, "a ledger is half way into this database: finish `bursar store migrate`")
        session: int = begun["id"]
        if session <= self._highest:  # one that a lost primary had given
            return await self.begin()
        self._highest = session
        self._begun[session] = begun["began_ns"]
        return session

    async def end(self, session: int) -> None:
        """This node is done with it; what may still be open of it is for others to book."""
        async with self._store.connection() as db:
            await db.execute(self._store.sql(_END), session)

    async def claim(self, session: int) -> list[int]:
        """Sessions of the dead that are this session's to book: those it claims now, and has claimed before."""
        sql = self._store.sql
        async with self._store.connection() as db:
            await db.execute(sql(_CLAIM), session)
            return [row["id"] for row in await db.fetch(sql(_MINE), session)]

    async def left_open(self, dead: int, most: int) -> list[int]:
        """Ids of holds that a dead session left open; none left = it is marked as recovered."""
        sql = self._store.sql
        async with self._store.connection() as db:
            rows = await db.fetch(sql(_LEFT_OPEN), first_id(dead), first_id(dead + 1), most)
            if not rows:
                await db.execute(sql(_RECOVERED), dead)
        return [row["id"] for row in rows]

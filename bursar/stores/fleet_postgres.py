"""The nodes of a fleet in PostgreSQL: who is there, and whose turn it is. By the database's clock, without sessions.

A name belongs to one data folder at a time: a second node of the same name is refused until the first has left, or has
been silent for its lease.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from bursar.core.errors import Refusal
from bursar.core.fleet import LEASE_S, NodeSeen
from bursar.stores.postgres import Postgres, named_faults

_JOIN = """INSERT INTO bursar.fleet_node AS n (name, identity, version, host, directory_version, gateways, lease)
    VALUES ($1, $2, $3, $4, 0, 0, make_interval(secs => $5))
    ON CONFLICT (name) DO UPDATE SET identity = excluded.identity, version = excluded.version, host = excluded.host,
        directory_version = 0, gateways = 0, joined_at = now(), seen_at = now(), lease = excluded.lease
    WHERE n.identity = excluded.identity OR n.seen_at + n.lease < now()
    RETURNING name"""
_HOLDER = "SELECT host, extract(epoch FROM now() - seen_at)::integer AS ago FROM bursar.fleet_node WHERE name = $1"
_BEAT = """UPDATE bursar.fleet_node SET seen_at = now(), directory_version = $3, gateways = $4
    WHERE name = $1 AND identity = $2 RETURNING name"""
_LEAVE = "DELETE FROM bursar.fleet_node WHERE name = $1 AND identity = $2"
_NODES = """SELECT name, version, host, directory_version, gateways,
        (extract(epoch FROM joined_at) * 1000000)::bigint * 1000 AS joined_ns,
        (extract(epoch FROM seen_at) * 1000000)::bigint * 1000 AS seen_ns, seen_at + lease >= now() AS live
    FROM bursar.fleet_node WHERE seen_at > now() - interval '7 days' ORDER BY name"""
_TAKE_TURN = """INSERT INTO bursar.fleet_turn AS t (name, node, until)
    VALUES ($1, $2, now() + make_interval(secs => $3))
    ON CONFLICT (name) DO UPDATE SET node = excluded.node, until = excluded.until WHERE t.until <= now()
    RETURNING name"""
_END_TURN = "UPDATE bursar.fleet_turn SET until = now() WHERE name = $1 AND node = $2"
_WAIT_S = 0.2


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """What a node says of itself when it joins."""

    name: str
    identity: str  # of the data folder
    version: str
    host: str


class FleetPostgres:
    """Every call raises Refusal(store_unavailable) when the database does not answer."""

    def __init__(self, store: Postgres, me: Identity, lease_s: float = LEASE_S) -> None:
        self._store = store
        self._me = me
        self._lease_s = lease_s

    async def join(self, patience_s: float = 0.0) -> None:
        """Take the node's name; wait that long for another holder to leave or fall silent.

        Raises Refusal(node_name_taken).
        """
        deadline = asyncio.get_running_loop().time() + patience_s
        while not await self._try_join():
            if asyncio.get_running_loop().time() >= deadline:
                raise await self._taken()
            await asyncio.sleep(_WAIT_S)

    async def beat(self, directory_version: int, gateways: int) -> bool:
        """Say that this node lives; False when another has its name now."""
        me = self._me
        with named_faults("store_unavailable", "The node could not be renewed"):
            async with self._store.connection() as db:
                row = await db.fetchval(self._store.sql(_BEAT), me.name, me.identity, directory_version, gateways)
        return row is not None

    async def leave(self) -> None:
        """The node stops: its name is free, and its share goes to the others."""
        with named_faults("store_unavailable", "The node could not be signed off"):
            async with self._store.connection() as db:
                await db.execute(self._store.sql(_LEAVE), self._me.name, self._me.identity)

    async def nodes(self) -> list[NodeSeen]:
        """Every node seen within a week, by name."""
        with named_faults("store_unavailable", "The nodes were not read"):
            async with self._store.connection() as db:
                rows = await db.fetch(self._store.sql(_NODES))
        return [NodeSeen(**row) for row in rows]

    async def take_turn(self, name: str, seconds: float) -> bool:
        """Whether this node may do it: nobody else may within that time. For what is done once a day in a fleet."""
        with named_faults("store_unavailable", "The turn could not be taken"):
            async with self._store.connection() as db:
                taken = await db.fetchval(self._store.sql(_TAKE_TURN), name, self._me.name, seconds)
        return taken is not None

    @asynccontextmanager
    async def alone(self, name: str, most_s: float = 30.0) -> AsyncIterator[None]:
        """Wait for the turn, and give it back at the end. A node that dies in it holds it for `most_s` at most."""
        while not await self.take_turn(name, most_s):  # noqa: ASYNC110 - of another node's doing
            await asyncio.sleep(_WAIT_S)
        try:
            yield
        finally:
            with named_faults("store_unavailable", "The turn could not be given back"):
                async with self._store.connection() as db:
                    await db.execute(self._store.sql(_END_TURN), name, self._me.name)

    async def _try_join(self) -> bool:
        me = self._me
        with named_faults("store_unavailable", "The node could not join"):
            async with self._store.connection() as db:
                sql = self._store.sql(_JOIN)
                return await db.fetchval(sql, me.name, me.identity, me.version, me.host, self._lease_s) is not None

    async def _taken(self) -> Refusal:
        name = self._me.name
        async with self._store.connection() as db:
            row = await db.fetchrow(self._store.sql(_HOLDER), name)
        where = f", seen on {row['host']} {row['ago']} s ago" if row is not None else ""
        return Refusal(
            "node_name_taken",
            f"Another node of this fleet is called {name!r}{where}",
            "Give each node its own `node:` in bursar.yaml",
        )

"""Many nodes: what one keeps in its data folder lies in PostgreSQL, and the folder holds what is the node's own."""

import asyncio
import socket
from collections.abc import Callable, MutableMapping, Sequence
from pathlib import Path

from bursar import __version__
from bursar.app.audit_copies import AuditCopies
from bursar.app.database import address_of
from bursar.app.places import checkpoints_path
from bursar.app.spec import NodeSpec
from bursar.app.stores import Follow, Stores
from bursar.app.vault import open_vault
from bursar.control.directory import Directory
from bursar.control.fleet import Membership
from bursar.control.follow import follow
from bursar.core.errors import Refusal
from bursar.ports import Clock, Entropy, KeyWrapper
from bursar.secrets.sealed_postgres import SealedPostgres, sealed_under
from bursar.stores.audit_postgres import AuditPostgres
from bursar.stores.decisions_postgres import DecisionsPostgres
from bursar.stores.directory_postgres import DirectoryPostgres, channel_of
from bursar.stores.fleet_postgres import FleetPostgres, Identity
from bursar.stores.ledger_postgres import LedgerPostgres
from bursar.stores.postgres import Postgres, named_faults
from bursar.stores.postgres_listen import Listener
from bursar.stores.postgres_money_outbox import Outbox
from bursar.stores.postgres_schema import PARTS, migrate


async def open_postgres(spec: NodeSpec, env: MutableMapping[str, str], clock: Clock, entropy: Entropy) -> Stores:
    """Brings the schema forward and joins the fleet. Raises SealError, Refusal, SchemaFault."""
    store = Postgres(address_of(spec, env, "control"))
    try:
        return await _open(store, spec, env, clock, entropy)
    except BaseException:
        await store.close()
        raise


async def _open(
    store: Postgres, spec: NodeSpec, env: MutableMapping[str, str], clock: Clock, entropy: Entropy
) -> Stores:
    with named_faults("store_unavailable", "The tables could not be made or brought forward"):
        for part in PARTS:
            await migrate(store, part)
        await _check_whole(store)
    me = Identity(name=spec.node, identity=spec.identity, version=__version__, host=socket.gethostname())
    fleet = Membership(FleetPostgres(store, me))
    await fleet.join()
    async with fleet.alone("vault"):  # of nodes that start at once on an empty store, one makes the secrets
        vault = await open_vault(spec.config, Path(spec.data), env, clock, entropy, place=_InDatabase(store))
    rows = DirectoryPostgres(store)
    trail = AuditPostgres(store, spec.node, spec.config.audit.timeout)
    return Stores(
        vault=vault,
        trail=trail,
        prunable=trail,
        jobs=AuditCopies(store, checkpoints_path(spec.config, Path(spec.data)), spec.node),
        directory=rows,
        present=await rows.snapshot(),
        ledger=LedgerPostgres(store),
        decisions=DecisionsPostgres(store),
        news=Outbox(store, spec.node),
        fleet=fleet,
        follow=_follow(store, clock),
        close=store.close,
    )


async def _check_whole(store: Postgres) -> None:
    """No node begins on a store of which a part may be missing. Raises Refusal(store_unavailable)."""
    async with store.connection() as db:
        half = await db.fetchval(store.sql("SELECT EXISTS (SELECT FROM bursar.store_moving WHERE done_at IS NULL)"))
    if half:
        hint = "Finish `bursar store migrate --from embedded --to postgres`"
        raise Refusal("store_unavailable", "A store is half way into this database", hint)


class _InDatabase:
    """The sealed store that all nodes share."""

    def __init__(self, store: Postgres) -> None:
        self._store = store

    async def under(self) -> frozenset[tuple[str, ...]]:
        return await sealed_under(self._store)

    async def open(
        self, wrappers: Sequence[KeyWrapper], clock: Clock, entropy: Entropy, opening: Sequence[KeyWrapper]
    ) -> SealedPostgres:
        return await SealedPostgres.open(self._store, wrappers, clock, entropy, opening)


def _follow(store: Postgres, clock: Clock) -> Follow:
    async def both(directory: Directory, confirm: Callable[[float], None]) -> None:
        listener = Listener(store, channel_of(store))
        async with asyncio.TaskGroup() as group:
            group.create_task(listener.run())
            group.create_task(follow(directory, listener, clock, confirm))

    return both

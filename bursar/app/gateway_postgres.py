"""Composition root of the gateway of a node among many: money, and the ids that providers made, in PostgreSQL."""

import os
import sys
from pathlib import Path

from bursar.app.backing import OnEvent
from bursar.app.database import address_of
from bursar.app.gateway import main
from bursar.app.spec import NodeSpec
from bursar.ports import Clock
from bursar.stores.postgres import Postgres
from bursar.stores.postgres_made_ids import PostgresMadeIds
from bursar.stores.postgres_money import PostgresMoney


class Shared:
    """`bursar.app.backing.Backing` of a fleet."""

    def __init__(self, store: Postgres, money: PostgresMoney, made_ids: PostgresMadeIds) -> None:
        self._store = store
        self.money = money
        self.made_ids = made_ids

    async def start(self) -> None:
        await self.money.start()

    async def close(self) -> None:
        await self.money.close()
        await self._store.close()


def open_shared(spec: NodeSpec, clock: Clock, on_event: OnEvent) -> Shared:
    """Raises Refusal when the settings of the store cannot be used.

    What owners are told goes by the database (`bursar.control.ledger_news`), not by this process, which may die.
    """
    del on_event
    store = Postgres(address_of(spec, os.environ, "gateway"))
    money = PostgresMoney(store, spec.node, folder=Path(spec.data) / "journal")
    made_ids = PostgresMadeIds(store, clock, most_of_team=spec.config.ids.most_of_team)
    return Shared(store, money, made_ids)


if __name__ == "__main__":
    sys.exit(main(open_shared))

"""What the tests of the money store of many nodes share: nodes on one database, and how they die."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from bursar.control.verify_ledger_rows import RowsReport, verify_rows
from bursar.core.ledger import LedgerEvent
from bursar.core.secret import Secret
from bursar.stores.postgres import Address, Postgres
from bursar.stores.postgres_money import PostgresMoney
from bursar.stores.postgres_schema import migrate


class Nodes:
    """Nodes on one database, each with connections of its own."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.told: list[LedgerEvent] = []
        self.stores: list[Postgres] = []
        self.living: list[PostgresMoney] = []

    async def start(self, url: str = "", **settings: Any) -> PostgresMoney:
        store = Postgres(Address(url=Secret(url or self.url), application="node", **settings.pop("address", {})))
        self.stores.append(store)
        settings = {"hold_s": 10.0} | settings  # a busy machine is no fault
        money = PostgresMoney(store, f"node-{len(self.stores)}", on_event=self.told.append, **settings)
        self.living.append(money)
        await money.start()
        return money

    async def kill(self, money: PostgresMoney) -> None:
        """As kill -9: nothing is said to the database any more."""
        self.living.remove(money)
        tasks = list(money._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        money._runner._drop()

    async def sql(self, statement: str, *arguments: object) -> Any:
        db = await asyncpg.connect(self.url)
        try:
            return await db.fetch(statement, *arguments)
        finally:
            await db.close()

    async def verify(self) -> RowsReport:
        for money in self.living:
            if not money.down:
                await money.settled()
        db = await asyncpg.connect(self.url)
        try:
            report = await verify_rows(db)
        finally:
            await db.close()
        assert report.problem is None, report.problem
        return report

    async def close(self) -> None:
        await asyncio.gather(*(money.close() for money in self.living))
        await asyncio.gather(*(store.close() for store in self.stores))


@asynccontextmanager
async def nodes_on(url: str) -> AsyncIterator[Nodes]:
    first = Postgres(Address(url=Secret(url)))
    for part in ("directory", "money"):
        await migrate(first, part)
    await first.close()
    nodes = Nodes(url)
    try:
        yield nodes
    finally:
        await nodes.close()


async def until(true: Callable[[], Any], seconds: float = 20.0) -> None:
    """Polls; `true` may be a coroutine function."""
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        found = true()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return
        assert asyncio.get_running_loop().time() < deadline, "it did not come true"
        await asyncio.sleep(0.01)

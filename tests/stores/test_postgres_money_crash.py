"""PostgreSQL itself killed and started again under load, and reached through a pooler: nothing is lost or leaks."""

import asyncio
import random
import signal
from collections.abc import Iterator

import pytest

from bursar.core.ledger import Held
from tests.pooler import Pooler
from tests.postgres import PostgresServer
from tests.stores.journal_kit import budget, settled
from tests.stores.postgres_money_kit import nodes_on, until
from tests.stores.test_postgres_money import tried


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    """One that may be killed."""
    server = PostgresServer()
    try:
        yield server.start()
    finally:
        server.close()


async def test_what_was_told_as_held_is_there_after_the_database_was_killed(own_server: PostgresServer) -> None:
    dice = random.Random(3)
    async with nodes_on(own_server.new_database()) as nodes:
        two = [await nodes.start(lease_s=2.0) for _ in range(2)]
        for money in two:
            money.define(budget(10**9))
        held: list[int] = []
        posted: list[int] = []
        going = True

        async def caller(place: int) -> None:
            money = two[place % 2]
            while going:
                got = await tried(money, 100)
                if not isinstance(got, Held):
                    await asyncio.sleep(0.02)
                    continue
                held.append(got.hold_id)
                await asyncio.sleep(dice.random() * 0.02)
                cost = dice.randint(0, 100)
                money.post(got.hold_id, settled(cost))
                posted.append(cost)

        callers = [asyncio.create_task(caller(place)) for place in range(24)]
        for _ in range(3):
            before = len(held)
            await until(lambda before=before: len(held) > before + 200)
            await asyncio.to_thread(own_server.stop, signal.SIGQUIT)
            await asyncio.sleep(0.2)
            await asyncio.to_thread(own_server.start)
        before = len(held)
        await until(lambda: len(held) > before + 200)
        going = False
        await asyncio.gather(*callers)
        await until(lambda: not any(money.down or money._runner.unsettled for money in two))
        report = await nodes.verify()
        made = {row["hold_id"] for row in await nodes.sql("SELECT hold_id FROM bursar.ledger WHERE kind = 4")}
        assert len(set(held)) == len(held)
        assert made >= set(held)
        assert report.open_holds == 0
        (total,) = [total for total in report.budgets if total.id == "b"]
        assert total.spent + total.adjusted == sum(posted)
        assert report.counts.unreconciled == report.counts.corrections == 0


async def test_behind_a_pooler_in_transaction_mode_nothing_relies_on_a_connection(
    postgres_server: PostgresServer, database: str
) -> None:
    """litellm 18708 and 14325: too many connections. Two nodes and all that they do share three of them."""
    async with Pooler(postgres_server.port, database.rpartition("/")[2]) as pooler, nodes_on(database) as nodes:
        two = [await nodes.start(pooler.url, address={"pooler": True}) for _ in range(2)]
        for money in two:
            for n in range(20):
                money.define(budget(1000, f"b{n}"))
        answers = await asyncio.gather(*(tried(two[n % 2], 90, "b0", f"b{1 + n % 19}") for n in range(1, 60)))
        held = [n for n, answer in enumerate(answers, 1) if isinstance(answer, Held)]
        assert len(held) == 11
        for n in held:
            two[n % 2].post(answers[n - 1].hold_id, settled(10))
        await asyncio.gather(*(money.settled() for money in two))
        report = await nodes.verify()
        assert (report.counts.posted, report.open_holds) == (11, 0)
        assert pooler.lent > 20

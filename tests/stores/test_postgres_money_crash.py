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
from tests.stores.postgres_money_kit import Nodes, nodes_on, until
from tests.stores.test_postgres_money import tried


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    """One that may be killed."""
    server = PostgresServer()
    try:
        yield server.start()
    finally:
        server.close()


@pytest.mark.parametrize("level", ["on", "off"])
async def test_what_was_told_as_held_is_there_after_the_database_was_killed(
    own_server: PostgresServer, level: str
) -> None:
    """Locks are let go before the log is on disk, callers are told after. `off` in the database is overruled."""
    dice = random.Random(3)
    url = own_server.new_database()
    own_server.psql(f"ALTER DATABASE {url.rpartition('/')[2]} SET synchronous_commit = {level}")
    async with nodes_on(url) as nodes:
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


async def test_nothing_is_told_before_a_synchronous_standby_has_it_and_no_budget_stays_locked_meanwhile(
    own_server: PostgresServer,
) -> None:
    """The standby is one that never comes."""
    async with nodes_on(own_server.new_database()) as nodes:
        money = await nodes.start(hold_s=5.0)
        money.define(budget(10**9))
        told: list[int] = []

        async def until_refused() -> str:
            while isinstance(got := await tried(money, 10), Held):
                told.append(got.hold_id)
            return got

        waiting = asyncio.create_task(until_refused())
        await until(lambda: told)
        _standby(own_server, "nobody")
        await until(lambda: _counts(nodes, "pg_stat_activity WHERE wait_event = 'SyncRep' AND query LIKE 'CALL%'"), 60)
        free = "SELECT count(*) FROM (SELECT FROM bursar.ledger_budget FOR UPDATE NOWAIT) b"
        assert own_server.psql(f"SET synchronous_commit = local; {free}", nodes.url.rpartition("/")[2]) == "1"
        assert await waiting == "store_unavailable"
        made = {row["hold_id"] for row in await nodes.sql("SELECT hold_id FROM bursar.ledger WHERE kind = 4")}
        assert made > set(told)  # the act was done, and others saw it; its caller was not told

        _standby(own_server, "")
        await until(lambda: not money.down, 60)
        for hold_id in told:
            money.post(hold_id, settled(10))
        report = await nodes.verify()
        assert (report.open_holds, report.counts.posted, report.counts.voided) == (0, len(told), len(made) - len(told))


async def _counts(nodes: Nodes, of: str) -> int:
    return int((await nodes.sql(f"SELECT count(*) FROM {of}"))[0][0])


def _standby(server: PostgresServer, name: str) -> None:
    server.psql(f"ALTER SYSTEM SET synchronous_standby_names = '{name}'")
    server.psql("SELECT pg_reload_conf()")


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

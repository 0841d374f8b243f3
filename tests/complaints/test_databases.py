"""Stores that were overrun by what asked them (docs/complaints.md, 3.8).

Slow and dead ones are in `tests/stores`, where they stand with what each of them promises.
"""

import asyncio
from collections.abc import AsyncIterator

import pytest

from bursar.core.ledger import Held
from bursar.stores.postgres_money import PostgresMoney
from tests.stores.journal_kit import budget, settled
from tests.stores.postgres_money_kit import Nodes, nodes_on
from tests.stores.test_postgres_money import sums, tried

MANY = 3_000
ASKED = 60
READ = """SELECT coalesce(sum(seq_tup_read), 0) AS rows FROM pg_stat_user_tables
    WHERE schemaname = 'bursar' AND (relname LIKE 'ledger%' OR relname LIKE 'directory%')"""


@pytest.fixture
async def nodes(database: str) -> AsyncIterator[Nodes]:
    async with nodes_on(database) as opened:
        yield opened


async def read_through(nodes: Nodes, money: PostgresMoney) -> int:
    """Rows that were read by going through whole tables, as the server counts them once the node's session tells."""
    db = money._runner._db
    assert db is not None
    await db.execute("SELECT pg_stat_force_next_flush()")
    (row,) = await nodes.sql(READ)
    return int(row["rows"])


async def test_a_hold_among_many_rows_reads_few(nodes: Nodes) -> None:
    """litellm 35766: an index was missing, and each request went through a whole table."""
    money = await nodes.start()
    names = [f"b{n}" for n in range(MANY)]
    for name in names:
        money.define(budget(10**9, name))
    for first in range(0, MANY, 500):
        held = await asyncio.gather(*(tried(money, 10, name) for name in names[first : first + 500]))
        for n, hold in enumerate(held):
            assert isinstance(hold, Held), hold
            if n % 2:
                money.post(hold.hold_id, settled(5))
    await money.settled()
    await nodes.sql("ANALYZE")
    warm = [await tried(money, 10, name) for name in names[:ASKED]]
    await money.settled()
    before = await read_through(nodes, money)
    for hold, name in zip(warm, names[ASKED : 2 * ASKED], strict=True):
        assert isinstance(hold, Held)
        money.post(hold.hold_id, settled(5))
        assert isinstance(await tried(money, 10, name), Held)
    await money.settled()
    grown = await read_through(nodes, money) - before
    assert grown < ASKED * MANY / 10, f"{ASKED} holds read {grown} rows"
    assert (await sums(money, names[1]))[0] >= 5

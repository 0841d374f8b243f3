"""The primary is lost with its disk, and its synchronous standby, which has all that was told, takes over."""

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from bursar.core.ledger import Held
from bursar.providers.emulator import read_bill
from bursar.stores.postgres_money import PostgresMoney
from tests.e2e.tenants import Tenants
from tests.faults.books import until as polled
from tests.fleet.chaos import PATIENCE, Crowd, books_of, covered, made_keys
from tests.fleet.standby import Pair, ReplicatedFleet
from tests.stores.journal_kit import budget, settled
from tests.stores.postgres_money_kit import Nodes, nodes_on, until
from tests.stores.test_postgres_money import tried

CEILING = 100


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    try:
        yield made
    finally:
        made.close()


class Load:
    """Callers on two nodes: what each hold was told, and what it was settled for."""

    def __init__(self, nodes: Nodes, money: list[PostgresMoney]) -> None:
        self._nodes, self._money = nodes, money
        self._dice = random.Random(5)
        self._going = True
        self.held: list[int] = []
        self.posted: dict[int, int] = {}
        self._callers = [asyncio.create_task(self._call_on(place)) for place in range(24)]

    async def _call_on(self, place: int) -> None:
        money = self._money[place % len(self._money)]
        while self._going:
            got = await tried(money, CEILING)
            if not isinstance(got, Held):
                await asyncio.sleep(0.02)
                continue
            self.held.append(got.hold_id)
            await asyncio.sleep(self._dice.random() * 0.02)
            cost = self.posted[got.hold_id] = self._dice.randint(0, CEILING)
            money.post(got.hold_id, settled(cost))

    async def more(self, holds: int = 200) -> None:
        before = len(self.held)
        await until(lambda: len(self.held) > before + holds, 90)

    async def over(self) -> None:
        """Nothing is on its way any more, and whatever was left open has been booked."""
        self._going = False
        await asyncio.gather(*self._callers)
        await until(lambda: not any(money.down or money._runner.unsettled for money in self._money), 90)
        await until(self._none_open, 90)

    async def _none_open(self) -> bool:
        return not await self._nodes.sql("SELECT FROM bursar.ledger_hold")

    async def in_the_ledger(self) -> dict[int, int]:
        """Every hold that has a row, and what it cost in the end."""
        rows = await self._nodes.sql(
            """SELECT h.hold_id, coalesce(sum(e.amount), 0)::bigint AS cost FROM bursar.ledger h
            LEFT JOIN bursar.ledger e ON e.hold_id = h.hold_id AND e.kind IN (6, 8) WHERE h.kind = 4 GROUP BY 1"""
        )
        return {row["hold_id"]: row["cost"] for row in rows}


async def test_every_hold_and_settle_that_was_told_is_on_the_synchronous_standby(pair: Pair) -> None:
    async with nodes_on(pair.url) as nodes:
        await asyncio.to_thread(pair.be_synchronous)
        two = [await nodes.start(lease_s=2.0) for _ in range(2)]
        for money in two:
            money.define(budget(10**9))
        load = Load(nodes, two)
        await load.more()
        await asyncio.to_thread(pair.fail_over)
        await load.more()
        await load.over()
        report = await nodes.verify()
        ledger = await load.in_the_ledger()
        assert len(set(load.held)) == len(load.held)
        assert ledger.keys() >= set(load.held)
        assert {hold: ledger[hold] for hold in load.posted} == load.posted
        assert report.open_holds == 0


def test_brokers_go_on_at_the_standby_and_the_ledger_is_not_below_the_bill(tmp_path: Path, pair: Pair) -> None:
    """Under load; by themselves: the URL of the store names both, and says that the one that writes is meant."""
    with ReplicatedFleet(tmp_path, pair, ("a", "b")) as fleet:
        fleet.start()
        pair.be_synchronous()
        keys, _ = made_keys(Tenants(fleet.nodes[0]))
        crowd = Crowd(fleet.nodes, keys, "standby")
        crowd.start()
        try:
            polled(lambda: crowd.seen["whole"] >= 60, PATIENCE, "a first few calls to be served")
            pair.fail_over()
            whole = crowd.seen["whole"]
            polled(lambda: crowd.seen["whole"] >= whole + 60, PATIENCE, "calls to be served by the standby")
        finally:
            crowd.stop()
        told = f"answers: {dict(crowd.seen)}"
        assert not crowd.strange, f"{told}\n" + "\n".join(crowd.strange[:5])
        polled(lambda: fleet.psql("SELECT count(*) FROM bursar.ledger_hold") == "0", PATIENCE, f"no open hold; {told}")
        report, attempts = books_of(fleet)
        assert report.ok, f"{report.problem}; {told}"
        charges = [charge for node in fleet.nodes for charge in read_bill(node.data / "emulator" / "bill.jsonl")]
        for key in keys.values():
            ours = [row for row in attempts if row.key_id == key.id]
            covered(ours, [charge for charge in charges if crowd.key_of[charge.input] == key.id])
        for node in fleet.nodes:
            assert node.admin("GET", "/v1/admin/audit/verify").json()["fault"] == "", told

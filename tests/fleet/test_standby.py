"""The primary is lost with its disk, and its standby takes over.

A synchronous standby has all that was told. An asynchronous one lacks the last moments: what was told in them is gone,
and nothing else is wrong: nodes find out, begin anew with what the database has, and the ledger is proven.
"""

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from bursar.core.directory import Delta, Owner
from bursar.core.errors import Refusal
from bursar.core.ledger import Held
from bursar.core.secret import Secret
from bursar.providers.emulator import read_bill
from bursar.stores.directory_postgres import DirectoryPostgres
from bursar.stores.postgres import Address, Postgres
from bursar.stores.postgres_money import PostgresMoney
from bursar.stores.postgres_schema import migrate
from tests.e2e.tenants import Tenants
from tests.faults.books import until as polled
from tests.fleet.chaos import PATIENCE, Crowd, books_of, covered, made_keys
from tests.fleet.standby import Pair, ReplicatedFleet
from tests.stores.journal_kit import asking, budget, settled
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


async def test_an_asynchronous_standby_lacks_the_last_moments_and_nothing_else(pair: Pair) -> None:
    async with nodes_on(pair.url) as nodes:
        two = [await nodes.start(lease_s=2.0) for _ in range(2)]
        for money in two:
            money.define(budget(10**9))
        load = Load(nodes, two)
        await load.more()
        heard = set(load.held)
        await asyncio.to_thread(pair.cut)
        await load.more()
        await asyncio.to_thread(pair.primary.lose)
        await until(lambda: all(money.down for money in two), 90)
        told = set(load.held)
        two[0].define(budget(10**9, "later"))  # as a directory would while there is no store
        await asyncio.to_thread(pair.promote)
        await load.more()
        await load.over()
        assert isinstance(await tried(two[0], 0, "later"), Held)
        report = await nodes.verify()
        ledger = await load.in_the_ledger()
        lost = set(load.held) - ledger.keys()
        assert lost, "nothing was lost: the test proves nothing"
        assert lost <= told - heard, "only what was told after the standby heard no more, by the primary that is gone"
        inexact = [hold for hold in load.posted.keys() & ledger.keys() if ledger[hold] != load.posted[hold]]
        assert set(inexact) <= told, "exact, but where the end was among what is lost"
        assert all(ledger[hold] == CEILING for hold in inexact)
        (total,) = [total for total in report.budgets if total.id == "b"]
        assert total.spent + total.adjusted == sum(ledger.values())
        assert (total.held, report.open_holds) == (0, 1)


async def test_a_session_that_the_standby_never_heard_of_leaves_nothing_to_settle(pair: Pair) -> None:
    """Its number is given again: what the node still wants to settle under it is not the new holder's."""
    async with nodes_on(pair.url) as nodes:
        old = await nodes.start(lease_s=3600.0)
        old.define(budget(10**9))
        kept = await old.hold(asking(CEILING))
        while await nodes.sql("SELECT FROM bursar.ledger_session_id_seq WHERE log_cnt > 0"):  # of those written ahead
            await nodes.sql("SELECT nextval('bursar.ledger_session_id_seq')")
        await asyncio.to_thread(pair.cut)
        money = await nodes.start(lease_s=3600.0)
        money.define(budget(10**9))
        unheard, lost = money._runner.session, await money.hold(asking(CEILING))
        await asyncio.to_thread(pair.fail_over)

        def noticed() -> bool:
            for one in (money, old):
                one._runner.wake()  # as the lease does, which is long here: nobody is to be taken for dead
            return money._runner._timeline == old._runner._timeline == "00000002"

        await until(noticed, 90)
        anew: list[Held | str] = []

        async def holds() -> bool:
            anew.append(await tried(money, CEILING))
            return isinstance(anew[-1], Held)

        await until(holds, 90)
        assert await nodes.sql("SELECT FROM bursar.ledger_session WHERE id = $1", unheard), "its number was given again"
        money.post(lost.hold_id, settled(1))
        old.post(kept.hold_id, settled(2))
        assert money.ignored == {"post": 1}
        report = await nodes.verify()
        (total,) = report.budgets
        assert (total.spent, total.held, report.open_holds) == (2, CEILING, 1)
        assert not await nodes.sql("SELECT FROM bursar.ledger WHERE hold_id = $1", lost.hold_id)


async def test_a_directory_that_counts_on_from_an_older_version_is_read_anew(pair: Pair) -> None:
    """Versions that the standby lacks are given again, to other changes: numbers alone would not show it."""
    store = Postgres(Address(url=Secret(pair.url)))
    await migrate(store, "directory")
    one, other = DirectoryPostgres(store), DirectoryPostgres(store)

    async def write(directory: DirectoryPostgres, version: int, name: str) -> None:
        made = Owner(id=f"{name}-{version}", name=name)
        await directory.commit(Delta(version=version, owners=[made]), "admin", "test.change", 1)

    await write(one, 1, "first")
    assert await other.changes_since(1) == []
    await asyncio.to_thread(pair.cut)
    for version in (2, 3):
        await write(one, version, "lost")
    await asyncio.to_thread(pair.fail_over)
    for version in (2, 3, 4):

        async def again(version: int = version) -> bool:
            try:
                await other.snapshot()
                await write(other, version, "later")
            except Refusal:
                return False
            return True

        await until(again, 90)
    with pytest.raises(Refusal) as refused:
        await write(one, 5, "astray")
    assert refused.value.word == "directory_changed"
    assert await one.changes_since(3) is None
    present = await one.snapshot()
    assert [owner.id for owner in present.owners] == ["first-1", "later-2", "later-3", "later-4"]
    await write(one, 5, "later")
    assert await one.changes_since(5) == []
    await store.close()


@pytest.mark.parametrize("synchronous", [True, False])
def test_brokers_go_on_at_the_standby(tmp_path: Path, pair: Pair, *, synchronous: bool) -> None:
    """Under load; by themselves: the URL of the store names both, and says that the one that writes is meant.

    The ledger is not below the bill: with an asynchronous standby, of what was told by the primary in its last moments.
    """
    with ReplicatedFleet(tmp_path, pair, ("a", "b")) as fleet:
        fleet.start()
        if synchronous:
            pair.be_synchronous()
        keys, _ = made_keys(Tenants(fleet.nodes[0]))
        crowd = Crowd(fleet.nodes, keys, "standby")
        crowd.start()
        last_moments = range(0)
        try:
            _served(crowd, 30)
            begun = max(crowd.key_of)  # of callers who left as well, none that is older comes to its hold any more
            _served(crowd, 30)
            if not synchronous:
                begun = min(begun, *crowd.under_way)
                pair.cut()
                _served(crowd, 60)
            pair.primary.lose()
            if not synchronous:
                last_moments = range(begun, max(crowd.key_of) + 1)
            pair.promote()
            _served(crowd, 60)
        finally:
            crowd.stop()
        told = f"answers: {dict(crowd.seen)}"
        assert not crowd.strange, f"{told}\n" + "\n".join(crowd.strange[:5])
        polled(lambda: fleet.psql("SELECT count(*) FROM bursar.ledger_hold") == "0", PATIENCE, f"no open hold; {told}")
        report, attempts = books_of(fleet)
        assert report.ok, f"{report.problem}; {told}"
        charges = [charge for node in fleet.nodes for charge in read_bill(node.data / "emulator" / "bill.jsonl")]
        for key in keys.values():
            ours = [row for row in attempts if row.key_id == key.id and row.input_tokens not in last_moments]
            of_key = [charge for charge in charges if crowd.key_of[charge.input] == key.id]
            covered(ours, [charge for charge in of_key if charge.input not in last_moments])
        if synchronous:  # else a signed checkpoint may be of records that are gone
            for node in fleet.nodes:
                assert node.admin("GET", "/v1/admin/audit/verify").json()["fault"] == "", told


def _served(crowd: Crowd, more: int) -> None:
    whole = crowd.seen["whole"]
    polled(lambda: crowd.seen["whole"] >= whole + more, PATIENCE, "calls to be served")

"""Two versions of Bursar on one schema, under load: the newer one's migrations come in between, and nothing is lost.

The older version is this program with the one statement in which the two differ, as it was then; only what it is given
is written as text now.
"""

import asyncio
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bursar.core.ledger import Held
from bursar.core.secret import Secret
from bursar.stores import postgres_money_runner
from bursar.stores.postgres import Address, Connection, Postgres
from bursar.stores.postgres_money import PostgresMoney
from bursar.stores.postgres_money_act import ARGUMENTS, Answer, Batch, act
from bursar.stores.postgres_schema import MIGRATIONS, known_version, migrate
from tests.stores.journal_kit import budget, settled
from tests.stores.postgres_money_kit import Nodes, until
from tests.stores.test_postgres_money import sums, tried

OLDER = 5  # the schema that the older version brought
OLDER_ACT = f"""WITH done AS MATERIALIZED (
        SELECT * FROM bursar.ledger_act_1({", ".join(ARGUMENTS[:-1])})
    ), kept AS (
        INSERT INTO bursar.ledger_event (t_ns, told) SELECT d.t_ns, e FROM done d, unnest(d.events) AS e
    ) SELECT * FROM done"""
TO_COME = """ALTER TABLE bursar.ledger_budget ADD COLUMN remark text;
ALTER TABLE bursar.ledger_hold ADD COLUMN remark text;
ALTER TABLE bursar.ledger ADD COLUMN remark text;
CREATE INDEX ledger_hold_remark ON bursar.ledger_hold (remark);
"""
LIMIT = 200_000
ROUND = 300  # holds that are told between two changes


class Load:
    """Callers on every node that is there, who hold and settle on one budget and one of twenty others."""

    def __init__(self) -> None:
        self.nodes: list[PostgresMoney] = []
        self.held: list[int] = []
        self.posted = 0
        self.words: Counter[str] = Counter()
        self.by_node: Counter[int] = Counter()
        self.going = True
        self._dice = random.Random(5)
        self._callers: list[asyncio.Task[None]] = []

    def start(self, callers: int = 24) -> None:
        self._callers = [asyncio.create_task(self._call()) for _ in range(callers)]

    def joined_by(self, money: PostgresMoney) -> None:
        money.define(budget(LIMIT))
        for n in range(20):
            money.define(budget(10**9, f"b{n}"))
        self.nodes.append(money)

    async def _call(self) -> None:
        while self.going:
            money = self._dice.choice(self.nodes)
            got = await tried(money, 100, "b", f"b{self._dice.randrange(20)}")
            if isinstance(got, Held):
                self.held.append(got.hold_id)
                self.by_node[id(money)] += 1
                await asyncio.sleep(self._dice.random() * 0.01)
                cost = self._dice.randint(0, 20)
                money.post(got.hold_id, settled(cost))
                self.posted += cost
            else:
                self.words[got] += 1
                await asyncio.sleep(0.01)

    async def goes_on(self, *nodes: PostgresMoney) -> None:
        """Until so many more holds were told, by these nodes some of them."""
        before, by = len(self.held), [self.by_node[id(one)] for one in nodes]
        await until(
            lambda: (
                len(self.held) >= before + ROUND
                and all(self.by_node[id(one)] > then for one, then in zip(nodes, by, strict=True))
            ),
            120,
        )

    async def stop(self) -> None:
        """Every caller ends in front of his next call."""
        self.going = False
        await asyncio.gather(*self._callers)


def folder_of(tmp_path: Path, version: int, to_come: str = "") -> Path:
    """The migrations as a program of that version brought them."""
    folder = tmp_path / f"version-{version}{'-more' if to_come else ''}"
    shutil.copytree(MIGRATIONS / "money", folder / "money", dirs_exist_ok=True)
    for script in (folder / "money").glob("[0-9]*.sql"):
        if int(script.name[:4]) > version:
            script.unlink()
    if to_come:
        (folder / "money" / f"{version + 1:04d}_to_come.sql").write_text(to_come)
    return folder


class Versions:
    """A node is of the version that is current when it first speaks to the store."""

    def __init__(self) -> None:
        self.newer = False
        self._is_newer: dict[int, bool] = {}

    async def act(self, store: Postgres, db: Connection, batch: Batch, seconds: float) -> Answer:
        if self._is_newer.setdefault(id(store), self.newer):
            return await act(store, db, batch, seconds)
        arguments: tuple[Any, ...] = batch.arguments()[:-1]
        return Answer(*await db.fetchrow(store.sql(OLDER_ACT), *arguments, timeout=seconds))


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch) -> Versions:
    made = Versions()
    monkeypatch.setattr(postgres_money_runner, "act", made.act)
    return made


async def test_nodes_are_replaced_one_by_one_under_load(database: str, tmp_path: Path, versions: Versions) -> None:
    first = Postgres(Address(url=Secret(database)))
    nodes = Nodes(database)
    load = Load()
    try:
        await migrate(first, "directory")
        assert await migrate(first, "money", folder_of(tmp_path, OLDER)) == OLDER < known_version("money")
        for _ in range(2):
            load.joined_by(await nodes.start())
        load.start()
        await load.goes_on(*load.nodes)

        versions.newer = True
        assert await migrate(first, "money") == known_version("money")  # as the first newer node does when it starts
        await load.goes_on(*load.nodes)
        assert await migrate(first, "money", folder_of(tmp_path, OLDER)) == known_version("money")

        newer = [await nodes.start(), await nodes.start()]
        for money in newer:
            load.joined_by(money)
        await load.goes_on(*load.nodes)
        for money in list(load.nodes[:2]):  # the older ones leave, one by one
            load.nodes.remove(money)
            await load.goes_on(*newer)

        to_come = folder_of(tmp_path, known_version("money"), TO_COME)
        assert await migrate(first, "money", to_come) == known_version("money") + 1
        await load.goes_on(*newer)
        await load.stop()
        await _proven(nodes, load)
    finally:
        await load.stop()
        await nodes.close()
        await first.close()


async def _proven(nodes: Nodes, load: Load) -> None:
    await until(lambda: not any(money.down or money._runner.unsettled for money in nodes.living), 60)
    report = await nodes.verify()
    made = {row["hold_id"] for row in await nodes.sql("SELECT hold_id FROM bursar.ledger WHERE kind = 4")}
    assert made >= set(load.held)
    assert len(set(load.held)) == len(load.held)
    assert load.words.keys() <= {"store_unavailable", "held_by_requests_in_flight"}, load.words
    assert load.words["store_unavailable"] < len(load.held) / 2, load.words  # a lock may be waited for now and then
    (total,) = [total for total in report.budgets if total.id == "b"]
    assert total.spent + total.adjusted == load.posted
    assert report.open_holds == report.counts.unreconciled == 0
    assert await sums(nodes.living[0]) == (load.posted, 0)

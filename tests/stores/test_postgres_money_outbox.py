"""What owners are told in a fleet: kept with the act itself, and in the audit once, whoever dies in between."""

import asyncio
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bursar.app.clock import SystemClock
from bursar.control.audit import AuditLog
from bursar.control.audit_notary import Signer
from bursar.control.ledger_news import tell_news
from bursar.core.ledger import LedgerEvent, Settlement
from bursar.core.secret import Secret
from bursar.stores.audit_file import AuditFile
from bursar.stores.audit_postgres import AuditPostgres
from bursar.stores.journal import Journal
from bursar.stores.postgres import Address, Postgres
from bursar.stores.postgres_money_outbox import News, Outbox
from bursar.stores.postgres_schema import migrate
from tests.stores.journal_kit import FakeClock, asking, budget
from tests.stores.postgres_money_kit import Nodes, nodes_on, until


class Killed(BaseException):
    """The teller dies here."""


class Dying:
    """A teller's way to the audit and back, that may end before the record, or between it and `done`."""

    def __init__(self, outbox: Outbox, log: AuditLog, dice: random.Random, deaths: float = 0.4) -> None:
        self.outbox, self.log = outbox, log
        self._dice, self._deaths = dice, deaths

    def _maybe_die(self) -> None:
        if self._dice.random() < self._deaths:
            raise Killed

    async def take(self) -> list[News]:
        taken = await self.outbox.take(3)
        self._maybe_die()
        return taken

    async def told(self, action: str, news: News, mark: str) -> bool:
        return await self.outbox.told(action, news, mark)

    async def append(self, actor: str, action: str, target: str, facts: dict[str, str | int], *more: Any) -> int:
        seq = await self.log.append(actor, action, target, facts, *more)
        self._maybe_die()
        return seq

    async def done(self, news: list[News]) -> None:
        await self.outbox.done(news)


@pytest.fixture
async def store(store: Postgres) -> Postgres:
    for part in ("directory", "money", "audit"):
        await migrate(store, part)
    return store


async def recovered(nodes: Nodes) -> bool:
    return bool(await nodes.sql("SELECT FROM bursar.ledger_session WHERE recovered_ns IS NOT NULL"))


async def records(nodes: Nodes) -> list[dict[str, Any]]:
    rows = await nodes.sql("SELECT payload FROM bursar.audit_record WHERE action LIKE 'ledger_%' ORDER BY chain, seq")
    return [json.loads(row["payload"]) for row in rows]


def log_of(store: Postgres, node: str, folder: Path) -> AuditLog:
    trail = AuditPostgres(store, node, timeout=60)
    return AuditLog(trail, [], AuditFile(folder / f"{node}.jsonl"), Signer(Secret("11" * 32)), SystemClock())


async def test_an_event_lies_with_its_act_and_is_told_with_all_that_owners_need(
    store: Postgres, database: str, tmp_path: Path
) -> None:
    async with nodes_on(database) as nodes:
        money = await nodes.start()
        money.define(budget(1000))
        held = await money.hold(asking(10, request_id="req-1", team_id="team-1"))
        money.post(held.hold_id, Settlement(25, None, True, "ok"))
        await money.settled()
        await nodes.kill(money)  # nobody else has heard of it
        assert [row["n"] for row in await nodes.sql("SELECT count(*) AS n FROM bursar.ledger_event")] == [2]
        log = log_of(store, "a", tmp_path)
        assert await tell_news(Outbox(store, "a"), log) == 2
        await log.close()
        told = {record["action"]: record for record in await records(nodes)}
        assert set(told) == {"ledger_closed", "ledger_overage"}
        facts = told["ledger_overage"]["facts"]
        assert (facts["amount_pico"], facts["request_id"], facts["team_id"]) == (15, "req-1", "team-1")
        assert told["ledger_overage"]["target"] == "b"
        assert await nodes.sql("SELECT FROM bursar.ledger_event") == []


async def test_tellers_at_once_share_the_work(store: Postgres, database: str, tmp_path: Path) -> None:
    async with nodes_on(database) as nodes:
        dead = await nodes.start(lease_s=0.5)
        dead.define(budget(10**6))
        for number in range(40):
            await dead.hold(asking(10, request_id=f"r{number}"))
        await nodes.kill(dead)
        heir = await nodes.start(lease_s=0.5)
        await until(lambda: recovered(nodes))
        assert not heir.down
        logs = [log_of(store, f"n{number}", tmp_path) for number in range(3)]
        counts = await asyncio.gather(*(tell_news(Outbox(store, f"n{n}"), log) for n, log in enumerate(logs)))
        assert sum(counts) == 40
        for log in logs:
            await log.close()
        holds = Counter(record["facts"]["hold_id"] for record in await records(nodes))
        assert len(holds) == 40
        assert set(holds.values()) == {1}


@pytest.mark.parametrize("seed", range(4))
async def test_whoever_dies_on_the_way_each_event_is_on_record_once(
    store: Postgres, database: str, tmp_path: Path, seed: int
) -> None:
    dice = random.Random(seed)
    async with nodes_on(database) as nodes:
        dead = await nodes.start(lease_s=0.5)
        dead.define(budget(10**6))
        for number in range(12):
            await dead.hold(asking(10, request_id=f"r{number}"))
        await nodes.kill(dead)
        await nodes.start(lease_s=0.5)
        await until(lambda: recovered(nodes))
        tellers = []
        for number in range(2):
            other = Postgres(Address(url=Secret(database)))
            tellers.append((other, Outbox(other, f"n{number}", stale_s=0.0), log_of(other, f"n{number}", tmp_path)))
        deaths = 0
        while await nodes.sql("SELECT FROM bursar.ledger_event"):
            _, outbox, log = dice.choice(tellers)
            dying = Dying(outbox, log, dice)
            try:
                await tell_news(dying, dying)  # type: ignore[arg-type]
            except Killed:
                deaths += 1
        assert deaths > 0
        for other, _, log in tellers:
            await log.close()
            await other.close()
        holds = Counter(record["facts"]["hold_id"] for record in await records(nodes))
        assert len(holds) == 12
        assert set(holds.values()) == {1}


async def test_a_row_that_is_being_told_is_left_to_its_teller(store: Postgres, database: str) -> None:
    async with nodes_on(database) as nodes:
        money = await nodes.start()
        money.define(budget(1000))
        held = await money.hold(asking(10))
        money.post(held.hold_id, Settlement(25, None, True, "ok"))
        await money.settled()
        assert len(await Outbox(store, "a").take()) == 2
        assert await Outbox(store, "b").take() == []
        taken = await Outbox(store, "b", stale_s=0.0).take()
        assert [news.again for news in taken] == [True, True]


def plain(event: LedgerEvent) -> tuple[Any, ...]:
    """What an owner reads; ids and instants of holds are each store's own."""
    amounts = event.amount_pico, event.posted_pico, event.held_pico, event.limit_pico
    return event.kind, event.budget_id, event.budget_name, event.subject_kind, event.subject, *amounts


@pytest.mark.parametrize("hold_open", [0, 300])
async def test_a_correction_tells_owners_what_it_tells_them_on_one_node(
    store: Postgres, database: str, tmp_path: Path, hold_open: int
) -> None:
    """Two hard budgets that it brings above their limits, one that it does not, a soft one; and what is given back."""
    budgets = [
        budget(1000, "tight", thresholds=()),
        budget(1000, "other", thresholds=()),
        budget(9000, "wide", thresholds=()),
        budget(900, "soft", thresholds=(), hard=False),
    ]
    names = [one.id for one in budgets]
    here: list[LedgerEvent] = []
    journal = Journal.open(tmp_path / "journal", FakeClock(), on_event=here.append)
    async with nodes_on(database) as nodes:
        money = await nodes.start()
        for one in budgets:
            journal.define(one)
            money.define(one)
        ids = (await journal.hold(asking(400, *names))).hold_id, (await money.hold(asking(400, *names))).hold_id
        for side, hold_id in zip((journal, money), ids, strict=True):
            side.post(hold_id, Settlement(350, None, True, "ok"))
        await money.settled()
        if hold_open:
            await journal.hold(asking(hold_open, *names))
            await money.hold(asking(hold_open, *names))
        before = {one.id for one in await Outbox(store, "a").take()}
        here.clear()
        for delta in (-50, 700, 1):
            await journal.correct(ids[0], delta, "the bill")
            await money.correct(ids[1], delta, "the bill")
        news = [one for one in await Outbox(store, "b", stale_s=-1).take() if one.id not in before]
        assert [plain(one.event) for one in news] == [plain(event) for event in here]
        assert [event.budget_id for event in here] == (["tight", "other"] * (2 if hold_open else 1))
        assert len({one.event.dedupe for one in news}) == len(news) == len({event.dedupe for event in here})
        with pytest.raises(ValueError):
            await money.correct(ids[1] + 10**6, 10**6, "never held")
        assert len(await Outbox(store, "c", stale_s=-1).take()) == len(before) + len(news)
        assert (await nodes.verify()).problem is None
    journal.close()

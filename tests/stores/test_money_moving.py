"""From a journal to PostgreSQL and back: proven before and after, interrupted anywhere, never onto another ledger."""

import asyncio
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings

from bursar.control.verify_ledger import Report, verify
from bursar.control.verify_ledger_rows import RowsReport, verify_rows
from bursar.core.calls import Usage
from bursar.core.ledger import Settlement
from bursar.core.secret import Secret
from bursar.stores import postgres_money_import
from bursar.stores.journal import Journal
from bursar.stores.postgres import Address, Postgres
from bursar.stores.postgres_money_export import Export
from bursar.stores.postgres_money_import import CannotMove, Import, read_records
from bursar.stores.postgres_schema import migrate
from tests.conformance.money import HISTORIES, Hands, JournalSide, Play
from tests.postgres import PostgresServer
from tests.stores.journal_kit import FakeClock, asking, budget, proven, settled
from tests.stores.postgres_money_kit import nodes_on


def totals(report: Report | RowsReport) -> tuple[Any, ...]:
    """What must be the same on both sides."""
    budgets = [msgspec.to_builtins(total) for total in report.budgets]
    spend = [msgspec.to_builtins(total) for total in report.spend]
    return msgspec.to_builtins(report.counts), budgets, spend, report.open_holds


async def opened(url: str) -> Postgres:
    store = Postgres(Address(url=Secret(url)))
    for part in ("directory", "money"):
        await migrate(store, part)
    return store


async def rows_proven(url: str) -> RowsReport:
    db = await asyncpg.connect(url)
    try:
        report = await verify_rows(db)
    finally:
        await db.close()
    assert report.problem is None, report.problem
    return report


@pytest.fixture(scope="module")
def server(postgres_server: PostgresServer) -> PostgresServer:
    return postgres_server


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(history=HISTORIES)
def test_any_ledger_goes_there_and_back_and_says_the_same(
    server: PostgresServer, tmp_path_factory: pytest.TempPathFactory, history: list[tuple[Any, ...]]
) -> None:
    folder, back = tmp_path_factory.mktemp("there"), tmp_path_factory.mktemp("back")

    async def there_and_back() -> None:
        clock = Hands()
        side = JournalSide(folder, clock)
        await Play(1, clock, [side]).all(history)
        side.journal.close()
        url = server.new_database()
        store = await opened(url)
        await Import(store, folder).run()
        before = proven(folder)
        assert totals(await rows_proven(url)) == totals(before)
        await Export(store, back).run()
        await store.close()
        assert totals(proven(back / "journal")) == totals(before)

    asyncio.run(there_and_back())


def spent(folder: Path, calls: int = 40) -> None:
    """A journal with a bit of everything: a hold that is open, usage of all kinds, a budget that was switched off."""
    journal = Journal.open(folder, FakeClock(), segment_bytes=3_000)
    journal.define(budget(10**6))
    journal.define(budget(10**6, "off", mode="off"))
    usage = Usage(
        input_tokens=9, output_tokens=8, cache_read=3, cache_write_1h=2, tool_uses=(("web", 2),), service_tier="flex"
    )
    for n in range(calls):
        held = journal.hold_now(asking(100, "b", "off", request_id=f"r{n}", user="José"))
        if n % 4 == 0:
            journal.void(held.hold_id, "unsent")
        elif n != 5:
            journal.post(held.hold_id, Settlement(50 + n, usage, True, "ok"))
    journal.flush()
    journal.close()


async def test_usage_names_and_budgets_asked_for_come_back_as_they_were(database: str, tmp_path: Path) -> None:
    spent(tmp_path / "there/journal")
    store = await opened(database)
    await Import(store, tmp_path / "there/journal").run()
    await Export(store, tmp_path / "back").run()
    await store.close()
    plain = [
        [record for record in read_records(tmp_path / side / "journal") if type(record).__name__ != "SnapshotRecord"]
        for side in ("there", "back")
    ]
    assert plain[0] == plain[1]


async def test_what_was_interrupted_goes_on_where_it_was(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_money_import, "PIECE", 7)
    spent(tmp_path)
    store = await opened(database)
    for stop in (1, 3, 6):
        seen = 0

        def told(rows: int, stop: int = stop) -> None:
            nonlocal seen
            seen += 1
            if seen == stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            await Import(store, tmp_path, told).run()
    async with nodes_on(database) as nodes:
        money = await nodes.start()
        assert "half way" in money.down
        await Import(store, tmp_path).run()
        assert totals(await rows_proven(database)) == totals(verify(tmp_path))
        with pytest.raises(CannotMove, match="already"):
            await Import(store, tmp_path).run()
    await store.close()


async def test_nodes_go_on_with_what_was_brought(database: str, tmp_path: Path) -> None:
    """A hold that was open is booked at its ceiling by the first node, as the journal's own start would."""
    spent(tmp_path)
    store = await opened(database)
    await Import(store, tmp_path).run()
    await store.close()
    async with nodes_on(database) as nodes:
        money = await nodes.start()
        assert await money.recover(at_once=True) == 1
        money.define(budget(10**6))
        held = await money.hold(asking(10))
        money.post(held.hold_id, settled(10))
        report = await nodes.verify()
        assert (report.open_holds, report.counts.unreconciled) == (0, 1)


async def test_a_ledger_is_never_brought_onto_another(database: str, tmp_path: Path) -> None:
    spent(tmp_path / "one")
    async with nodes_on(database) as nodes:
        money = await nodes.start()
        money.define(budget(1000))
        await money.hold(asking(1))
        with pytest.raises(CannotMove, match="empty"):
            await Import(money._store, tmp_path / "one").run()
        with pytest.raises(CannotMove, match="running: node-1"):
            await Export(money._store, tmp_path / "back").run()
    store = await opened(database)
    (tmp_path / "one").rename(tmp_path / "journal")
    with pytest.raises(CannotMove, match="already"):
        await Export(store, tmp_path).run()
    await store.close()


async def test_half_a_journal_is_not_brought(database: str, tmp_path: Path) -> None:
    spent(tmp_path)
    (tmp_path / "journal-00000001.log").unlink()
    store = await opened(database)
    with pytest.raises(CannotMove, match="segment 2"):
        await Import(store, tmp_path).run()
    with pytest.raises(CannotMove, match="no journal"):
        await Import(store, tmp_path / "nowhere").run()
    await store.close()

"""Questions to the ledger in PostgreSQL are answered as the projection of one node answers them."""

import asyncio
from collections.abc import AsyncIterator
from itertools import permutations
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from msgspec.structs import replace

from bursar.app.clock import SystemClock
from bursar.core.directory import WindowDef
from bursar.core.ledger_records import UsageBy
from bursar.core.replay import Past
from bursar.core.secret import Secret
from bursar.stores.journal import Journal
from bursar.stores.ledger_postgres import LedgerPostgres
from bursar.stores.postgres import Address, Postgres
from bursar.stores.projection_view import LedgerView
from tests.stores.journal_kit import asking, budget, settled
from tests.stores.postgres_money_kit import Nodes, nodes_on

GROUPS: tuple[UsageBy, ...] = ("key", "team", "owner", "user", "provider", "model", "day", "credential", "purpose")
ALWAYS = (0, 2**62, 100, "")


class Both(NamedTuple):
    """The same calls in both ledgers, and the two that answer."""

    nodes: Nodes
    here: LedgerView
    shared: LedgerPostgres
    held: list[tuple[int, int]]  # ids there and here of each call


@pytest.fixture
async def both(database: str, tmp_path: Path) -> AsyncIterator[Both]:
    clock = SystemClock()
    journal = Journal.open(tmp_path / "journal", clock)
    view = LedgerView(tmp_path / "journal", tmp_path / "ledger.db", clock)
    way = Postgres(Address(url=Secret(database)))
    async with nodes_on(database) as nodes:
        money = await nodes.start()
        held = []
        for store in (journal, money):
            store.define(budget(10**6, thresholds=(), window=WindowDef(kind="lifetime")))
        for number in range(12):  # some sums end in zeros
            names = {"user": f"u{number % 3}", "model": f"m{number % 4}", "key_id": f"k{number % 2}"}
            names["purpose"] = ("", "embedding")[number % 5 == 0]
            ids = []
            for store in (journal, money):
                hold = await store.hold(asking(500, "b", **names))
                if number == 5:
                    store.void(hold.hold_id, "never sent")
                elif number != 6:  # which stays open
                    store.post(hold.hold_id, settled(100 + number if number < 11 else 700, exact=number % 4 != 3))
                ids.append(hold.hold_id)
            held.append((ids[1], ids[0]))
        journal.flush()
        await money.settled()
        yield Both(nodes, view, LedgerPostgres(way), held)
        journal.close()
    await way.close()
    view.close()


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata", "America/Los_Angeles"])
async def test_usage_by_every_group_and_pair(both: Both, zone: str) -> None:
    await both.here.catch_up()
    singles: list[tuple[UsageBy, ...]] = [(by,) for by in GROUPS]
    for by in (*singles, *permutations(GROUPS, 2), ("team", "model", "day", "key"), GROUPS):
        expected = await both.here.usage(by, *ALWAYS, zone)
        assert len(expected) > 0
        assert await both.shared.usage(by, *ALWAYS, zone) == expected, by


async def test_usage_in_pages_and_spans(both: Both) -> None:
    whole = await both.shared.usage(("model",), *ALWAYS)
    first = await both.shared.usage(("model",), 0, 2**62, 2, "")
    assert first + await both.shared.usage(("model",), 0, 2**62, 100, first[-1].group) == whole
    assert await both.shared.usage(("model",), 0, 10**9, 100, "") == []
    assert await both.shared.usage(("model",), 2**61, 2**62, 100, "") == []


async def test_attempts_for_a_replay_in_pieces(both: Both) -> None:
    await both.here.catch_up()

    async def every(ledger: LedgerView | LedgerPostgres, piece: int) -> list[Past]:
        found: list[tuple[int, Past]] = []
        while more := await ledger.history(0, 2**62, found[-1][0] if found else 0, piece):
            found += more
        return [past for _, past in found]

    whole = await every(both.here, 100)
    assert len(whole) == 12
    assert [past.t_ns for past in whole] == sorted(past.t_ns for past in whole)
    assert sum(past.cost for past in whole) > 0
    for ledger in (both.here, both.shared):
        in_pieces = await every(ledger, 5)
        assert len(in_pieces) == 12
        assert await ledger.history(2**61, 2**62, 0, 100) == []
        for one, other in zip(whole, in_pieces, strict=True):  # each by its own clock; what was expected is in one only
            same = {"t_ns": 0, "ended_ns": 0, "expected": 0}
            assert replace(one, **same) == replace(other, **same)
            assert other.ended_ns >= other.t_ns


async def test_what_is_learned_later_counts_where_it_was_held(both: Both) -> None:
    before = await both.shared.usage(("key",), *ALWAYS)
    await both.nodes.living[0].correct(both.held[0][0], -200, "the provider's invoice")
    after = await both.shared.usage(("key",), *ALWAYS)
    assert after[0].cost_pico == before[0].cost_pico - 200
    assert after[0].attempts == before[0].attempts
    assert after[1:] == before[1:]


async def test_balances_are_those_of_one_node(both: Both) -> None:
    await both.here.catch_up()

    def plain(rows: list[Any]) -> list[tuple[Any, ...]]:
        return [(b.budget_id, b.limit_pico, b.posted_pico, b.held_pico, b.overage_pico, b.closed) for b in rows]

    assert plain(await both.shared.balances()) == plain(await both.here.balances())


async def test_when_a_provider_key_was_used_last(both: Both) -> None:
    await both.here.catch_up()
    assert await both.shared.last_uses() == await both.here.last_uses() != {}
    assert await both.shared.catch_up() == 0


async def test_there_is_nothing_to_follow(both: Both) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await both.shared.follow(lambda _fault: None)


async def test_single_requests_and_open_holds_are_told_alike(both: Both) -> None:
    await both.here.catch_up()

    def plain(rows: list[Any], *own: str) -> list[dict[str, Any]]:
        """Without what each store counts by itself: ids, instants."""
        kept = (name for name in rows[0].__struct_fields__ if name not in {"hold_id", "t_ns", "settled_ns", *own})
        names = list(kept)
        return sorted(({name: getattr(row, name) for name in names} for row in rows), key=str)

    here, shared = await both.here.attempts("r"), await both.shared.attempts("r")
    assert len(here) == 12
    assert plain(here) == plain(shared)
    assert {row.state for row in here} == {"POSTED", "VOIDED", "HELD"}
    assert await both.here.attempts("another") == await both.shared.attempts("another") == []
    for budget_id in ("b", "", "no-such"):
        mine, theirs = await both.here.open_holds(budget_id), await both.shared.open_holds(budget_id)
        assert len(mine) == len(theirs) == (0 if budget_id == "no-such" else 1)
        assert not mine or plain(mine) == plain(theirs)


async def test_a_correction_is_told_with_its_attempt(both: Both) -> None:
    await both.nodes.living[0].correct(both.held[0][0], -200, "the provider's invoice")
    (found,) = [row for row in await both.shared.attempts("r") if row.hold_id == both.held[0][0]]
    assert found.corrected_pico == -200

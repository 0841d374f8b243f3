"""Money of many nodes: no budget is passed together, nothing slow or lost spends or leaks, the dead are booked once.

Tests named after a complaint cite the thread in which people met it elsewhere.
"""

import asyncio
import gc
import random
import weakref
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import msgspec
import pytest

from bursar.core.directory import WindowDef
from bursar.core.errors import Refusal
from bursar.core.ledger import Held
from bursar.core.ledger_budget import forgotten_at
from bursar.stores.ledger_postgres import LedgerPostgres
from bursar.stores.postgres_money import PostgresMoney
from bursar.stores.postgres_money_act import (
    COUNT_BITS,
    DONE,
    GIVEN_UP,
    Batch,
    Waiting,
    _numbers,
    _texts,
    act,
    post,
    void,
)
from bursar.stores.postgres_money_spool import Spool
from tests.stores.journal_kit import asking, budget, settled
from tests.stores.postgres_money_kit import Nodes, nodes_on, until


@pytest.fixture
async def nodes(database: str) -> AsyncIterator[Nodes]:
    async with nodes_on(database) as opened:
        yield opened


async def tried(money: PostgresMoney, ceiling: int, *budgets: str, **names: str) -> Held | str:
    """The hold, or the word of its refusal."""
    try:
        return await money.hold(asking(ceiling, *budgets, **names))
    except Refusal as refusal:
        return refusal.word


async def is_held(money: PostgresMoney) -> bool:
    return isinstance(await tried(money, 0), Held)


async def sums(money: PostgresMoney, name: str = "b") -> tuple[int, int]:
    await money.settled()
    (found,) = [balance for balance in await money.balances() if balance.budget_id == name]
    return found.posted_pico, found.held_pico


# ---- together


@pytest.mark.parametrize("thread", ["litellm 34732", "bifrost 3547", "new-api 6607", "envoyproxy/ai-gateway 680"])
async def test_parallel_calls_on_all_nodes_do_not_all_pass_a_nearly_empty_budget(nodes: Nodes, thread: str) -> None:
    """Read, compare, increment; a counter a replica; charged when it is over: each lets a burst through."""
    three = [await nodes.start() for _ in range(3)]
    for money in three:
        money.define(budget(1000))
    answers = await asyncio.gather(*(tried(money, 90) for money in three for _ in range(20)))
    held = [answer for answer in answers if isinstance(answer, Held)]
    assert len(held) == 11
    assert {answer for answer in answers if isinstance(answer, str)} == {"held_by_requests_in_flight"}
    assert len({hold.hold_id for hold in held}) == 11
    assert await sums(three[0]) == (0, 990)
    await nodes.verify()


async def test_any_crowd_on_any_nodes_leaves_a_ledger_that_is_proven(nodes: Nodes) -> None:
    """litellm 6895, docs db_deadlocks.md: deadlocks, from some ten instances on.

    Many budgets in any order, tight ones too: no deadlock, all of a call's budgets or none, each hold once.
    """
    dice = random.Random(7)
    names = [f"b{n}" for n in range(12)]
    nodes_ = [await nodes.start() for _ in range(3)]
    for money in nodes_:
        for n, name in enumerate(names):
            window = WindowDef(kind="rolling", seconds=60) if n % 3 == 0 else WindowDef(kind="lifetime")
            money.define(budget(500 + 400 * n, name, hard=n % 4 != 0, window=window))

    async def caller(money: PostgresMoney) -> int:
        held = 0
        for _ in range(12):
            mine = dice.sample(names, dice.randint(1, 4))
            got = await tried(money, dice.randint(0, 200), *mine, key_id=f"k{dice.randint(0, 5)}")
            if isinstance(got, str):
                assert got in {"held_by_requests_in_flight", "budget_exhausted"}, got
                continue
            held += 1
            if dice.random() < 0.3:
                money.shrink(got.hold_id, dice.randint(0, 100))
            await asyncio.sleep(0)
            if dice.random() < 0.2:
                money.void(got.hold_id, "unsent")
            else:
                money.post(got.hold_id, settled(dice.randint(0, 110)))
        return held

    held = sum(await asyncio.gather(*(caller(money) for money in nodes_ for _ in range(20))))
    report = await nodes.verify()
    assert (report.counts.holds, report.open_holds) == (held, 0)
    assert report.counts.posted + report.counts.voided == held


async def test_many_holds_and_settles_share_an_act(nodes: Nodes) -> None:
    """One round trip and one commit for all that was asked meanwhile; each hold has its row all the same."""
    money = await nodes.start()
    money.define(budget(10**9))
    await until(lambda: is_held(money))
    acts = money._runner.acts
    held = await asyncio.gather(*(money.hold(asking(10)) for _ in range(1000)))
    assert money._runner.acts - acts <= 40
    acts = money._runner.acts
    for hold in held:
        money.post(hold.hold_id, settled(7))
    await money.settled()
    assert money._runner.acts - acts <= 20
    rows = await nodes.sql("SELECT kind, count(*) FROM bursar.ledger WHERE kind IN (4, 6) GROUP BY kind ORDER BY kind")
    assert [row["count"] for row in rows][-1] == 1000
    await nodes.verify()


async def test_an_edit_on_one_node_does_not_zero_what_another_has_spent(nodes: Nodes) -> None:
    """bifrost 5925, PR 5932, PR 2363: a synchronised edit reset live usage. An older one changes nothing."""
    one, two = await nodes.start(), await nodes.start()
    one.define(budget(1000))
    two.define(budget(1000))
    held = await one.hold(asking(600))
    one.post(held.hold_id, settled(600))
    await one.settled()
    two.define(budget(700, version=2))
    assert await tried(two, 200) == "budget_exhausted"
    one.define(budget(1000))
    assert await tried(one, 200) == "budget_exhausted"
    assert await sums(two) == (600, 0)
    (row,) = await nodes.sql('SELECT version, "limit" FROM bursar.ledger_budget')
    assert (row["version"], row["limit"]) == (2, 700)


async def test_a_budget_that_is_new_on_every_node_at_once_is_made_once(nodes: Nodes) -> None:
    many = [await nodes.start() for _ in range(4)]
    for money in many:
        for n in range(700):
            money.define(budget(1000, f"b{n}"))
    answers = await asyncio.gather(*(tried(money, 100, "b3", "b699") for money in many))
    assert all(isinstance(answer, Held) for answer in answers), answers
    (row,) = await nodes.sql("SELECT count(*), count(DISTINCT id) AS ids FROM bursar.ledger_definition")
    assert tuple(row) == (700, 700)


async def test_one_window_is_opened_by_all_nodes_at_once_and_counted_once(nodes: Nodes) -> None:
    """litellm 8364 and 34270: budgets reset late, twice or never. A window opens by the database's clock."""
    many = [await nodes.start() for _ in range(4)]
    for money in many:
        money.define(budget(1000, window=WindowDef(period="day", zone="Asia/Kolkata")))
    await asyncio.gather(*(tried(money, 100) for money in many for _ in range(4)))
    (row,) = await nodes.sql("SELECT count(*) FROM bursar.ledger WHERE kind = 3")
    assert row["count"] == 1
    assert (await sums(many[0]))[1] == 1000


# ---- nothing leaks


async def test_a_cancelled_caller_leaves_no_hold(nodes: Nodes) -> None:
    """litellm 30522: a reservation was never released when its request was cancelled."""
    money = await nodes.start()
    money.define(budget(10**9))
    for turns in range(40):
        asking_ = asyncio.create_task(money.hold(asking(1)))
        for _ in range(turns % 8):
            await asyncio.sleep(0)
        if turns % 3 == 0:
            await asyncio.sleep(0.002)
        asking_.cancel()
        await asyncio.wait([asking_])
        if not asking_.cancelled():
            money.void(asking_.result().hold_id, "unsent")
    await until(lambda: not money._runner._waiting and not money._runner._flying)
    assert await sums(money) == (0, 0)
    assert money.open_holds == 0
    assert (await nodes.verify()).open_holds == 0


async def test_a_call_that_was_refused_is_freed_at_once(nodes: Nodes) -> None:
    """Its refusal holds, by its traceback, all that the call held: no garbage collector is waited for."""

    class Body:
        pass

    async def call(money: PostgresMoney) -> weakref.ref[Body]:
        body = Body()
        try:
            await money.hold(asking(2000))
        except Refusal:
            return weakref.ref(body)
        raise AssertionError("it was held")

    money = await nodes.start()
    money.define(budget(1000))
    await until(lambda: is_held(money))
    gc.disable()
    try:
        refused = [await call(money) for _ in range(3)]
        await money.settled()
        await until(lambda: not money._runner._flying)
        assert [left() for left in refused[:2]] == [None, None]  # the last one may be on its way out
    finally:
        gc.enable()


async def test_the_second_end_of_a_hold_changes_nothing(nodes: Nodes) -> None:
    money = await nodes.start()
    money.define(budget(1000))
    held = await money.hold(asking(100))
    money.post(held.hold_id, settled(70))
    money.post(held.hold_id, settled(90))
    money.void(held.hold_id, "again")
    assert await sums(money) == (70, 0)
    assert money.ignored == {"post": 1, "void": 1}


async def test_amounts_that_pass_63_bits_are_kept_exactly(nodes: Nodes) -> None:
    money = await nodes.start()
    most = 2**63 - 1
    money.define(budget(10**30))
    for _ in range(3):
        held = await money.hold(asking(most))
        money.post(held.hold_id, settled(most))
    assert await sums(money) == (3 * most, 0)
    with pytest.raises(Refusal, match="any one call"):
        await money.hold(asking(most + 1))
    await nodes.verify()


async def test_names_that_a_database_cannot_keep_do_not_close_money(nodes: Nodes) -> None:
    money = await nodes.start()
    money.define(budget(1000))
    assert isinstance(await tried(money, 1, user="nul\0and\ud800half"), Held)
    assert not money.down


# ---- slow is worse than dead


async def test_a_slow_store_refuses_within_its_time_and_then_at_once(nodes: Nodes) -> None:
    """litellm post redis_circuit_breaker: slow hurt more than dead. envoyproxy/ratelimit 462: each call waits."""
    money = await nodes.start(hold_s=0.5)
    money.define(budget(1000))
    await until(lambda: is_held(money))  # the first act of all takes its time
    loop = asyncio.get_running_loop()
    blocker = await asyncpg.connect(nodes.url)
    try:
        async with blocker.transaction():
            await blocker.execute("SELECT * FROM bursar.ledger_budget FOR UPDATE")
            began = loop.time()
            answers = await asyncio.gather(*(tried(money, 1) for _ in range(50)))
            waited = loop.time() - began
            assert set(answers) == {"store_unavailable"}
            assert waited < 5.0
            began = loop.time()
            with pytest.raises(Refusal) as refused:
                await money.hold(asking(1))
            assert refused.value.retry_after == 1.0
            assert loop.time() - began < 0.1
        await until(lambda: not money.down)
    finally:
        await blocker.close()
    assert isinstance(await tried(money, 1), Held)
    await money.settled()
    assert await sums(money) == (0, 1)
    report = await nodes.verify()
    assert report.open_holds == 2


async def test_what_was_given_up_is_not_revived_by_a_late_commit(nodes: Nodes) -> None:
    """The act that comes after its tombstone, in the words of the wire: refused, and nothing of it is done."""
    money = await nodes.start()
    money.define(budget(1000))
    await money.hold(asking(1))
    session = money._runner.session
    late = (session << COUNT_BITS) + 50
    given_up, came_late = (Batch(session, any_window=False) for _ in range(2))
    given_up.ends.append(void(late, "ambiguous"))
    waiting = Waiting(asking(5), "", asyncio.get_running_loop().create_future(), 0)
    waiting.hold_id = late
    came_late.holds.append(waiting)
    came_late.labels.append(1)
    came_late.budgets.append([1])
    async with money._store.connection() as db:
        assert (await act(money._store, db, given_up, 10)).state == DONE
        assert (await act(money._store, db, came_late, 10)).state == GIVEN_UP
    report = await nodes.verify()
    assert (report.given_up, report.counts.holds) == (1, 1)
    money._runner._count = 49  # the node itself tries the id as well, as a node that had not noticed would
    assert isinstance(await tried(money, 5), Held)
    assert await sums(money) == (0, 6)


async def test_what_an_act_says_in_text_is_read_as_it_was_meant(nodes: Nodes) -> None:
    """Arrays are written as text by this side: no name may end one early, or be taken for a NULL."""
    dice = random.Random(8)
    letters = "\\\"'{},; \t\r\n\x01\x7fNULabcé€\U0001f600"
    texts = [
        "",
        "NULL",
        "null",
        None,
        *("".join(dice.choices(letters, k=dice.randrange(9))) for _ in range(3000)),
        None,
    ]
    numbers = [0, -1, None, 2**63 - 1, -(2**63), None]
    (row,) = await nodes.sql(
        "SELECT $1::text::text[] AS texts, $2::text::bigint[] AS numbers", _texts(texts), _numbers(numbers)
    )
    assert row["texts"] == texts
    assert row["numbers"] == numbers
    truths = [True, None, False]
    (row,) = await nodes.sql(
        "SELECT $1::text::boolean[] AS truths, $2::text::text[] AS none", _numbers(truths), _texts([])
    )
    assert (row["truths"], row["none"]) == (truths, [])


async def test_a_store_that_goes_and_comes_loses_no_settle(nodes: Nodes) -> None:
    """litellm 33872, 35531, 19163, PR 34887: spend rows dropped when a flush failed. They are sent until confirmed."""
    money = await nodes.start()
    money.define(budget(10**6))
    held = [await money.hold(asking(10)) for _ in range(20)]
    for n, hold in enumerate(held):
        money.post(hold.hold_id, settled(n))
        if n % 5 == 0:
            await nodes.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'node'")
            await asyncio.sleep(0)
    await until(lambda: not money.down and not money._runner.unsettled)
    posted = sum(range(20))
    assert (await sums(money)) == (posted, 0)
    report = await nodes.verify()
    assert report.counts.posted == 20


async def test_a_node_begins_while_the_store_is_away_and_opens_when_it_comes(database: str) -> None:
    """envoyproxy/ratelimit 1143: a crash loop where the store is absent at the start."""
    async with nodes_on(database) as nodes:
        await nodes.sql("ALTER SCHEMA bursar RENAME TO elsewhere")
        begun = asyncio.create_task(nodes.start())
        await until(lambda: nodes.living)
        money = nodes.living[0]
        money.define(budget(1000))
        assert await tried(money, 1) == "store_unavailable"
        await nodes.sql("ALTER SCHEMA elsewhere RENAME TO bursar")
        assert await begun is money
        assert isinstance(await tried(money, 1), Held)


# ---- the dead


async def test_what_a_dead_node_left_open_is_booked_once_by_whoever_comes_first(nodes: Nodes) -> None:
    """otari 128, 742: holds were lost in a crash. litellm 27639: others were never released."""
    dead = await nodes.start(lease_s=0.5)
    dead.define(budget(10**6))
    for _ in range(300):
        await dead.hold(asking(10))
    await nodes.kill(dead)
    others = [await nodes.start(lease_s=0.5) for _ in range(3)]
    for money in others:
        money.define(budget(10**6))

    async def is_booked() -> bool:
        return await sums(others[0]) == (3000, 0)

    await until(is_booked)
    report = await nodes.verify()
    assert (report.counts.unreconciled, report.counts.posted, report.open_holds) == (300, 300, 0)
    assert len([event for event in nodes.told if event.kind == "unreconciled"]) == 300

    async def is_marked() -> bool:
        (row,) = await nodes.sql("SELECT recovered_ns FROM bursar.ledger_session WHERE id = 1")
        return row["recovered_ns"] is not None

    await until(is_marked)


async def test_a_node_that_was_only_cut_off_corrects_later(nodes: Nodes) -> None:
    """What it cost is learned late: a correcting pair, never an edit. Its next holds are in a new life."""
    money = await nodes.start()
    money.define(budget(10**6))
    held = [await money.hold(asking(100)) for _ in range(3)]
    before = money._runner.session
    other = await nodes.start()
    await nodes.sql("UPDATE bursar.ledger_session SET ended_ns = 1, ended_by = 2 WHERE id = $1", before)
    assert await other.recover(at_once=True) == 3
    assert await sums(other) == (300, 0)
    money.post(held[0].hold_id, settled(30))
    money.post(held[1].hold_id, settled(120))
    money.void(held[2].hold_id, "unsent")
    await money.settled()
    assert await sums(money) == (150, 0)
    assert money._runner.session != before
    report = await nodes.verify()
    assert (report.counts.corrections, report.counts.unreconciled) == (3, 3)
    assert isinstance(await tried(money, 1), Held)


async def test_when_the_store_was_away_nobody_is_taken_for_dead(nodes: Nodes) -> None:
    """All leases look old then, and the first to come back must not end the lives of all others."""
    one, two = await nodes.start(), await nodes.start()
    await nodes.sql("UPDATE bursar.ledger_session SET seen_ns = 1")
    assert await one.recover() == 0
    one._runner.wake()
    two._runner.wake()
    one._runner.up_since -= 100
    await until(lambda: one._runner.acts > 1 and two._runner.acts > 1)
    assert await one.recover() == 0
    (row,) = await nodes.sql("SELECT count(*) FROM bursar.ledger_session WHERE ended_ns IS NULL")
    assert row["count"] == 2


async def test_settles_that_cannot_be_sent_before_the_end_are_sent_by_the_next_life(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bursar.stores.postgres_money._FLUSH_S", 0.1)
    async with nodes_on(database) as nodes:
        money = await nodes.start(folder=tmp_path)
        money.define(budget(1000))
        held = [await money.hold(asking(100)) for _ in range(2)]
        await nodes.sql("ALTER SCHEMA bursar RENAME TO elsewhere")
        money.shrink(held[0].hold_id, 50)
        money.post(held[0].hold_id, settled(30))
        money.void(held[1].hold_id, "unsent")
        await money.close()
        nodes.living.clear()
        await nodes.sql("ALTER SCHEMA elsewhere RENAME TO bursar")
        again = await nodes.start(folder=tmp_path)
        again.define(budget(1000))
        assert await sums(again) == (30, 0)
        await nodes.verify()


# ---- the directory's word


async def test_a_key_that_was_switched_off_spends_nowhere_from_that_moment(nodes: Nodes) -> None:
    """litellm 34217: keys of a deleted team worked until a cache expired."""
    money = await nodes.start()
    money.define(budget(1000))
    assert isinstance(await tried(money, 1, team_id="t9"), Held)
    await nodes.sql("INSERT INTO bursar.directory_paused VALUES ('team', 't9', 'disabled', 2)")
    assert await tried(money, 1, team_id="t9") == "key_disabled"
    assert isinstance(await tried(money, 1), Held)


# ---- a hold that is told is there after a crash


async def test_commits_that_wait_for_nothing_are_overruled_in_every_act(nodes: Nodes, database: str) -> None:
    """`synchronous_commit = off` set for the database: seen from inside of acts that hold, and that settle."""
    name = database.rpartition("/")[2]
    await nodes.sql(f"ALTER DATABASE {name} SET synchronous_commit = off")
    await nodes.sql("CREATE TABLE public.seen (kind integer, setting text)")
    await nodes.sql(
        """CREATE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO public.seen VALUES (NEW.kind, current_setting('synchronous_commit')); RETURN NULL; END $$"""
    )
    await nodes.sql("CREATE TRIGGER note AFTER INSERT ON bursar.ledger FOR EACH ROW EXECUTE FUNCTION public.note()")
    (row,) = await nodes.sql("SELECT current_setting('synchronous_commit') AS setting")
    assert row["setting"] == "off"
    money = await nodes.start()
    money.define(budget(1000))
    for end in ("post", "void"):
        held = await money.hold(asking(10))
        money.post(held.hold_id, settled(7)) if end == "post" else money.void(held.hold_id, "unsent")
        await money.settled()
    seen = {
        (row["kind"], row["setting"]) for row in await nodes.sql("SELECT * FROM public.seen WHERE kind IN (4, 6, 7)")
    }
    assert seen == {(4, "on"), (6, "on"), (7, "on")}


# ---- the ledger only grows


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE bursar.ledger SET amount = 0",
        "DELETE FROM bursar.ledger",
        "TRUNCATE bursar.ledger",
        "UPDATE bursar.ledger_rest SET amount = 0",
    ],
)
async def test_the_ledger_is_only_ever_added_to(nodes: Nodes, statement: str) -> None:
    money = await nodes.start()
    money.define(budget(1000))
    await money.hold(asking(1))
    if "rest" in statement:
        (row,) = await nodes.sql("SELECT tableoid::regclass::text AS name FROM bursar.ledger LIMIT 1")
        statement = statement.replace("bursar.ledger_rest", row["name"])
    with pytest.raises(asyncpg.RestrictViolationError):
        await nodes.sql(statement)


async def test_the_ledger_has_a_partition_for_this_month_and_those_to_come(nodes: Nodes) -> None:
    """litellm 16582, PR 11683, Team-Commonly PR 468: tables of spend grew to millions of rows, and all in one piece."""
    money = await nodes.start()
    money.define(budget(1000))
    await money.hold(asking(1))
    (row,) = await nodes.sql("SELECT count(*) FROM pg_inherits WHERE inhparent = 'bursar.ledger'::regclass")
    assert row["count"] == 4  # three months and the rest
    (row,) = await nodes.sql("SELECT count(*) FROM bursar.ledger_rest")
    assert row["count"] == 0
    assert (await nodes.sql("SELECT bursar.ledger_months(5)"))[0][0] == 3


def test_an_end_travels_through_the_spool_as_it_is(tmp_path: Path) -> None:
    settles = [(5, 10), post(5, settled(7)), post(6, settled(7, exact=False))]
    Spool(tmp_path).write(settles)
    assert Spool(tmp_path).read() == settles
    Spool(tmp_path).write([])
    assert not list(tmp_path.iterdir())
    assert msgspec.msgpack.encode(settles)


async def test_a_node_at_rest_says_nothing(nodes: Nodes) -> None:
    money = await nodes.start()
    money.define(budget(1000))
    held = await money.hold(asking(1))
    money.post(held.hold_id, settled(1))
    await money.settled()
    acts = money._runner.acts
    await asyncio.sleep(0.1)
    assert money._runner.acts == acts


async def test_a_fault_of_our_own_loses_no_settle(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    money = await nodes.start()
    money.define(budget(1000))
    held = await money.hold(asking(10))
    faults = [RuntimeError("ours"), RuntimeError("ours")]
    turn = money._runner._turn

    async def wrong() -> None:
        if faults:
            raise faults.pop()
        await turn()

    monkeypatch.setattr(money._runner, "_turn", wrong)
    money.post(held.hold_id, settled(7))
    await until(lambda: not faults or money.down)
    await until(lambda: is_held(money))
    assert await sums(money) == (7, 0)
    await nodes.verify()


async def test_tokens_that_are_long_over_are_in_no_balances_and_no_proof_misses_them(nodes: Nodes) -> None:
    """As on one node, where the ledger forgets them; what stands there by another name only looks alike."""
    money = await nodes.start()
    (row,) = await nodes.sql("SELECT bursar.ledger_now() / 1000000000 AS now")
    day, now = 86_400, row["now"]
    over = [f"token:{now - day - 60}:over-{n}" for n in range(3)]
    alive = [f"token:{now - day + 600}:just", f"token:{now + 60}:lives", f"token:{9 * 10**17}:far"]
    alive += ["b", "token:x:odd", "token:", "token:12", f"x-token:{now - 2 * day}:a"]
    for name in over + alive:
        money.define(budget(1000, name, window=WindowDef(kind="lifetime"), thresholds=()))
    for name in over + alive:
        money.post((await money.hold(asking(10, name))).hold_id, settled(7))
    await money.settled()
    expected = {name for name in alive if not is_over(name, now * 10**9)}
    assert {balance.budget_id for balance in await money.balances()} == expected
    shown = await LedgerPostgres(nodes.stores[0]).balances()
    assert {balance.budget_id for balance in shown} == expected
    report = await nodes.verify()
    assert report.problem is None
    assert {total.id for total in report.budgets} == {*over, *alive}


def is_over(name: str, now: int) -> bool:
    end = forgotten_at(name)
    return end is not None and end <= now

"""What the directory says of who pays is looked at in the act of holding money, whatever a node has heard of it."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from bursar.core.directory import Delta, TokenMark, revoked_mark
from bursar.core.errors import Refusal
from bursar.core.ledger import Held
from bursar.stores import postgres_money_runner
from bursar.stores.directory_postgres import DirectoryPostgres
from bursar.stores.postgres import Connection, Postgres
from bursar.stores.postgres_money import PostgresMoney
from bursar.stores.postgres_money_act import ARGUMENTS, HELD, PAUSED, Answer, Batch, Waiting, act
from bursar.stores.postgres_money_nodes import first_id
from tests.stores.journal_kit import asking, budget
from tests.stores.postgres_money_kit import Nodes, nodes_on, until

ENDS = 2**62
OLD_ACT = f"""WITH done AS MATERIALIZED (
        SELECT * FROM bursar.ledger_act_1({", ".join(ARGUMENTS[:-1])})
    ), kept AS (
        INSERT INTO bursar.ledger_event (t_ns, told) SELECT d.t_ns, e FROM done d, unnest(d.events) AS e
    ) SELECT * FROM done"""
"""As a node of the version before says it: without tokens, and in one transaction with its wait for the disk."""
DECIDES = f"SELECT * FROM bursar.ledger_act_2({', '.join(ARGUMENTS)})"
"""What the act calls inside its transaction."""


@pytest.fixture
async def nodes(database: str) -> AsyncIterator[Nodes]:
    async with nodes_on(database) as opened:
        yield opened


async def paid(money: PostgresMoney, token: str, **names: str) -> Held | str:
    try:
        return await money.hold(asking(1, credential="token" if token else "", **names), token)
    except Refusal as refusal:
        return refusal.word


async def revoke(nodes: Nodes, version: int, *tokens: str) -> None:
    """As control writes it."""
    marks = [TokenMark(id=revoked_mark(token), until=ENDS) for token in tokens]
    await DirectoryPostgres(nodes.stores[0]).commit(
        Delta(version=version, token_marks=marks), "admin", "token.revoke", 1
    )


async def test_a_token_revoked_anywhere_spends_nothing_from_that_moment(nodes: Nodes) -> None:
    money, elsewhere = await nodes.start(), await nodes.start()
    for one in (money, elsewhere):
        one.define(budget(1000))
    assert isinstance(await paid(money, "t1"), Held)
    await revoke(nodes, 1, "t1")
    for one in (money, elsewhere):
        assert await paid(one, "t1") == "token_revoked"
        assert isinstance(await paid(one, "t2"), Held)
        assert isinstance(await paid(one, ""), Held)
    gone = Delta(version=2, gone=[("token_mark", revoked_mark("t1"))])  # swept when it had ended
    await DirectoryPostgres(nodes.stores[0]).commit(gone, "admin", "token.revoke", 1)
    assert isinstance(await paid(money, "t1"), Held)
    await nodes.verify()


async def test_of_many_in_one_act_those_are_refused_whose_token_is_revoked(nodes: Nodes) -> None:
    """They share a label: what revokes a token is of the hold, not of who and what it is for."""
    money = await nodes.start()
    money.define(budget(1000))
    assert isinstance(await paid(money, ""), Held)  # its window, its label
    await revoke(nodes, 1, "t1", "t3")
    acts = money._runner.acts
    waiting = [money._runner.ask(asking(1, credential="token"), f"t{n % 5}") for n in range(40)]
    await until(lambda: all(one.future.done() for one in waiting))
    assert money._runner.acts < acts + 10, "they went out together"
    for number, one in enumerate(waiting):
        fault = one.future.exception()
        assert (fault.word if isinstance(fault, Refusal) else "") == ("token_revoked" if number % 5 in (1, 3) else "")
    assert (await money.balances())[0].held_pico == 1 + 24
    await nodes.verify()


async def test_what_a_token_stood_on_is_gone(nodes: Nodes) -> None:
    """In the words of a node that has heard: to a token's holder, the token ended with it."""
    money = await nodes.start()
    money.define(budget(1000))
    for row in ("('key', 'k7', 'gone', 1)", "('team', 't8', 'gone', 1)", "('key', 'k9', 'disabled', 1)"):
        await nodes.sql(f"INSERT INTO bursar.directory_paused VALUES {row}")
    for names, of_token, of_key in (
        ({"key_id": "k7"}, "token_revoked", "key_disabled"),
        ({"key_id": "k9", "team_id": "t8"}, "token_revoked", "key_disabled"),
        ({"key_id": "k9"}, "key_disabled", "key_disabled"),
    ):
        assert (await paid(money, "t1", **names), await paid(money, "", **names)) == (of_token, of_key)
    await nodes.sql("INSERT INTO bursar.directory_paused VALUES ('provider_key', 's', 'disabled', 1)")
    assert await paid(money, "t1") == "no_provider_key"
    assert await paid(money, "t1", key_id="k9") == "key_disabled"


async def test_a_node_of_the_version_before_works_beside_a_new_one(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On one schema: its statement is still there, does the same, and knows of no tokens."""
    old: set[int] = set()
    used: list[str] = []

    async def acted(store: Postgres, db: Connection, batch: Batch, seconds: float) -> Answer:
        if batch.session not in old:
            return await act(store, db, batch, seconds)
        used.append("old")
        return Answer(*await db.fetchrow(store.sql(OLD_ACT), *batch.arguments()[:-1], timeout=seconds))

    monkeypatch.setattr(postgres_money_runner, "act", acted)
    new, before = await nodes.start(), await nodes.start()
    old.add(before._runner.session)
    for money in (new, before):
        money.define(budget(100))
    held = [await paid(money, token) for money in (new, before) for token in ("", "t1")]
    await revoke(nodes, 1, "t1")
    assert await paid(new, "t1") == "token_revoked"
    assert isinstance(await paid(before, "t1"), Held), "refused once it has heard, as before"
    await nodes.sql("INSERT INTO bursar.directory_paused VALUES ('team', 't9', 'disabled', 2)")
    assert await paid(before, "", team_id="t9") == "key_disabled"
    for money, hold in zip((new, new, before, before), held, strict=True):
        assert isinstance(hold, Held)
        money.void(hold.hold_id, "unsent")
    await nodes.verify()
    assert used
    assert [balance.held_pico for balance in await new.balances()] == [1]


async def test_calls_with_keys_look_for_no_token_and_a_token_is_found_by_its_name(nodes: Nodes) -> None:
    """Counted by PostgreSQL: how often an act reads the directory's table, and how many of its rows."""
    money = await nodes.start()
    money.define(budget(1000))
    assert isinstance(await paid(money, ""), Held)
    await revoke(nodes, 1, *(f"t{number}" for number in range(500)))
    await nodes.sql("ANALYZE bursar.directory_entity")
    (label,) = await nodes.sql("SELECT id FROM bursar.ledger_label")
    session, number = money._runner.session, money._budgets.known["b"].no

    async def read(*tokens: str) -> tuple[int, int, int]:
        """Scans of the whole table, looks into its index, and rows, for an act with a hold for each of these."""
        batch = Batch(session, any_window=False)
        for place, token in enumerate(tokens):
            waiting = Waiting(asking(1), token, asyncio.get_running_loop().create_future(), 0)
            waiting.hold_id = first_id(session) + 100 + place
            batch.holds.append(waiting)
            batch.labels.append(label["id"])
            batch.budgets.append([number])
        async with money._store.transaction() as db:
            before = await db.fetchrow(_READ)
            answer = Answer(*await db.fetchrow(DECIDES, *batch.arguments()))
            assert answer.status == [PAUSED if token.startswith("t") else HELD for token in tokens]
            after = await db.fetchrow(_READ)
            await db.execute("ROLLBACK; BEGIN")
        scans, looks, rows = (now - was for now, was in zip(after, before, strict=True))
        return scans, looks, rows

    assert await read("", "", "", "") == (0, 0, 0)
    scans, looks, rows = await read("", "living", "", "t250", "t7")
    assert scans == 0
    assert 1 <= looks <= 5
    assert rows == 2


_READ = """SELECT coalesce(sum(seq_scan), 0), coalesce(sum(idx_scan), 0), coalesce(sum(idx_tup_fetch), 0)
    FROM pg_stat_xact_user_tables WHERE relname = 'directory_entity'"""

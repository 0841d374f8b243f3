"""One suite for both directory stores: what is committed is read back, whole and as deltas, or nothing happened."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bursar.control.directory import Book
from bursar.core.directory import BudgetDef, Delta, KeySecret, Owner, ProviderKey, Snapshot, Team, TrustRule, VirtualKey
from bursar.core.errors import Refusal
from bursar.stores.directory_db import DirectoryDb
from bursar.stores.directory_postgres import DirectoryPostgres
from bursar.stores.postgres import Postgres
from bursar.stores.postgres_schema import migrate
from tests.postgres import PostgresServer

OWNER = Owner(id="acme", name="ACME", contacts=("money@acme.example",))
TEAM = Team(id="search", name="Search", owner_id="acme")
KEY = VirtualKey(id="k1", name="K", team_id="search", secrets=(KeySecret(digest=b"\x00\xff" * 16),))
BUDGET = BudgetDef(id="b1", version=1, subject_kind="team", subject="search", limit_pico=10**14)


@pytest.fixture(params=["sqlite", "postgres"])
async def directory(request: pytest.FixtureRequest, tmp_path: Path, store: Postgres) -> AsyncIterator[Any]:
    if request.param == "sqlite":
        opened = DirectoryDb(tmp_path / "directory.db")
        yield opened
        opened.close()
        return
    await migrate(store, "directory")
    yield DirectoryPostgres(store)


async def write(directory: Any, *deltas: Delta) -> None:
    for delta in deltas:
        await directory.commit(delta, "admin", "test.change", delta.version)


STORY = [
    Delta(version=1, owners=[OWNER], teams=[TEAM]),
    Delta(version=2, keys=[KEY], budgets=[BUDGET]),
    Delta(version=3, gone=[("key", "k1"), ("team", "search")]),
    Delta(version=4, teams=[Team(id="search", name="Anew", owner_id="acme")], gone=[("owner", "nobody")]),
]


async def test_the_present_and_every_way_to_it(directory: Any) -> None:
    await write(directory, *STORY)
    present = await directory.snapshot()
    assert present == Snapshot(
        version=4, owners=[OWNER], teams=[Team(id="search", name="Anew", owner_id="acme")], budgets=[BUDGET]
    )
    for version in range(5):
        assert await directory.changes_since(version) == STORY[version:]
        book = Book(Snapshot(version=0))
        for delta in STORY:
            book.apply(delta)
        assert book.snapshot() == present


async def test_a_version_of_elsewhere_has_no_deltas(directory: Any) -> None:
    await write(directory, *STORY)
    assert await directory.changes_since(5) is None
    assert await directory.changes_since(-1) is None


async def test_what_was_decided_on_another_version_is_refused_whole(directory: Any) -> None:
    await write(directory, STORY[0])
    for version in (1, 3):
        wrong = Delta(version=version, owners=[Owner(id="other", name="O")], gone=[("team", "search")])
        with pytest.raises(Refusal) as refused:
            await write(directory, wrong)
        assert refused.value.word == "directory_changed"
    assert await directory.snapshot() == Snapshot(version=1, owners=[OWNER], teams=[TEAM])
    assert await directory.changes_since(1) == []


async def test_the_history_of_one_entity(directory: Any) -> None:
    await write(directory, *STORY)
    told = await directory.history(99, 10, ("team", "search"))  # whole changes: others may have been part of them
    anew, gone, made = [row for row in told if (row.kind, row.id) == ("team", "search")]
    assert [(row.version, row.action, row.actor) for row in (made, gone, anew)] == [
        (1, "test.change", "admin"),
        (3, "test.change", "admin"),
        (4, "test.change", "admin"),
    ]
    assert (made.before, made.after, gone.before, gone.after) == (None, TEAM, TEAM, None)
    assert anew.before is None
    assert [row.version for row in await directory.history(4, 1)] == [3, 3]
    assert [row.version for row in await directory.history(3, 5, ("key", "k1"))] == [2, 2]
    assert await directory.history(1, 10) == []


# ---- PostgreSQL alone


@pytest.fixture
async def shared(store: Postgres) -> DirectoryPostgres:
    await migrate(store, "directory")
    return DirectoryPostgres(store)


async def paused(store: Postgres) -> dict[tuple[str, str], tuple[str, int]]:
    async with store.connection() as db:
        rows = await db.fetch(store.sql("SELECT kind, id, reason, version FROM bursar.directory_paused"))
    return {(row["kind"], row["id"]): (row["reason"], row["version"]) for row in rows}


async def test_what_may_not_spend_stands_in_the_table_that_a_hold_looks_at(
    shared: DirectoryPostgres, store: Postgres
) -> None:
    off = VirtualKey(id="k1", name="K", team_id="search", secrets=KEY.secrets, disabled=True)
    address = "openai/*/api_key/prod/*"
    provider_key = ProviderKey(id="p1", version=1, address=address, billing_owner="acme", disabled=True)
    await write(shared, *STORY[:2], Delta(version=3, keys=[off], provider_keys=[provider_key]))
    assert await paused(store) == {("key", "k1"): ("disabled", 3), ("provider_key", "p1"): ("disabled", 3)}
    gone = [("provider_key", "p1"), ("team", "search"), ("budget", "b1")]
    await write(shared, Delta(version=4, keys=[KEY], gone=gone))
    assert await paused(store) == {("provider_key", "p1"): ("gone", 4), ("team", "search"): ("gone", 4)}
    await write(shared, Delta(version=5, teams=[TEAM]))
    assert await paused(store) == {("provider_key", "p1"): ("gone", 4)}


async def test_history_is_kept_by_the_database_itself(shared: DirectoryPostgres, store: Postgres) -> None:
    await write(shared, *STORY)
    for statement in ("UPDATE bursar.directory_change SET actor = 'x'", "DELETE FROM bursar.directory_change"):
        with pytest.raises(Exception, match="never edited"):
            async with store.connection() as db:
                await db.execute(store.sql(statement))


async def test_an_older_node_leaves_kinds_alone_that_it_does_not_know(
    shared: DirectoryPostgres, store: Postgres
) -> None:
    await write(shared, STORY[0])
    async with store.connection() as db:
        await db.execute(
            store.sql(
                """INSERT INTO bursar.directory_entity VALUES ('novelty', 'n1', 2, '{}');
                   INSERT INTO bursar.directory_change VALUES
                       (2, 0, 'novelty', 'n1', NULL, NULL, '{}', 'novelty.create', 'admin', 0, 'x'),
                       (2, 1, 'novelty', 'n0', NULL, NULL, NULL, 'novelty.create', 'admin', 0, 'x');
                   UPDATE bursar.directory_head SET version = 2"""
            )
        )
    assert await shared.snapshot() == Snapshot(version=2, owners=[OWNER], teams=[TEAM])
    assert await shared.changes_since(1) == [Delta(version=2)]
    await write(shared, Delta(version=3, gone=[("team", "search")]))


async def test_a_commit_whose_answer_was_lost_is_looked_up(
    shared: DirectoryPostgres, store: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection breaks right after COMMIT, and right before it."""
    begin = Postgres.transaction
    cut_after = True

    def broken(self: Postgres) -> Any:
        return _Cut(begin(self), cut_after)

    monkeypatch.setattr(Postgres, "transaction", broken)
    await write(shared, STORY[0])
    cut_after = False
    with pytest.raises(Refusal) as refused:
        await write(shared, STORY[1])
    assert refused.value.word == "directory_unavailable"
    monkeypatch.undo()
    assert (await shared.snapshot()).version == 1


class _Cut:
    """A transaction whose end the client does not see."""

    def __init__(self, inner: Any, after: bool) -> None:
        self._inner, self._after = inner, after

    async def __aenter__(self) -> Any:
        return await self._inner.__aenter__()

    async def __aexit__(self, *raised: Any) -> None:
        lost = ConnectionResetError("lost")
        if self._after:
            await self._inner.__aexit__(*raised)
        else:
            with contextlib.suppress(ConnectionResetError):
                await self._inner.__aexit__(type(lost), lost, None)
        raise lost


async def test_connections_that_the_server_has_cut_are_replaced(
    postgres_server: PostgresServer, shared: DirectoryPostgres
) -> None:
    """One call may still fail on a connection that was good a moment ago; the next has another."""
    postgres_server.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname LIKE 'bursar_%'")
    with contextlib.suppress(Refusal):
        await shared.changes_since(0)
    await asyncio.sleep(0)
    assert await shared.changes_since(0) == []


async def test_a_trust_rule_that_is_off_stops_its_tokens_where_a_hold_looks(
    shared: DirectoryPostgres, store: Postgres
) -> None:
    rule = TrustRule(id="ci", team_id="search", issuer="https://i", audience="a", match={"sub": ("x",)})
    off = msgspec.structs.replace(rule, disabled=True)
    await write(shared, *STORY[:2], Delta(version=3, trust=[off]))
    assert await paused(store) == {("key", "trust:ci"): ("disabled", 3)}
    await write(shared, Delta(version=4, trust=[rule]))
    assert await paused(store) == {}
    await write(shared, Delta(version=5, gone=[("trust", "ci")]))
    assert await paused(store) == {("key", "trust:ci"): ("gone", 5)}

"""Two nodes on one directory: each hears of the other's changes, and no change overwrites what it has not seen."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import pytest

from bursar.control.directory import Directory
from bursar.control.follow import follow
from bursar.control.keys import KeyInput, Keys
from bursar.control.owners import Owners
from bursar.control.teams import TeamInput, Teams
from bursar.core.directory import Delta, Owner
from bursar.core.errors import Refusal
from bursar.stores.directory_postgres import DirectoryPostgres, channel_of
from bursar.stores.postgres import Address, Postgres
from bursar.stores.postgres_listen import Listener
from bursar.stores.postgres_schema import migrate
from tests.control.tenants import ACTOR, PEPPER, ReadableAudit, SeededEntropy, SetClock


class MovingClock(SetClock):
    def monotonic(self) -> float:
        return time.monotonic()


class Control:
    """One node's directory, following the others when told to."""

    def __init__(self, store: Postgres, directory: Directory, audit: ReadableAudit) -> None:
        self.store, self.directory, self.audit = store, directory, audit
        self.owners, self.teams = Owners(directory), Teams(directory)
        self.keys = Keys(directory, SeededEntropy(), PEPPER)
        self.told: list[Delta] = []
        self.confirmed: list[float] = []
        self.listener = Listener(store, channel_of(store))
        self._tasks: list[asyncio.Task[None]] = []
        directory.subscribe(self.told.append)

    @classmethod
    async def open(cls, address: Address) -> "Control":
        store = Postgres(address)
        await migrate(store, "directory")
        rows, audit = DirectoryPostgres(store), ReadableAudit()
        return cls(store, Directory(await rows.snapshot(), rows, audit, MovingClock()), audit)

    def follow(self) -> None:
        following = follow(self.directory, self.listener, MovingClock(), self.confirmed.append)
        self._tasks += [asyncio.create_task(self.listener.run()), asyncio.create_task(following)]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.store.close()


async def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - of another task's doing
            await asyncio.sleep(0.01)


@pytest.fixture
async def pair(store: Postgres) -> AsyncIterator[tuple[Control, Control]]:
    a, b = await Control.open(store.address), await Control.open(store.address)
    yield a, b
    await a.close()
    await b.close()


async def test_a_change_reaches_the_other_node_at_once_and_in_order(pair: tuple[Control, Control]) -> None:
    a, b = pair
    b.follow()
    await until(lambda: b.listener.listening)
    await a.owners.create(ACTOR, "ACME", owner_id="acme")
    await a.teams.create(ACTOR, TeamInput(name="Search", owner_id="acme"), "search")
    await until(lambda: b.directory.book.version == 2)
    assert [delta.version for delta in b.told] == [1, 2]
    assert b.teams.get("search").owner_id == "acme"
    assert b.directory.snapshot() == a.directory.snapshot()


async def test_without_notifications_it_is_asked_for(store: Postgres) -> None:
    pooled = Address(url=store.address.url, pooler=True)
    a, b = await Control.open(pooled), await Control.open(pooled)
    try:
        b.follow()
        await until(lambda: b.confirmed)
        await a.owners.create(ACTOR, "ACME")
        await until(lambda: b.directory.book.version == 1)
        assert not b.listener.listening
    finally:
        await a.close()
        await b.close()


async def test_each_answer_of_the_store_confirms_the_book(pair: tuple[Control, Control]) -> None:
    a, _ = pair
    before = time.monotonic()
    a.follow()
    await until(lambda: len(a.confirmed) > 2)
    assert before <= a.confirmed[0] < a.confirmed[-1] <= time.monotonic()


async def test_two_admins_at_once_on_one_entity_one_is_told(pair: tuple[Control, Control]) -> None:
    a, b = pair
    await a.owners.create(ACTOR, "ACME", owner_id="acme")
    await a.teams.create(ACTOR, TeamInput(name="Search", owner_id="acme"), "search")
    await b.directory.catch_up()
    outcomes = await asyncio.gather(
        a.teams.set_disabled("alice", "search", True),
        b.teams.set_disabled("bob", "search", True),
        return_exceptions=True,
    )
    (lost,) = [one for one in outcomes if isinstance(one, Exception)]
    assert isinstance(lost, Refusal)
    assert lost.word == "directory_changed"
    loser = a if isinstance(outcomes[0], Refusal) else b
    assert loser.audit.lines[-1].outcome == "failed"
    await asyncio.gather(a.directory.catch_up(), b.directory.catch_up())
    assert a.directory.snapshot() == b.directory.snapshot()


async def test_changes_that_do_not_meet_all_succeed(pair: tuple[Control, Control]) -> None:
    a, b = pair
    await asyncio.gather(
        *(node.owners.create(ACTOR, f"Owner {name}{n}") for n in range(10) for name, node in (("a", a), ("b", b)))
    )
    await asyncio.gather(a.directory.catch_up(), b.directory.catch_up())
    assert len(a.owners.all()) == 20
    assert a.directory.snapshot() == b.directory.snapshot()


async def test_a_decision_is_made_anew_on_what_the_other_has_changed(pair: tuple[Control, Control]) -> None:
    """The owner goes on one node while the other, which has not heard, makes a team that would need it."""
    a, b = pair
    await a.owners.create(ACTOR, "ACME", owner_id="acme")
    await b.directory.catch_up()
    await a.owners.remove(ACTOR, "acme")
    with pytest.raises(Refusal) as refused:
        await b.teams.create(ACTOR, TeamInput(name="Search", owner_id="acme"), "search")
    assert refused.value.word == "unknown_id"


async def test_a_store_restored_from_a_backup_replaces_the_book(pair: tuple[Control, Control]) -> None:
    a, b = pair
    replaced: list[int] = []
    b.directory.on_replaced(lambda: replaced.append(b.directory.book.version))
    await a.owners.create(ACTOR, "ACME")
    await a.owners.create(ACTOR, "Lost")
    await b.directory.catch_up()
    async with a.store.connection() as db:
        await db.execute(
            """ALTER TABLE bursar.directory_change DISABLE TRIGGER ALL;
               DELETE FROM bursar.directory_change WHERE version = 2;
               DELETE FROM bursar.directory_entity WHERE version = 2;
               UPDATE bursar.directory_head SET version = 1"""
        )
    await b.directory.catch_up()
    assert replaced == [1]
    assert b.owners.all() == [Owner(id="acme", name="ACME")]


async def test_a_lost_listener_comes_back(pair: tuple[Control, Control]) -> None:
    a, b = pair
    b.follow()
    await until(lambda: b.listener.listening)
    async with a.store.connection() as db:
        await db.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND query LIKE 'LISTEN%'"
        )
    await a.owners.create(ACTOR, "ACME")
    await until(lambda: b.directory.book.version == 1)


async def test_many_changes_come_in_several_answers(
    pair: tuple[Control, Control], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bursar.stores.directory_postgres.MAX_DELTAS", 4)
    a, b = pair
    await a.owners.create(ACTOR, "ACME", owner_id="acme")
    await a.teams.create(ACTOR, TeamInput(name="Search", owner_id="acme"), "search")
    for number in range(9):
        await a.keys.create(ACTOR, "search", KeyInput(name=f"key {number}"))
    await b.directory.catch_up()
    assert [delta.version for delta in b.told] == list(range(1, 12))
    assert b.directory.snapshot() == a.directory.snapshot()

"""Ids that providers made go to PostgreSQL and back: every one of them, to its team, and never onto other ids."""

import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bursar.core.made_ids import KINDS, MadeId
from bursar.core.secret import Secret
from bursar.stores.made_ids_file import FILE, MadeIdsFile, read_lines
from bursar.stores.made_ids_moving import bring_ids_here, bring_ids_there
from bursar.stores.moving import CannotMove, Sum
from bursar.stores.postgres import Address, Postgres
from bursar.stores.postgres_made_ids import PostgresMadeIds
from bursar.stores.postgres_schema import migrate
from tests.conformance.test_made_ids import HOUR, made
from tests.gateway.fakes import NOON, FakeClock

IDS = st.builds(
    made,
    st.sampled_from(["resp_1", "resp_2", "Resp_1", "é".encode().hex(), "a~b", "0"]),
    team=st.sampled_from(["team-1", "Team-1", "zoë", "a"]),
    kind=st.sampled_from(KINDS),
    at=st.integers(NOON - 5, NOON),
    life=st.sampled_from([1, HOUR]),
)
HISTORY = st.lists(st.tuples(st.booleans(), IDS), max_size=25)


async def written(folder: Path, history: list[tuple[bool, MadeId]]) -> None:
    store = MadeIdsFile(folder / FILE, FakeClock(), most_of_team=1000, most=2000)
    for gone, one in history:
        await (store.forget(*one.name) if gone else store.keep([one]))
    await store.close()


def ids_of(folder: Path) -> set[MadeId]:
    path = folder / FILE
    return set(read_lines(path.read_bytes().splitlines(keepends=True))[0]) if path.exists() else set()


async def there(folder: Path, store: Postgres) -> list[Sum]:
    async with store.transaction() as db:
        return await bring_ids_there(folder, store, db)


async def here(folder: Path, store: Postgres) -> list[Sum]:
    (folder / "moving").mkdir(exist_ok=True, parents=True)
    db = await store.dedicated()
    try:
        async with db.transaction(isolation="repeatable_read", readonly=True):
            return await bring_ids_here(folder, store, db)
    finally:
        await db.close()


async def opened(url: str) -> Postgres:
    store = Postgres(Address(url=Secret(url)))
    await migrate(store, "made_ids")
    return store


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(history=HISTORY, tail=st.binary(max_size=20))
async def test_all_ids_go_there_and_back(
    history: list[tuple[bool, MadeId]], tail: bytes, tmp_path: Path, database: str
) -> None:
    home, again = tmp_path / "home", tmp_path / "again"
    for folder in (home, again):
        shutil.rmtree(folder, ignore_errors=True)
    home.mkdir()
    store = await opened(database)
    try:
        async with store.connection() as db:
            await db.execute("DELETE FROM bursar.made_id")
        await written(home, history)
        if history:
            with (home / FILE).open("ab") as file:
                file.write(tail)  # what a crash left half written is no id
        before = ids_of(home)
        sums = await there(home, store)
        assert await there(home, store) == sums  # a second run finds that it has been done
        fleet = PostgresMadeIds(store, FakeClock(), most_of_team=1000)
        for one in before:
            assert await fleet.find(*one.name) == (one if one.expires_at > NOON else None)
        assert sum(found.rows for found in sums) == len(before)
        back = {one for one in before if one.kind != "job"}  # jobs name holds, which have other numbers there
        told = await here(again, store)
        assert sum(found.rows for found in told) == len(back)
        assert ids_of(again) == back
        assert await here(again, store) == told
    finally:
        await store.close()


async def test_a_team_s_oldest_is_still_its_oldest_after_the_way(tmp_path: Path, database: str) -> None:
    """In the order of the file, whatever that of their names."""
    (tmp_path / "home").mkdir()
    store = await opened(database)
    try:
        ages = [("z", NOON - 3), ("a", NOON - 2), ("m", NOON - 1)]
        await written(tmp_path / "home", [(False, made(name, at=at)) for name, at in ages])
        await there(tmp_path / "home", store)
        await here(tmp_path / "again", store)
    finally:
        await store.close()
    returned = MadeIdsFile(tmp_path / "again" / FILE, FakeClock(), most_of_team=3, most=100)
    await returned.keep([made("new")])
    assert [await returned.find("team-1", "response", name) is not None for name in ("z", "a", "m", "new")] == [
        False,
        True,
        True,
        True,
    ]
    await returned.close()


async def test_nothing_is_moved_onto_other_ids(tmp_path: Path, database: str) -> None:
    home, other = tmp_path / "home", tmp_path / "other"
    for folder in (home, other):
        folder.mkdir()
    await written(home, [(False, made("resp_1"))])
    await written(other, [(False, made("resp_1", team="team-2"))])
    store = await opened(database)
    try:
        await there(home, store)
        with pytest.raises(CannotMove, match="other ids"):
            await there(other, store)
        with pytest.raises(CannotMove, match=FILE):
            await here(other, store)
        found = PostgresMadeIds(store, FakeClock(), most_of_team=9)
        assert await found.find("team-2", "response", "resp_1") is None
    finally:
        await store.close()
    assert {one.team for one in ids_of(other)} == {"team-2"}


async def test_a_way_back_that_was_cut_off_begins_anew(tmp_path: Path, database: str) -> None:
    home, again = tmp_path / "home", tmp_path / "again"
    home.mkdir()
    await written(home, [(False, made("resp_1")), (False, made("resp_2"))])
    store = await opened(database)
    try:
        await there(home, store)
        (again / "moving").mkdir(parents=True)
        (again / "moving" / FILE).write_bytes(b"half of" * 1000)
        await here(again, store)
    finally:
        await store.close()
    assert ids_of(again) == ids_of(home)
    assert (again / FILE).stat().st_mode & 0o777 == 0o600

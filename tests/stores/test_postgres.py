"""The way to PostgreSQL: migrations of several nodes at once, two versions on one schema, faults with their word."""

import asyncio
from pathlib import Path

import asyncpg
import pytest

from bursar.core.errors import Refusal
from bursar.core.secret import Secret
from bursar.stores.postgres import Address, Postgres, named_faults
from bursar.stores.postgres_schema import MIGRATIONS, migrate
from bursar.stores.schema import SchemaFault
from tests.e2e.broker import free_ports

PARTS = sorted(folder.name for folder in MIGRATIONS.iterdir())


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    (tmp_path / "things").mkdir()
    (tmp_path / "things/0001_first.sql").write_text("CREATE TABLE bursar.thing (id integer PRIMARY KEY);")
    (tmp_path / "things/0002_more.sql").write_text("INSERT INTO bursar.thing VALUES (1), (2);")
    return tmp_path


async def things(store: Postgres) -> int:
    async with store.connection() as db:
        return int(await db.fetchval(store.sql("SELECT count(*) FROM bursar.thing")))


@pytest.mark.parametrize("part", PARTS)
async def test_every_part_migrates_and_a_second_time_changes_nothing(store: Postgres, part: str) -> None:
    reached = await migrate(store, part)
    assert reached == len(list((MIGRATIONS / part).glob("*.sql")))
    assert await migrate(store, part) == reached


@pytest.mark.parametrize("schema", ["bursar", "llm_broker"])
async def test_nodes_that_start_at_once_migrate_once(database: str, scripts: Path, schema: str) -> None:
    nodes = [Postgres(Address(url=Secret(database), schema=schema)) for _ in range(8)]
    try:
        assert await asyncio.gather(*(migrate(node, "things", scripts) for node in nodes)) == [2] * 8
        assert await things(nodes[0]) == 2
    finally:
        await asyncio.gather(*(node.close() for node in nodes))


async def test_an_older_version_goes_on_where_a_newer_one_has_been(store: Postgres, scripts: Path) -> None:
    await migrate(store, "things", scripts)
    (scripts / "things/0002_more.sql").unlink()
    assert await migrate(store, "things", scripts) == 2


async def test_it_is_refused_once_the_schema_needs_a_newer_one(store: Postgres, scripts: Path) -> None:
    script = scripts / "things/0003_contract.sql"
    script.write_text("-- needs: 3\nDROP TABLE bursar.thing;")
    await migrate(store, "things", scripts)
    script.unlink()
    with pytest.raises(SchemaFault, match="start a newer Bursar"):
        await migrate(store, "things", scripts)


async def test_a_migration_that_fails_leaves_nothing(store: Postgres, scripts: Path) -> None:
    (scripts / "things/0003_wrong.sql").write_text("INSERT INTO bursar.thing VALUES (3); SELECT 1/0;")
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrate(store, "things", scripts)
    assert await things(store) == 2


async def test_a_migration_waits_for_a_table_that_is_in_use(store: Postgres, scripts: Path) -> None:
    await migrate(store, "things", scripts)
    (scripts / "things/0003_wider.sql").write_text("ALTER TABLE bursar.thing ADD COLUMN name text;")
    async with store.transaction() as db:
        await db.execute("SELECT * FROM bursar.thing")
        waiting = asyncio.create_task(migrate(store, "things", scripts))
        await asyncio.wait([waiting], timeout=0.3)
        assert not waiting.done()
    assert await waiting == 3


async def test_through_a_pooler_nothing_is_set_on_the_connection(database: str, scripts: Path) -> None:
    node = Postgres(Address(url=Secret(database), pooler=True))
    try:
        await migrate(node, "things", scripts)
        async with node.connection() as db:
            assert await db.fetchval("SHOW statement_timeout") == "0"
            assert await db.fetchval("SELECT count(*) FROM pg_prepared_statements WHERE name <> ''") == 0
    finally:
        await node.close()


async def test_a_server_that_is_away_is_a_refusal_without_the_url() -> None:
    (port,) = free_ports(1)
    node = Postgres(Address(url=Secret(f"postgresql://bursar:hush@127.0.0.1:{port}/bursar")))
    with pytest.raises(Refusal) as refused, named_faults("directory_unavailable", "The directory was not read"):
        async with node.connection():
            pass
    assert refused.value.word == "directory_unavailable"
    assert "hush" not in str(refused.value)
    assert refused.value.retry_after
    await node.close()


async def test_a_slow_statement_ends_at_its_timeout(database: str) -> None:
    node = Postgres(Address(url=Secret(database), statement_timeout=0.2))
    with pytest.raises(Refusal) as refused, named_faults("store_unavailable", "The store was not read"):
        async with node.connection() as db:
            await db.execute("SELECT pg_sleep(30)")
    assert refused.value.word == "store_unavailable"
    await node.close()


async def test_a_connection_that_the_server_cut_does_not_hide_what_happened(store: Postgres) -> None:
    """The pool has taken it back by then. A cancellation that became a fault would be lost."""

    async def cut(fault: BaseException) -> None:
        async with store.connection() as db:
            pid = await db.fetchval("SELECT pg_backend_pid()")
            async with store.connection() as other:
                await other.execute("SELECT pg_terminate_backend($1)", pid)
            with pytest.raises(asyncpg.InterfaceError):  # noqa: PT012 - until it is known here
                while True:
                    db.is_closed()
                    await asyncio.sleep(0.005)
            raise fault

    for fault in (TimeoutError("of our own"), asyncio.CancelledError("of our own")):
        with pytest.raises(type(fault), match="of our own"):
            await cut(fault)

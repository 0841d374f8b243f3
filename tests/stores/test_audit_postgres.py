"""The audit's trail in PostgreSQL: a chain a node, in order, without gaps, and only ever added to."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from bursar.control.audit import AuditLog
from bursar.control.audit_notary import Signer
from bursar.core.audit import GENESIS, AuditFailed, Wanted, chain_hash, decode_record, unframe
from bursar.core.secret import Secret
from bursar.stores.audit_file import AuditFile
from bursar.stores.audit_postgres import AuditPostgres, chains
from bursar.stores.postgres import Postgres
from bursar.stores.postgres_schema import migrate
from tests.control.tenants import SetClock


@pytest.fixture
async def way(store: Postgres) -> Postgres:
    await migrate(store, "audit")
    return store


def log_of(way: Postgres, node: str, folder: Path) -> AuditLog:
    second = AuditFile(folder / f"{node}-checkpoints.jsonl")
    return AuditLog(AuditPostgres(way, node), [], second, Signer(Secret("11" * 32)), SetClock())


async def test_nodes_write_at_once_each_into_its_own_chain(way: Postgres, tmp_path: Path) -> None:
    logs = {node: log_of(way, node, tmp_path) for node in ("a", "b", "c")}
    await asyncio.gather(
        *(log.append("admin", "key.create", f"key/{n}", {"n": n}) for n in range(50) for log in logs.values())
    )
    for log in logs.values():
        await log.close()
    assert await chains(way) == ["a", "b", "c"]
    for node in logs:
        trail = AuditPostgres(way, node)
        seq, last = await trail.position()
        lines = await trail.read(0, 1000)
        records = [decode_record(unframe(line)[1]) for line in lines]
        assert [record.seq for record in records] == list(range(1, seq + 1))
        assert sum(record.action == "key.create" for record in records) == 50
        assert unframe(lines[-1])[0] == last


async def test_a_restarted_node_goes_on_in_its_chain(way: Postgres, tmp_path: Path) -> None:
    for number in range(2):
        log = log_of(way, "a", tmp_path)
        await log.append("admin", "key.create", f"key/{number}", {})
        await log.close()
    lines = await AuditPostgres(way, "a").read(0, 1000)
    actions = [decode_record(unframe(line)[1]).action for line in lines]
    assert actions.count("audit.start") == actions.count("key.create") == 2


async def test_a_second_writer_of_a_chain_is_refused(way: Postgres, tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    one = log_of(way, "a", tmp_path / "1")
    await one.append("admin", "key.create", "key/1", {})
    two = log_of(way, "a", tmp_path / "2")  # not before: it writes at once that it has started
    outcomes = await asyncio.gather(
        *(log.append("admin", "key.create", "key/x", {}) for log in (one, two) * 10), return_exceptions=True
    )
    assert all(isinstance(outcome, int | AuditFailed) for outcome in outcomes)
    lines = await AuditPostgres(way, "a").read(0, 1000)
    assert [decode_record(unframe(line)[1]).seq for line in lines] == list(range(1, len(lines) + 1))
    await one.close()
    await two.close()


async def test_a_chain_goes_on_where_a_standby_has_it_end(way: Postgres, tmp_path: Path) -> None:
    """One that took over and lacks the last records: the first write is refused, and there is no gap."""
    log = log_of(way, "a", tmp_path)
    for number in range(5):
        await log.append("admin", "key.create", f"key/{number}", {})
    async with way.connection() as db:
        await db.execute("SET session_replication_role = replica; DELETE FROM bursar.audit_record WHERE seq > 3")
        await db.execute("RESET session_replication_role")
    with pytest.raises(AuditFailed, match="does not end in PostgreSQL where this node left it"):
        await log.append("admin", "key.create", "key/lost", {})
    await log.append("admin", "key.create", "key/later", {})
    await log.close()
    last, records = GENESIS, []
    for line in await AuditPostgres(way, "a").read(0, 1000):
        found, payload = unframe(line)
        assert found == chain_hash(last, payload)
        last = found
        records.append(decode_record(payload))
    assert [record.seq for record in records] == list(range(1, len(records) + 1))
    assert "key/later" in {record.target for record in records}


async def test_what_is_written_stays(way: Postgres, tmp_path: Path) -> None:
    log = log_of(way, "a", tmp_path)
    await log.append("admin", "key.create", "key/1", {})
    await log.close()
    async with way.connection() as db:
        for statement in ("DELETE FROM bursar.audit_record", "UPDATE bursar.audit_record SET actor = 'x'"):
            with pytest.raises(Exception, match="append-only"):
                await db.execute(statement)
        with pytest.raises(Exception, match="append-only"):
            await db.execute("TRUNCATE bursar.audit_record")


async def test_an_empty_chain_begins_at_genesis(way: Postgres) -> None:
    assert await AuditPostgres(way, "new").position() == (0, GENESIS)


async def test_a_search_finds_what_matches_newest_first_in_its_own_chain(way: Postgres, tmp_path: Path) -> None:
    logs = [log_of(way, node, tmp_path) for node in ("a", "b")]
    for log in logs:
        for number in range(5):
            await log.append("admin", "key.create", f"key/{number}", {})
            await log.append("admin", "key_create", f"key%{number}", {}, "refused")
        await log.close()
    trail = AuditPostgres(way, "a")

    async def found(limit: int = 100, before: int = 10**6, **wanted: Any) -> list[tuple[str, str]]:
        lines = await trail.search(Wanted(**wanted), before, limit)
        return [(record.action, record.target) for record in (decode_record(unframe(line)[1]) for line in lines)]

    assert await found(action="key.*") == [("key.create", f"key/{number}") for number in (4, 3, 2, 1, 0)]
    assert await found(action="key_create", target="key%3") == [("key_create", "key%3")]
    assert await found(target="*/2") == [("key.create", "key/2")]
    assert len(await found(outcome="refused")) == 5
    assert len(await found(actor="admin", limit=3)) == 3
    assert await found(until_ns=1) == []

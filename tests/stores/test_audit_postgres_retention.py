"""Retention, export and proof of a fleet's audit: what is over goes from its own chain, and all chains still prove."""

from pathlib import Path
from typing import Any

import pytest

from bursar.app.audit_copies import AuditCopies
from bursar.control.audit import AuditLog
from bursar.control.audit_notary import Signer
from bursar.control.audit_retention import Retention
from bursar.control.verify_audit import Report, verify_file
from bursar.control.verify_audit_rows import verify_chains
from bursar.core.audit import Wanted, decode_record, unframe
from bursar.core.secret import Secret
from bursar.stores.audit_file import AuditFile
from bursar.stores.audit_moving import bring_chain_here, bring_chain_there, same_chain
from bursar.stores.audit_postgres import AuditPostgres
from bursar.stores.moving import CannotMove
from bursar.stores.postgres import Postgres
from bursar.stores.postgres_schema import migrate
from bursar.stores.schema import open_database
from tests.control.tenants import SetClock

DAY = 86_400 * 10**9
KEEP = {"uses": 90 * DAY}
SIGNER = Signer(Secret("11" * 32))


class Node:
    """One node's audit in the fleet, with a history, and its retention."""

    def __init__(self, way: Postgres, name: str, folder: Path) -> None:
        self.clock = SetClock()
        self.trail = AuditPostgres(way, name, timeout=60)
        self.checkpoints = folder / f"{name}-checkpoints.jsonl"
        self.log = AuditLog(self.trail, [], AuditFile(self.checkpoints), SIGNER, self.clock)
        self.retention = Retention(self.trail, [], self.log, SIGNER, self.clock, KEEP, spool=50)

    async def history(self, days: int) -> "Node":
        for day in range(days):
            self.clock.ns += DAY
            for _ in range(3):
                await self.log.append("node:a", "secret.use", "secret/x", {"uses": day})
            if day % 20 == 0:
                await self.log.append("admin", "key.create", f"key/{day}", {"day": day})
        return self

    async def standing(self) -> list[Any]:
        return [decode_record(unframe(line)[1]) for line in await self.trail.read(0, 10_000)]


@pytest.fixture
async def way(store: Postgres) -> Postgres:
    await migrate(store, "audit")
    return store


async def proven(way: Postgres, *nodes: Node, public_key: str | None = None) -> dict[str, Report]:
    db = await way.dedicated()
    try:
        checkpoints = {node.trail._chain: node.checkpoints for node in nodes}
        return await verify_chains(db, way.address.schema, checkpoints, public_key)
    finally:
        await db.close()


async def harm(way: Postgres, statement: str) -> None:
    """Past every trigger, as who owns the database can."""
    async with way.connection() as db:
        for table in ("audit_record", "audit_pruned"):
            await db.execute(f"ALTER TABLE bursar.{table} DISABLE TRIGGER USER")
        await db.execute(statement)


async def test_what_is_over_goes_from_its_own_chain_and_all_prove(way: Postgres, tmp_path: Path) -> None:
    one, two = await Node(way, "a", tmp_path).history(120), await Node(way, "b", tmp_path).history(120)
    before, other = await one.standing(), await two.standing()
    assert await one.retention.prune() == 87  # 3 a day, those older than 90 days
    gone = {r.seq for r in before} - {r.seq for r in await one.standing()}
    assert gone == {r.seq for r in before if r.action == "secret.use" and r.at_ns < one.clock.ns - 90 * DAY}
    assert [r.seq for r in await two.standing()] == [r.seq for r in other]
    assert await one.retention.prune() == 0
    for node in (one, two):
        await node.log.checkpoint()
    found = await proven(way, one, two, public_key=SIGNER.public_key)
    assert {chain: (r.fault, r.pruned) for chain, r in found.items()} == {"a": ("", 87), "b": ("", 0)}
    assert found["a"].signed > before[-1].seq
    await one.log.close()
    again = await Node(way, "a", tmp_path).history(1)  # a restart goes on over what is gone
    assert (await proven(way, again))["a"].fault == ""


async def test_the_online_proof_and_the_export_say_the_same(way: Postgres, tmp_path: Path) -> None:
    one = await Node(way, "a", tmp_path).history(120)
    await one.retention.prune()
    copies = AuditCopies(way, one.checkpoints, "a")
    found = await copies.verify("")
    assert (found["fault"], found["pruned"]) == ("", 87)
    export = b"".join([piece async for piece in copies.export(Wanted(), "jsonl")])
    (tmp_path / "export").write_bytes(export)
    assert verify_file(tmp_path / "export").pruned == 87
    assert verify_file(tmp_path / "export").fault == ""


async def test_the_database_itself_lets_nothing_go_without_its_run(way: Postgres, tmp_path: Path) -> None:
    one = await Node(way, "a", tmp_path).history(120)
    await one.retention.prune()
    (seq, *_), *_ = await one.trail.glance(0, 10**9, 1)
    statements = (f"DELETE FROM bursar.audit_record WHERE seq = {seq}", "DELETE FROM bursar.audit_pruned")
    for statement in (*statements, "UPDATE bursar.audit_pruned SET last = 9", "TRUNCATE bursar.audit_pruned"):
        async with way.connection() as db:
            with pytest.raises(Exception, match="append-only"):
                await db.execute(statement)


TAMPERING = {
    "a record deleted": "DELETE FROM bursar.audit_record WHERE seq = 200",
    "the last ones deleted": "DELETE FROM bursar.audit_record WHERE seq > 200",
    "a column changed": "UPDATE bursar.audit_record SET actor = 'nobody' WHERE seq = 300",
    "a record changed": "UPDATE bursar.audit_record SET payload = payload || ' '::bytea WHERE seq = 300",
    "a run made up for a deleted record": """WITH gone AS (DELETE FROM bursar.audit_record WHERE seq = 300 RETURNING *)
        INSERT INTO bursar.audit_pruned SELECT chain, seq, seq, hash, hash FROM gone""",
    "a run forgotten": "DELETE FROM bursar.audit_pruned WHERE first = (SELECT min(first) FROM bursar.audit_pruned)",
    "the whole chain": "DELETE FROM bursar.audit_record; DELETE FROM bursar.audit_pruned",
}


@pytest.mark.parametrize("what", TAMPERING)
async def test_what_was_tampered_with_is_named_with_its_chain(way: Postgres, tmp_path: Path, what: str) -> None:
    one = await Node(way, "a", tmp_path).history(120)
    await one.retention.prune()
    await one.log.close()
    assert (await proven(way, one))["a"].fault == ""
    await harm(way, TAMPERING[what])
    assert (await proven(way, one))["a"].fault


async def test_chains_go_to_files_and_back_to_the_byte(way: Postgres, tmp_path: Path, database: str) -> None:
    one, two = await Node(way, "a", tmp_path).history(100), await Node(way, "b", tmp_path).history(3)
    await one.retention.prune()
    for node in (one, two):
        await node.log.close()
    before = await proven(way, one, two)
    files = {chain: open_database(tmp_path / f"{chain}.db", "audit") for chain in ("a", "b")}
    db = await way.dedicated()
    async with db.transaction(isolation="repeatable_read", readonly=True):
        for chain, file in files.items():
            await bring_chain_here(db, way, chain, file)
            assert await same_chain(db, way, chain, file)
        assert not await same_chain(db, way, "b", files["a"])
    await db.close()
    await harm(way, "DELETE FROM bursar.audit_record; DELETE FROM bursar.audit_pruned")
    for chain, file in files.items():
        await bring_chain_there(file, way, chain)
        assert await bring_chain_there(file, way, chain) == 0  # nothing is brought twice
    assert await proven(way, one, two) == before
    with pytest.raises(CannotMove, match="another audit of a"):
        await bring_chain_there(files["b"], way, "a")

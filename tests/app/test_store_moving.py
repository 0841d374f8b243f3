"""The whole store on its way, cut at every point where it can be: run again it goes on, and nothing is half."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from bursar.app import store_moving
from bursar.app.clock import SystemClock, SystemEntropy
from bursar.app.folder import prepare
from bursar.app.settings import read_config
from bursar.app.store_moving import Move
from bursar.config import Config
from bursar.control.audit import AuditLog
from bursar.control.audit_notary import Signer
from bursar.core.directory import Delta, Owner, Team
from bursar.core.secret import Secret
from bursar.secrets.embedded import EmbeddedStore
from bursar.secrets.sealing import SealError
from bursar.secrets.wrap import keyfile
from bursar.stores import audit_moving, postgres_money_import
from bursar.stores.audit_db import AuditDb
from bursar.stores.audit_file import AuditFile
from bursar.stores.directory_db import DirectoryDb
from bursar.stores.moving import CannotMove
from bursar.stores.postgres import Postgres
from bursar.stores.postgres_schema import PARTS, migrate
from tests.stores.test_money_moving import spent

TAGS = {"owner": "own_1"}
ADDRESS = "openai/gpt-4o-mini/chat/prod/demo"


async def lived_in(folder: Path) -> None:
    """A data folder with a bit of everything."""
    prepare(folder)
    spent(folder / "journal")
    entropy = SystemEntropy()
    wrapper = keyfile.create(folder / "wrapping.key", entropy)
    store = await EmbeddedStore.open(folder / "secrets.db", [wrapper], SystemClock(), entropy)
    secret_id, _ = await store.put(ADDRESS, Secret("sk-first-" + "x" * 40), TAGS)
    await store.put_version(secret_id, Secret("sk-second-" + "y" * 40))
    store.close()
    directory = DirectoryDb(folder / "directory.db")
    await directory.commit(Delta(version=1, owners=[Owner(id="own_1", name="One")]), "admin", "owner.create", 1)
    teams = [Team(id=f"team_{n}", owner_id="own_1", name=f"T{n}", disabled=n == 1) for n in range(3)]
    await directory.commit(Delta(version=2, teams=teams), "admin", "team.create", 2)
    await directory.commit(Delta(version=3, gone=[("team", "team_2")]), "admin", "team.delete", 3)
    directory.close()
    trail = AuditDb(folder / "audit.db")
    log = AuditLog(trail, [], AuditFile(folder / "audit-checkpoints.jsonl"), Signer(Secret("11" * 32)), SystemClock())
    for number in range(40):
        await log.append("admin", "key.create", f"key/{number}", {})
    await log.close()
    trail.close()


def config_of(folder: Path, **more: Any) -> Config:
    path = folder / "bursar.yaml"
    path.write_text(json.dumps({"node": "one", **more}))
    return read_config(str(path), str(folder / "data"))


class Cut(ConnectionError):
    """The process dies here."""


class Cutting:
    """Told of progress; dies the n-th time."""

    def __init__(self, at: int) -> None:
        self.left = at

    def __call__(self, what: str, rows: int) -> None:
        del what, rows
        self.left -= 1
        if self.left == 0:
            raise Cut("killed here")


@pytest.fixture
async def prepared(store: Postgres, monkeypatch: pytest.MonkeyPatch) -> Postgres:
    monkeypatch.setattr(audit_moving, "PIECE", 9)
    monkeypatch.setattr(postgres_money_import, "PIECE", 17)
    for part in PARTS:
        await migrate(store, part)
    return store


def cutting_between(monkeypatch: pytest.MonkeyPatch, cutting: Cutting) -> None:
    """Dies also between the parts."""
    for name in ("bring_part_there", "bring_part_here", "bring_chain_here"):
        whole = getattr(store_moving, name)

        async def then(*values: Any, whole: Any = whole) -> Any:
            done = await whole(*values)
            cutting("", 0)
            return done

        monkeypatch.setattr(store_moving, name, then)


async def test_cut_anywhere_and_run_again_it_arrives_whole_both_ways(
    prepared: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, data, back = config_of(tmp_path), tmp_path / "data", tmp_path / "back"
    await lived_in(data)
    cuts, facts = 0, None
    for at in range(1, 60):
        cutting = Cutting(at % 5 + 1)
        with monkeypatch.context() as patch:
            cutting_between(patch, cutting)
            try:
                facts = await Move(config, data, prepared, cutting).there({}, only_look=False)
                break
            except Cut:
                cuts += 1
            async with prepared.connection() as db:
                assert await db.fetchval("SELECT done_at IS NULL FROM bursar.store_moving")
    assert cuts > 3
    assert facts is not None
    assert (facts["holds"], facts["audit chains"]) == (40, 1)
    async with prepared.connection() as db:
        paused = [
            tuple(row) for row in await db.fetch("SELECT kind, id, reason FROM bursar.directory_paused ORDER BY id")
        ]
    assert paused == [("team", "team_1", "disabled"), ("team", "team_2", "gone")]
    with pytest.raises(CannotMove, match="already"):
        await Move(config, data, prepared).there({}, only_look=False)

    prepare(back)
    (back / "wrapping.key").write_bytes((data / "wrapping.key").read_bytes())
    (back / "wrapping.key").chmod(0o600)
    cuts = 0
    for at in range(1, 60):
        cutting = Cutting(at)
        with monkeypatch.context() as patch:
            cutting_between(patch, cutting)
            try:
                returned = await Move(config, back, prepared, cutting).back({}, only_look=False)
                break
            except Cut:
                cuts += 1
                assert (back / "moving").exists()
    assert cuts > 3
    assert not (back / "moving").exists()
    assert returned["audit records"] == facts["audit records"]
    await same_as_before(data, back)


async def same_as_before(data: Path, back: Path) -> None:
    entropy = SystemEntropy()
    stores = [
        await EmbeddedStore.open(
            folder / "secrets.db", [keyfile.load(folder / "wrapping.key", entropy)], SystemClock(), entropy
        )
        for folder in (data, back)
    ]
    entries = [await store.entries() for store in stores]
    assert entries[0] == entries[1]
    for version in (1, 2):
        values = [(await store.get(entries[0][0].id, version)).reveal() for store in stores]
        assert values[0] == values[1]
    directories = [DirectoryDb(folder / "directory.db") for folder in (data, back)]
    assert directories[0].load() == directories[1].load()
    assert await directories[0].history(99, 99) == await directories[1].history(99, 99)
    for opened in (*stores, *directories):
        opened.close()


async def test_nothing_is_moved_that_is_not_proven(prepared: Postgres, tmp_path: Path) -> None:
    config, data = config_of(tmp_path), tmp_path / "data"
    await lived_in(data)
    (data / "wrapping.key").rename(data / "kept.key")
    keyfile.create(data / "wrapping.key", SystemEntropy())
    with pytest.raises(SealError):
        await Move(config, data, prepared).there({}, only_look=False)
    (data / "kept.key").rename(data / "wrapping.key")
    checkpoints = data / "audit-checkpoints.jsonl"
    whole = checkpoints.read_bytes()
    checkpoints.write_bytes(whole.replace(b'"seq":', b'"Seq":'))
    with pytest.raises(CannotMove, match="audit of one is not proven"):
        await Move(config, data, prepared).there({}, only_look=False)
    checkpoints.write_bytes(whole)
    async with prepared.connection() as db:
        for table in ("store_moving", "secret", "directory_entity", "audit_record", "ledger"):
            assert await db.fetchval(f"SELECT count(*) FROM bursar.{table}") == 0
    assert (await Move(config, data, prepared).there(dict(os.environ), only_look=True))["holds"] == 40


async def test_nothing_is_moved_onto_another_store(prepared: Postgres, tmp_path: Path) -> None:
    config, data = config_of(tmp_path), tmp_path / "data"
    await lived_in(data)
    async with prepared.connection() as db:
        await db.execute("INSERT INTO bursar.secret_internal VALUES ('pepper', '\\x00', 1)")
    with pytest.raises(CannotMove, match=r"already \(sealed secrets\)"):
        await Move(config, data, prepared).there({}, only_look=False)
    async with prepared.connection() as db:
        await db.execute("DELETE FROM bursar.secret_internal")
    await Move(config, data, prepared).there({}, only_look=False)
    with pytest.raises(CannotMove, match=r"secrets.db, directory.db, audit.db, a journal"):
        await Move(config, data, prepared).back({}, only_look=False)

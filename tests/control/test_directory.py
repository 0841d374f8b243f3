"""The directory: one version a change, in store, book and subscribers alike; nothing the audit has not seen."""

import asyncio
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from bursar.control.directory import Book, Change
from bursar.control.teams import TeamInput
from bursar.core.directory import Delta, Owner, Snapshot, Team
from bursar.core.errors import Refusal
from bursar.stores.directory_db import MAX_DELTAS, DirectoryDb
from bursar.stores.schema import SchemaFault
from tests.control.tenants import ACTOR, Tenants


@pytest.fixture
def tenants(tmp_path: Path) -> Iterator[Tenants]:
    made = Tenants(tmp_path)
    yield made
    made.store.close()


async def some_changes(tenants: Tenants) -> None:
    team = await tenants.team()
    await tenants.owners.create(ACTOR, "Other")
    await tenants.teams.set_disabled(ACTOR, team, True)
    await tenants.owners.remove(ACTOR, "other")


async def test_a_restart_reads_the_same_directory(tenants: Tenants, tmp_path: Path) -> None:
    await some_changes(tenants)
    again = DirectoryDb(tenants.path)
    assert again.load() == tenants.directory.snapshot()
    assert again.version() == 5
    again.close()


async def test_deltas_from_any_version_lead_to_the_present(tenants: Tenants) -> None:
    await some_changes(tenants)
    announced = tenants.deltas
    assert [delta.version for delta in announced] == [1, 2, 3, 4, 5]
    for version in range(6):
        read = await tenants.store.changes_since(version)
        assert read == announced[version:]
        book = Book(Snapshot(version=0))
        for delta in announced[:version] + (read or []):
            book.apply(delta)
        assert book.snapshot() == tenants.directory.snapshot()


async def test_a_reader_from_elsewhere_or_far_behind_gets_no_deltas(
    tenants: Tenants, monkeypatch: pytest.MonkeyPatch
) -> None:
    await some_changes(tenants)
    assert await tenants.store.changes_since(6) is None
    assert await tenants.store.changes_since(-1) is None
    assert MAX_DELTAS > 5
    monkeypatch.setattr("bursar.stores.directory_db.MAX_DELTAS", 3)
    assert await tenants.store.changes_since(1) is None
    assert await tenants.store.changes_since(2) is not None


async def test_a_repeated_command_changes_nothing(tenants: Tenants) -> None:
    team = await tenants.team()
    before = len(tenants.audit.lines), tenants.directory.book.version
    await tenants.teams.set_disabled(ACTOR, team, False)
    assert (len(tenants.audit.lines), tenants.directory.book.version) == before


async def test_what_the_audit_cannot_record_does_not_happen(tenants: Tenants) -> None:
    tenants.audit.broken = True
    with pytest.raises(Refusal) as refused:
        await tenants.owners.create(ACTOR, "ACME")
    assert refused.value.word == "audit_unavailable"
    assert tenants.store.version() == tenants.directory.book.version == 0
    assert tenants.deltas == []


async def test_what_the_store_refuses_is_recorded_as_failed_and_not_believed(tenants: Tenants) -> None:
    other = DirectoryDb(tenants.path)
    await other.commit(Delta(version=1, owners=[Owner(id="acme", name="X")]), "somebody", "owner.create", 1)
    other.close()
    with pytest.raises(Refusal) as refused:
        await tenants.owners.create(ACTOR, "ACME")
    assert refused.value.word == "directory_changed"
    assert [(line.action, line.outcome) for line in tenants.audit.lines] == [
        ("owner.create", "allowed"),
        ("owner.create", "failed"),
    ]
    assert tenants.owners.all() == [Owner(id="acme", name="X")]


async def test_a_disk_that_fails_leaves_the_old_directory_whole(tenants: Tenants) -> None:
    await tenants.team()
    tenants.store._db.execute("PRAGMA query_only = ON")
    with pytest.raises(Refusal) as refused:
        await tenants.owners.create(ACTOR, "Other")
    assert refused.value.word == "directory_unavailable"
    assert refused.value.hint
    tenants.store._db.execute("PRAGMA query_only = OFF")
    await tenants.owners.create(ACTOR, "Other")
    assert tenants.store.load() == tenants.directory.snapshot()


async def test_concurrent_changes_take_turns_and_none_is_lost(tenants: Tenants) -> None:
    await asyncio.gather(*(tenants.owners.create(ACTOR, "Same name") for _ in range(20)))
    ids = {owner.id for owner in tenants.owners.all()}
    assert ids == {"same-name", *(f"same-name-{number}" for number in range(2, 21))}
    assert [delta.version for delta in tenants.deltas] == list(range(1, 21))


async def test_concurrent_edits_of_one_team_see_one_another(tenants: Tenants) -> None:
    team = await tenants.team()

    def add(tag: str) -> object:
        def edit(present: Team) -> TeamInput:
            return TeamInput(name=present.name, owner_id=present.owner_id, tags=(*present.tags, tag))

        return tenants.teams.update(ACTOR, team, edit)

    await asyncio.gather(*(add(f"t{number}") for number in range(10)))
    assert sorted(tenants.teams.get(team).tags) == sorted(f"t{number}" for number in range(10))


async def test_a_caller_who_leaves_does_not_part_audit_and_directory(tenants: Tenants) -> None:
    gate = asyncio.Event()
    append = tenants.audit.append

    async def slow(*args, **kwargs):
        await gate.wait()
        return await append(*args, **kwargs)

    tenants.audit.append = slow
    call = asyncio.create_task(tenants.owners.create(ACTOR, "ACME"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    gate.set()
    await tenants.owners.create(ACTOR, "Next in turn")
    assert tenants.audit.actions == ["owner.create", "owner.create"]
    assert [owner.id for owner in tenants.owners.all()] == ["acme", "next-in-turn"]
    assert tenants.store.load() == tenants.directory.snapshot()


async def test_history_says_who_changed_what_and_cannot_be_edited(tenants: Tenants) -> None:
    team = await tenants.team()
    await tenants.teams.set_disabled("night-watch", team, True)
    disabled, created = await tenants.store.history(99, 10, ("team", team))
    assert (created.action, created.actor, created.before) == ("team.create", ACTOR, None)
    assert (disabled.action, disabled.actor, disabled.before) == ("team.disable", "night-watch", created.after)
    with sqlite3.connect(tenants.path) as raw:
        for sql in ("UPDATE change SET actor = 'x'", "DELETE FROM change"):
            with pytest.raises(sqlite3.IntegrityError, match="never"):
                raw.execute(sql)
    raw.close()


async def test_an_unsubscribed_reader_hears_nothing_more(tenants: Tenants) -> None:
    heard: list[Delta] = []
    stop = tenants.directory.subscribe(heard.append)
    await tenants.owners.create(ACTOR, "One")
    stop()
    await tenants.owners.create(ACTOR, "Two")
    assert [delta.version for delta in heard] == [1]


async def test_one_change_of_several_entities_is_one_version(tenants: Tenants) -> None:
    await tenants.team()

    def decide(book: Book) -> Change:
        put = [Owner(id=f"o{number}", name="x") for number in range(3)]
        return Change(action="test", target="*", put=put, gone=[("team", "search")])

    await tenants.directory.change(ACTOR, decide)
    (delta,) = await tenants.store.changes_since(2) or []
    assert ([owner.id for owner in delta.owners], delta.gone) == (["o0", "o1", "o2"], [("team", "search")])
    assert tenants.store.load() == tenants.directory.snapshot()


def test_the_file_is_private_and_one_from_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "directory.db"
    DirectoryDb(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with sqlite3.connect(path) as raw:
        raw.execute("PRAGMA user_version = 99")
    raw.close()
    with pytest.raises(SchemaFault, match="newer"):
        DirectoryDb(path)


async def test_a_snapshot_survives_the_wire(tenants: Tenants) -> None:
    await some_changes(tenants)
    snapshot = tenants.directory.snapshot()
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(snapshot), type=Snapshot) == snapshot

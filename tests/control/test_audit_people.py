"""People in the audit: no name in clear, found by name, erased for good while every hash stays. On real files."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.app.audit_jobs import AuditJobs
from bursar.control.audit import AuditLog
from bursar.control.audit_desk import AuditDesk
from bursar.control.audit_people import People
from bursar.control.verify_audit import verify_database, verify_file
from bursar.core.audit import AuditFailed, Event, Record, Wanted
from bursar.core.errors import Refusal
from bursar.core.secret import Secret
from bursar.stores.audit_people_db import PeopleDb

Desk = Any  # tests/control/conftest.py
ANN = "ann.lee@example.com"
KEY = Secret("22" * 32)


class Room:
    def __init__(self, desk: Desk) -> None:
        self.folder: Path = desk.db.parent
        self.file: Path = desk.file
        trail = desk.trail()
        self.rows = desk.people()
        self.people = People(self.rows, KEY)
        self.log: AuditLog = desk.open(trail=trail, veil=self.people.veil)
        self.desk = AuditDesk(trail, self.log, AuditJobs(self.folder, desk.checkpoints, "n"), self.people)

    async def found(self, **wanted: Any) -> list[Record]:
        return await self.desk.search("admin", Wanted(**wanted), 100)

    def written(self) -> bytes:
        """Every byte that the audit keeps."""
        return b"".join(file.read_bytes() for file in sorted(self.folder.iterdir()) if file.is_file())


@pytest.fixture
async def room(desk: Desk) -> Room:
    made = Room(desk)
    await made.log.append(f"oidc:{ANN}", "key.create", "key/a", {"user": ANN, "note": "mine"})
    await made.log.append("admin", "owner.update", f"user/{ANN}", {"user": "bob", "email": "bob@example.org"})
    await made.log.append("admin", "team.create", "team/x", {"note": "no person"})
    return made


async def test_no_name_is_written_in_clear(room: Room) -> None:
    kept = room.written().lower()
    assert b"ann.lee" not in kept
    assert b"example.org" not in kept
    assert b'"user":"bob"' not in kept
    assert b"no person" in kept


async def test_a_person_is_found_by_name_and_shown_with_it(room: Room) -> None:
    (record,) = await room.found(actor=ANN.upper())
    assert (record.actor, record.facts) == (f"oidc:{ANN}", {"user": ANN, "note": "mine"})
    (record,) = await room.found(action="owner.update")
    assert (record.target, record.facts) == (f"user/{ANN}", {"user": "bob", "email": "bob@example.org"})
    pseudonym = room.people.pseudonym(ANN)
    assert len(await room.found(actor=pseudonym)) == 1
    assert room.people.pseudonym(f"oidc:{ANN}") == pseudonym


async def test_an_export_holds_pseudonyms(room: Room) -> None:
    copy = b"".join([piece async for piece in await room.desk.export("admin", Wanted(actor=ANN), "csv")])
    assert b"ann.lee" not in copy
    assert copy.count(b"person:") >= 2
    assert len(copy.splitlines()) == 2


async def test_an_erased_person_is_gone_and_every_proof_stands(room: Room) -> None:
    before = room.written()
    pseudonym = await room.desk.erase("admin", ANN)
    assert re.fullmatch("person:[0-9a-f]{32}", pseudonym)
    assert await room.found(actor=ANN) == []
    (record,) = await room.found(actor=pseudonym, action="key.create")
    assert record.facts["user"] == pseudonym
    (other,) = await room.found(action="owner.update")
    assert (other.target, other.facts["user"]) == (f"user/{pseudonym}", "bob")  # others stay known
    for found in (verify_database(room.folder / "audit.db"), verify_file(room.file)):
        assert found.fault == ""
    row = re.search(rb"person:[0-9a-f]{32}", before)
    assert row is not None
    shredded = b"".join(path.read_bytes() for path in room.folder.glob("audit-people.db*"))
    assert pseudonym.encode() not in shredded  # the row, its key with it, is overwritten
    with pytest.raises(Refusal, match="knows nobody"):
        await room.desk.erase("admin", ANN)
    erasure = (await room.found(action="audit.erase"))[0]
    assert (erasure.actor, erasure.target) == ("admin", f"audit/{pseudonym}")


async def test_who_comes_back_after_an_erasure_is_somebody_new(room: Room) -> None:
    gone = await room.desk.erase("admin", ANN)
    await room.log.append(ANN, "key.create", "key/b", {})
    assert room.people.pseudonym(ANN) not in (None, gone)
    assert [record.target for record in await room.found(actor=ANN)] == ["key/b"]


async def test_without_a_record_nobody_is_erased(room: Room) -> None:
    await room.log.close()
    with pytest.raises(AuditFailed):
        await room.desk.erase("admin", ANN)
    assert room.people.pseudonym(ANN) is not None


async def test_a_restart_knows_the_same_people(room: Room, desk: Desk) -> None:
    again = People(PeopleDb(room.folder / "audit-people.db"), KEY)
    assert again.pseudonym(ANN) == room.people.pseudonym(ANN)
    veiled = again.veil(Event(actor=ANN, action="x", target="y"))
    assert room.people.open(_record(veiled)).actor == ANN


async def test_keys_do_not_open_without_the_vault(room: Room) -> None:
    stolen = People(room.rows, Secret("33" * 32))
    pseudonym = room.people.pseudonym(ANN)
    assert stolen.pseudonym(ANN) is None  # not even found
    record = next(r for r in await room.found(action="key.create"))
    veiled = room.people.veil(Event(actor=record.actor, action="x", target="y"))
    assert veiled.actor == pseudonym
    with pytest.raises(Refusal, match="does not open"):
        stolen.open(_record(veiled))


def _record(event: Event) -> Record:
    return Record(
        seq=1,
        at_ns=1,
        actor=event.actor,
        action=event.action,
        target=event.target,
        outcome=event.outcome,
        facts=event.facts,
    )


class Memory:
    """Rows for the property below: a folder for each example would be slow."""

    def __init__(self) -> None:
        self.rows: dict[bytes, tuple[str, bytes]] = {}

    def by_lookup(self, lookup: bytes) -> tuple[str, bytes] | None:
        return self.rows.get(lookup)

    def by_pseudonym(self, pseudonym: str) -> bytes | None:
        return next((sealed for known, sealed in self.rows.values() if known == pseudonym), None)

    def put(self, lookup: bytes, pseudonym: str, sealed: bytes) -> None:
        self.rows[lookup] = pseudonym, sealed

    def shred(self, pseudonym: str) -> None:
        self.rows = {lookup: row for lookup, row in self.rows.items() if row[0] != pseudonym}


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ["user:a", "oidc:Ann@Ex.org", "a@b.c", "user/a@b.c", "@", "person:x", "x@y", "user/"]
)


@given(texts, texts, st.dictionaries(texts | st.sampled_from(["user", "email"]), texts, max_size=3))
def test_whatever_is_veiled_opens_to_what_it_was(actor: str, target: str, facts: dict[str, Any]) -> None:
    facts = {name: fact for name, fact in facts.items() if not name.startswith("sealed.")}
    people = People(Memory(), KEY)
    event = Event(actor=actor, action="a", target=target, facts=facts)
    opened = people.open(_record(people.veil(event)))
    if not {"actor", "target"} & facts.keys():
        assert (opened.actor, opened.target, opened.facts) == (actor, target, facts)

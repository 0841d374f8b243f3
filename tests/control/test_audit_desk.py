"""Reading the audit: what is found, what is taken away, what is proven; each reading a record. On real files."""

import asyncio
import csv
import io
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bursar.app.audit_jobs import AuditJobs
from bursar.control.audit import AuditLog
from bursar.control.audit_desk import AuditDesk, ExportForm
from bursar.control.audit_people import People
from bursar.control.verify_audit import verify_file
from bursar.core.audit import AuditFailed, Event, Wanted, decode_record, unframe
from bursar.core.secret import Secret

Desk = Any  # tests/control/conftest.py


class Room:
    """An audit with some history, and the desk at which it is read."""

    def __init__(self, desk: Desk) -> None:
        self.folder: Path = desk.db.parent
        trail = desk.trail()
        self.people = People(desk.people(), Secret("22" * 32))
        self.log: AuditLog = desk.open(trail=trail, veil=self.people.veil)
        self.clock = desk.clock
        self.desk = AuditDesk(trail, self.log, AuditJobs(self.folder, desk.checkpoints, "node-1"), self.people)

    async def history(self) -> None:
        for n in range(10):
            self.clock.ns += 10**9
            await self.log.append("admin", "key.create", f"key/{n}", {"n": n})
            await self.log.append(
                "node:a", "secret.release", "secret/[x]", {"n": n}, "refused" if n == 3 else "allowed"
            )

    async def found(self, limit: int = 100, before: int = 0, **wanted: Any) -> list[tuple[str, str]]:
        records = await self.desk.search("ann", Wanted(**wanted), limit, before)
        return [(record.action, record.target) for record in records]

    async def exported(self, form: ExportForm, **wanted: Any) -> bytes:
        return b"".join([piece async for piece in await self.desk.export("ann", Wanted(**wanted), form)])


@pytest.fixture
async def room(desk: Desk) -> Room:
    made = Room(desk)
    await made.history()
    return made


async def test_records_are_found_by_each_field_and_by_glob(room: Room) -> None:
    assert await room.found(actor="admin", limit=2) == [("key.create", "key/9"), ("key.create", "key/8")]
    assert len(await room.found(action="secret.*")) == 10
    assert await room.found(target="key/4") == [("key.create", "key/4")]
    assert len(await room.found(target="secret/[x*")) == 10  # a bracket is a bracket
    assert await room.found(target="key/?") == []  # and a question mark is one
    assert await room.found(outcome="refused") == [("secret.release", "secret/[x]")]
    assert await room.found(actor="nobody' OR 1=1 --") == []
    start = room.clock.ns - 9 * 10**9
    assert len(await room.found(since_ns=start, until_ns=start + 2 * 10**9, actor="admin")) == 2


async def test_pages_go_on_where_they_ended(room: Room) -> None:
    seen: list[int] = []
    before = 0
    while page := await room.desk.search("ann", Wanted(action="key.create"), 3, before):
        seen += [int(record.facts["n"]) for record in page]
        before = page[-1].seq
    assert seen == list(range(9, -1, -1))


async def test_each_reading_is_a_record_and_none_finds_itself(room: Room) -> None:
    assert await room.found(action="audit.*", actor="ann") == []
    assert await room.found(action="audit.search") == [("audit.search", "audit")]
    await room.exported("csv", actor="admin")
    assert (await room.desk.verify("ann", ""))["fault"] == ""
    records = await room.desk.search("bob", Wanted(actor="ann"), 10)
    assert [record.action for record in records] == ["audit.verify", "audit.export", "audit.search", "audit.search"]
    assert records[1].facts == {"actor": "admin", "form": "csv"}


async def test_without_a_record_nothing_is_read(room: Room) -> None:
    await room.log.close()
    with pytest.raises(AuditFailed):
        await room.found()
    with pytest.raises(AuditFailed):
        await room.exported("jsonl")
    with pytest.raises(AuditFailed):
        await room.desk.verify("ann", "")


async def test_an_export_of_all_proves_by_itself(room: Room, tmp_path: Path) -> None:
    (tmp_path / "copy").write_bytes(await room.exported("jsonl"))
    report = verify_file(tmp_path / "copy")
    assert (report.fault, report.records) == ("", 22)  # start, the history, and the export itself
    some = await room.exported("jsonl", target="key/7")
    assert [decode_record(unframe(line)[1]).facts for line in some.splitlines()] == [{"n": 7}]


async def test_every_form_holds_every_record(room: Room) -> None:
    await room.log.append("=cmd()", "key.create", 'key/"\n,', {"n": 1})
    table = list(csv.reader(io.StringIO((await room.exported("csv")).decode(), newline="")))
    assert table[0] == ["sequence", "at", "actor", "action", "target", "outcome", "facts", "hash"]
    assert [row[2] for row in table[1:]][-2:] == ["'=cmd()", "ann"]
    assert table[-2][4] == 'key/"\n,'
    events = [json.loads(line) for line in (await room.exported("ocsf")).splitlines()]
    assert [event["metadata"]["sequence"] for event in events] == list(range(1, 25))
    lines = (await room.exported("cef")).decode().splitlines()
    assert len(lines) == 25
    assert all(line.startswith("CEF:0|Bursar|Bursar|") for line in lines)


async def test_a_reader_that_leaves_takes_its_process_along(room: Room) -> None:
    for n in range(4):  # more than may run at once
        stream = await room.desk.export("ann", Wanted(), "jsonl")
        assert await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]
        assert await room.log.append("admin", "key.create", f"key/{n}", {})


async def test_a_proof_names_the_first_broken_record(room: Room) -> None:
    with sqlite3.connect(room.folder / "audit.db") as database:
        database.execute("DROP TRIGGER record_stays")
        database.execute(
            "UPDATE record SET payload = CAST(replace(payload, 'key/3', 'key/4') AS BLOB) WHERE target = 'key/3'"
        )
    found = await room.desk.verify("ann", "")
    assert found["broken"] == 8
    assert "record 8" in found["fault"]


async def test_a_file_that_cannot_be_read_is_a_named_refusal(room: Room) -> None:
    (room.folder / "audit.db").rename(room.folder / "away.db")
    with pytest.raises(AuditFailed, match="could not be read"):
        await room.exported("jsonl")
    with pytest.raises(AuditFailed, match="could not be read"):
        await room.desk.verify("ann", "")


def peak_of_export(folder: Path) -> int:
    """The most memory, in bytes, that an export of everything took in its process."""
    job = {"kind": "export", "data": str(folder), "checkpoints": "", "node": "n", "form": "ocsf"}
    command = [sys.executable, "-m", "bursar.app.audit_jobs"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        assert process.stdin
        process.stdin.write(json.dumps(job).encode())
        process.stdin.close()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return used.ru_maxrss * 1024


async def test_an_export_takes_no_more_memory_for_a_longer_audit(room: Room) -> None:
    event = Event(actor="node:a", action="secret.use", target="secret/a", facts={"note": "x" * 500})
    few = await asyncio.to_thread(peak_of_export, room.folder)
    for _ in range(40):
        await room.log.append_all([event] * 1000)
    many = await asyncio.to_thread(peak_of_export, room.folder)
    assert many - few < 16_000_000  # of 30 MB of records and 70 MB of events

"""Retention by class of acts: what is over goes, what is left still proves, and nothing goes without a signed word."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bursar.app.audit_jobs import AuditJobs
from bursar.control.audit import AuditLog
from bursar.control.audit_desk import AuditDesk
from bursar.control.audit_people import People
from bursar.control.audit_retention import Retention
from bursar.control.verify_audit import Report, verify_database, verify_file
from bursar.core.audit import CLASSES, AuditFailed, Wanted, class_of, decode_record, unframe
from bursar.core.secret import Secret
from tests.control import conftest
from tests.control.test_audit_log import Scripted, until

Desk = Any  # tests/control/conftest.py
DAY = 86_400 * 10**9
KEEP = {"uses": 90 * DAY, "releases": 400 * DAY}


class Room:
    def __init__(self, desk: Desk, *sinks: Any, records: int = 1000, keep: dict[str, int] | None = None) -> None:
        self.desk = desk
        self.trail = desk.trail()
        self.file = desk.sink(desk.file)
        self.log: AuditLog = desk.open([self.file, *sinks], trail=self.trail, records=records)
        keep = KEEP if keep is None else keep
        self.retention = Retention(self.trail, [self.file], self.log, desk.signer, desk.clock, keep, spool=50)

    async def history(self, days: int) -> None:
        """Each day some uses, a release now and then, a change now and then."""
        for day in range(days):
            self.desk.clock.ns += DAY
            for _ in range(3):
                await self.log.append("node:a", "secret.use", "secret/x", {"uses": day, "version": 1, "flush": ""})
            if day % 5 == 0:
                await self.log.append("node:a", "secret.release", "secret/x", {"day": day})
            if day % 20 == 0:
                await self.log.append("admin", "key.create", f"key/{day}", {"day": day})

    def proofs(self) -> list[Report]:
        key = self.desk.signer.public_key
        return [
            verify_database(self.desk.db, self.desk.checkpoints, key),
            verify_file(self.desk.file, self.desk.checkpoints, key),
        ]

    async def standing(self) -> list[Any]:
        return [decode_record(unframe(line)[1]) for line in await self.trail.read(0, 10_000)]


async def test_what_is_over_goes_and_the_rest_proves(desk: Desk) -> None:
    room = Room(desk, records=30)
    await room.history(200)
    before = await room.standing()
    assert await room.retention.prune() == 327  # 3 a day, those older than 90 days
    after = await room.standing()
    now = desk.clock.ns
    gone = {r.seq for r in before} - {r.seq for r in after}
    assert gone == {r.seq for r in before if r.action == "secret.use" and r.at_ns < now - 90 * DAY}
    await room.log.checkpoint()
    for found in room.proofs():
        assert (found.fault, found.pruned) == ("", 327)
        assert found.signed > before[-1].seq
    assert await room.retention.prune() == 0  # nothing is over twice
    await room.history(300)
    assert await room.retention.prune() > 900
    await room.log.checkpoint()
    for found in room.proofs():
        assert found.fault == ""
    kept = {r.action for r in await room.standing()}
    assert {"audit.start", "audit.checkpoint", "audit.prune", "key.create"} <= kept
    assert min(r.facts["day"] for r in await room.standing() if r.action == "key.create") == 0


async def test_a_restart_goes_on_after_retention(desk: Desk) -> None:
    room = Room(desk)
    await room.history(200)
    await room.retention.prune()
    await room.log.close()
    again = Room(desk)
    await again.log.append("admin", "key.create", "key/later", {})
    await again.log.close()
    for found in again.proofs():
        assert (found.fault, found.pruned) == ("", 327)


async def test_an_export_of_all_still_proves(desk: Desk, tmp_path: Path) -> None:
    room = Room(desk)
    await room.history(120)
    await room.retention.prune()
    people = People(desk.people(), Secret("22" * 32))
    reading = AuditDesk(room.trail, room.log, AuditJobs(desk.db.parent, desk.checkpoints, "n"), people)
    copy = b"".join([piece async for piece in await reading.export("ann", Wanted(), "jsonl")])
    (tmp_path / "copy").write_bytes(copy)
    assert verify_file(tmp_path / "copy").fault == ""
    proven = await reading.verify("ann", "")
    assert (proven["fault"], proven["pruned"]) == ("", 87)


TAMPERING = {
    "a record deleted outright": "DELETE FROM record WHERE seq = 700",
    "a run made up for a deleted record": "INSERT INTO pruned SELECT seq, seq, hash, zeroblob(32) FROM record "
    "WHERE seq = 700; DELETE FROM record WHERE seq = 700",
    "a run stretched": "UPDATE pruned SET last = last + 1 WHERE first = (SELECT max(first) FROM pruned)",
    "a run's hash changed": "UPDATE pruned SET hash = zeroblob(32) WHERE first = (SELECT min(first) FROM pruned)",
    "a run removed": "DELETE FROM pruned WHERE first = (SELECT min(first) FROM pruned)",
    "the signed word removed": "DELETE FROM record WHERE action = 'audit.prune'",
    "a run of another pass": "UPDATE pruned SET pass = zeroblob(32) WHERE first = (SELECT min(first) FROM pruned)",
    "a pruned record put back": "INSERT INTO record SELECT (SELECT min(first) FROM pruned), at_ns, actor, action, "
    "target, outcome, hash, payload FROM record WHERE seq = 700",
}


@pytest.mark.parametrize("harm", TAMPERING)
async def test_what_goes_without_a_signed_word_is_named(desk: Desk, tmp_path: Path, harm: str) -> None:
    room = Room(desk)
    await room.history(220)
    await room.retention.prune()
    await room.log.close()
    harmed = tmp_path / "harmed.db"
    with closing(sqlite3.connect(desk.db)) as source, closing(sqlite3.connect(harmed)) as target:
        source.backup(target)
    assert verify_database(harmed).fault == ""
    with closing(sqlite3.connect(harmed, isolation_level=None)) as database:
        for trigger in ("record_stays", "record_remains", "pruned_stays", "pruned_remains"):
            database.execute(f"DROP TRIGGER {trigger}")
        database.executescript(TAMPERING[harm])
    found = verify_database(harmed)
    assert found.broken
    assert found.fault


async def test_the_database_itself_lets_nothing_go_without_its_run(desk: Desk) -> None:
    room = Room(desk)
    await room.history(120)
    await room.retention.prune()
    (seq, *_), *_ = await room.trail.glance(0, 10**9, 1)
    for sql in (f"DELETE FROM record WHERE seq = {seq}", "DELETE FROM pruned", "UPDATE pruned SET last = 9"):
        with closing(sqlite3.connect(desk.db)) as database, pytest.raises(sqlite3.IntegrityError):
            database.execute(sql)


async def test_nothing_goes_that_a_sink_has_yet_to_be_given(desk: Desk) -> None:
    away = Scripted(required=False)
    away.free.clear()
    room = Room(desk, away)
    await room.history(12)
    desk.clock.ns += 500 * DAY
    assert await room.retention.prune() == 0
    away.free.set()
    assert await room.retention.prune() > 30


async def test_a_sink_that_lags_by_more_than_the_spool_is_not_waited_for(desk: Desk) -> None:
    away = Scripted(required=False)
    away.free.clear()
    room = Room(desk, away)
    await room.history(40)
    desk.clock.ns += 500 * DAY
    assert await room.retention.prune() > 100
    away.free.set()
    last = await room.log.append("admin", "key.create", "key/late", {})
    await until(lambda: away.lines and decode_record(unframe(away.lines[-1])[1]).seq >= last)  # it goes on all the same


async def test_without_a_record_nothing_is_taken(desk: Desk) -> None:
    room = Room(desk)
    await room.history(120)
    await room.log.close()
    with pytest.raises(AuditFailed):
        await room.retention.prune()
    assert (verify_database(desk.db).fault, verify_database(desk.db).pruned) == ("", 0)


async def test_a_death_between_the_word_and_the_deed_leaves_a_proof(desk: Desk) -> None:
    room = Room(desk)
    await room.history(120)

    class Dying:
        glance, pruned = room.trail.glance, room.trail.pruned

        async def prune(self, *_: Any) -> None:
            raise AuditFailed("killed here")

    dying = Retention(Dying(), [], room.log, desk.signer, desk.clock, KEEP, 50)
    with pytest.raises(AuditFailed, match="killed"):
        await dying.prune()
    await room.log.checkpoint()
    for found in room.proofs():
        assert (found.fault, found.pruned) == ("", 0)
    assert await room.retention.prune() == 87
    for found in room.proofs():
        assert (found.fault, found.pruned) == ("", 87)


ACTS = ("secret.use", "secret.release", "key.create", "audit.search")
EVERY = dict.fromkeys(("uses", "releases", "reads", "changes"), DAY)
steps = st.lists(st.tuples(st.sampled_from(ACTS), st.booleans(), st.integers(0, 5)), max_size=40)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps)
async def test_any_mixture_proves_after_any_passes(
    tmp_path_factory: pytest.TempPathFactory, history: list[tuple[str, bool, int]]
) -> None:
    desk = conftest.Desk(tmp_path_factory.mktemp("mixture"))
    room = Room(desk, records=7, keep=EVERY)
    try:
        await room.log.append("a", "key.create", "t", {})
        for action, later, chance in history:
            await room.log.append("a", action, "t", {})
            desk.clock.ns += 2 * DAY if later else 0
            if chance == 0:
                await room.retention.prune()
        await room.log.checkpoint()
        for found in room.proofs():
            assert found.fault == ""
    finally:
        await desk.close()


def test_every_act_has_a_class_or_is_needed_by_the_proof() -> None:
    assert class_of("secret.use") == "uses"
    assert class_of("secret.release") == "releases"
    assert class_of("secret.put") == "changes"
    assert class_of("audit.search") == "reads"
    assert class_of("ledger_overage") == "events"
    for needed in ("start", "stop", "checkpoint", "prune", "erase"):
        assert class_of(f"audit.{needed}") is None
    for name, beginnings in CLASSES.items():
        assert {class_of(beginning) for beginning in beginnings} == {name}

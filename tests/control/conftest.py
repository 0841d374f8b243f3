"""Doors for the tests of control: a clock set by hand, and an audit on real files."""

import os
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from bursar.control.audit import AuditLog
from bursar.control.audit_notary import Schedule, Signer
from bursar.core.audit import Event
from bursar.core.secret import Secret
from bursar.ports import AuditSink
from bursar.stores.audit_db import AuditDb
from bursar.stores.audit_file import AuditFile
from bursar.stores.audit_people_db import PeopleDb


class SetClock:
    def __init__(self) -> None:
        self.ns = 1_700_000_000 * 10**9

    def now(self) -> int:
        return self.ns

    def monotonic(self) -> float:
        return self.ns / 1e9


class Desk:
    """Opens audits in one folder, as starts of the same node do; closes what it opened."""

    def __init__(self, folder: Path) -> None:
        self.db = folder / "audit.db"
        self.file = folder / "audit.jsonl"
        self.checkpoints = folder / "checkpoints.jsonl"
        self.clock = SetClock()
        self.signer = Signer(Secret(os.urandom(32).hex()))
        self._closers: list[Callable[[], None]] = []
        self._logs: list[AuditLog] = []

    def trail(self, timeout: float = 5.0) -> AuditDb:
        trail = AuditDb(self.db, timeout)
        self._closers.append(trail.close)
        return trail

    def sink(self, path: Path, required: bool = True, timeout: float = 5.0) -> AuditFile:
        sink = AuditFile(path, required, timeout)
        self._closers.append(sink.close)
        return sink

    def people(self) -> PeopleDb:
        people = PeopleDb(self.db.parent / "audit-people.db")
        self._closers.append(people.close)
        return people

    def open(
        self,
        sinks: Sequence[AuditSink] | None = None,
        trail: AuditDb | None = None,
        records: int = 1000,
        veil: Callable[[Event], Event] = lambda event: event,
    ) -> AuditLog:
        log = AuditLog(
            trail or self.trail(),
            [self.sink(self.file)] if sinks is None else sinks,
            self.sink(self.checkpoints),
            self.signer,
            self.clock,
            Schedule(records=records),
            veil=veil,
        )
        self._logs.append(log)
        return log

    async def close(self) -> None:
        for log in self._logs:
            await log.close()
        for close in self._closers:
            close()


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    await desk.close()


@pytest.fixture
def canary() -> Secret:
    """A value made at run time, so that no scanner finds a key in this repository."""
    return Secret("sk-canary-" + secrets.token_urlsafe(40))

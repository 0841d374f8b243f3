"""A control's directory on real SQLite, with a clock that is set and an audit that can be read."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bursar.control.budgets import Budgets
from bursar.control.directory import Directory
from bursar.control.keys import Keys
from bursar.control.owners import Owners
from bursar.control.teams import TeamInput, Teams
from bursar.core.directory import Delta, Policy
from bursar.core.errors import Refusal
from bursar.core.units import NS_PER_S
from bursar.stores.directory_db import DirectoryDb

ACTOR = "admin"
PEPPER = b"p" * 32
START_NS = 1_764_000_000 * NS_PER_S


class SetClock:
    """`bursar.ports.Clock`, moved by hand."""

    def __init__(self) -> None:
        self.ns = START_NS

    def now(self) -> int:
        return self.ns

    def monotonic(self) -> float:
        return self.ns / NS_PER_S

    def pass_s(self, seconds: float) -> None:
        self.ns += int(seconds * NS_PER_S)


class SeededEntropy:
    """`bursar.ports.Entropy` that repeats itself from run to run, never within one."""

    def __init__(self) -> None:
        self._drawn = 0

    def token_bytes(self, count: int) -> bytes:
        self._drawn += 1
        return hashlib.shake_256(f"draw {self._drawn}".encode()).digest(count)


@dataclass
class Line:
    actor: str
    action: str
    target: str
    facts: dict[str, str | int]
    outcome: str


@dataclass
class ReadableAudit:
    """Keeps what was appended; `broken` refuses as an audit does that cannot write."""

    lines: list[Line] = field(default_factory=list)
    broken: bool = False

    async def append(
        self, actor: str, action: str, target: str, facts: Mapping[str, str | int], outcome: str = "allowed"
    ) -> int:
        if self.broken:
            raise Refusal("audit_unavailable", "the audit cannot be written", "free the disk")
        self.lines.append(Line(actor, action, target, dict(facts), outcome))
        return len(self.lines)

    @property
    def actions(self) -> list[str]:
        return [line.action for line in self.lines]


class Tenants:
    """The directory's use cases over a real store in `folder`; make another on the same folder to restart."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "directory.db"
        self.clock = SetClock()
        self.audit = ReadableAudit()
        self.store = DirectoryDb(self.path)
        self.directory = Directory(self.store.load(), self.store, self.audit, self.clock)
        self.deltas: list[Delta] = []
        self.directory.subscribe(self.deltas.append)
        self.owners = Owners(self.directory)
        self.teams = Teams(self.directory)
        self.keys = Keys(self.directory, SeededEntropy(), PEPPER)
        self.budgets = Budgets(self.directory)

    async def team(self, policy: Policy | None = None) -> str:
        """An owner `acme` and a team `search` -> the team's id."""
        if not any(owner.id == "acme" for owner in self.owners.all()):
            await self.owners.create(ACTOR, "ACME Inc.", owner_id="acme")
        given = TeamInput(name="Search", owner_id="acme", policy=policy or Policy())
        return (await self.teams.create(ACTOR, given, "search")).id

"""What the tests of the journal share: a clock, requests, and a disk that fails when told."""

import errno
import os
from datetime import datetime
from pathlib import Path

from bursar.control.verify_ledger import Report, verify
from bursar.core.calls import Usage
from bursar.core.directory import BudgetDef
from bursar.core.ledger import HoldRequest, Settlement
from bursar.core.units import NS_PER_S
from bursar.stores.journal import Files, Journal

NOON = int(datetime.fromisoformat("2026-11-23T12:00+00:00").timestamp()) * NS_PER_S
USAGE = Usage(input_tokens=100, output_tokens=20, cache_read=50)


class FakeClock:
    def __init__(self, now: int = NOON) -> None:
        self.wall = now
        self.since_start = 0.0

    def now(self) -> int:
        self.wall += 1000
        return self.wall

    def monotonic(self) -> float:
        return self.since_start

    def advance(self, seconds: float) -> None:
        self.wall += int(seconds * NS_PER_S)
        self.since_start += max(0.0, seconds)


class FailingFiles(Files):
    """`room`: bytes that may still be written, None = no end. Then ENOSPC, after a short write if any fits."""

    def __init__(self) -> None:
        self.room: int | None = None
        self.truncates = True
        self.syncs = True
        self.synced = 0

    def write(self, fd: int, data: bytes) -> int:
        if self.room is not None:
            if not self.room:
                raise OSError(errno.ENOSPC, "No space left on device")
            data = data[: self.room]
            self.room -= len(data)
        return os.write(fd, data)

    def truncate(self, fd: int, size: int) -> None:
        if not self.truncates:
            raise OSError(errno.EIO, "Input/output error")
        super().truncate(fd, size)

    def sync(self, fd: int) -> None:
        if not self.syncs:
            raise OSError(errno.EIO, "Input/output error")
        self.synced += 1
        super().sync(fd)


def budget(limit: int = 1000, name: str = "b", **changes) -> BudgetDef:
    version = changes.pop("version", 1)
    return BudgetDef(id=name, version=version, subject_kind="team", subject="t", limit_pico=limit, **changes)


def asking(ceiling: int, *budgets: str, expected: int | None = None, request_id: str = "r", **names) -> HoldRequest:
    values = {"key_id": "k", "team_id": "t", "owner_id": "o", "user": "", "provider": "p", "model": "m"} | names
    return HoldRequest(
        request_id=request_id,
        attempt=1,
        secret_id="s",
        price_id="p/m@1",
        price_digest="d",
        directory_version=1,
        ceiling_pico=ceiling,
        expected_pico=ceiling if expected is None else expected,
        input_ceiling=1,
        output_ceiling=1,
        budgets=budgets or ("b",),
        **values,
    )


def settled(cost: int, outcome: str = "ok", exact: bool = True) -> Settlement:
    return Settlement(cost, USAGE if exact else None, exact, outcome)


def sums(journal: Journal, name: str = "b") -> tuple[int, int, int]:
    (found,) = [balance for balance in journal.balances() if balance.budget_id == name]
    return found.posted_pico, found.held_pico, found.overage_pico


def proven(folder: Path) -> Report:
    """Verified from the first record to the last."""
    report = verify(folder)
    assert report.problem is None, report.problem
    assert report.torn is None, report.torn
    return report


def last_segment(folder: Path) -> Path:
    return max(folder.glob("journal-*.log"))

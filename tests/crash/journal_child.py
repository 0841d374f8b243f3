"""A process that spends money until it is killed at a named point. What it dispatches stands on a bill of its own."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

from bursar.stores.journal import Files, Journal
from tests.stores.journal_kit import FakeClock, asking, budget, settled

CEILING, CALLS = 50, 400


class TearingFiles(Files):
    """Dies in the middle of the nth write, with a part of it done."""

    def __init__(self, nth: int) -> None:
        self.left = nth

    def write(self, fd: int, data: bytes) -> int:
        self.left -= 1
        if self.left == 0:
            os.write(fd, data[: len(data) * (len(data) % 7 + 1) // 9])
            die()
        return os.write(fd, data)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def cost_of(number: int) -> int:
    return number % 60  # now and then above the ceiling


def spend(folder: Path, trace: Callable[[str], None] | None, files: Files | None) -> None:
    """Three calls at a time; each dispatch is billed before its settle."""
    bill = os.open(folder / "bill", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    journal = Journal.open(folder / "journal", FakeClock(), segment_bytes=3000, trace=trace, files=files)
    journal.define(budget(10**9, thresholds=()))
    journal.define(budget(10**9, "soft", hard=False))
    for number in range(0, CALLS, 3):
        if number % 9 == 0:  # an overage closes the hard budget: a higher limit opens it
            journal.define(budget(10**9 + number + 1, version=number + 2, thresholds=()))
        held = []
        for part in range(3):
            if (number + part) % 60 <= CEILING or not held:
                hold = journal.hold_now(asking(CEILING, "b", "soft"))
                os.write(bill, f"{hold.hold_id} {cost_of(number + part)}\n".encode())
                held.append((hold.hold_id, cost_of(number + part)))
        for hold_id, cost in held:
            if cost == 7:
                journal.shrink(hold_id, 20)
            journal.post(hold_id, settled(cost))
        journal.define(budget(10**9 + number + 2, version=number + 3, thresholds=()))
        journal.flush()


def killed_at(folder: Path, point: str, nth: int) -> bool:
    """Run `spend` in a process of its own that is killed -9 the nth time it comes to `point`."""
    left = nth

    def trace(where: str) -> None:
        nonlocal left
        if where == point:
            left -= 1
            if left == 0:
                die()

    child = os.fork()
    if child == 0:
        try:
            spend(folder, trace, TearingFiles(nth) if point == "write" else None)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def bill_of(folder: Path) -> dict[int, int]:
    lines = (folder / "bill").read_text().split("\n")
    return {int(line.split()[0]): int(line.split()[1]) for line in lines if line}

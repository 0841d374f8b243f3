"""Batches: many calls in one file, run by the provider within a day. What is written down of one, and what it costs.

A batch is one hold: of all its lines' ceilings. What it cost is read from the provider's own result files, line by
line; what they leave open is counted at the dearest that a line of the batch could become, never as nothing.
"""

from typing import Literal, NamedTuple

import msgspec

from bursar.core.calls import Usage
from bursar.core.ledger import Settlement
from bursar.core.prices import Price, cost

TIER = "batch"  # its name in the price table
_LEFT_ALONE = frozenset({"batch_expired", "batch_cancelled"})  # error codes of lines that were never run
_COUNTS = (
    "input_tokens",
    "output_tokens",
    "cache_read",
    "cache_write_5m",
    "cache_write_1h",
    "reasoning",
    "audio_input",
    "audio_output",
    "image_input",
)

_NOTHING = Usage(input_tokens=0, output_tokens=0, service_tier=TIER)


class BatchRequest(NamedTuple):
    """What a caller asks for, read strictly."""

    input_file: str  # id
    endpoint: str  # "/v1/chat/completions"
    route: str  # that leads there: "chat"
    body: bytes  # to send: written anew


class BatchLine(NamedTuple):
    """One line of an input file."""

    endpoint: str
    body: bytes


class BatchState(NamedTuple):
    """What a provider says of a batch."""

    id: str
    input_file: str
    status: Literal["running", "over", "never_ran"]
    whole: bool  # every line has its result
    completed: int | None  # calls that were run, by the provider's own count; None = it tells none
    files: tuple[str, ...]  # ids of its result files
    shown: bytes  # for lists: JSON


class LineResult(NamedTuple):
    """One line of a result file. `body` is the answer of a call that was run, None where there is none."""

    body: bytes | None
    status: int  # of the call; 0 = it was not answered
    code: str  # of an error


class Job(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A batch under way, as its follower keeps it. A new field needs a default."""

    batch: str  # the provider's id
    input_file: str
    team: str
    key: str  # id of the virtual key
    route: str  # of its lines
    model: str  # by whose price it is billed
    prices: str  # the provider in the price table
    made_at: int  # ns: the prices in force then hold
    lines: int
    ceiling: int  # pico-USD held
    dearest: int  # pico-USD: the ceiling of its dearest line
    hold: int
    boot: str  # the process that has the hold
    by: str  # the process that follows it now
    until: int  # ns: another may take over from then on
    settled: str = ""  # the process that has booked what it cost, or is about to


def encode_job(job: Job) -> str:
    return msgspec.json.encode(job).decode()


def read_job(about: str) -> Job | None:
    """None: of another version, or none at all."""
    try:
        return _job(about)
    except msgspec.DecodeError:
        return None


_job = msgspec.json.Decoder(Job).decode


class Tally:
    """Adds up the lines of a batch's result files."""

    def __init__(self, price: Price) -> None:
        self._price = price
        self._sums = dict.fromkeys(_COUNTS, 0)
        self.pico = 0
        self.listed = 0
        self.run = 0  # lines of calls that were run
        self.doubted = 0  # lines that may have been billed, and nobody says how much

    def add(self, usage: Usage | None) -> None:
        """The usage of a call that was run; None = not told, or not to be believed."""
        self.listed += 1
        self.run += 1
        if usage is None:
            self.doubted += 1
            return
        usage = msgspec.structs.replace(usage, service_tier=TIER if TIER in self._price.tiers else "")
        try:
            self.pico += cost(self._price, usage).pico
        except ValueError:
            self.doubted += 1
            return
        for name in _COUNTS:
            self._sums[name] += getattr(usage, name)

    def add_failed(self, result: LineResult, *, refused: bool) -> None:
        """A call without an answer. `refused`: its status proves that nothing was run."""
        self.listed += 1
        self.doubted += not refused and (bool(result.status) or result.code not in _LEFT_ALONE)

    def settlement(self, job: Job, state: BatchState) -> Settlement:
        """What the batch costs. What is not exact is bounded by the hold, but never below what was read."""
        missing = 0 if state.completed is None else state.completed - self.run
        if state.whole or (state.completed is None and state.status == "over"):
            missing = max(missing, job.lines - self.listed)
        unknown = self.doubted + max(0, missing)
        if not unknown:
            return Settlement(self.pico, msgspec.structs.replace(_NOTHING, **self._sums), True, "ok")
        pico = max(self.pico, min(job.ceiling, self.pico + unknown * job.dearest))
        return Settlement(pico, None, False, "ok")


def at_ceiling(job: Job, outcome: str) -> Settlement:
    """Nobody will ever say more."""
    return Settlement(job.ceiling, None, False, outcome)

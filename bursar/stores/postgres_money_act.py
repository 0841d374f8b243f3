"""One act of a node: what it has gathered, as the arguments of `bursar.ledger_act_2`, and what the database answers."""

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from bursar.core.calls import Usage
from bursar.core.directory import revoked_mark
from bursar.core.ledger import Held, HoldRequest, Settlement
from bursar.core.ledger_records import MAX_AMOUNT, Counts, counts_of
from bursar.stores.postgres import Connection, Postgres

_encode = msgspec.json.Encoder().encode

POST, VOID = 6, 7
MOST_HOLDS = 128  # of one act: it is over in a few milliseconds
MOST_ENDS = 256
COUNT_BITS = 39  # of a hold's id; what is above them is the session

_KINDS = """integer boolean bigint[] bigint[]
    bigint[] smallint[] bigint[] boolean[] text[] bigint[] bigint[] bigint[] bigint[] text[]
    bigint[] text[] smallint[] bigint[] bigint[] bigint[] bigint[] bigint[] bigint[] integer[] integer[] text[]"""
ARGUMENTS = tuple(
    f"${n}::text::{kind}" if kind.endswith("[]") else f"${n}" for n, kind in enumerate(_KINDS.split(), start=1)
)
"""Arrays are written as text here: asyncpg takes a third of a microsecond for each value in one."""

# What owners are to be told is kept in the same transaction: `postgres_money_outbox`.
ACT = f"CALL bursar.ledger_act_durably_1({', '.join(ARGUMENTS)}, NULL, NULL, NULL, NULL, NULL, NULL, NULL)"

# The rarer counts, as `usage_more` keeps them.
MORE = ("cache_write_5m", "cache_write_1h", "audio_input", "audio_output", "image_input", "tool_uses", "service_tier")

HELD, REFUSED, WINDOW_DUE, UNKNOWN, PAUSED = range(5)
DONE, OVER, GIVEN_UP = range(3)


class End(NamedTuple):
    """How a hold ends: its row of arguments. `post` and `void` make it."""

    id: int
    kind: int
    cost: int
    exact: bool | None
    word: str
    input: int | None = None
    output: int | None = None
    cached: int | None = None
    reasoning: int | None = None
    more: str | None = None


def post(hold_id: int, settlement: Settlement) -> End:
    """Raises ValueError for a negative cost. One beyond the largest amount is booked as that, inexact."""
    cost, exact = settlement.cost_pico, settlement.exact
    if cost < 0:
        raise ValueError(f"hold {hold_id} cannot cost {cost} pico-USD")
    if cost > MAX_AMOUNT:
        cost, exact = MAX_AMOUNT, False
    usage = settlement.usage
    if usage is None:
        return End(hold_id, POST, cost, exact, settlement.outcome)
    counts = usage.input_tokens, usage.output_tokens, usage.cache_read, usage.reasoning
    return End(hold_id, POST, cost, exact, settlement.outcome, *counts, _more(usage))


def void(hold_id: int, reason: str) -> End:
    return End(hold_id, VOID, 0, None, reason)


def unreconciled(hold_id: int) -> End:
    """Of a hold whose node is gone: the database knows its ceiling."""
    return End(hold_id, POST, 0, False, "unreconciled")


def _more(usage: Usage) -> str | None:
    if not (usage.has_parts or usage.service_tier):
        return None
    counts: Counts = counts_of(usage)
    rare = (counts[3], counts[4], *counts[6:])
    if not any(rare):
        return None
    return msgspec.json.encode({name: count for name, count in zip(MORE, rare, strict=True) if count}).decode()


class Waiting:
    """A hold that is asked for and not yet decided."""

    __slots__ = ("abandoned", "future", "hold_id", "mark", "request", "since")

    def __init__(self, request: HoldRequest, token: str, future: "asyncio.Future[Held]", since: float) -> None:
        self.request = request
        self.mark = revoked_mark(token) if token else ""  # what would revoke it
        self.future = future
        self.since = since  # the loop's time
        self.hold_id = 0  # until it is sent
        self.abandoned = False  # nobody waits for it any more


class Answer(NamedTuple):
    """What `ledger_act_2` returns. `state` is DONE, OVER or GIVEN_UP; the rest only means something when DONE."""

    state: int
    t_ns: int
    status: list[int]
    told: list[str | None]
    budgets: list[int] | None
    room: list[int]
    events: list[str]


class Batch:
    """The arguments of one act."""

    def __init__(self, session: int, *, any_window: bool) -> None:
        self.session = session
        self.any_window = any_window
        self.shrinks: list[tuple[int, int]] = []
        self.ends: list[End] = []
        self.holds: list[Waiting] = []
        self.labels: list[int] = []
        self.budgets: list[Sequence[int]] = []  # of each hold

    def arguments(self) -> tuple[Any, ...]:
        """The values of ARGUMENTS."""
        ids, kinds, costs, exact, words, *counts, more = tuple(zip(*self.ends, strict=True)) or ((),) * 10
        requests = [waiting.request for waiting in self.holds]
        marks = [waiting.mark for waiting in self.holds]
        return (
            self.session,
            self.any_window,
            *map(_numbers, tuple(zip(*self.shrinks, strict=True)) or ((), ())),
            *map(_numbers, (ids, kinds, costs, exact)),
            _texts(words),
            *map(_numbers, counts),
            _texts(more),
            _numbers([waiting.hold_id for waiting in self.holds]),
            _texts([it.request_id for it in requests]),
            _numbers([it.attempt for it in requests]),
            _numbers(self.labels),
            _numbers([it.directory_version for it in requests]),
            _numbers([it.ceiling_pico for it in requests]),
            _numbers([it.expected_pico for it in requests]),
            _numbers([it.input_ceiling for it in requests]),
            _numbers([it.output_ceiling for it in requests]),
            _numbers([len(budgets) for budgets in self.budgets]),
            _numbers([no for budgets in self.budgets for no in budgets]),
            _texts(marks if any(marks) else ()),
        )


def _numbers(values: Sequence[int | bool | None]) -> str:
    """Numbers, truth values and nulls as PostgreSQL reads an array of them: JSON's in other brackets."""
    return f"{{{_encode(values)[1:-1].decode()}}}" if values else "{}"


def _texts(values: Sequence[str | None]) -> str:
    """PostgreSQL's own quoting: a backslash is before what is meant as it stands."""
    return f"{{{','.join(map(_quoted, values))}}}" if values else "{}"


def _quoted(value: str | None) -> str:
    if value is None:
        return "NULL"
    if '"' in value or "\\" in value:
        value = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{value}"'


async def act(store: Postgres, db: Connection, batch: Batch, seconds: float) -> Answer:
    """Do it. Raises what is in postgres.AWAY, and then it may have been done or not.

    Behind a pooler nothing is prepared by name, and both steps of asyncpg are one transaction to it: no Sync between.
    """
    return Answer(*await db.fetchrow(store.sql(ACT), *batch.arguments(), timeout=seconds))

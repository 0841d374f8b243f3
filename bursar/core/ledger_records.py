"""The entries of the ledger and the values around them.

Every change of money is one record; the state is nothing but the sum of the records, so the live path and a replay
run through the same code. Records are arrays on disk: fields are only ever appended, tags never reused.

Amounts are pico-USD. One attempt's amounts fit 63 bits; sums over many attempts may not, and are then written as
decimal text (`Money`). Instants are nanoseconds since the epoch.
"""

from typing import Literal

import msgspec

from bursar.core.calls import Usage
from bursar.core.directory import BudgetDef, Mode, SubjectKind, WindowDef

Money = int | str
Leg = tuple[str, int, int, bool]  # budget id, version of its definition, window number, hard
Credential = Literal["", "token", "federation", "observed", "swapped"]
"""A virtual key itself, a token for one, a token for an outside identity; a provider key that is passed on to its
provider (observe mode), and one at the door in whose place the sealed one is used."""
OBSERVED: Credential = "observed"
SWAPPED: Credential = "swapped"
UsageBy = Literal["key", "team", "owner", "user", "provider", "model", "day", "credential", "purpose"]
JOINT = "\x1f"
"""Between the names of a group that is by more than one thing; it sorts before whatever a name holds."""
EventKind = Literal["overage", "adjusted", "closed", "threshold", "unreconciled"]

MAX_AMOUNT = 2**63 - 1  # $9.2M: more than any one attempt can cost


def money(amount: int) -> Money:
    """The written form of a sum: a number where it fits 63 bits, else decimal text."""
    return amount if -MAX_AMOUNT <= amount <= MAX_AMOUNT else str(amount)


class HoldRequest(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What an attempt asks of its budgets. `budgets` are those that apply to it, hard and soft."""

    request_id: str
    attempt: int  # 1, 2, ... within the request
    key_id: str
    team_id: str
    owner_id: str
    user: str
    provider: str
    model: str
    secret_id: str
    price_id: str
    price_digest: str
    directory_version: int
    ceiling_pico: int  # held on hard budgets
    expected_pico: int  # held on soft budgets
    input_ceiling: int  # tokens
    output_ceiling: int  # tokens
    budgets: tuple[str, ...]
    credential: Credential = ""
    caller: str = ""  # whom a token was made out to; "" = nobody in particular
    purpose: str = ""  # of the call, as a provider key's tag names it; "" = inference


class Held(msgspec.Struct, frozen=True, gc=False):
    """Proof that an attempt may be dispatched: its hold is durable."""

    hold_id: int
    t_ns: int
    shadow: tuple[str, ...] = ()  # budgets in shadow mode that would have refused


class Settlement(msgspec.Struct, frozen=True, gc=False):
    """How an attempt ended: what it cost, and whether the provider's own usage says so."""

    cost_pico: int
    usage: Usage | None
    exact: bool
    outcome: str  # "ok" | "cut" | "client_gone" | "upstream_broken" | "unreconciled" | ...


class Balance(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One budget in its current window. `posted_pico` includes `overage_pico`, its part above the holds."""

    budget_id: str
    name: str
    hard: bool
    window_start_ns: int
    window_end_ns: int
    limit_pico: int
    posted_pico: int
    held_pico: int
    overage_pico: int
    closed: bool


class BudgetStand(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Where one budget stands at this instant, as the decider knows it: for explanations, never for decisions."""

    budget_id: str
    subject: str  # kind/name
    mode: Mode
    hard: bool
    limit_pico: int
    used_pico: int  # posted and held
    held_pico: int | None  # None = this node does not know how much of it is held
    closed: bool
    ends_ns: int | None  # of the window; None = lifetime


class UsageRow(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Sums over the settled attempts of one group. Amounts are pico-USD; the cost includes overage and corrections."""

    group: str  # the key's id, the model's name, "2026-11-23", ...
    attempts: int
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    cost_pico: int
    overage_pico: int = 0
    inexact: int = 0  # attempts settled without the provider's own usage


class LedgerEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Something a budget's owner is told. The same `dedupe` means the same fact, told again after a restart."""

    kind: EventKind
    t_ns: int
    dedupe: str
    budget_id: str = ""
    budget_name: str = ""
    subject_kind: str = ""
    subject: str = ""
    limit_pico: int = 0
    posted_pico: int = 0
    held_pico: int = 0
    amount_pico: int = 0  # the overage, the adjustment, or the ceiling that was posted
    percent: int = 0  # of a threshold
    hold_id: int = 0
    request_id: str = ""
    key_id: str = ""
    team_id: str = ""
    owner_id: str = ""


# ---- records ---------------------------------------------------------------------------------------------------------


class DefineRecord(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=2):
    """A budget's definition from here on."""

    t: int
    id: str
    version: int
    limit: Money
    hard: bool
    mode: Mode
    deleted: bool
    window: WindowDef
    thresholds: tuple[int, ...]
    name: str
    subject_kind: SubjectKind
    subject: str


class WindowRecord(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=3):
    """A budget's current window from here on: a new one, or one that a clock set back came home to."""

    t: int
    budget: str
    version: int
    number: int  # 1, 2, ... per budget
    start: int
    end: int


class HoldRecord(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=4):
    """Hard legs hold the request's ceiling, soft legs its expected cost."""

    t: int
    id: int  # rising through the whole journal
    legs: tuple[Leg, ...]
    request: HoldRequest


class ShrinkRecord(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=5):
    """The ceiling of a hold is lowered. Hard legs: -released + released to the budget."""

    t: int
    id: int
    ceiling: int
    released: int


Counts = tuple[int, int, int, int, int, int, int, int, int, tuple[tuple[str, int], ...], str]


class PostRecord(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=6):
    """A hold ends in a cost. Entries of each hard leg: held = posted + released, and overage apart: what the cost
    has above the hold. Entries of each soft leg: held = posted + released, where released may be negative.
    """

    t: int
    id: int
    cost: int
    hard: tuple[int, int, int, int]  # held, posted, released, overage
    soft: tuple[int, int, int]  # held, posted, released
    exact: bool
    outcome: str
    usage: Counts | None


class VoidRecord(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=7):
    """A hold ends without a cost: nothing of the attempt was sent."""

    t: int
    id: int
    released: tuple[int, int]  # of each hard leg, of each soft leg
    reason: str


class CorrectRecord(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=8):
    """What was learned after a hold had ended: a pair of entries, on the hold's budgets and on `adjustments`."""

    t: int
    id: int  # the hold
    pair: tuple[int, int]  # on each leg, on adjustments: their sum is zero
    reason: str
    legs: tuple[Leg, ...]


class RowImage(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One window of a budget in a snapshot."""

    number: int
    start: int
    end: int
    posted: Money
    held: Money
    overage: Money
    closed: bool
    retired: bool
    counted: bool


class BudgetImage(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One budget in a snapshot."""

    definition: DefineRecord
    floor: int
    last_number: int
    current: int  # window number, 0 = none
    rows: tuple[RowImage, ...]


class SnapshotRecord(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=1):
    """The whole state: first record of each segment."""

    t: int
    next_id: int
    budgets: tuple[BudgetImage, ...]
    holds: tuple[tuple[int, HoldRecord], ...]  # present ceiling, the hold as it was made


Record = (
    SnapshotRecord | DefineRecord | WindowRecord | HoldRecord | ShrinkRecord | PostRecord | VoidRecord | CorrectRecord
)


def define_record(definition: BudgetDef, t: int) -> DefineRecord:
    return DefineRecord(
        t,
        definition.id,
        definition.version,
        money(definition.limit_pico),
        definition.hard,
        definition.mode,
        definition.deleted,
        definition.window,
        definition.thresholds,
        definition.name,
        definition.subject_kind,
        definition.subject,
    )


def definition_of(record: DefineRecord) -> BudgetDef:
    """What `define_record` was made from."""
    return BudgetDef(
        id=record.id,
        version=record.version,
        subject_kind=record.subject_kind,
        subject=record.subject,
        limit_pico=int(record.limit),
        hard=record.hard,
        window=record.window,
        thresholds=record.thresholds,
        name=record.name,
        mode=record.mode,
        deleted=record.deleted,
    )


def counts_of(usage: Usage) -> Counts:
    return (
        usage.input_tokens,
        usage.output_tokens,
        usage.cache_read,
        usage.cache_write_5m,
        usage.cache_write_1h,
        usage.reasoning,
        usage.audio_input,
        usage.audio_output,
        usage.image_input,
        usage.tool_uses,
        usage.service_tier,
    )

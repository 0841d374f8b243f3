"""The JSON of the admin API: stable names, amounts as decimal USD text, instants as RFC 3339 UTC text.

An `...Input` is what a caller sends; a view is what is answered. The fields of an input are also fields of its view,
so that what was read can be edited and sent back (PATCH is an RFC 7396 merge on the input's fields).
"""

from typing import Annotated, Any

import msgspec

from bursar.core.directory import (
    Mode,
    Policy,
    SubjectKind,
    WindowDef,
)
from bursar.core.ledger_records import UsageBy
from bursar.core.written import USD_SCHEMA, Instant, Usd, instant, parse_usd

__all__ = ["Instant", "Usd", "instant"]  # and the shapes

_MILLION = 10**6


def _parse_usd_per_million(raw: object) -> int:
    pico = parse_usd(raw)
    if pico % _MILLION:
        raise ValueError("finer than a pico-USD per token; the rate is in USD per million tokens")
    return pico // _MILLION


UsdPerMillion = Annotated[int, msgspec.Meta(extra={"parse": _parse_usd_per_million}, extra_json_schema=USD_SCHEMA)]
Limit = Annotated[int, msgspec.Meta(ge=1, le=1000)]


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """Base of what goes over the wire."""


class Page(Shape, frozen=True, kw_only=True):
    """How a list is read: in pieces, each beginning after the last id of the one before."""

    limit: Limit = 100
    after: str = ""


# ---- owners, teams, keys


class OwnerInput(Shape, frozen=True, kw_only=True):
    name: str
    contacts: tuple[str, ...] = ()


class OwnerCreate(OwnerInput, frozen=True, kw_only=True):
    id: str = ""


class OwnerView(Shape, frozen=True, kw_only=True):
    id: str
    name: str
    contacts: tuple[str, ...]


class TeamInput(Shape, frozen=True, kw_only=True):
    name: str
    owner: str
    policy: Policy = Policy()
    tags: tuple[str, ...] = ()


class TeamCreate(TeamInput, frozen=True, kw_only=True):
    id: str = ""


class TeamView(Shape, frozen=True, kw_only=True):
    id: str
    name: str
    owner: str
    policy: dict[str, Any]  # a Policy without the fields that say nothing
    tags: tuple[str, ...]
    disabled: bool
    keys_beyond: tuple[str, ...] = ()  # keys whose own policy says more; the team's binds them


class KeyInput(Shape, frozen=True, kw_only=True):
    name: str
    policy: Policy = Policy()
    tags: tuple[str, ...] = ()
    expires_at: Instant | None = None


class KeyCreate(KeyInput, frozen=True, kw_only=True):
    team: str


class KeyView(Shape, frozen=True, kw_only=True):
    id: str
    name: str
    team: str
    policy: dict[str, Any]
    tags: tuple[str, ...]
    state: str  # active | disabled | expired
    expires_at: str | None
    overlap_until: str | None  # an earlier secret of the key works until then


class KeyMinted(Shape, frozen=True, kw_only=True):
    """The only answer that ever holds the text of a key."""

    key: KeyView
    text: str

    def __repr__(self) -> str:
        return f"KeyMinted({self.key.id}, ***)"


class KeyRotate(Shape, frozen=True, kw_only=True):
    overlap_s: Annotated[int, msgspec.Meta(ge=0)] = 3600


class KeyPage(Page, frozen=True, kw_only=True):
    team: str = ""


# ---- budgets


class BudgetInput(Shape, frozen=True, kw_only=True):
    limit_usd: Usd
    hard: bool = True
    window: WindowDef = WindowDef()
    thresholds: tuple[int, ...] = (50, 80, 95, 100)
    name: str = ""
    mode: Mode = "enforce"


class BudgetCreate(BudgetInput, frozen=True, kw_only=True):
    subject_kind: SubjectKind
    subject: str
    id: str = ""


class BudgetView(Shape, frozen=True, kw_only=True):
    id: str
    version: int
    subject_kind: SubjectKind
    subject: str
    limit_usd: str
    hard: bool
    window: WindowDef
    thresholds: tuple[int, ...]
    name: str
    mode: Mode


class BalanceView(Shape, frozen=True, kw_only=True):
    """A budget in its present window. posted + held <= limit, unless there is an overage."""

    budget: str
    name: str
    hard: bool
    window_start: str
    window_end: str | None  # None = a lifetime budget
    limit_usd: str
    posted_usd: str
    held_usd: str
    overage_usd: str
    left_usd: str
    closed: bool


# ---- prices, usage, status


class PriceQuery(Page, frozen=True, kw_only=True):
    model: str = ""


class PriceSet(Shape, frozen=True, kw_only=True):
    """Rates are USD per million tokens, as providers publish them."""

    input: UsdPerMillion
    output: UsdPerMillion
    cache_read: UsdPerMillion | None = None
    cache_write: UsdPerMillion | None = None
    context_window: int | None = None
    max_output: int | None = None
    from_: Instant | None = msgspec.field(name="from", default=None)
    source: str = "operator"


class BandView(Shape, frozen=True, kw_only=True):
    """Rates in USD per million tokens for requests of more than `above` input tokens."""

    above: int
    input: str
    output: str
    cache_read: str
    cache_write: str


class PriceView(Shape, frozen=True, kw_only=True):
    provider: str
    model: str
    id: str
    digest: str
    source: str
    overridden: bool
    bands: tuple[BandView, ...]
    context_window: int | None
    max_output: int | None
    tools: dict[str, str]  # USD per use


class OverrideView(Shape, frozen=True, kw_only=True):
    """A price as it was appended; rates in USD per million tokens."""

    provider: str
    model: str
    from_: str = msgspec.field(name="from")
    input: str
    output: str
    cache_read: str | None
    cache_write: str | None
    source: str


class UsageQuery(Page, frozen=True, kw_only=True):
    by: UsageBy = "team"
    then: str = ""  # further things to group by, comma between: "model,day"
    zone: str = "UTC"  # whose days they are
    since: Instant | None = None
    last_s: Annotated[int, msgspec.Meta(ge=1)] | None = None  # instead of `since`: so many seconds before `until`
    until: Instant | None = None


class UsageLine(Shape, frozen=True, kw_only=True):
    group: str  # of several things: their names, " / " between
    name: str
    groups: tuple[str, ...]  # by `by` and `then`, one each
    names: tuple[str, ...]
    attempts: int
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    cost_usd: str
    overage_usd: str
    inexact: int


class GatewayView(Shape, frozen=True, kw_only=True):
    node: str
    pid: int
    connected: bool
    directory_version: int


class StatusView(Shape, frozen=True, kw_only=True):
    ok: bool
    version: str
    node: str
    data: str
    started_at: str
    directory_version: int
    gateways: tuple[GatewayView, ...]
    emulator: bool
    counts: dict[str, int]
    failed_guesses: int  # wrong admin tokens since the start
    warnings: tuple[str, ...]

"""One request under way: what each stage has learned so far, and what must be given back at the end."""

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from bursar.core.calls import Call, DialectName, Usage
from bursar.core.decisions import RuleAsked
from bursar.core.errors import Refusal
from bursar.core.made_ids import MadeId
from bursar.core.policy import Allowed, KeyPlan
from bursar.core.secret import Secret
from bursar.gateway.routes import Route
from bursar.ports import Exchange

if TYPE_CHECKING:
    from bursar.gateway.price import Priced


class Presented(NamedTuple):
    """A provider key that came with its call, to go up with it."""

    value: Secret
    digest: bytes


class Flight(msgspec.Struct, kw_only=True):
    """Written by the stages in their order; read by `report` at the end.

    Known to the garbage collector: what refuses a call holds, in its traceback, the frames that hold the flight.
    """

    exchange: Exchange
    request_id: str
    number: int  # of this process: also the id of the concurrency lease
    started: float  # monotonic
    dialect: DialectName = "openai"
    route: Route | None = None
    plan: KeyPlan | None = None
    presented: Presented | None = None  # observe mode
    user: str = ""
    admitted: bool = False  # holds a concurrency lease
    call: Call | None = None
    bound: MadeId | None = None  # what the call builds upon: only the account that made it can serve it
    allowed: Allowed | None = None
    ways: "list[Priced] | None" = None
    trial: bool = False  # `POST /v1/estimate`: nothing is dispatched, counted in shadow or put on record
    headers: str = ""  # header lines that tell what policy did
    limit_lines: str = ""  # header lines that tell how the limits stand
    # -- for the report
    status: int = 0
    word: str = ""
    model: str = ""  # canonical, "" until it is known to have a price
    provider: str = ""
    dispatched: float = 0.0  # monotonic instant of the first dispatch
    first_event: float = 0.0
    usage: Usage | None = None
    cost_pico: int = 0
    cut: bool = False
    refusal: Refusal | None = None
    shadow: list[RuleAsked] | None = None  # what rules in shadow would have done

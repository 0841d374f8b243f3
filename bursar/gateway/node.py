"""The desk at which all stages work: what this gateway holds, put together once by the composition root."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Protocol

import msgspec

from bursar.core.calls import Call, DialectName
from bursar.core.directory import BudgetDef, Mode, ProviderKey
from bursar.core.errors import Refusal
from bursar.core.estimate import Estimate
from bursar.core.ledger import Held, HoldRequest, Settlement
from bursar.core.ledger_records import BudgetStand
from bursar.core.limits import Bound, Groups, Limited, Reservation, Stand
from bursar.core.limits import Rates as TrialRates
from bursar.core.made_ids import Lives
from bursar.core.networks import Network
from bursar.core.parts import Part
from bursar.core.prices import PriceTable
from bursar.gateway.counters import Counters
from bursar.gateway.decisions import Decisions
from bursar.gateway.lease import Leases
from bursar.gateway.strangers import Observing
from bursar.gateway.tenants import Tenants
from bursar.gateway.tokens import Tokens
from bursar.ports import Board, Clock, Dialect, EventSplitter, MadeIds, UpstreamResponse


class Money(Protocol):
    """The hold's whole life. On one node it is the journal; decisions are those of bursar.core.ledger."""

    async def hold(self, request: HoldRequest, token: str = "") -> Held:
        """Durable when it returns. `token`: the id of the one that pays, "" for a key itself. Raises Refusal."""
        ...

    async def try_hold(self, request: HoldRequest) -> None:
        """Raises the Refusal that `hold` would; nothing is held."""
        ...

    async def correct(self, hold_id: int, delta_pico: int, reason: str) -> None:
        """Book what was learned after a hold's end. Raises ValueError for one that is open or never was, Refusal."""
        ...

    def define(self, budget: BudgetDef) -> None: ...

    def shrink(self, hold_id: int, ceiling_pico: int) -> None: ...

    def post(self, hold_id: int, settlement: Settlement) -> None: ...

    def void(self, hold_id: int, reason: str) -> None: ...

    def room(self, budgets: Sequence[str]) -> int | None: ...

    def stands(self, budgets: Sequence[str]) -> list[BudgetStand]:
        """Where these stand, as far as this node knows, for explanations."""
        ...

    @property
    def open_holds(self) -> int: ...


class Rates(Protocol):
    """Requests, tokens and slots of every limit. On one node it is memory; decisions are those of bursar.core.limits.

    The two acts that take may wait, and one that is cancelled has taken nothing. What gives back cannot fail: it is
    sent on its way. `owner` is the billing owner whose limits they are.
    """

    async def admit(self, owner: str, limits: Sequence[Bound], now: float, lease_id: int) -> Limited | None:
        """Requests and slots, before the body is read. Raises Refusal where a limit may not hold without its store."""
        ...

    async def hold(
        self, owner: str, limits: Sequence[Bound], input_tokens: int, output_tokens: int, now: float, lease_id: int
    ) -> Reservation | Limited:
        """Tokens, and what only the body could name, which then belongs to the lease: of each such limit once.

        Raises Refusal likewise.
        """
        ...

    def settle(self, reservation: Reservation, input_tokens: int, output_tokens: int, now: float) -> None:
        """Before its lease is left, or not at all: it then stays as charged."""
        ...

    def release(self, lease_id: int) -> None: ...

    def give_back(self, lease_id: int) -> None: ...

    def left(self, bound: Bound, now: float) -> tuple[int | None, float]:
        """(units left, seconds until full) as last seen, for explanations; None = not known here."""
        ...

    def tightest(self, groups: Groups, now: float) -> list[Stand]:
        """Of each group of rates the one that has the least left, as last seen."""
        ...


class Upstream(Protocol):
    """Sends one request to a provider. Raises UpstreamFault."""

    async def request(self, provider: "Provider", route: str, headers: bytes, body: bytes) -> UpstreamResponse: ...

    async def ask(
        self, provider: "Provider", method: str, target: str, headers: bytes, body: bytes
    ) -> UpstreamResponse:
        """About something that the provider keeps. `target` is a whole request target."""
        ...


class Screen(Protocol):
    """One guard. Pure and synchronous: it may run in a thread."""

    name: str

    def look(self, call: Call, content: Iterable[Part]) -> Refusal | None:
        """None = nothing found; else why the call must not be sent (`guard_blocked`).

        `content`: what the call says, piece by piece and unescaped, the same for every endpoint (bursar.core.parts).
        """
        ...


class Handed(msgspec.Struct, frozen=True, kw_only=True):
    """A request at the data port that control answers. `headers` are those it may need, by lower-case name."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes
    peer: str  # the caller's address

    def __repr__(self) -> str:
        return f"Handed({self.method} {self.path}, ***)"


Answered = tuple[int, list[tuple[str, str]], bytes]  # status, fields, body
HandOver = Callable[[Handed], Awaitable[Answered]]


async def nobody_there(handed: Handed) -> Answered:
    """Where no composition root has connected control."""
    raise Refusal("control_unavailable", f"Nobody answers {handed.path} here", retry_after=1)


class Provider(msgspec.Struct, frozen=True, kw_only=True):
    """One configured upstream, ready to use. `door` is the wire's own address of it, opaque here."""

    name: str
    dialect: Dialect
    door: object
    targets: dict[str, str]  # route -> request target, base path included
    auth: str  # "bearer" | "x-api-key" | "api-key" | "none"
    headers: tuple[tuple[str, str], ...] = ()
    quirks: frozenset[str] = frozenset()
    models: tuple[str, ...] = ()  # globs
    prices: str  # its name in the price table
    deployments: dict[str, str] = {}  # upstream's own name -> the model by which it is priced
    twin: "Provider | None" = None  # its stand-in at the emulator, reached by the emulator's keys only


class Option(msgspec.Struct, frozen=True, kw_only=True):
    """One way to serve a call: a provider, a key for it, and under which names it goes."""

    provider: Provider
    key: ProviderKey
    upstream_model: str
    priced_as: str  # the model by whose price it is billed
    presented: bool = False  # it goes with the key that its call came with


OptionName = tuple[str, str, str, str]  # team, dialect, model, purpose
_MOST_REMEMBERED = 4096  # callers choose model names: what is remembered of them is bounded


class OptionMemo:
    """Ways to serve a call, remembered for as long as the directory stays as it is."""

    def __init__(self) -> None:
        self._version = 0
        self._options: dict[OptionName, list[Option]] = {}

    def find(self, name: OptionName, version: int) -> list[Option] | None:
        if version != self._version:
            self._options.clear()
            self._version = version
        return self._options.get(name)

    def keep(self, name: OptionName, options: list[Option]) -> None:
        if len(self._options) >= _MOST_REMEMBERED:
            self._options.clear()
        self._options[name] = options


class BatchRoom:
    """Of batches: how large one may be, and what this process reads and follows."""

    def __init__(self, lines: int = 50_000, most_bytes: int = 200_000_000, *, alone: bool = True) -> None:
        self.lines = lines
        self.most_bytes = most_bytes
        self.alone = alone  # no other node knows the same batches
        self.reading = 0  # input files
        self.jobs: set[str] = set()  # names of those that are followed here


class Drains:
    """How many streams are being read on for callers who left: bounded, so that leaving is no attack."""

    def __init__(self, most: int = 1000, seconds: float = 120.0, most_bytes: int = 8 * 2**20) -> None:
        self.most = most
        self.seconds = seconds
        self.most_bytes = most_bytes
        self.running = 0


class Node:
    """Attributes, and no logic."""

    def __init__(  # noqa: PLR0913 - one keyword a doorway
        self,
        *,
        clock: Clock,
        boot: str,
        dialects: dict[DialectName, Dialect],
        providers: Sequence[Provider],
        prices: PriceTable,
        money: Money,
        rates: Rates,
        leases: Leases,
        upstream: Upstream,
        splitter: Callable[[], EventSplitter],
        digest: Callable[[str], bytes],
        made_ids: MadeIds,
        id_lives: Lives,
    ) -> None:
        self.clock = clock
        self.boot = boot
        self.dialects = dialects
        self.providers = providers
        self.prices = prices
        self.money = money
        self.rates = rates
        self.leases = leases
        self.upstream = upstream
        self.splitter = splitter
        self.digest = digest
        self.made_ids = made_ids
        self.id_lives = id_lives
        self.estimate = Estimate()
        self.trials = TrialRates()  # requests to POST /v1/estimate
        self.counters = Counters()
        self.decisions = Decisions(boot)
        self.tenants = Tenants(money.define)
        self.tokens = Tokens(self.tenants, money.define)
        self.observing = Observing()
        self.proxies: tuple[Network, ...] = ()  # whose word on the caller's address is taken
        self.forwarded_header = "x-forwarded-for"
        self.control: HandOver = nobody_there
        self.handed = 0  # requests that control is answering
        self.options = OptionMemo()
        self.screens: Sequence[Screen] = ()
        self.drains = Drains()
        self.batches = BatchRoom()
        self.board: Board | None = None  # how upstreams are; None: nobody keeps count
        self.breaker: Mode = "enforce"
        self.blame: dict[str, tuple[str, int]] = {}  # provider -> the team whose calls it errs on, how often in a row
        self.happenings: Callable[[str, str, dict[str, str | int]], None] = lambda _word, _subject, _facts: None
        self.flights = 0  # numbers them
        self.in_flight = 0
        self.ready = False
        self.paused = False  # restored from a backup and not released: nobody is served
        self.fresh_until = math.inf  # monotonic seconds; in a fleet, moved on while the store answers
        self.top_keys: set[str] = set()
        self.most_top_keys = 50
        self.followed: set[asyncio.Task[None]] = set()  # work that goes on at providers

    def next_id(self) -> str:
        """Of a request: this process' life and a number in it."""
        self.flights += 1
        return f"req_{self.boot}{self.flights:010x}"

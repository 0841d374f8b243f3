"""What the tests of the gateway stand on: a node of real parts, and one key that calls through it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from bursar.config.ids import Ids
from bursar.core.calls import DialectName
from bursar.core.directory import (
    BudgetDef,
    KeySecret,
    LimitDef,
    Owner,
    Policy,
    PriceOverride,
    ProviderKey,
    Snapshot,
    Team,
    VirtualKey,
)
from bursar.core.ledger import Settlement
from bursar.core.limits import bind
from bursar.core.prices import PriceTable
from bursar.core.telemetry import METRICS
from bursar.core.tokens import digest, mint
from bursar.gateway.lease import Leases
from bursar.gateway.node import Node, Provider
from bursar.gateway.pipeline import Pipeline
from bursar.providers.anthropic import Anthropic
from bursar.providers.openai import OpenAI
from bursar.stores.catalogue import load
from bursar.stores.made_ids_file import MadeIdsFile
from bursar.stores.memory_rates import MemoryRates
from bursar.wire.sse import EventSplitter
from tests.gateway.answers import CLAUDE, IN, MODEL, MOST_OUTPUT, OUT, WINDOW, chat, message
from tests.gateway.fakes import Dice, FakeClock, FakeExchange, FakeReleases, ScriptedUpstream, WatchedJournal

PEPPER = b"p" * 32
DIALECTS: dict[DialectName, Any] = {"openai": OpenAI(), "anthropic": Anthropic()}


def override(provider: str, model: str, **changes: Any) -> PriceOverride:
    rates = {"from_ns": 0, "input": IN, "output": OUT, "context_window": WINDOW, "max_output": MOST_OUTPUT}
    return PriceOverride(provider=provider, model=model, **(rates | changes))


PRICES = [override("openai", MODEL), override("anthropic", CLAUDE), override("second", MODEL)]
_TABLES: list[PriceTable] = []


def price_table() -> PriceTable:
    """The shipped table with the two round models on top; read once."""
    if not _TABLES:
        _TABLES.append(load().with_overrides(PRICES))
    return _TABLES[0]


def provider(name: str, dialect: DialectName = "openai", **changes: Any) -> Provider:
    facts = DIALECTS[dialect].upstream
    return Provider(
        **{
            "name": name,
            "dialect": DIALECTS[dialect],
            "door": None,
            "targets": dict(facts.paths),
            "auth": facts.auth,
            "models": ("*",),
            "prices": name,
        }
        | changes
    )


def provider_key(key_id: str, address: str, **changes: Any) -> ProviderKey:
    return ProviderKey(**{"id": key_id, "version": 1, "address": address, "billing_owner": "owner-1"} | changes)


def budget(limit: int, name: str = "b", kind: str = "team", subject: str = "team-1", **changes: Any) -> BudgetDef:
    values = {"id": name, "version": 1, "subject_kind": kind, "subject": subject, "limit_pico": limit}
    return BudgetDef(**(values | changes))  # type: ignore[arg-type]


OPENAI_KEY = provider_key("pk-openai", "openai/*/api/prod/*")
ANTHROPIC_KEY = provider_key("pk-anthropic", "anthropic/*/api/prod/*")
TWO_KEYS = (provider_key("pk-a", "openai/*/api/prod/*"), provider_key("pk-b", "openai/*/api/prod/*"))
PLENTY = 10**12
NO_POLICY = Policy()


class Stand:
    """A node put together as the composition root does it, and one team with one key that calls through it."""

    def __init__(
        self,
        folder: Path,
        *,
        policy: Policy = NO_POLICY,
        team_policy: Policy = NO_POLICY,
        budgets: Sequence[BudgetDef] = (),
        provider_keys: Sequence[ProviderKey] = (OPENAI_KEY, ANTHROPIC_KEY),
        providers: Sequence[Provider] = (),
        prices: PriceTable | None = None,
        **journal: Any,
    ) -> None:
        self.folder = folder
        self.clock = FakeClock()
        self.journal = WatchedJournal.open(folder, self.clock, **journal)
        self.upstream = ScriptedUpstream()
        self.rates = MemoryRates()
        self.releases = FakeReleases(self.clock)
        self.leases = Leases(self.releases, self.clock)
        self.made_ids = MadeIdsFile(folder / "made-ids.log", self.clock, most_of_team=100, most=200)
        self.happened: list[tuple[str, str, dict[str, str | int]]] = []
        self.node = Node(
            clock=self.clock,
            boot="b00t",
            dialects=DIALECTS,
            providers=providers or (provider("openai"), provider("anthropic", "anthropic")),
            prices=prices or price_table(),
            money=self.journal,
            rates=self.rates,
            leases=self.leases,
            upstream=self.upstream,
            splitter=EventSplitter,
            digest=lambda text: digest(text, PEPPER),
            made_ids=self.made_ids,
            id_lives=Ids().lives,
        )
        self.node.ready = True
        self.node.happenings = lambda *what: self.happened.append(what)
        self.pipeline = Pipeline(self.node)
        public_id, secret = mint(Dice())
        self.key_text = secret.reveal()
        self.key = VirtualKey(
            id=public_id,
            name="app",
            team_id="team-1",
            secrets=(KeySecret(digest=digest(self.key_text, PEPPER)),),
            policy=policy,
        )
        self.team = Team(id="team-1", name="Team", owner_id="owner-1", policy=team_policy)
        self.owner = Owner(id="owner-1", name="Owner")
        self.snapshot = Snapshot(
            version=1,
            owners=[self.owner],
            teams=[self.team],
            keys=[self.key],
            budgets=list(budgets),
            provider_keys=list(provider_keys),
        )
        self.node.tenants.replace(self.snapshot)

    # -- asking

    def exchange(self, path: str = "/v1/chat/completions", body: Any = None, **changes: Any) -> FakeExchange:
        """A request as the stand's own key makes it. `body` is a value to encode, bytes, or what reading it raises."""
        headers = {"authorization": f"Bearer {self.key_text}", "content-type": "application/json"}
        if body is None:
            body = chat() if path == "/v1/chat/completions" else message()
        raw = body if isinstance(body, bytes | Exception) else msgspec.json.encode(body)
        made = FakeExchange(
            changes.pop("method", "POST"), path, headers | changes.pop("headers", {}), raw, self.clock.monotonic()
        )
        assert not changes
        return made

    async def ask(self, *answers: Any, body: Any = None, **changes: Any) -> FakeExchange:
        """One whole request against these answers of the provider."""
        self.upstream.will(*answers)
        exchange = self.exchange(body=body, **changes)
        await self.pipeline.serve(exchange)
        self.at_rest()
        return exchange

    # -- looking

    def at_rest(self) -> None:
        """Nothing is left behind by any call: no hold, no slot, no reservation, no drain, nothing in flight."""
        node = self.node
        assert self.journal.open_holds == 0
        assert node.in_flight == 0
        assert node.drains.running == 0
        assert self.rates._in_flight == {}
        assert self.rates._leases == {}

    @property
    def ends(self) -> list[str | Settlement]:
        """How each hold ended, in the order of the holds."""
        both: dict[int, str | Settlement] = {**self.journal.posts, **self.journal.voids}
        return [both[hold] for hold in sorted(both)]

    @property
    def post(self) -> Settlement:
        """The only hold's settlement."""
        (end,) = self.ends
        assert isinstance(end, Settlement), f"voided: {end}"
        return end

    def balance(self, name: str = "b") -> tuple[int, int]:
        """(posted, held) of a budget."""
        (found,) = [balance for balance in self.journal.balances() if balance.budget_id == name]
        return found.posted_pico, found.held_pico

    def count(self, name: str, **labels: str) -> float:
        """Sum of a counter's series that carry these labels."""
        counted = self.node.counters.series(name)
        names = METRICS[name].labels
        return sum(
            n for series, n in counted.items() if labels.items() <= dict(zip(names, series, strict=True)).items()
        )

    def tokens_taken(self, limit: LimitDef, subject: str, *, shadow: bool = False) -> float:
        """Units of a bucket that are not there now."""
        bound = bind(limit, subject, shadow=shadow)
        wait = max(self.rates._full_at.get(bound.key, 0.0) - self.clock.monotonic(), 0.0)
        return round(wait / bound.seconds_per_unit, 6)

    def close(self) -> None:
        self.journal.close()

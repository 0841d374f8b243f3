"""Nodes with callers, and what befalls them. One seed is one history."""

import asyncio
import contextlib
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from bursar.core.directory import BudgetDef, WindowDef
from bursar.core.errors import Refusal
from bursar.core.ledger import HoldRequest, Settlement
from bursar.core.ledger_records import CorrectRecord, HoldRecord, PostRecord, ShrinkRecord, VoidRecord
from bursar.stores.postgres_money import PostgresMoney
from bursar.stores.postgres_money_runner import Runner
from tests.simulation.database import Database, FakeBudgets, FakeLabels, FakeNodes, FakeStore, Network

LEASE_S = 2.0
CALLERS = 4
STORM_S = 10.0
CALM_S = 20.0
WORDS = {"budget_exhausted", "held_by_requests_in_flight", "can_never_fit", "store_unavailable"}
BUDGETS = (
    BudgetDef(id="all", version=1, subject_kind="owner", subject="o", limit_pico=60_000),
    BudgetDef(id="team", version=1, subject_kind="team", subject="t", limit_pico=20_000),
    BudgetDef(
        id="minute",
        version=1,
        subject_kind="key",
        subject="k",
        limit_pico=12_000,
        window=WindowDef(kind="rolling", seconds=10),
    ),
    BudgetDef(id="soft", version=1, subject_kind="key", subject="k", limit_pico=5_000, hard=False),
)
HARD = {budget.id: budget.limit_pico for budget in BUDGETS if budget.hard and budget.window.kind == "lifetime"}


@dataclass
class Call:
    """One dispatch: what the provider bills for it, and whether its end was handed to the store."""

    hold_id: int
    ceiling: int
    cost: int  # what the provider bills
    sent: bool
    settled: bool = False


@dataclass
class Life:
    """One process of a node, from its start to its death."""

    money: PostgresMoney
    network: Network
    callers: list[asyncio.Task[None]] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)


class World:
    def __init__(self, seed: int, nodes: int = 3) -> None:
        self.chance = random.Random(seed)
        self.loop = asyncio.get_running_loop()
        self.database = Database(self.loop)
        self.names = [f"node-{number}" for number in range(nodes)]
        self.alive: dict[str, Life] = {}
        self.dead: list[Life] = []
        self.words: Counter[str] = Counter()
        self.overages = (
            0.02 if seed % 5 == 0 else 0.0
        )  # the first one closes a budget: the rest of such a history is tame
        self.requests = 0

    # ---- lives

    async def start(self, name: str) -> None:
        network = Network(self.loop, self.chance)
        store: Any = FakeStore(self.database, network)
        money = PostgresMoney(store, name, lease_s=LEASE_S)
        nodes: Any = FakeNodes(store, name, LEASE_S)
        budgets, labels = FakeBudgets(store), FakeLabels()
        money._nodes, money._budgets = nodes, budgets
        money._runner = Runner(store, nodes, budgets, labels, money._tell, 0.25)  # type: ignore[arg-type]
        for definition in BUDGETS:
            money.define(definition)
        life = self.alive[name] = Life(money, network)
        await money.start()
        life.callers = [asyncio.create_task(self._call_on(life)) for _ in range(CALLERS)]

    async def kill(self, name: str) -> None:
        """As kill -9 does: nothing more is sent, nothing is said; what is in the network may still arrive."""
        life = self.alive.pop(name)
        tasks = [*life.callers, *life.money._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        life.money._runner.stop()  # its timers; nothing is sent any more
        self.dead.append(life)

    # ---- what callers do

    async def _call_on(self, life: Life) -> None:
        while True:
            await asyncio.sleep(self.chance.expovariate(5))
            with contextlib.suppress(Refusal):
                await self._call(life)

    async def _call(self, life: Life) -> None:
        self.requests += 1
        ceiling = self.chance.randint(1, 400)
        request = self._request(ceiling)
        try:
            held = await life.money.hold(request)
        except Refusal as refusal:
            self.words[refusal.word] += 1
            raise
        assert held.hold_id in self.database.made, "what may be dispatched is held"
        dearer = self.chance.random() < self.overages
        cost = ceiling + self.chance.randint(1, 60) if dearer else self.chance.randint(0, ceiling)
        call = Call(held.hold_id, ceiling, cost, sent=self.chance.random() > 0.1)
        life.calls.append(call)
        if self.chance.random() < 0.3:
            life.money.shrink(held.hold_id, max(ceiling - self.chance.randint(0, 200), min(cost, ceiling)))
        await asyncio.sleep(self.chance.expovariate(1.5))
        call.settled = True
        if call.sent:
            life.money.post(held.hold_id, Settlement(cost, None, True, "ok"))
        else:
            life.money.void(held.hold_id, "unsent")

    def _request(self, ceiling: int) -> HoldRequest:
        some = [name for name in ("all", "team", "minute", "soft") if name == "all" or self.chance.random() < 0.6]
        names = ("k", "t", "o", "", "openai", "m", "s", "p", "")
        return HoldRequest(f"r{self.requests}", 1, *names, 1, ceiling, max(1, ceiling // 2), 10, 10, tuple(some))

    # ---- what befalls them

    async def storm(self) -> None:
        """Something happens to somebody every second or so."""
        ends = self.loop.time() + STORM_S
        while self.loop.time() < ends:
            await asyncio.sleep(self.chance.expovariate(1.2))
            name = self.chance.choice(self.names)
            match self.chance.choice(["kill", "cut", "lose", "slow", "stray", "stray", "restart", "restart", "outage"]):
                case "kill" if name in self.alive:
                    await self.kill(name)
                case "restart" if name not in self.alive:
                    await self.start(name)
                case "cut" if name in self.alive:
                    self._for_a_while(name, cut=True)
                case "lose" if name in self.alive:
                    self._for_a_while(name, loses=self.chance.uniform(0.05, 0.5))
                case "slow" if name in self.alive:
                    self._for_a_while(name, slow=self.chance.uniform(0.02, 0.6))
                case "stray" if name in self.alive:
                    self._for_a_while(name, strays=self.chance.uniform(0.02, 0.3))
                case "outage":
                    seconds = self.chance.uniform(0.1, 2 * LEASE_S)
                    for other in self.alive:
                        self._for_a_while(other, seconds, cut=True)
                case _:
                    pass

    def _for_a_while(self, name: str, seconds: float | None = None, **faults: Any) -> None:
        network = self.alive[name].network
        for fault, value in faults.items():
            setattr(network, fault, value)
        lasts = self.chance.uniform(0.05, 2 * LEASE_S) if seconds is None else seconds
        self.loop.call_later(lasts, self._heal, network)

    def _heal(self, network: Network) -> None:
        network.cut, network.loses, network.slow, network.strays = False, 0.0, 0.0, 0.0

    async def calm(self) -> None:
        """Everybody is there and reaches everybody; nobody calls any more. Then time for all that is due."""
        for life in self.alive.values():
            self._heal(life.network)
        for name in self.names:
            if name not in self.alive:
                await self.start(name)
        for life in self.alive.values():
            for task in life.callers:
                task.cancel()
            await asyncio.gather(*life.callers, return_exceptions=True)
            for call in life.calls:
                if not call.settled:  # as the pipeline's own task does, whoever left
                    call.settled = True
                    if call.sent:
                        life.money.post(call.hold_id, Settlement(call.cost, None, True, "ok"))
                    else:
                        life.money.void(call.hold_id, "unsent")
        await asyncio.sleep(CALM_S)

    # ---- what must be true

    def check_words(self) -> None:
        assert set(self.words) <= WORDS, self.words

    def check_safety(self) -> None:
        """By the records alone: each hold ends once, no hard budget was passed by a hold, sums are the balances."""
        held: dict[str, int] = dict.fromkeys(HARD, 0)
        posted: dict[str, int] = dict.fromkeys(HARD, 0)
        open_holds: dict[int, tuple[int, list[str]]] = {}
        ended: set[int] = set()
        for record in self.database.records:
            match record:
                case HoldRecord():
                    names = [leg[0] for leg in record.legs if leg[0] in HARD]
                    for name in names:
                        held[name] += record.request.ceiling_pico
                        assert posted[name] + held[name] <= HARD[name], f"{name} is passed by hold {record.id}"
                    assert record.id not in ended, f"hold {record.id} came back"
                    assert record.id not in open_holds, f"hold {record.id} was made twice"
                    open_holds[record.id] = record.request.ceiling_pico, names
                case ShrinkRecord():
                    _, names = open_holds[record.id]
                    for name in names:
                        held[name] -= record.released
                    open_holds[record.id] = record.ceiling, names
                case PostRecord() | VoidRecord():
                    ceiling, names = open_holds.pop(record.id)
                    ended.add(record.id)
                    for name in names:
                        held[name] -= ceiling
                        posted[name] += record.cost if isinstance(record, PostRecord) else 0
                case CorrectRecord():
                    assert record.id in ended
                    for leg in record.legs:
                        if leg[0] in HARD:
                            posted[leg[0]] += record.pair[0]
        for name in HARD:
            budget = self.database.ledger.budgets[name]
            assert (budget.posted, budget.held) == (posted[name], held[name])

    def check_money(self) -> None:
        """Never less booked than billed; exact where the process that knew the end lived on."""
        cost: Counter[int] = Counter()
        for record in self.database.records:
            if isinstance(record, PostRecord):
                cost[record.id] += record.cost
            elif isinstance(record, CorrectRecord):
                cost[record.id] += record.pair[0]
        for life in self.alive.values():
            for call in life.calls:
                assert cost[call.hold_id] == (call.cost if call.sent else 0), call
        for life in self.dead:
            for call in life.calls:  # what a provider charged above the ceiling died with who knew it
                if call.sent:
                    assert cost[call.hold_id] >= min(call.cost, call.ceiling), call

    async def check_liveness(self) -> None:
        """Nothing stays open for ever, everything was confirmed, and what is free can be held again."""
        assert not self.database.ledger.open, "holds are open for ever"
        for life in self.alive.values():
            assert life.money.down == "", life.money.down
            assert life.money.open_holds == 0
            await life.money.settled()
        ledger = self.database.ledger
        for life in self.alive.values():
            room = ledger.room(["all"])
            names = ("k", "t", "o", "", "openai", "m", "s", "p", "")
            request = HoldRequest("last", 1, *names, 1, room or 1, 1, 10, 10, ("all",))
            said = await asked(life.money, request)
            assert said in (("",) if room else ("budget_exhausted", "can_never_fit")), f"{room} are free, and: {said}"


async def asked(money: PostgresMoney, request: HoldRequest) -> str:
    """The word of the refusal; "" = it was held, and is given back."""
    try:
        held = await money.hold(request)
    except Refusal as refusal:
        return refusal.word
    money.void(held.hold_id, "unsent")
    await money.settled()
    return ""

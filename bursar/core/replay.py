"""History through a policy: what would have been refused or cut, had these rules held then. Pure.

A `World` holds one set of rules with counters, budgets and clocks of its own, and is asked about one past attempt after
the other, in the order in which they were held. The same code decides as on the way of a request: `decide`, `ceiling`,
`Rates`, `Ledger`. What a world refuses it neither counts nor spends.

Of a call whose decision was recorded all is known that was asked about. Of the others only the ledger's row is: their
prompt is taken for four bytes a token, and their own max_tokens for what was answered.
"""

import heapq
from collections.abc import Callable, Iterable
from typing import NamedTuple

import msgspec

from bursar.core.calls import Call, Usage
from bursar.core.ceiling import ceiling
from bursar.core.compiling import compile_policy
from bursar.core.decisions import CallFacts, call_of
from bursar.core.directory import BudgetDef, Owner, Team, VirtualKey
from bursar.core.errors import Refusal
from bursar.core.estimate import Estimate
from bursar.core.ledger import HoldRequest, Ledger, Settlement
from bursar.core.ledger_records import MAX_AMOUNT
from bursar.core.limits import Limited, Rates, Reservation
from bursar.core.plans import BudgetIndex, KeyPlan
from bursar.core.policy import Allowed, decide
from bursar.core.prices import Price, cost
from bursar.core.units import NS_PER_S

FindPrice = Callable[[str, str, int], Price | None]
"""(provider as the price table calls it, model, instant in ns) -> its price then."""

_BYTES_PER_TOKEN = 4
_LONGEST_NS = 3_600 * NS_PER_S  # a call that is said to have ended later has ended then
_EVENTS_KEPT = 1_000
_HELD_AS_THEY_WERE = frozenset({"count_tokens", "batches"})  # what a batch can cost is known line by line, and gone


class Past(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One attempt as the ledger has it, or a call that was refused before it had one. Amounts are pico-USD."""

    t_ns: int
    ended_ns: int
    request_id: str
    attempt: int = 1  # 0 = it was refused, and never came so far
    key_id: str = ""
    team_id: str = ""
    user: str = ""
    provider: str = ""
    model: str = ""  # canonical
    price_id: str = ""
    secret_id: str = ""
    held: int = 0
    expected: int = 0  # what it was expected to cost, where that was recorded
    cost: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    call: CallFacts | None = None


class Verdict(NamedTuple):
    """What a world says of an attempt. `saved`: of what it did cost (pico-USD)."""

    word: str = ""  # "" = it is allowed
    rule: str = ""  # the limit or budget that refused
    cap: int | None = None  # output tokens to which it was cut
    saved: int = 0


class _Running(NamedTuple):
    ends: int
    number: int
    taken: Reservation | None
    hold: int  # 0 = none
    past: Past
    cost: int


class World:
    """`keys`: (key, its team, its owner) by the key's id; None = there is none of that name."""

    def __init__(
        self,
        keys: Callable[[str], tuple[VirtualKey, Team, Owner] | None],
        budgets: Iterable[BudgetDef],
        find_price: FindPrice,
        since_ns: int,
    ) -> None:
        self._keys = keys
        self._find_price = find_price
        self._plans: dict[str, KeyPlan | None] = {}
        self._rates = Rates()
        self._ledger = Ledger()
        self._estimate = Estimate()
        self._running: list[_Running] = []
        self._number = 0
        living = [budget for budget in budgets if not budget.deleted]
        self._index = BudgetIndex(living)
        for budget in living:
            record = self._ledger.define(budget, since_ns)
            assert record is not None, "each budget is defined once"
            self._ledger.apply(record)

    def ask(self, past: Past) -> Verdict | None:
        """None: there is no such key any more, so that nothing can be said."""
        self._end(past.t_ns)
        plan = self._plan_of(past.key_id)
        if plan is None:
            return None
        self._number += 1
        try:
            return self._ask(plan, past, self._number)
        except Refusal as refusal:
            self._rates.give_back(self._number)
            rule = str(refusal.facts.get("budget") or refusal.facts.get("limit_id") or "")
            return Verdict(refusal.word, rule, None, past.cost)

    def _ask(self, plan: KeyPlan, past: Past, number: int) -> Verdict:
        call, now = call_of_past(past), past.t_ns / NS_PER_S
        plan.check_alive(past.t_ns)
        if past.attempt <= 1:
            limited = self._rates.arrive(plan.arrival_bounds(past.user).enforced, now, number)
            if limited is not None:
                raise _refusal(limited)
        price = self._price_of(past)
        canonical = call.model if price is None else price.model
        hard_way = plan.budget_set(call.model, canonical, past.user, past.secret_id).hard
        allowed = decide(plan, call, price, user=past.user, hard_way=hard_way)
        taken = self._reserve(plan, past, allowed, now, number)
        if past.attempt == 0:  # nobody knows what it would have used
            self._keep(_Running(past.t_ns, number, taken, 0, past, 0))
            return Verdict(cap=_cut(allowed, past, call))
        cap = _cut(allowed, past, call)
        spent = past.cost - _less(past, price, cap, call)
        try:
            hold = self._hold(plan, past, call, allowed, price, spent)
        except BaseException:
            self._rates.settle(taken, 0, 0, now)
            raise
        self._keep(_Running(min(past.ended_ns, past.t_ns + _LONGEST_NS), number, taken, hold, past, spent))
        return Verdict(cap=cap, saved=past.cost - spent)

    def _plan_of(self, key_id: str) -> KeyPlan | None:
        if key_id not in self._plans:
            found = self._keys(key_id)
            self._plans[key_id] = None if found is None else compile_policy(*found, self._index)
        return self._plans[key_id]

    def _price_of(self, past: Past) -> Price | None:
        if past.price_id.endswith("@unpriced"):
            return None
        dialect = past.call.dialect if past.call is not None else ""
        table = past.price_id.partition("/")[0] or past.provider or dialect  # it may have been refused before its price
        return self._find_price(table, past.model, past.t_ns)

    def _reserve(self, plan: KeyPlan, past: Past, allowed: Allowed, now: float, number: int) -> Reservation:
        bounds = plan.call_bounds(allowed.billed_as, past.user).enforced
        bounds += plan.provider_key_limits(past.secret_id).enforced
        if past.attempt > 1:
            bounds = tuple(bound for bound in bounds if bound.of_input or bound.of_output)
        taken = self._rates.reserve(bounds, past.input_tokens, past.output_tokens, now, number)
        if isinstance(taken, Limited):
            raise _refusal(taken)
        return taken

    def _hold(self, plan: KeyPlan, past: Past, call: Call, allowed: Allowed, price: Price | None, spent: int) -> int:
        """The hold's id. Raises Refusal."""
        found = plan.budget_set(call.model, allowed.billed_as, past.user, past.secret_id)
        if not found.ids:
            return 0
        most = max(past.held, spent)
        if past.call is not None and price is not None and past.call.route not in _HELD_AS_THEY_WERE:
            most = max(
                spent,
                ceiling(
                    call,
                    price,
                    allowed.output_cap,
                    self._estimate,
                    found.hard,
                    allow_unknown=allowed.allow_unknown,
                    tool_cap=allowed.edits.tool_uses_cap,
                ).pico,
            )
        for due in self._ledger.due(found.ids, past.t_ns):
            self._ledger.apply(due)
        request = HoldRequest(
            past.request_id,
            max(1, past.attempt),
            plan.key_id,
            plan.team_id,
            plan.owner_id,
            past.user,
            past.provider,
            past.model,
            past.secret_id,
            past.price_id,
            "",
            0,
            min(most, MAX_AMOUNT),
            min(past.expected or spent, MAX_AMOUNT),
            0,
            0,
            found.ids,
        )
        record, _ = self._ledger.decide_hold(request, past.t_ns)
        self._ledger.apply_hold(record)
        return record.id

    def _keep(self, running: _Running) -> None:
        heapq.heappush(self._running, running)

    def _end(self, now_ns: int) -> None:
        """What has ended by then gives back, and costs."""
        while self._running and self._running[0].ends <= now_ns:
            done = heapq.heappop(self._running)
            past = done.past
            if done.taken is not None:
                self._rates.settle(done.taken, past.input_tokens, past.output_tokens, done.ends / NS_PER_S)
            self._rates.release(done.number)
            if done.hold:
                settlement = Settlement(done.cost, None, True, "ok")
                record = self._ledger.post(done.hold, settlement, done.ends)
                assert record is not None, "each hold ends once"
                self._ledger.apply_post(record)
        if len(self._ledger.events) > _EVENTS_KEPT:
            self._ledger.events.clear()


def call_of_past(past: Past) -> Call:
    """The call as it was understood, or as the ledger's row lets one guess it."""
    if past.call is not None:
        return call_of(past.call)
    size = past.input_tokens * _BYTES_PER_TOKEN
    return Call(
        route="chat",
        dialect="openai",
        purpose="inference",
        model=past.model,
        stream=False,
        body=b"",
        input_bytes=size,
        prompt_chars=size,
        messages=1,
        max_tokens=max(1, past.output_tokens),
    )


def _cut(allowed: Allowed, past: Past, call: Call) -> int | None:
    """The cap, where it changes the call or would have ended its answer."""
    cap = allowed.max_tokens_applied
    if cap is None or not (allowed.truncated or past.output_tokens > cap * call.n):
        return None
    return cap


def _less(past: Past, price: Price | None, cap: int | None, call: Call) -> int:
    """What the answer would have cost less, cut there."""
    if cap is None or price is None or past.output_tokens <= cap * call.n:
        return 0
    whole = Usage(input_tokens=past.input_tokens, output_tokens=past.output_tokens)
    short = msgspec.structs.replace(whole, output_tokens=cap * call.n)
    return max(0, min(past.cost, cost(price, whole).pico - cost(price, short).pico))


def _refusal(limited: Limited) -> Refusal:
    return Refusal(limited.word, limited.bound.name, facts={"limit_id": limited.bound.name})


# ---- two worlds ------------------------------------------------------------------------------------------------------

Change = str  # refused | allowed | cut | uncut | "" = the same


class Group(msgspec.Struct):
    """Calls of one key to which the change does the same."""

    calls: int = 0
    first_ns: int = 0
    last_ns: int = 0
    cost: int = 0  # what they did cost
    saved: int = 0  # of it, what the changed rules would save; negative: what they would spend more
    guessed: int = 0  # calls of which only the ledger's row is known
    example: str = ""  # the first one's id


Place = tuple[str, str, Change, str, str]  # team, key, what changes, word, rule


class Findings:
    """What the change of rules does to a history: by key and reason, and by day. As large as there are such."""

    def __init__(self) -> None:
        self.calls = self.unknown = self.guessed = 0
        self.cost = self.saved = self.refused_today = self.refused_changed = 0
        self.groups: dict[Place, Group] = {}
        self.days: dict[tuple[int, Change], list[int]] = {}  # (day since the epoch, change) -> [calls, saved]

    def take(self, past: Past, today: Verdict | None, changed: Verdict | None) -> None:
        if past.attempt <= 1:
            self.calls += 1
            self.guessed += past.call is None
        if today is None or changed is None:
            self.unknown += 1
            return
        self.cost += past.cost
        self.refused_today += bool(today.word)
        self.refused_changed += bool(changed.word)
        change = _change(today, changed)
        saved = changed.saved - today.saved
        if not change:
            return
        self.saved += saved
        told = today if change == "allowed" else changed
        group = self.groups.setdefault((past.team_id, past.key_id, change, told.word, told.rule), Group())
        if not group.calls:
            group.first_ns, group.example = past.t_ns, past.request_id
        group.calls += 1
        group.last_ns = past.t_ns
        group.cost += past.cost
        group.saved += saved
        group.guessed += past.call is None
        day = self.days.setdefault((past.t_ns // (86_400 * NS_PER_S), change), [0, 0])
        day[0] += 1
        day[1] += saved


def _change(today: Verdict, changed: Verdict) -> Change:
    if bool(today.word) != bool(changed.word):
        return "refused" if changed.word else "allowed"
    if today.word or today.cap == changed.cap:
        return ""
    if changed.cap is None:
        return "uncut"
    return "cut" if today.cap is None or changed.cap < today.cap else "uncut"

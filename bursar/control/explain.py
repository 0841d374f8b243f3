"""Why a request was answered as it was: what the gateway put on record, what the ledger knows of it, who holds what
right now, and who can lift it by which command.

What was refused is explained from its record. An ordinary call may have none; the ledger then tells what it held and
cost, for as long as the ledger is kept.
"""

import asyncio
from collections.abc import Sequence
from typing import Protocol

import msgspec

from bursar.control.decisions import Decisions
from bursar.control.directory import Directory
from bursar.core.decisions import Decision, RuleAsked
from bursar.core.directory import BudgetDef, Owner, Team, VirtualKey
from bursar.core.errors import Refusal
from bursar.core.holders import AttemptRow, Holder, Holding, gather
from bursar.core.ledger_records import Balance
from bursar.core.lift_words import Lift
from bursar.core.lifts import Known, lifts_of
from bursar.core.units import format_duration

_PATIENCE_S = 1.5  # a gateway ships what it decided once a second
_MONEY_WORDS = frozenset({"budget_exhausted", "held_by_requests_in_flight", "can_never_fit", "concurrency_limited"})


class RequestLedger(Protocol):
    """Of single requests. Every call raises Refusal(ledger_unreadable)."""

    async def attempts(self, request_id: str) -> list[AttemptRow]:
        """In their order."""
        ...

    async def open_holds(self, budget_id: str) -> list[Holder]:
        """Of one budget; "" = all."""
        ...

    async def balances(self) -> list[Balance]: ...


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of one request. `decision` None = none is on record, and the ledger tells what it knows."""

    request_id: str
    decision: Decision | None
    attempts: Sequence[AttemptRow]
    lifts: tuple[Lift, ...] = ()
    holding: Holding | None = None  # right now, of what bound
    balance: Balance | None = None  # right now, of the budget that bound
    key: VirtualKey | None = None
    team: Team | None = None
    owner: Owner | None = None
    ledger_fault: str = ""  # why the ledger could not be asked


class Explainer:
    def __init__(
        self, directory: Directory, decisions: Decisions, ledger: RequestLedger, patience_s: float = _PATIENCE_S
    ) -> None:
        self._directory, self._decisions, self._ledger = directory, decisions, ledger
        self._patience_s = patience_s

    async def explain(self, request_id: str) -> Explanation:
        """Raises Refusal(unknown_id | decisions_unavailable)."""
        found = await self._look(request_id)
        if found is None:
            await asyncio.sleep(self._patience_s)  # it may just be on its way
            found = await self._look(request_id)
        if found is None:
            raise await self._unknown(request_id)
        decision, attempts, fault = found
        book = self._directory.book
        names = decision or attempts[0]
        binding = None if decision is None else decision.binding
        key, team = book.find(VirtualKey, names.key_id), book.find(Team, names.team_id)
        balance, holding = await self._now(decision, binding)
        lifts: tuple[Lift, ...] = ()
        if decision is not None:
            budget = None
            if binding is not None and binding.control == "budgets":
                budget = book.find(BudgetDef, binding.rule)
            used = None if balance is None else balance.posted_pico + balance.held_pico
            lifts = lifts_of(Known(decision=decision, key=key, team=team, budget=budget, used_pico=used))
        return Explanation(
            request_id=request_id,
            decision=decision,
            attempts=attempts,
            lifts=lifts,
            holding=holding,
            balance=balance,
            key=key,
            team=team,
            owner=book.find(Owner, names.owner_id),
            ledger_fault=fault,
        )

    async def _look(self, request_id: str) -> tuple[Decision | None, list[AttemptRow], str] | None:
        """The record and what the ledger has; None = neither knows it. One that cannot be asked hides no other."""
        unread: Refusal | None = None
        decision, attempts, fault = None, [], ""
        try:
            decision = await self._decisions.find(request_id)
        except Refusal as refusal:
            unread = refusal
        try:
            attempts = await self._ledger.attempts(request_id)
        except Refusal as refusal:
            fault = refusal.message
        if decision is None and not attempts:
            if unread is not None:
                raise unread
            return None
        return decision, attempts, fault

    async def _now(self, decision: Decision | None, binding: RuleAsked | None) -> tuple[Balance | None, Holding | None]:
        """How what bound stands now. Nothing where the ledger cannot be asked: the decision's own numbers remain."""
        if decision is None or binding is None or decision.word not in _MONEY_WORDS:
            return None, None
        try:
            if binding.control == "budgets":
                held = await self._ledger.open_holds(binding.rule)
                balances = {balance.budget_id: balance for balance in await self._ledger.balances()}
                return balances.get(binding.rule), gather(held)
            held = [hold for hold in await self._ledger.open_holds("") if _counts(binding, decision, hold)]
        except Refusal:
            return None, None
        return None, gather(held)

    async def _unknown(self, request_id: str) -> Refusal:
        kept = format_duration(int(self._decisions.keep_s))
        dropped = sum(lost.count for lost in await self._decisions.dropped())
        also = f"; {dropped} decisions of that time were counted and not recorded (floods)" if dropped else ""
        hint = "Copy the id from the answer: x-bursar-request-id. The newest are listed by `bursar explain`"
        message = f"Nothing is known of {request_id[:64]!r}: records are kept for {kept}{also}"
        return Refusal("unknown_id", message, hint)


def _counts(binding: RuleAsked, decision: Decision, hold: Holder) -> bool:
    """Whether a call in flight stands in the same slots: as far as key, team and model tell."""
    scope, _, subject = binding.subject.partition("/")
    if scope == "key":
        return hold.key_id == subject
    if scope == "team":
        return hold.team_id == subject
    if scope == "user":
        return hold.user == decision.user and hold.team_id == decision.team_id
    if scope == "model":
        return hold.model == decision.model and hold.team_id == decision.team_id
    return True


def told(explanation: Explanation) -> str:
    """What happened, in one line."""
    decision = explanation.decision
    if decision is None:
        return _told_by_ledger(explanation.attempts[-1])
    binding = decision.binding
    by = ""
    if binding is not None:
        by = {"limits": f" by the limit {binding.rule}", "budgets": f" by the budget {binding.rule}"}.get(
            binding.control, f" by the rule on {binding.control.replace('_', ' ')}"
        )
    if decision.outcome == "refused":
        return f"refused{by}: {decision.message or decision.word}"
    if decision.outcome == "failed":
        return f"failed upstream: {decision.message or decision.word}"
    if decision.outcome == "cut":
        return f"the stream was ended at its allowance of {decision.output_cap} output tokens a choice"
    if decision.outcome == "gone":
        return "the caller left before the end; what was used until then is booked"
    clamped = any(rule.verdict == "clamps" and rule.mode == "enforce" for rule in decision.rules)
    shadow = len(decision.shadowed)
    more = f", its output capped at {decision.output_cap} tokens" if clamped else ""
    return f"allowed{more}" + (f"; {shadow} rules in shadow would have said otherwise" if shadow else "")


def _told_by_ledger(last: AttemptRow) -> str:
    if last.state == "HELD":
        return "allowed, and in flight: its hold is open"
    if last.outcome == "unreconciled":
        return "allowed, and its end is not known: the node died meanwhile, and its whole hold is booked (unreconciled)"
    if last.state == "VOIDED":
        return f"its hold was given back, nothing was sent or billed ({last.outcome})"
    if last.outcome in ("cut", "client_gone", "upstream_broken", "filtered"):
        return f"allowed, and ended early ({last.outcome})"
    return "allowed"

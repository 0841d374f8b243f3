"""Why a request was answered as it was, over the admin API."""

from typing import Annotated

import msgspec

from bursar.control.explain import told
from bursar.core.decisions import Decision, RuleAsked, Wanted, number
from bursar.core.directory import Owner
from bursar.core.holders import AttemptRow, Holding
from bursar.core.ledger_records import Balance, Money
from bursar.core.units import NS_PER_S, pico_to_usd
from bursar.core.windows import FOREVER
from bursar.faces.admin_calls import AdminCall, items
from bursar.faces.admin_route import Route
from bursar.faces.admin_shapes import Instant, Limit, Shape, instant


class RuleView(Shape, frozen=True, kw_only=True):
    """One rule that was asked. Numbers in `unit`; those of `usd` are decimal text."""

    control: str
    rule: str
    mode: str
    verdict: str
    word: str
    subject: str
    unit: str
    per_seconds: int
    limit: str | int | None
    used: str | int | None
    held: str | int | None
    asked: str | int | None
    left: str | int | None
    resets_at: str | None
    says: str
    saved_usd: str


class LiftView(Shape, frozen=True, kw_only=True):
    """One way out: who can take it, and the command that does it ("" = none is needed)."""

    who: str
    says: str
    command: str
    roles: tuple[str, ...]


class AttemptView(Shape, frozen=True, kw_only=True):
    """One attempt as the ledger has it."""

    attempt: int
    state: str
    outcome: str
    provider: str
    model: str
    price: str
    held_at: str
    settled_at: str | None
    held_usd: str
    cost_usd: str | None
    corrected_usd: str
    overage_usd: str
    exact: bool | None
    input_tokens: int | None
    output_tokens: int | None


class KeyHoldingView(Shape, frozen=True, kw_only=True):
    key: str
    name: str
    calls: int
    held_usd: str
    oldest_at: str


class HolderView(Shape, frozen=True, kw_only=True):
    request: str
    key: str
    user: str
    model: str
    held_usd: str
    since: str


class HoldingView(Shape, frozen=True, kw_only=True):
    """Who holds what right now: all of it, the keys that hold the most, the calls that hold the longest."""

    calls: int
    held_usd: str
    keys: tuple[KeyHoldingView, ...]
    oldest: tuple[HolderView, ...]


class StandView(Shape, frozen=True, kw_only=True):
    """The budget that bound, as it stands right now."""

    budget: str
    limit_usd: str
    posted_usd: str
    held_usd: str
    left_usd: str
    closed: bool
    window_end: str | None


class DecisionLine(Shape, frozen=True, kw_only=True):
    """What was decided about one request."""

    id: str  # of the request
    at: str
    node: str
    outcome: str
    status: int
    word: str
    message: str
    hint: str
    key: str
    team: str
    owner: str
    user: str
    credential: str
    route: str
    model: str  # as asked for
    stream: bool
    max_tokens: int | None
    max_tokens_applied: int | None
    input_bytes: int | None
    expected_input_tokens: int | None
    input_tokens: int | None
    output_tokens: int | None
    expected_usd: str | None
    ceiling_usd: str | None
    cost_usd: str
    directory_version: int
    rules: tuple[RuleView, ...]
    binding: str  # control/rule


class ExplanationView(Shape, frozen=True, kw_only=True):
    """`recorded` False: no record is kept of it, and the ledger alone tells."""

    id: str  # of the request
    recorded: bool
    told: str
    decision: DecisionLine | None
    attempts: tuple[AttemptView, ...]
    lifts: tuple[LiftView, ...]
    holding: HoldingView | None
    stands: StandView | None
    key: str
    key_name: str
    team: str
    team_name: str
    owner: str
    owner_name: str
    owner_contacts: tuple[str, ...]
    ledger_fault: str


class DecisionsQuery(Shape, frozen=True, kw_only=True):
    """`all`: ordinary calls as well, of those that were recorded."""

    team: str = ""
    key: str = ""
    word: str = ""
    since: Instant | None = None
    last_s: Annotated[int, msgspec.Meta(ge=1)] | None = None
    all: bool = False
    before: Annotated[int, msgspec.Meta(ge=1)] | None = None
    limit: Limit = 50


def _usd(amount: Money | None) -> str | None:
    return None if amount is None else pico_to_usd(number(amount))


def rule_view(rule: RuleAsked) -> RuleView:
    money = rule.unit == "pico_usd"

    def shown(value: Money | None) -> str | int | None:
        return _usd(value) if money else None if value is None else number(value)

    ends = rule.resets_ns
    return RuleView(
        control=rule.control,
        rule=rule.rule,
        mode=rule.mode,
        verdict=rule.verdict,
        word=rule.word,
        subject=rule.subject,
        unit="usd" if money else rule.unit,
        per_seconds=rule.per_seconds,
        limit=shown(rule.limit),
        used=shown(rule.used),
        held=shown(rule.held),
        asked=shown(rule.asked),
        left=shown(rule.left),
        resets_at=None if ends is None or ends >= FOREVER else instant(ends),
        says=rule.says,
        saved_usd=pico_to_usd(number(rule.saved_pico)),
    )


def decision_line(decision: Decision) -> DecisionLine:
    call, binding = decision.call, decision.binding
    return DecisionLine(
        id=decision.request_id,
        at=instant(decision.at_ns),
        node=decision.node,
        outcome=decision.outcome,
        status=decision.status,
        word=decision.word,
        message=decision.message,
        hint=decision.hint,
        key=decision.key_id,
        team=decision.team_id,
        owner=decision.owner_id,
        user=decision.user,
        credential=decision.credential,
        route=decision.route,
        model=call.model if call is not None else decision.model,
        stream=call is not None and call.stream,
        max_tokens=None if call is None else call.max_tokens,
        max_tokens_applied=decision.max_tokens_applied,
        input_bytes=None if call is None else call.input_bytes,
        expected_input_tokens=decision.expected_input if decision.expected_pico is not None else None,
        input_tokens=decision.input_tokens,
        output_tokens=decision.output_tokens,
        expected_usd=_usd(decision.expected_pico),
        ceiling_usd=_usd(decision.ceiling_pico),
        cost_usd=pico_to_usd(number(decision.cost_pico)),
        directory_version=decision.directory_version,
        rules=tuple(rule_view(rule) for rule in decision.rules),
        binding="" if binding is None else f"{binding.control}/{binding.rule}",
    )


def _attempt(row: AttemptRow) -> AttemptView:
    return AttemptView(
        attempt=row.attempt,
        state=row.state,
        outcome=row.outcome,
        provider=row.provider,
        model=row.model,
        price=row.price_id,
        held_at=instant(row.t_ns),
        settled_at=None if row.settled_ns is None else instant(row.settled_ns),
        held_usd=pico_to_usd(row.held_pico),
        cost_usd=_usd(row.cost_pico),
        corrected_usd=pico_to_usd(row.corrected_pico),
        overage_usd=pico_to_usd(row.overage_pico),
        exact=row.exact,
        input_tokens=row.input_tokens,
        output_tokens=row.output_tokens,
    )


def _stands(balance: Balance) -> StandView:
    left = max(0, balance.limit_pico - balance.posted_pico - balance.held_pico)
    return StandView(
        budget=balance.budget_id,
        limit_usd=pico_to_usd(balance.limit_pico),
        posted_usd=pico_to_usd(balance.posted_pico),
        held_usd=pico_to_usd(balance.held_pico),
        left_usd="0.00" if balance.closed else pico_to_usd(left),
        closed=balance.closed,
        window_end=None if balance.window_end_ns >= FOREVER else instant(balance.window_end_ns),
    )


def _holding(holding: Holding, call: AdminCall) -> HoldingView:
    name = call.services.usage.name_of
    return HoldingView(
        calls=holding.calls,
        held_usd=pico_to_usd(holding.amount_pico),
        keys=tuple(
            KeyHoldingView(
                key=key.key_id,
                name=name("key", key.key_id),
                calls=key.calls,
                held_usd=pico_to_usd(key.amount_pico),
                oldest_at=instant(key.oldest_ns),
            )
            for key in holding.keys
        ),
        oldest=tuple(
            HolderView(
                request=holder.request_id,
                key=holder.key_id,
                user=holder.user,
                model=holder.model,
                held_usd=pico_to_usd(holder.amount_pico),
                since=instant(holder.t_ns),
            )
            for holder in holding.oldest
        ),
    )


def _owner(owner: Owner | None) -> tuple[str, str, tuple[str, ...]]:
    return ("", "", ()) if owner is None else (owner.id, owner.name, owner.contacts)


async def explain_request(call: AdminCall) -> object:
    found = await call.services.explainer.explain(call.path["id"])
    key, team, (owner, owner_name, contacts) = found.key, found.team, _owner(found.owner)
    names = found.decision or found.attempts[0]
    return ExplanationView(
        id=found.request_id,
        recorded=found.decision is not None,
        told=told(found),
        decision=None if found.decision is None else decision_line(found.decision),
        attempts=tuple(_attempt(row) for row in found.attempts),
        lifts=tuple(LiftView(who=it.who, says=it.says, command=it.command, roles=it.roles) for it in found.lifts),
        holding=None if found.holding is None else _holding(found.holding, call),
        stands=None if found.balance is None else _stands(found.balance),
        key=names.key_id,
        key_name="" if key is None else key.name,
        team=names.team_id,
        team_name="" if team is None else team.name,
        owner=owner,
        owner_name=owner_name,
        owner_contacts=contacts,
        ledger_fault=found.ledger_fault,
    )


async def list_decisions(call: AdminCall) -> object:
    query: DecisionsQuery = call.query
    since = 0 if query.since is None else query.since
    if query.last_s is not None:
        since = call.services.directory.now() - query.last_s * NS_PER_S
    wanted = Wanted(
        since_ns=since,
        team_id=query.team,
        key_id=query.key,
        word=query.word,
        ordinary=None if query.all else False,
    )
    rows = await call.services.decisions.page(wanted, query.before or 2**62, query.limit)
    following = str(rows[-1][0]) if len(rows) == query.limit else None
    return items([decision_line(decision) for _, decision in rows], following)


ROUTES = (
    Route(
        "GET",
        "/decisions",
        "What was decided about single requests, newest first",
        list_decisions,
        DecisionLine,
        query=DecisionsQuery,
        page=True,
        refusals=("decisions_unavailable",),
    ),
    Route(
        "GET",
        "/decisions/{id}",
        "Why a request was answered as it was, and who can lift it",
        explain_request,
        ExplanationView,
        refusals=("unknown_id", "decisions_unavailable"),
    ),
)

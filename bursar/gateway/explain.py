"""Stage 11b: put on record what was decided, for `bursar explain`. After the answer has left, and never at its cost.

An ordinary call pays for a look at three fields, unless it is one of the few a second that are recorded as well. A call
that something refused, cut, or would have refused is recorded while its key has room in this second; what rules in
shadow would have saved is summed up for every such call.
"""

import logging
from collections.abc import Iterator
from typing import Any

import msgspec

from bursar.core.decisions import Decision, Outcome, RuleAsked, encode, facts_of
from bursar.core.errors import Refusal
from bursar.core.explain import QUOTING, budget_rule, door_rules, limit_rule, policy_rules
from bursar.core.ledger_records import money
from bursar.core.limits import Bound
from bursar.core.plans import KeyPlan
from bursar.core.prices import cost
from bursar.gateway.flight import Flight
from bursar.gateway.node import Node

_LIMIT_WORDS = ("rate_limited", "concurrency_limited")
_MOST_RULES = 64
_log = logging.getLogger("bursar.explain")


def explain(node: Node, flight: Flight) -> None:
    """Synchronous. A fault of its own costs the record and nothing else."""
    decisions = node.decisions
    ordinary = not flight.word and flight.shadow is None and not flight.cut  # what is refused has its word
    if ordinary:
        if decisions.ordinary_left <= 0 or flight.call is None or flight.trial:
            return
        decisions.ordinary_left -= 1
    elif flight.trial:
        return
    key_id = "" if flight.plan is None else flight.plan.key_id
    try:
        shadowed = [] if flight.shadow is None else _shadowed(node, flight)
        if ordinary or decisions.has_room(key_id):
            decisions.put(key_id, encode(_decision(node, flight, shadowed)))
    except Exception:  # noqa: BLE001 - the call is over and paid for: nothing here may undo that
        decisions.drop(key_id, "fault")
        _log.exception("a decision could not be recorded")


def refused_at_the_door(node: Node, request_id: str, refusal: Refusal) -> None:
    """A request that reached no route."""
    if node.decisions.has_room(""):
        decision = Decision(request_id=request_id, at_ns=node.clock.now(), outcome="refused", **_told(refusal))
        node.decisions.put("", encode(decision))


def _decision(node: Node, flight: Flight, shadowed: list[RuleAsked]) -> Decision:
    plan, call, allowed, refusal, usage = flight.plan, flight.call, flight.allowed, flight.refusal, flight.usage
    way = flight.ways[0] if flight.ways else None
    about: dict[str, Any] = {"status": flight.status, "word": flight.word}
    if refusal is not None:
        about |= _told(refusal)
    if plan is not None:
        about |= {"key_id": plan.key_id, "team_id": plan.team_id, "owner_id": plan.owner_id}
        about |= {"user": flight.user, "credential": plan.credential}
    if call is not None:
        about["call"] = facts_of(call)
    if allowed is not None:
        about |= {"output_cap": allowed.output_cap, "max_tokens_applied": allowed.max_tokens_applied}
    if way is not None:
        top = way.ceiling
        about |= {"provider": way.option.provider.name, "model": way.price.model, "price_id": way.price.id}
        about |= {"expected_pico": money(top.expected_pico), "ceiling_pico": money(top.pico)}
        about |= {"expected_input": top.expected_input, "expected_output": top.expected_output}
    if usage is not None:
        about |= {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens}
    return Decision(
        request_id=flight.request_id,
        at_ns=node.clock.now(),
        outcome=_outcome(flight),
        route=flight.route.name if flight.route is not None else "",
        directory_version=node.tenants.version,
        cost_pico=money(flight.cost_pico),
        rules=(*rules_asked(node, flight), *shadowed)[:_MOST_RULES],
        **about,
    )


def _told(refusal: Refusal) -> dict[str, Any]:
    quoting = refusal.word in QUOTING
    return {
        "status": refusal.rule.status,
        "word": refusal.word,
        "message": "" if quoting else refusal.message[:500],
        "hint": "" if quoting else refusal.hint[:500],
        "retry_after": refusal.retry_after,
        "facts": {} if quoting else refusal.facts,
    }


def _outcome(flight: Flight) -> Outcome:
    if flight.cut:
        return "cut"
    if flight.word == "client_gone":
        return "gone"
    if flight.refusal is None:
        return "failed" if flight.word else "allowed"
    return "failed" if flight.refusal.word.startswith("upstream_") else "refused"


# ---- the rules, in the order in which they were asked


def rules_asked(node: Node, flight: Flight) -> Iterator[RuleAsked]:
    """Those that are enforced, up to the one that refused, with their numbers of now."""
    plan, call, refusal = flight.plan, flight.call, flight.refusal
    yield from door_rules(plan, refusal)
    if plan is None or (call is None and (refusal is None or refusal.word not in _LIMIT_WORDS)):
        return
    yield from _limit_rules(node, flight, plan.arrival_bounds(flight.user).enforced)
    if call is None:
        return
    allowed = flight.allowed
    applied, truncated = (None, False) if allowed is None else (allowed.max_tokens_applied, allowed.truncated)
    yield from policy_rules(plan, call, applied, truncated, refusal)
    if allowed is None or not flight.ways:
        if refusal is not None and refusal.word == "unbounded_request":
            yield from _budget_rules(node, flight, plan)
        return
    way = flight.ways[0]
    bounds = plan.call_bounds(allowed.billed_as, flight.user).enforced
    bounds += plan.provider_key_limits(way.option.key.id).enforced
    refused_by_rate = refusal is not None and refusal.word in _LIMIT_WORDS
    yield from _limit_rules(node, flight, bounds)
    if not refused_by_rate:
        yield from _budget_rules(node, flight, plan)


def _limit_rules(node: Node, flight: Flight, bounds: tuple[Bound, ...]) -> Iterator[RuleAsked]:
    """Up to the one that refused, if it is among these."""
    refusal, way = flight.refusal, flight.ways[0] if flight.ways else None
    now, now_ns = node.clock.monotonic(), node.clock.now()
    refuser = None if refusal is None or refusal.word not in _LIMIT_WORDS else refusal.facts.get("limit")
    for bound in bounds:
        left, full_in_s = node.rates.left(bound, now)
        asked = 1
        if way is not None and (bound.of_input or bound.of_output):
            asked = way.ceiling.expected_input * bound.of_input + way.ceiling.expected_output * bound.of_output
        if refusal is not None and bound.name == refuser and bound.unit == refusal.facts.get("unit"):
            refused = refusal.word, refusal.retry_after or 0.0
            yield limit_rule(bound, now_ns, left, full_in_s, asked, refused=refused)
            return
        yield limit_rule(bound, now_ns, left, full_in_s, asked)


def _budget_rules(node: Node, flight: Flight, plan: KeyPlan) -> Iterator[RuleAsked]:
    """All budgets of the first way that there was to serve the call."""
    call, allowed, refusal = flight.call, flight.allowed, flight.refusal
    assert call is not None
    way = flight.ways[0] if flight.ways else None
    if way is not None:
        ids, pico, expected = way.budgets, way.ceiling.pico, way.ceiling.expected_pico
    else:
        canonical = call.model if allowed is None else allowed.billed_as
        ids, pico, expected = plan.budget_set(call.model, canonical, flight.user).ids, 0, 0
    unbounded = refusal is not None and refusal.word == "unbounded_request"
    for stand in node.money.stands(ids):
        if stand.mode == "shadow":
            continue  # it told by itself, if it had something to tell
        own = refusal if refusal is not None and refusal.facts.get("budget") == stand.budget_id else None
        word = "unbounded_request" if unbounded and stand.hard else ""
        yield budget_rule(stand, pico if stand.hard else expected, refusal=own, word=word)


# ---- shadow


def _shadowed(node: Node, flight: Flight) -> list[RuleAsked]:
    """What rules in shadow said, each once, with what they would have saved; summed up."""
    plan = flight.plan
    assert plan is not None
    assert flight.shadow is not None
    top = flight.ways[0].ceiling if flight.ways else None
    expected, most = (0, 0) if top is None else (top.expected_pico, top.pico)
    found = []
    for rule in {(rule.control, rule.rule, rule.subject): rule for rule in flight.shadow}.values():
        saved = _saved(flight, rule)
        found.append(msgspec.structs.replace(rule, saved_pico=money(saved)))
        node.decisions.add(plan.team_id, plan.key_id, rule, (expected, most, flight.cost_pico, saved))
    return found


def _saved(flight: Flight, rule: RuleAsked) -> int:
    """Of what the call did cost (pico-USD). Nothing where it was refused anyway."""
    if rule.verdict == "refuses" or not flight.cost_pico:
        return flight.cost_pico
    usage, allowed, call = flight.usage, flight.allowed, flight.call
    if rule.unit != "tokens" or rule.limit is None:
        return 0  # stop sequences, tools: nobody can say
    if usage is None or allowed is None or allowed.price is None or call is None:
        return 0
    most = int(rule.limit) * call.n
    if usage.output_tokens <= most:
        return 0
    reasoning, audio = min(usage.reasoning, most), min(usage.audio_output, most)
    less = msgspec.structs.replace(usage, output_tokens=most, reasoning=reasoning, audio_output=audio)
    try:
        return max(0, flight.cost_pico - cost(allowed.price, less).pico)
    except ValueError:
        return 0  # counts that cannot be priced when cut short: nothing is claimed

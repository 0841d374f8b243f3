"""Stage 3: requests per second and minute and a concurrency lease, in one act; `leave` stands beside it.

A call that a later stage refuses gets its requests back: being refused costs no rate.
"""

from bursar.core.decisions import RuleAsked
from bursar.core.errors import Refusal
from bursar.core.explain import limit_rule
from bursar.core.limits import Limited
from bursar.core.policy import resolve_user
from bursar.gateway.flight import Flight
from bursar.gateway.node import Node

_CONTROLS = {"limits": "limits", "budgets": "budgets"}  # as the metric calls them; the rest is "policy"


async def admit(node: Node, flight: Flight) -> None:
    """Raises Refusal(rate_limited | concurrency_limited | user_required)."""
    plan = flight.plan
    assert plan is not None
    flight.user = resolve_user(plan, flight.exchange.headers)
    bounds = plan.arrival_bounds(flight.user)
    flight.admitted = True
    node.in_flight += 1
    limited = await node.rates.admit(plan.owner_id, bounds.enforced, flight.started, flight.number)
    if limited is not None:
        raise limit_refusal(limited)
    if bounds.shadowed:
        would = await node.rates.admit(plan.owner_id, bounds.shadowed, flight.started, -flight.number)
        if would is not None:
            note_shadow(node, flight, would.word, limit_in_shadow(node, would, 1))


def leave(node: Node, flight: Flight) -> None:
    """Give the lease back, whatever happened; requests too when nothing was dispatched. Safe for any flight."""
    if not flight.admitted:
        return
    flight.admitted = False
    node.in_flight -= 1
    give_back = node.rates.release if flight.dispatched else node.rates.give_back
    give_back(flight.number)
    give_back(-flight.number)


def limit_refusal(limited: Limited) -> Refusal:
    """In words: which limit, how much it allows, when to come back."""
    bound = limited.bound
    unit = bound.unit.replace("_", " ")
    if limited.word == "concurrency_limited":
        message = f"The limit {bound.name!r} allows {bound.amount} calls in flight"
    else:
        message = f"The limit {bound.name!r} allows {bound.amount} {unit} per {bound.per_seconds} s"
    facts: dict[str, str | int] = {"limit": bound.name, "unit": bound.unit, "amount": bound.amount}
    return Refusal(limited.word, message, "Slow down, or ask the team's owner for more", limited.retry_after, facts)


def limit_in_shadow(node: Node, would: Limited, asked: int) -> RuleAsked:
    """What a limit in shadow would have refused, with its numbers of now."""
    left, full_in_s = node.rates.left(would.bound, node.clock.monotonic())
    refused = would.word, would.retry_after
    return limit_rule(would.bound, node.clock.now(), left, full_in_s, asked, mode="shadow", refused=refused)


def note_shadow(node: Node, flight: Flight, word: str, rule: RuleAsked) -> None:
    """What a rule in shadow would have done: counted under `word`, and kept for the record."""
    team = flight.plan.team_id if flight.plan is not None else ""
    node.counters.add("bursar_shadow_total", (team, _CONTROLS.get(rule.control, "policy"), word))
    if flight.shadow is None:
        flight.shadow = []
    flight.shadow.append(rule)

"""Stage 3: requests per second and minute and a concurrency lease, in one act; `leave` stands beside it.

A call that a later stage refuses gets its requests back: being refused costs no rate.
"""

from bursar.core.controls import would_refuse
from bursar.core.errors import Refusal
from bursar.core.limits import Limited
from bursar.core.policy import resolve_user, user_refusal
from bursar.gateway.flight import Flight
from bursar.gateway.node import Node
from bursar.gateway.shadow import limit_in_shadow, note_shadow


async def admit(node: Node, flight: Flight) -> None:
    """Raises Refusal(rate_limited | concurrency_limited | user_required)."""
    plan = flight.plan
    assert plan is not None
    headers = flight.exchange.headers
    flight.user = resolve_user(plan, headers)
    if plan.user_mode == "shadow" and plan.user_header and (missing := user_refusal(plan, headers)) is not None:
        note_shadow(node, flight, would_refuse("user", "user_missing", missing.word, plan.user_header))
    bounds = plan.arrival_bounds(flight.user)
    flight.admitted = True
    node.in_flight += 1
    limited = await node.rates.admit(plan.owner_id, bounds.enforced, flight.started, flight.number)
    if limited is not None:
        raise limit_refusal(limited)
    if bounds.shadowed:
        would = await node.rates.admit(plan.owner_id, bounds.shadowed, flight.started, -flight.number)
        if would is not None:
            note_shadow(node, flight, limit_in_shadow(node, would, 1))
    if flight.trial:  # it has seen that there is room, and may take its time: what it took is for calls
        give_back(node, flight)


def give_back(node: Node, flight: Flight) -> None:
    """Requests and slots, also those that only the body could name. A second time does nothing."""
    node.rates.give_back(flight.number)
    node.rates.give_back(-flight.number)


def leave(node: Node, flight: Flight) -> None:
    """Give the lease back, whatever happened; requests too when nothing was dispatched. Safe for any flight."""
    if not flight.admitted:
        return
    flight.admitted = False
    node.in_flight -= 1
    if not flight.dispatched:
        give_back(node, flight)
        return
    release = node.rates.release
    release(flight.number)
    release(-flight.number)


def limit_refusal(limited: Limited) -> Refusal:
    """In words: which limit, how much it allows, when to come back."""
    bound = limited.bound
    unit = bound.unit.replace("_", " ")
    if limited.word == "concurrency_limited":
        message = f"The limit {bound.name!r} allows {bound.amount} calls in flight"
    else:
        message = f"The limit {bound.name!r} allows {bound.amount} {unit} per {bound.per_seconds} s"
    facts: dict[str, str | int] = {"limit": bound.name, "unit": bound.unit, "amount": bound.amount}
    hint = "Slow down, or ask the team's owner for more"
    return Refusal(limited.word, message, hint, limited.retry_after, facts, ("limits", bound.subject))

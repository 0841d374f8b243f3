"""Stage 5: ask the policy, with the facts of the first way there is to serve the call."""

from bursar.core.controls import would_refuse
from bursar.core.policy import KeyPlan, decide
from bursar.core.prices import Price
from bursar.gateway.flight import Flight
from bursar.gateway.node import Node, Option
from bursar.gateway.price import find_options, listed_price, price_of
from bursar.gateway.shadow import note_shadow


def apply_policy(node: Node, flight: Flight) -> list[Option]:
    """The ways to serve the call, with `flight.allowed` set. Raises the policy's Refusal."""
    plan, call = flight.plan, flight.call
    assert plan is not None
    assert call is not None
    if plan.enforced.models and not plan.allows_model(call.model):
        options: list[Option] = []  # the policy's word comes before whether anybody serves it
        price = None
    else:
        options = find_options(node, flight)
        price = price_of(node, plan, options[0])
    allowed = decide(
        plan,
        call,
        price,
        user=flight.user,
        tag_default=options[0].key.max_tokens_default if options else None,
        hard_way=plan.budgets.by_provider_key and _has_hard_way(flight, options, price),
    )
    flight.allowed = allowed
    flight.model = allowed.billed_as if price is not None else ""
    if plan.assume_dearest and _assumed(node, plan, options, price):
        note_shadow(node, flight, would_refuse("unpriced", "unpriced", "unpriced_model", "refuse"))
    for would in allowed.shadowed:
        note_shadow(node, flight, would)
    if allowed.max_tokens_applied is not None:
        flight.headers += f"x-bursar-max-tokens-applied: {allowed.max_tokens_applied}\r\n"
        if allowed.truncated:
            flight.headers += "x-bursar-truncated: policy\r\n"
    return options


def _has_hard_way(flight: Flight, options: list[Option], price: Price | None) -> bool:
    plan, call = flight.plan, flight.call
    assert plan is not None
    assert call is not None
    canonical = call.model if price is None else price.model
    return any(plan.budget_set(call.model, canonical, flight.user, option.key.id).hard for option in options)


def _assumed(node: Node, plan: KeyPlan, options: list[Option], price: Price | None) -> bool:
    """Whether a level in shadow would have refused the price that another level has had assumed."""
    refuses = plan.shadowed is not None and plan.shadowed.refuses_unpriced
    return refuses and price is not None and listed_price(node, options[0]) is None

"""Stage 5: ask the policy, with the facts of the first way there is to serve the call."""

from bursar.core.explain import shadow_rules
from bursar.core.policy import Rules, decide
from bursar.gateway.admit import note_shadow
from bursar.gateway.flight import Flight
from bursar.gateway.node import Node, Option
from bursar.gateway.price import find_options, price_of


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
        plan, call, price, user=flight.user, tag_default=options[0].key.max_tokens_default if options else None
    )
    flight.allowed = allowed
    flight.model = allowed.billed_as if price is not None else ""
    if allowed.shadowed:
        for rule in shadow_rules(plan.shadowed or Rules(), call, allowed.shadowed):
            note_shadow(node, flight, rule.word, rule)
    if allowed.max_tokens_applied is not None:
        flight.headers += f"x-bursar-max-tokens-applied: {allowed.max_tokens_applied}\r\n"
        if allowed.truncated:
            flight.headers += "x-bursar-truncated: policy\r\n"
    return options

"""What a control in shadow would have done: noted here, by every stage that has one, and nowhere else.

A note changes no answer and no byte that is sent. It is counted at once, and stays with the flight for its record.
"""

from bursar.core.decisions import RuleAsked
from bursar.core.explain import limit_rule
from bursar.core.limits import Limited
from bursar.gateway.flight import Flight
from bursar.gateway.node import Node


def note_shadow(node: Node, flight: Flight, rule: RuleAsked) -> None:
    """What a rule in shadow would have done to this call: once, however often the call is attempted."""
    name = rule.control, rule.rule, rule.subject
    if flight.shadow is None:
        flight.shadow = []
    elif any((known.control, known.rule, known.subject) == name for known in flight.shadow):
        return
    flight.shadow.append(rule)
    if flight.trial:
        return
    team = flight.plan.team_id if flight.plan is not None else ""
    node.counters.add("bursar_shadow_total", (team, rule.control, rule.rule, rule.verdict, rule.word))


def limit_in_shadow(node: Node, would: Limited, asked: int) -> RuleAsked:
    """What a limit in shadow would have refused, with its numbers of now."""
    left, full_in_s = node.rates.left(would.bound, node.clock.monotonic())
    refused = would.word, would.retry_after
    return limit_rule(would.bound, node.clock.now(), left, full_in_s, asked, mode="shadow", refused=refused)

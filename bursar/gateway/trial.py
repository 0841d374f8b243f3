"""`POST /v1/estimate`: what would become of a call, told before it is made. Nothing is held, nothing is sent.

The body takes the stages of a call, so that the answer is what the call right after would meet; only the last act is a
try. Limits of the key are taken and given back at once and spend nothing; what bounds this route is a rate of its own.
A body that no call could have is refused as a call would be; what a rule refuses is an answer.
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import msgspec

from bursar.core.decisions import RuleAsked, number
from bursar.core.directory import LimitDef
from bursar.core.discretion import is_own, told_refusal, told_rule
from bursar.core.errors import Refusal
from bursar.core.foresight import foresee
from bursar.core.limits import bind
from bursar.core.plans import KeyPlan
from bursar.core.units import pico_to_usd
from bursar.gateway.admit import limit_refusal
from bursar.gateway.answer import header_lines, id_fields
from bursar.gateway.explain import rules_asked
from bursar.gateway.flight import Flight
from bursar.gateway.hold import try_hold
from bursar.gateway.node import Node
from bursar.gateway.price import Priced
from bursar.gateway.routes import TRIAL, TRIAL_OF_MESSAGE, Route

Prepare = Callable[[Node, Flight, Route], Awaitable[list[Priced]]]
_PER_KEY = LimitDef(id="estimates", unit="requests", amount=20, per_seconds=1, burst=100)
_ORDER = ("expected", "p95", "ceiling")


async def trial(node: Node, flight: Flight, route: Route, prepare: Prepare) -> None:
    """Raises Refusal(rate_limited), and what a call with such a body could not get past."""
    plan = flight.plan
    assert plan is not None
    limited = node.trials.arrive((bind(_PER_KEY, plan.key_id),), flight.started, flight.number)
    node.trials.release(flight.number)
    if limited is not None:
        raise limit_refusal(limited)
    if flight.exchange.path == TRIAL and "anthropic-version" in flight.exchange.headers:
        route = TRIAL_OF_MESSAGE
    flight.dialect, flight.trial = route.dialect, True
    await flight.exchange.body()  # first, so that no slot of the key waits for it
    try:
        ways = await prepare(node, flight, route)
        top = await try_hold(node, flight, ways[0])
        flight.ways = [msgspec.structs.replace(ways[0], ceiling=top), *ways[1:]]
    except Refusal as refusal:
        if flight.call is None and refusal.word not in ("rate_limited", "concurrency_limited", "user_required"):
            raise
        flight.refusal = refusal
    answer = msgspec.json.encode(_told(node, flight))
    fields = [("content-type", "application/json"), *id_fields(flight.dialect, flight.request_id)]
    flight.status, flight.model, flight.refusal = 200, "", None
    flight.exchange.respond(200, header_lines(fields).encode(), answer)


def _told(node: Node, flight: Flight) -> dict[str, Any]:
    plan, refusal = flight.plan, flight.refusal
    assert plan is not None
    told: dict[str, Any] = {
        "object": "estimate",
        "request_id": flight.request_id,
        "decision": "refuse" if refusal is not None else "run",
        "refusal": None if refusal is None else _refusal(told_refusal(plan, refusal)),
        "binding": _rule(binding(plan, rules_asked(node, flight), refused=refusal is not None)),
        "clamps": _clamps(flight),
        "shadow": [_rule(told_rule(plan, rule)) for rule in flight.shadow or ()],
        "model": None,
        "candidates": [],
        "tokens": None,
        "cost": None,
    }
    return told | _figures(node, flight)


def _refusal(refusal: Refusal) -> dict[str, Any]:
    return {
        "word": refusal.word,
        "status": refusal.rule.status,
        "message": refusal.message,
        "hint": refusal.hint,
        "retry_after": refusal.retry_after,
        "facts": refusal.facts,
    }


def binding(plan: KeyPlan, rules: Iterable[RuleAsked], *, refused: bool) -> RuleAsked | None:
    """The rule that refuses, if it was one; of a call that would run, that of its key or team which it comes nearest
    to: how near others' are would tell how full they are.
    """
    nearest, share = None, -1.0
    for rule in rules:
        if rule.verdict == "refuses":
            return told_rule(plan, rule)
        if refused or rule.limit is None or rule.asked is None or not is_own(plan, rule.control, rule.subject):
            continue
        limit, asks = number(rule.limit), number(rule.used) + number(rule.asked)
        used = asks / limit if limit else float("inf")
        if used > share:
            nearest, share = rule, used
    return nearest


def _rule(rule: RuleAsked | None) -> dict[str, Any] | None:
    """Numbers that may pass 63 bits are text, as everywhere in JSON."""
    if rule is None:
        return None
    told: dict[str, Any] = msgspec.to_builtins(rule)
    told |= {"mode": rule.mode, "verdict": rule.verdict}
    if rule.unit == "pico_usd":
        told |= {name: str(told[name]) for name in ("limit", "used", "held", "asked", "left") if name in told}
    return told


def _clamps(flight: Flight) -> list[dict[str, Any]]:
    """What would be changed in the call before it is sent."""
    call, allowed = flight.call, flight.allowed
    if call is None or allowed is None:
        return []
    found: list[dict[str, Any]] = []
    if allowed.max_tokens_applied is not None:
        by = "budget" if "x-bursar-truncated: budget" in flight.headers else "policy"
        field = allowed.edits.max_tokens_field
        found.append({"field": field, "asked": call.max_tokens, "applied": allowed.max_tokens_applied, "by": by})
    if allowed.edits.tool_uses_cap is not None:
        found.append({"field": "tool_uses", "asked": None, "applied": allowed.edits.tool_uses_cap, "by": "policy"})
    if allowed.edits.stop:
        found.append({"field": "stop", "asked": None, "applied": list(allowed.edits.stop), "by": "policy"})
    return found


def _figures(node: Node, flight: Flight) -> dict[str, Any]:
    call, plan, ways = flight.call, flight.plan, flight.ways
    if call is None or plan is None or not ways:
        return {} if call is None else {"model": call.model}
    way = ways[0]
    ahead = foresee(call, way.price, way.ceiling, node.estimate, plan.key_id)
    cost: dict[str, str] = {}
    for name, pico in zip(("expected", "p95", "worst"), ahead.pico, strict=True):
        cost |= {f"{name}_usd": pico_to_usd(pico), f"{name}_pico": str(pico)}
    seen = {"input": ahead.seen[0], "output": ahead.seen[1]}
    return {
        "model": way.price.model,
        "candidates": list(dict.fromkeys(way.option.upstream_model for way in ways)),
        "tokens": {
            "input": dict(zip(_ORDER, ahead.input, strict=True)),
            "output": dict(zip(_ORDER, ahead.output, strict=True)),
            "content": call.content,
            "learned_from": seen,
        },
        "cost": {**cost, "price_id": way.price.id},
    }

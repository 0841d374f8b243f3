"""Stage 8: tokens per minute and all budgets, in one act; durable before anything is dispatched.

The tokens are taken, then the money, and the tokens given back if the money is refused. The key is looked at again in
between, with nothing awaited before the money: a body or a store may have taken its time, and a switched-off key must
not spend.
"""

from collections.abc import Sequence

import msgspec

from bursar.core.calls import Ceiling, Usage
from bursar.core.ceiling import shrunk_ceiling
from bursar.core.discretion import own_budgets
from bursar.core.explain import budget_in_shadow
from bursar.core.ledger import HoldRequest
from bursar.core.limits import Bound, Limited, Reservation
from bursar.core.prices import worst_output_rate
from bursar.core.restore import paused_refusal
from bursar.gateway.admit import give_back, limit_refusal
from bursar.gateway.answer import limit_headers
from bursar.gateway.flight import Flight
from bursar.gateway.node import Node
from bursar.gateway.price import Priced
from bursar.gateway.settle import Attempt
from bursar.gateway.shadow import limit_in_shadow, note_shadow

_LEAST_OUTPUT = 16  # a hold is not shrunk to an answer that says nothing


async def take_hold(node: Node, flight: Flight, priced: Priced, number: int) -> Attempt:
    """Reserve tokens and money for one dispatch. Raises Refusal, and then nothing is taken."""
    taken: list[Reservation] = []  # the enforced one, the one in shadow
    try:
        top = await _take_tokens(node, flight, priced, number, taken)
        request = _request(node, flight, priced, top, number)
        grant = flight.plan.grant if flight.plan is not None else None
        held = await node.money.hold(request, "" if grant is None else grant.jti)
    except BaseException:
        _give_back(node, taken)
        raise
    for stand in node.money.stands(held.shadow) if held.shadow else ():
        rule = budget_in_shadow(stand, top.pico if stand.hard else top.expected_pico)
        note_shadow(node, flight, rule)
    return Attempt(
        provider=priced.option.provider,
        price=priced.price,
        secret_id=priced.option.key.id,
        ceiling=top,
        hard=priced.strict,
        held=held,
        reservations=taken,
    )


async def try_hold(node: Node, flight: Flight, priced: Priced) -> Ceiling:
    """The ceiling that `take_hold` would hold for the first dispatch; raises its Refusal. Money is only looked at, and
    tokens are given back as soon as they are taken.
    """
    taken: list[Reservation] = []
    try:
        top = await _take_tokens(node, flight, priced, 1, taken)
        request = _request(node, flight, priced, top, 1)
    finally:
        _give_back(node, taken)  # before money is asked: a store takes its time, and others share what was taken
        give_back(node, flight)
    await node.money.try_hold(request)
    return top


def _give_back(node: Node, taken: Sequence[Reservation]) -> None:
    for reservation in taken:
        node.rates.settle(reservation, 0, 0, node.clock.monotonic())


async def _take_tokens(node: Node, flight: Flight, priced: Priced, number: int, taken: list[Reservation]) -> Ceiling:
    """Take the expected tokens of every token limit, and of those in shadow; with the first attempt also the request
    and the slot of limits by model. The ceiling to hold; what was taken is in `taken`, whatever happens.

    Raises Refusal(restore_unacknowledged | rate_limited | concurrency_limited).
    """
    if node.paused:
        raise paused_refusal()
    plan, allowed = flight.plan, flight.allowed
    assert plan is not None
    assert allowed is not None
    shrinks = plan.shrink_to_budget and priced.strict and flight.call is not None and flight.call.purpose != "batch"
    top = _affordable(node, flight, priced) if shrinks else priced.ceiling
    bounds = plan.call_bounds(allowed.billed_as, flight.user)
    enforced, shadowed = bounds.enforced, bounds.shadowed
    if number > 1:  # another attempt is not another request
        enforced, shadowed = _on_tokens(enforced), _on_tokens(shadowed)
    now = node.clock.monotonic()
    owner, inputs, outputs = plan.owner_id, top.expected_input, top.expected_output
    if plan.by_provider_key:
        of_provider_key = plan.provider_key_limits(priced.option.key.id)
        enforced, shadowed = enforced + of_provider_key.enforced, shadowed + of_provider_key.shadowed
    held = await node.rates.hold(owner, enforced, inputs, outputs, now, flight.number)
    if isinstance(held, Reservation):
        taken.append(held)
    flight.limit_lines = limit_headers(flight.dialect, bounds, node.rates.tightest(bounds.groups, now), node.clock.now)
    if isinstance(held, Limited):
        raise limit_refusal(held)
    if not shadowed:
        return top
    would = await node.rates.hold(owner, shadowed, inputs, outputs, now, -flight.number)
    if isinstance(would, Limited):
        bound = would.bound
        asked = inputs * bound.of_input + outputs * bound.of_output or 1
        note_shadow(node, flight, limit_in_shadow(node, would, asked))
    else:
        taken.append(would)
    return top


def _on_tokens(bounds: tuple[Bound, ...]) -> tuple[Bound, ...]:
    return tuple(bound for bound in bounds if bound.unit not in ("requests", "concurrency"))


def _request(node: Node, flight: Flight, priced: Priced, top: Ceiling, number: int) -> HoldRequest:
    """Made right before it is asked for. Raises Refusal when the key has come to its end meanwhile."""
    plan, call = flight.plan, flight.call
    assert plan is not None
    assert call is not None
    node.tenants.current(plan).check_alive(node.clock.now())
    # Five by place: Python makes a dict of more than fifteen named arguments, which costs 1 us.
    return HoldRequest(
        flight.request_id,
        number,
        plan.key_id,
        plan.team_id,
        plan.owner_id,
        user=flight.user,
        provider=priced.option.provider.name,
        model=priced.price.model,
        secret_id=priced.option.key.id,
        price_id=priced.price.id,
        price_digest=priced.price.digest,
        directory_version=node.tenants.version,
        ceiling_pico=top.pico,
        expected_pico=top.expected_pico,
        input_ceiling=top.input_tokens,
        output_ceiling=top.output_tokens,
        budgets=priced.budgets,
        credential=plan.credential,
        caller=plan.caller,
        purpose="" if call.purpose == "inference" else call.purpose,
    )


def _affordable(node: Node, flight: Flight, priced: Priced) -> Ceiling:
    """The ceiling with max_tokens lowered to what the tightest hard budget still has room for; told to the caller."""
    call, allowed, top = flight.call, flight.allowed, priced.ceiling
    assert call is not None
    assert allowed is not None
    room = node.money.room(priced.budgets)
    if room is None or top.pico <= room:
        return top
    assert flight.plan is not None
    own = node.money.room(own_budgets(flight.plan, priced.budgets))
    rate = worst_output_rate(priced.price, call, top.input_tokens) * call.n
    cap = top.output_tokens // call.n  # as priced: an earlier attempt may have lowered the call's own since
    fits = cap - -(-(top.pico - room) // rate) if rate else 0
    if fits > 0 and (own is None or own > room):
        fits = 1 << (fits.bit_length() - 1)  # what others have left is told to a power of two, and no closer
    if fits < max(_LEAST_OUTPUT, priced.price.reasoning_floor, call.thinking_budget + 1 if call.thinking_budget else 0):
        return top  # too little to be of use: let the budget refuse in its own words
    lowered = (cap - fits) * rate
    allowed.output_cap = allowed.max_tokens_applied = allowed.edits.max_tokens = fits
    allowed.edits.max_tokens_field = call.max_tokens_field or priced.price.max_tokens_field
    flight.headers = f"x-bursar-max-tokens-applied: {fits}\r\nx-bursar-truncated: budget\r\n"  # the policy's is moot
    return msgspec.structs.replace(
        top,
        pico=top.pico - lowered,
        output_tokens=fits * call.n,
        expected_output=min(top.expected_output, fits * call.n),
        expected_pico=min(top.expected_pico, top.pico - lowered),
    )


def shrink(node: Node, flight: Flight, attempt: Attempt, input_usage: Usage | None) -> None:
    """The provider has told the input side: the hold need not cover the worst input any more."""
    call, allowed = flight.call, flight.allowed
    if input_usage is None or not attempt.hard or call is None or allowed is None:
        return
    try:
        pico = shrunk_ceiling(attempt.price, call, input_usage, allowed.output_cap, allowed.edits.tool_uses_cap)
    except ValueError:
        return  # contradictory counts: keep the hold as it is
    if pico < attempt.ceiling.pico:
        node.money.shrink(attempt.held.hold_id, pico)
        attempt.ceiling = msgspec.structs.replace(attempt.ceiling, pico=pico)

"""Stage 10: how an attempt ended decides its hold. Every path out of an attempt comes through `settle`.

Only an attempt of which certainly no byte was written, or which the provider definitely refused, is voided. What else
ends without the provider's word keeps its hold, or costs what was surely used, never less (design.md §3).
"""

from typing import Literal

import msgspec

from bursar.core.calls import Ceiling, Cost, Usage
from bursar.core.ceiling import inexact_cost, observed_cost
from bursar.core.ledger import Held, Settlement
from bursar.core.limits import Reservation
from bursar.core.prices import Price, cost
from bursar.core.secret import Secret
from bursar.core.units import PICO_PER_USD
from bursar.gateway.flight import Flight
from bursar.gateway.node import Node, Provider

Ending = Literal[
    "unsent",  # certainly nothing was written
    "refused",  # the provider said no, in a way that bills nothing
    "answered",  # a whole answer came
    "cut",  # we ended the stream at its allowance
    "client_gone",  # the caller left and the upstream was not read to its end
    "upstream_broken",  # it broke off, timed out, or failed in a way that may bill
    "followed",  # it goes on in the background: whoever follows it settles
    "filtered",  # the provider looked at the content, refused it, and bills for having looked
]


Health = Literal["ok", "failed", "erred", "busy", "key_refused", "none"]


class Attempt(msgspec.Struct, kw_only=True, gc=False):
    """One dispatch and its hold. `ending` is pessimistic as soon as bytes may have been written."""

    provider: Provider
    price: Price
    secret_id: str
    ceiling: Ceiling
    hard: bool
    held: Held
    reservations: list[Reservation]  # tokens taken: of limits enforced, and of those in shadow
    ending: Ending = "unsent"
    usage: Usage | None = None
    interim: bool = False  # said while more was to come
    input_usage: Usage | None = None
    visible_bytes: int = 0
    lagged: bool = False  # the caller read too slowly: the provider may have been ahead of what was seen
    invalid: str = ""
    running: str = ""  # id of the response that goes on in the background
    key_value: Secret | None = None  # that the request carried
    health: Health = "none"  # what the board learns of it
    tries: tuple[str, ...] = ()  # circuits that it tries
    wait_ms: int | None = None  # how long the provider asked to be left alone


def settle(node: Node, flight: Flight, attempt: Attempt) -> None:
    """End the attempt's hold and give back its tokens. Synchronous: nothing can come between."""
    if attempt.ending == "followed":
        return
    if attempt.ending in ("unsent", "refused"):
        node.money.void(attempt.held.hold_id, attempt.ending)
        _settle_tokens(node, attempt, 0, 0)
        return
    usage, call, plan = attempt.usage, flight.call, flight.plan
    price = _price(attempt, usage)
    if price is not None and usage is not None and (attempt.ending == "answered" or not attempt.interim):
        exact, pico = True, price.pico
        if attempt.ending == "answered" and usage.input_tokens:  # a count of tokens bills none, and teaches nothing
            assert call is not None
            assert plan is not None
            node.estimate.learn(attempt.price.model, call.content, plan.key_id, call.input_bytes, usage)
    else:
        exact, pico = False, max(_inexact(flight, attempt), 0 if price is None else price.pico)
        reason = attempt.invalid or ("missing" if attempt.ending == "answered" else attempt.ending)
        node.counters.add("bursar_inexact_total", (attempt.price.model, reason))
        usage = None
    outcome = "ok" if attempt.ending == "answered" else attempt.ending
    node.money.post(attempt.held.hold_id, Settlement(pico, usage, exact, outcome))
    if attempt.hard and pico > attempt.ceiling.pico:
        _report_overage(node, flight, attempt, pico)
    flight.usage = usage or flight.usage
    flight.cost_pico += pico
    if usage is not None:
        _settle_tokens(node, attempt, usage.input_tokens, usage.output_tokens)
    # Without usage the reservation stays as charged: the estimate is the best that is known.


def _price(attempt: Attempt, usage: Usage | None) -> Cost | None:
    """The exact cost; None when the counts contradict one another and cannot be believed."""
    if usage is None:
        return None
    try:
        return cost(attempt.price, usage)
    except ValueError:
        attempt.invalid = "contradictory"
        return None


def _inexact(flight: Flight, attempt: Attempt) -> int:
    """What the attempt costs without the provider's word (design.md §3): never nothing, never above a hard hold."""
    call, price = flight.call, attempt.price
    assert call is not None
    if not attempt.hard:
        return observed_cost(price, call, attempt.visible_bytes, attempt.ceiling.expected_input)
    if attempt.ending == "upstream_broken" and (not call.stream or _nothing_came(attempt)):
        return attempt.ceiling.pico  # a whole answer may have been made, and billed, that nobody saw
    if attempt.lagged and attempt.ending != "answered":
        return attempt.ceiling.pico  # so may the rest of this one: it waited, unread, while the caller held it up
    try:
        return inexact_cost(price, call, attempt.ceiling.pico, attempt.visible_bytes, attempt.input_usage)
    except ValueError:
        return inexact_cost(price, call, attempt.ceiling.pico, attempt.visible_bytes)


def _nothing_came(attempt: Attempt) -> bool:
    return not attempt.visible_bytes and attempt.input_usage is None


def _settle_tokens(node: Node, attempt: Attempt, input_tokens: int, output_tokens: int) -> None:
    for reservation in attempt.reservations:
        node.rates.settle(reservation, input_tokens, output_tokens, node.clock.monotonic())


def _report_overage(node: Node, flight: Flight, attempt: Attempt, pico: int) -> None:
    assert flight.plan is not None
    labels = (flight.plan.team_id, attempt.price.model)
    node.counters.add("bursar_overage_usd_total", labels, (pico - attempt.ceiling.pico) / PICO_PER_USD)

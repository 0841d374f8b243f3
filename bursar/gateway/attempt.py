"""Stage 9: walk the candidates. Each dispatched attempt has its own hold, settled right here on every way out."""

from collections.abc import Coroutine, Sequence
from typing import Any

from bursar.core.calls import Call
from bursar.core.directory import ProviderKey
from bursar.core.errors import ClientGone, Refusal, UpstreamFault
from bursar.core.policy import Allowed
from bursar.core.secret import Secret
from bursar.gateway.flight import Flight
from bursar.gateway.follow import follow, response_among
from bursar.gateway.forward import answer_headers, edits_for, upstream_headers
from bursar.gateway.health import BUSY, learn, let_others_try, may_go, nobody_may_go, note_answer, note_fault
from bursar.gateway.hold import shrink, take_hold
from bursar.gateway.leaving import Leaving
from bursar.gateway.node import Node, Option
from bursar.gateway.observing import note_taken, value_of
from bursar.gateway.own import keep_or_count
from bursar.gateway.price import Priced
from bursar.gateway.relay import Relay, Sink
from bursar.gateway.settle import Attempt, settle
from bursar.gateway.upstream_errors import fault_refusal, is_encoded, read_error
from bursar.gateway.withheld import Withheld
from bursar.ports import UpstreamResponse

_MOST_BODY = 64 * 2**20  # bytes of a whole answer


async def run_attempts(node: Node, flight: Flight, ways: Sequence[Priced]) -> None:
    """Answer the caller by the first way that can. Raises Refusal when none could."""
    last: Refusal | None = None
    number, board = 0, node.board
    for place, way in enumerate(ways, 1):
        tries = await may_go(node, way.option) if board is not None and board.known else ()
        if tries is None:
            continue
        number += 1
        attempt: Attempt | None = None
        try:
            attempt = await take_hold(node, flight, way, number)
            attempt.tries = tries
            last = await _try(node, flight, attempt, way.option, is_last=place == len(ways))
        finally:
            if attempt is not None:
                if attempt.running:
                    follow(node, flight, attempt, way.option)
                settle(node, flight, attempt)
            if tries or attempt is None or attempt.health != "ok" or (board is not None and board.known):
                learn(node, flight, way.option, tries, attempt)
        if last is None:
            return
    try:
        raise last or nobody_may_go()
    finally:
        last = None  # its traceback leads back here: the call, with its body, would wait for the collector of garbage


async def _try(node: Node, flight: Flight, attempt: Attempt, option: Option, *, is_last: bool) -> Refusal | None:
    """One dispatch. None = the caller has been answered; a Refusal = the next way may be tried."""
    before = flight.dispatched
    value: Secret | None = None
    response: UpstreamResponse | None = None
    try:
        if option.presented:
            value = value_of(flight)
        elif attempt.provider.auth != "none":
            value = (node.leases.at_hand(option.key) or await node.leases.borrow(option.key)).value
        response = await _dispatch(node, flight, attempt, option, value)
        if response.status >= 300:
            note_answer(attempt, response, node.clock.now())
            return await _take_error(node, flight, attempt, option.key, response, is_last=is_last)
        attempt.health = "ok"
        if attempt.tries:
            let_others_try(node, attempt)
        if option.presented:
            note_taken(node, flight)
        if is_encoded(response):
            response.abort()  # asked for as it is: what cannot be read cannot be metered
            raise UpstreamFault("malformed", "the answer is encoded", sent=True)
        assert flight.call is not None
        if flight.call.stream and response.headers.get("content-type", "").lower().startswith("text/event-stream"):
            await _take_stream(node, flight, attempt, option, response)
        else:
            await _take_whole(node, flight, attempt, option, response)
    except UpstreamFault as fault:
        note_fault(attempt, fault, gone=flight.exchange.gone)
        return _take_fault(node, flight, attempt, fault, None if response is not None or fault.sent else before)
    except Refusal as refusal:
        return refusal  # the provider key was not released: nothing was sent
    return None


def _dispatch(
    node: Node, flight: Flight, attempt: Attempt, option: Option, value: Secret | None
) -> Coroutine[Any, Any, UpstreamResponse]:
    """Send the request with the provider key `value`. From here on the attempt counts as sent: await it at once."""
    assert flight.call is not None
    assert flight.allowed is not None
    provider = attempt.provider
    if flight.exchange.gone:
        raise ClientGone  # nobody waits for it, and nothing is spent yet
    body = provider.dialect.rewrite(flight.call, edits_for(option, flight.call, flight.allowed.edits))
    headers = upstream_headers(provider, flight.exchange, value)
    attempt.key_value = value
    flight.dispatched = flight.dispatched or node.clock.monotonic()
    attempt.ending = "upstream_broken"
    return node.upstream.request(provider, flight.call.route, headers, body)


async def _take_whole(node: Node, flight: Flight, attempt: Attempt, option: Option, response: UpstreamResponse) -> None:
    call, dialect = flight.call, attempt.provider.dialect
    assert call is not None
    body = await response.read(_MOST_BODY)
    attempt.ending = "answered"
    attempt.usage, attempt.visible_bytes, attempt.invalid = dialect.read_usage(call, body)
    if call.keeps:
        made = dialect.made(call, body)
        if call.background and dialect.still_running(body):
            attempt.running = response_among(made)
        await keep_or_count(node, flight, option, made)
    flight.status = response.status
    flight.exchange.respond(response.status, answer_headers(flight, attempt.provider, response), body)


async def _take_stream(
    node: Node, flight: Flight, attempt: Attempt, option: Option, response: UpstreamResponse
) -> None:
    """Relay the stream to its end, its cut, its break, or (drained) past a caller who left."""
    assert flight.call is not None
    assert flight.allowed is not None
    assert flight.plan is not None
    exchange = flight.exchange
    meter = attempt.provider.dialect.stream_meter(flight.call, flight.allowed.edits)
    sink: Sink = exchange
    if flight.call.keeps:
        sink = Withheld(exchange, meter, lambda made: keep_or_count(node, flight, option, made))
    relay = Relay(
        sink,
        response,
        meter,
        node.splitter(),
        allowance=_allowance(flight.call, flight.allowed),
        echo=flight.call.echo_bytes,
        monotonic=node.clock.monotonic,
        on_input=lambda: shrink(node, flight, attempt, meter.input_usage),
    )
    leaving = Leaving(node.drains, response, relay, drain=flight.plan.on_disconnect == "drain")
    exchange.on_gone = leaving.client_left
    exchange.on_flow = lambda stop: _flow(attempt, response, stop=stop)
    flight.status = response.status
    exchange.start(response.status, answer_headers(flight, attempt.provider, response))
    if exchange.gone:
        leaving.client_left()
    try:
        await response.relay(relay.feed)
        if relay.stopped:
            _break_stream(flight, attempt, relay, sink)
        else:
            attempt.ending = "answered"
            relay.finish()
    except UpstreamFault:
        _break_stream(flight, attempt, relay, sink)
    finally:
        leaving.done()
        exchange.on_gone = exchange.on_flow = None
        flight.first_event, flight.cut = relay.first_event, relay.cut
        attempt.usage, attempt.interim, attempt.input_usage = meter.usage, meter.interim, meter.input_usage
        attempt.visible_bytes, attempt.invalid = meter.visible_bytes, meter.invalid
        if flight.call.background and not meter.ended:
            attempt.running = response_among(meter.made)
        if isinstance(sink, Withheld):
            await sink.settled()


def _flow(attempt: Attempt, response: UpstreamResponse, *, stop: bool) -> None:
    """The caller cannot take more for now, or can again."""
    if stop:
        attempt.lagged = True
        response.pause()
    else:
        response.resume()


def _allowance(call: Call, allowed: Allowed) -> int:
    """Output tokens that a stream may bring; 0 where nobody capped it. A price table's idea of a model's longest
    answer is no allowance: it may be out of date.
    """
    capped = call.max_tokens is not None or allowed.max_tokens_applied is not None
    return allowed.output_cap * call.n if capped else 0


def _break_stream(flight: Flight, attempt: Attempt, relay: Relay, sink: Sink) -> None:
    """The upstream did not come to its end: because we cut it, the caller left, or it broke."""
    if relay.cut:
        attempt.ending = "cut"
    elif flight.exchange.gone:
        attempt.ending, attempt.health, flight.word = "client_gone", "none", "client_gone"
    elif relay.meter.ended:
        attempt.ending = "answered"  # the dialect's own end was seen; only the framing is missing
        relay.finish()
    else:
        flight.word, attempt.health = "upstream_broken", "failed"
        sink.abort()


async def _take_error(
    node: Node, flight: Flight, attempt: Attempt, key: ProviderKey, response: UpstreamResponse, *, is_last: bool
) -> Refusal | None:
    """The provider said no. Its own words go to the caller, unless they are about Bursar's key.

    One that is busy is passed over while there is another way.
    """
    facts = attempt.provider.dialect.upstream
    if facts.definite_refusal(response.status):
        attempt.ending = "refused"
    body, instead = await read_error(node, attempt.provider, key, response, attempt.key_value)
    if facts.bills_refusal(response.status, body):
        attempt.ending = "filtered"
    if instead is not None:
        attempt.health = "key_refused" if instead.word == "upstream_key_refused" else attempt.health
        return instead
    if response.status in BUSY and not is_last:
        return Refusal("upstream_broken", f"The provider {attempt.provider.name} answered {response.status}")
    flight.status, flight.word = response.status, "upstream_error"
    flight.exchange.respond(response.status, answer_headers(flight, attempt.provider, response), body)
    return None


def _take_fault(node: Node, flight: Flight, attempt: Attempt, fault: UpstreamFault, unsent: float | None) -> Refusal:
    """`unsent`: certainly nothing was written; the instant of the dispatch before this one, 0 = there was none."""
    if unsent is not None:
        attempt.ending, flight.dispatched = "unsent", unsent
    hint = "" if attempt.ending == "unsent" else "What it may have cost is booked; a retry is a new call"
    return fault_refusal(node, attempt.provider, fault, hint)

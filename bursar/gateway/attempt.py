"""Stage 9: walk the candidates. Each dispatched attempt has its own hold, settled right here on every way out."""

from collections.abc import Sequence

from bursar.core.calls import Call
from bursar.core.directory import ProviderKey
from bursar.core.errors import ClientGone, Refusal, UpstreamFault
from bursar.core.policy import Allowed
from bursar.gateway.flight import Flight
from bursar.gateway.forward import answer_headers, edits_for, upstream_headers, without_key
from bursar.gateway.health import BUSY, learn, may_go, nobody_may_go, note_answer, note_fault
from bursar.gateway.hold import shrink, take_hold
from bursar.gateway.leaving import Leaving
from bursar.gateway.node import Node, Option
from bursar.gateway.price import Priced
from bursar.gateway.relay import Relay
from bursar.gateway.settle import Attempt, settle
from bursar.ports import UpstreamResponse

_MOST_BODY = 64 * 2**20  # bytes of a whole answer
_MOST_ERROR_BODY = 2**20

_FAULT_WORDS = {
    "connect": "upstream_unreachable",
    "tls": "upstream_unreachable",
    "proxy": "upstream_unreachable",
    "private_address": "upstream_unreachable",
    "timeout_connect": "upstream_unreachable",
}


async def run_attempts(node: Node, flight: Flight, ways: Sequence[Priced]) -> None:
    """Answer the caller by the first way that can. Raises Refusal when none could."""
    last: Refusal | None = None
    number = 0
    for place, way in enumerate(ways, 1):
        tries = await may_go(node, way.option)
        if tries is None:
            continue
        number += 1
        attempt: Attempt | None = None
        try:
            attempt = await take_hold(node, flight, way, number)
            last = await _try(node, flight, attempt, way.option, is_last=place == len(ways))
        finally:
            if attempt is not None:
                settle(node, flight, attempt)
            learn(node, way.option, tries, attempt)
        if last is None:
            return
    raise last or nobody_may_go()


async def _try(node: Node, flight: Flight, attempt: Attempt, option: Option, *, is_last: bool) -> Refusal | None:
    """One dispatch. None = the caller has been answered; a Refusal = the next way may be tried."""
    try:
        response = await _dispatch(node, flight, attempt, option)
        note_answer(attempt, response, node.clock.now())
        if response.status >= 300:
            return await _take_error(node, flight, attempt, option.key, response, is_last=is_last)
        if _is_encoded(response):
            response.abort()  # asked for as it is: what cannot be read cannot be metered
            raise UpstreamFault("malformed", "the answer is encoded", sent=True)
        assert flight.call is not None
        if flight.call.stream and response.headers.get("content-type", "").lower().startswith("text/event-stream"):
            await _take_stream(node, flight, attempt, response)
        else:
            await _take_whole(flight, attempt, response)
    except UpstreamFault as fault:
        note_fault(attempt, fault, gone=flight.exchange.gone)
        return _take_fault(node, attempt, fault)
    except Refusal as refusal:
        return refusal  # the provider key was not released: nothing was sent
    return None


async def _dispatch(node: Node, flight: Flight, attempt: Attempt, option: Option) -> UpstreamResponse:
    """Send the request with a leased provider key. From the first byte on the attempt counts as sent."""
    assert flight.call is not None
    assert flight.allowed is not None
    provider = attempt.provider
    value = None if provider.auth == "none" else (await node.leases.borrow(option.key)).value
    if flight.exchange.gone:
        raise ClientGone  # nobody waits for it, and nothing is spent yet
    body = provider.dialect.rewrite(flight.call, edits_for(option, flight.call, flight.allowed.edits))
    headers = upstream_headers(provider, flight.exchange, value)
    attempt.key_value = value
    before = flight.dispatched
    flight.dispatched = before or node.clock.monotonic()
    attempt.ending = "upstream_broken"
    try:
        return await node.upstream.request(provider, flight.call.route, headers, body)
    except UpstreamFault as fault:
        if not fault.sent:
            attempt.ending, flight.dispatched = "unsent", before
        raise


def _is_encoded(response: UpstreamResponse) -> bool:
    return response.headers.get("content-encoding", "identity").lower() != "identity"


async def _take_whole(flight: Flight, attempt: Attempt, response: UpstreamResponse) -> None:
    assert flight.call is not None
    body = await response.read(_MOST_BODY)
    attempt.ending = "answered"
    attempt.usage, attempt.visible_bytes, attempt.invalid = attempt.provider.dialect.read_usage(flight.call, body)
    flight.status = response.status
    flight.exchange.respond(response.status, answer_headers(flight, attempt.provider, response), body)


async def _take_stream(node: Node, flight: Flight, attempt: Attempt, response: UpstreamResponse) -> None:
    """Relay the stream to its end, its cut, its break, or (drained) past a caller who left."""
    assert flight.call is not None
    assert flight.allowed is not None
    assert flight.plan is not None
    exchange = flight.exchange
    meter = attempt.provider.dialect.stream_meter(flight.call, flight.allowed.edits)
    relay = Relay(
        exchange,
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
            _break_stream(flight, attempt, relay)
        else:
            attempt.ending = "answered"
            relay.finish()
    except UpstreamFault:
        _break_stream(flight, attempt, relay)
    finally:
        leaving.done()
        exchange.on_gone = exchange.on_flow = None
        flight.first_event, flight.cut = relay.first_event, relay.cut
        attempt.usage, attempt.interim, attempt.input_usage = meter.usage, meter.interim, meter.input_usage
        attempt.visible_bytes, attempt.invalid = meter.visible_bytes, meter.invalid


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


def _break_stream(flight: Flight, attempt: Attempt, relay: Relay) -> None:
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
        flight.exchange.abort()


async def _take_error(
    node: Node, flight: Flight, attempt: Attempt, key: ProviderKey, response: UpstreamResponse, *, is_last: bool
) -> Refusal | None:
    """The provider said no. Its own words go to the caller, unless they are about Bursar's key.

    One that is busy is passed over while there is another way.
    """
    facts = attempt.provider.dialect.upstream
    if facts.definite_refusal(response.status):
        attempt.ending = "refused"
    kind = str(response.status)
    node.counters.add("bursar_upstream_errors_total", (attempt.provider.name, kind))
    body = without_key(await response.read(_MOST_ERROR_BODY), attempt.key_value)
    if _is_encoded(response):
        body = b""  # nobody can read it, nor see whether the key stands in it
    if facts.bills_refusal(response.status, body):
        attempt.ending = "filtered"
    if facts.rejects_key(response.status, body):
        attempt.health = "key_refused"
        node.leases.forget(key.id)
        node.happenings("upstream_key_refused", key.id, {"provider": attempt.provider.name, "status": response.status})
        return Refusal(
            "upstream_key_refused",
            f"The provider {attempt.provider.name} does not accept the provider key {key.id}",
            "Whoever runs this broker can see it with `bursar secrets list` and put a new one",
        )
    if response.status < 400:
        return Refusal("upstream_broken", f"The provider answered {response.status}, a redirect that is not followed")
    if response.status in BUSY and not is_last:
        return Refusal("upstream_broken", f"The provider {attempt.provider.name} answered {response.status}")
    flight.status, flight.word = response.status, "upstream_error"
    flight.exchange.respond(response.status, answer_headers(flight, attempt.provider, response), body)
    return None


def _take_fault(node: Node, attempt: Attempt, fault: UpstreamFault) -> Refusal:
    """The exchange broke before anything reached the caller."""
    node.counters.add("bursar_upstream_errors_total", (attempt.provider.name, fault.kind))
    word = _FAULT_WORDS.get(fault.kind)
    if word is None:
        word = "upstream_timeout" if fault.kind.startswith("timeout") else "upstream_broken"
    hint = "" if attempt.ending == "unsent" else "What it may have cost is booked; a retry is a new call"
    return Refusal(word, f"The provider {attempt.provider.name} failed ({fault.kind})", hint)

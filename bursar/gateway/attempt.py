"""Stage 9: walk the candidates. Each dispatched attempt has its own hold, settled right here on every way out."""

from bursar.core.calls import Edits
from bursar.core.directory import ProviderKey
from bursar.core.errors import Refusal, UpstreamFault
from bursar.gateway import answer
from bursar.gateway.flight import Flight
from bursar.gateway.hold import take_hold
from bursar.gateway.node import Node, outgoing_credential
from bursar.gateway.price import Option
from bursar.gateway.relay import CUT_WORD, Relay
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


async def run_attempts(node: Node, flight: Flight, options: list[Option]) -> None:
    """Answer the caller from the first option that can. Raises Refusal when none could."""
    last: Refusal | None = None
    for number, option in enumerate(options, 1):
        attempt = await take_hold(node, flight, option, number)
        try:
            last = await _try(node, flight, attempt, option)
        finally:
            settle(node, flight, attempt)
        if last is None:
            return
    assert last is not None
    raise last


async def _try(node: Node, flight: Flight, attempt: Attempt, option: Option) -> Refusal | None:
    """One dispatch. None = the caller has been answered; a Refusal = the next option may be tried."""
    try:
        response = await _dispatch(node, flight, attempt, option.key)
        if response.status >= 300:
            return await _take_error(node, flight, attempt, option.key, response)
        assert flight.call is not None
        if flight.call.stream and response.headers.get("content-type", "").startswith("text/event-stream"):
            await _take_stream(node, flight, attempt, response)
        else:
            await _take_whole(node, flight, attempt, response)
    except UpstreamFault as fault:
        return _take_fault(node, flight, attempt, fault)
    return None


async def _dispatch(node: Node, flight: Flight, attempt: Attempt, key: ProviderKey) -> UpstreamResponse:
    """Send the request with a leased provider key. From the first byte on the attempt counts as sent."""
    assert flight.call is not None
    assert flight.allowed is not None
    provider = attempt.provider
    lease = await node.leases.borrow(key)
    edits = flight.allowed.edits
    body = provider.dialect.rewrite(flight.call, edits)
    headers = provider.dialect.upstream_headers(flight.exchange.headers)
    headers += provider.headers
    credential = outgoing_credential(provider.auth, lease.value)
    if credential is not None:
        headers.append(credential)
    attempt.ending = "upstream_broken"
    if not flight.dispatched:
        flight.dispatched = node.clock.monotonic()
    try:
        target = provider.base_path + provider.dialect.upstream_path(flight.call.route)
        return await node.upstream.request(provider, target, headers, body)
    except UpstreamFault as fault:
        if not fault.sent:
            attempt.ending = "unsent"
        raise


async def _take_whole(node: Node, flight: Flight, attempt: Attempt, response: UpstreamResponse) -> None:
    assert flight.call is not None
    body = await response.read(_MOST_BODY)
    attempt.ending = "answered"
    attempt.usage, attempt.visible_bytes, attempt.invalid = attempt.provider.dialect.read_usage(flight.call, body)
    flight.status = response.status
    headers = _answer_headers(node, flight, attempt, response)
    flight.exchange.respond(response.status, headers.encode("latin-1"), body)


async def _take_stream(node: Node, flight: Flight, attempt: Attempt, response: UpstreamResponse) -> None:
    """Relay the stream to its end, its cut, its break, or (drained) past a caller who left."""
    assert flight.call is not None
    assert flight.allowed is not None
    exchange = flight.exchange
    meter = attempt.provider.dialect.stream_meter(flight.call, flight.allowed.edits)
    relay = Relay(
        exchange,
        response,
        meter,
        node.splitter(),
        allowance=flight.allowed.output_cap * flight.call.n,
        monotonic=node.clock.monotonic,
        on_input=lambda: _shrink(node, flight, attempt, meter),
    )
    leaving = Leaving(node, flight, response, relay)
    flight.status = response.status
    exchange.on_gone = leaving.client_left
    exchange.on_flow = lambda stop: response.pause() if stop else response.resume()
    headers = _answer_headers(node, flight, attempt, response)
    exchange.start(response.status, headers.encode("latin-1"))
    if exchange.gone:
        leaving.client_left()
    try:
        await response.relay(relay.feed)
        relay.finish()
        attempt.ending = "answered"
    except UpstreamFault as fault:
        _end_broken_stream(flight, attempt, relay, fault)
    finally:
        leaving.done()
        flight.first_event, flight.cut = relay.first_event, relay.cut
        _take_counts(attempt, meter)

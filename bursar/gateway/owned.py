"""Routes about what a provider keeps: shown, listed, cancelled or deleted by the team that made it, and by nobody else.

They cost nothing at the provider, so nothing is held. They are authenticated, counted against the request limits,
looked up in our own record before anything is sent, and go to the account that made what they name.
"""

from collections.abc import Callable, Collection
from urllib.parse import parse_qsl, urlencode

from bursar.core.calls import Purpose
from bursar.core.directory import Observed, ProviderKey
from bursar.core.errors import ClientGone, Refusal, UpstreamFault
from bursar.core.made_ids import MadeId, Reference, is_id, unknown_id
from bursar.core.observing import is_passed_on
from bursar.core.policy import check_content
from bursar.core.routing import EMULATOR_ENVIRONMENT, address_parts, key_serves, usable_keys
from bursar.core.secret import Secret
from bursar.core.uploads import PURPOSES
from bursar.gateway.admit import admit
from bursar.gateway.batch_ids import learn_batch
from bursar.gateway.flight import Flight
from bursar.gateway.forward import answer_headers, upstream_headers
from bursar.gateway.guard import guard
from bursar.gateway.node import Node, Option, Provider
from bursar.gateway.observing import is_own, note_taken, presented_way, value_of
from bursar.gateway.own import check_references, find_own, keep_made
from bursar.gateway.price import no_key
from bursar.gateway.routes import Route, ids_in, plain_path
from bursar.gateway.upstream_errors import fault_refusal, is_encoded, read_error
from bursar.ports import UpstreamResponse

_MOST_BODY = 64 * 2**20
_MOST_STREAMED = 2**30  # no provider takes a file of more than 512 MB
_QUERY = frozenset({"limit", "order", "after", "before", "include", "include[]", "include_obfuscation", "stream"})
_NUMBERS = frozenset({"starting_after"})
_PREFIX = "/v1"


async def ask_about(node: Node, flight: Flight, route: Route) -> None:
    """One request about something kept, or one that opens a conversation.

    Raises Refusal(unknown_id | ids_unavailable | no_provider_key | guard_blocked | ...).
    """
    check_whose_form(flight, route)
    exchange = flight.exchange
    await admit(node, flight)
    body = await exchange.body()
    if route.owns == "batch":
        body = b""  # none of its routes takes one
    ids = ids_in(plain_path(exchange.path))
    assert flight.plan is not None
    known = ids and not is_passed_on(flight.plan.observed)  # else whose it is, its provider knows
    made = await find_own(node, flight, Reference(route.owns, ids[0])) if known else None
    if ids and not all(map(is_id, ids)):
        raise unknown_id(route.owns)
    if exchange.method == "POST" and route.owns == "conversation":
        await _read(node, flight, route, body, made)
    way = account_of(node, flight, route, made=flight.bound or made)
    try:
        response = await send(node, flight, way, route, body)
        if response is not None:
            await _answer(node, flight, way, made, response)
    except UpstreamFault as fault:
        raise fault_refusal(node, way.provider, fault) from fault


def check_whose_form(flight: Flight, route: Route) -> None:
    """Anthropic has files of its own at the same path, which nobody keeps here. Raises Refusal(not_found)."""
    if route.owns == "file" and "anthropic-version" in flight.exchange.headers:
        flight.dialect = "anthropic"
        hint = "Send the content in the message itself, as a `source` of type `base64` or `text`"
        raise Refusal("not_found", "This Bursar keeps no files for Anthropic", hint)


async def _read(node: Node, flight: Flight, route: Route, body: bytes, made: MadeId | None) -> None:
    """Items that are put into a conversation: whose they are, and what stands in them."""
    assert flight.plan is not None
    flight.bound = made
    flight.call = node.dialects[route.dialect].understand(route.name, body)
    await check_references(node, flight)
    check_content(flight.plan, flight.call)
    await guard(node, flight)


def account_of(
    node: Node, flight: Flight, route: Route, *, made: MadeId | None = None, purpose: Purpose | None = None
) -> Option:
    """The account that made it; for what is new the first that serves the team for the purpose. Raises Refusal.

    What a file was uploaded for was asked when it was uploaded: afterwards any purpose of its provider key will do.
    """
    assert flight.plan is not None
    observed = flight.plan.observed
    if is_passed_on(observed):
        return presented_way(node, flight, route.name)
    purposes: Collection[Purpose] = (purpose or route.purpose,)
    if made is not None and made.kind in ("file", "batch"):
        purposes = PURPOSES.values()
    return find_account(node, flight.plan.team_id, route.name, purposes, made, observed)


def find_account(
    node: Node,
    team: str,
    name: str,
    purposes: Collection[Purpose],
    made: MadeId | None,
    observed: Observed | None = None,
) -> Option:
    """`name`: of the route. `observed`: of a key that was swapped. Raises Refusal(no_provider_key)."""
    for provider in node.providers:
        if name in provider.targets and (made is None or made.provider == provider.name):
            if provider.auth == "none":
                return _option(provider, no_key(provider.name))
            keys = _keys(node, provider, team, purposes)
            if observed is not None:
                keys = [key for key in keys if is_own(node, observed, provider.name, key.id)]
            if made is not None and made.secret in node.tenants.provider_keys:
                keys = [key for key in keys if key.id == made.secret]
            if keys:
                return _option(provider, keys[0])
    raise Refusal(
        "no_provider_key",
        "No provider key may be used for this by the team",
        "Whoever runs this broker can store or tag one: `bursar secrets put`, `bursar secrets tag`",
    )


def _keys(node: Node, provider: Provider, team: str, purposes: Collection[Purpose]) -> list[ProviderKey]:
    """Keys for every model first: what is made with one can then be built upon with any."""
    keys = usable_keys(node.tenants.provider_keys.values())
    grants = node.tenants.use_grants
    fitting = [
        key for key in keys if any(key_serves(key, provider.name, team, purpose, grants) for purpose in purposes)
    ]
    return sorted(fitting, key=lambda key: (address_parts(key.address)[1] != "*", key.id))


def _option(provider: Provider, key: ProviderKey) -> Option:
    emulated = address_parts(key.address)[3] == EMULATOR_ENVIRONMENT
    reached = provider.twin if emulated and provider.twin is not None else provider
    return Option(provider=reached, key=key, upstream_model="", priced_as="")


async def send(
    node: Node, flight: Flight, way: Option, route: Route, body: bytes, media_type: str = ""
) -> UpstreamResponse | None:
    """None = the provider said no, in its own words, and the caller has them. Raises UpstreamFault, Refusal."""
    exchange, provider = flight.exchange, way.provider
    value = await value_for(node, flight, way)
    if exchange.gone:
        raise ClientGone
    rest = plain_path(exchange.path).removeprefix(f"{_PREFIX}/{route.name}")
    target = provider.targets[route.name] + rest + _query(exchange.query)
    headers = upstream_headers(provider, exchange, value, media_type)
    flight.dispatched = node.clock.monotonic()
    response = await node.upstream.ask(provider, exchange.method, target, headers, body)
    if response.status >= 300:
        told, instead = await read_error(node, provider, way.key, response, value)
        if instead is not None:
            raise instead
        flight.word = "upstream_error"
        respond(flight, way, response, told)
        return None
    if way.presented:
        note_taken(node, flight)
    return response


async def value_for(node: Node, flight: Flight, way: Option) -> Secret | None:
    if way.presented:
        return value_of(flight)
    return None if way.provider.auth == "none" else (await node.leases.borrow(way.key)).value


async def _answer(node: Node, flight: Flight, way: Option, made: MadeId | None, response: UpstreamResponse) -> None:
    """Hand on what came. Ids of what was made are written down first; what was deleted is forgotten."""
    exchange = flight.exchange
    if is_encoded(response):
        response.abort()
        raise UpstreamFault("malformed", "the answer is encoded", sent=True)
    if _is_streamed(exchange.path, response):
        await _relay(flight, way, response)
        return
    body = await response.read(_MOST_BODY)
    if flight.call is not None:
        await keep_made(node, flight, way, way.provider.dialect.made(flight.call, body))
    elif made is not None and made.kind == "batch":
        await _learn(node, way, made, body)
    respond(flight, way, response, body)
    if exchange.method == "DELETE" and made is not None and len(ids_in(plain_path(exchange.path))) == 1:
        await node.made_ids.forget(made.team, made.kind, made.id)


async def _learn(node: Node, way: Option, batch: MadeId, body: bytes) -> None:
    """What the answer tells of a batch is on record before the caller has it. Raises UpstreamFault, Refusal."""
    forms = way.provider.dialect.batches
    state = None if forms is None else forms.state(body)
    if state is None or state.id != batch.id:
        raise UpstreamFault("malformed", "the answer tells of another batch", sent=True)
    await learn_batch(node, batch, state)


def respond(flight: Flight, way: Option, response: UpstreamResponse, body: bytes) -> None:
    flight.status = response.status
    flight.exchange.respond(response.status, answer_headers(flight, way.provider, response), body)


async def _relay(flight: Flight, way: Option, response: UpstreamResponse) -> None:
    """A file's content, or a response that is streamed again: it was metered, or is followed, where it was made."""
    exchange = flight.exchange
    exchange.on_gone = response.abort
    exchange.on_flow = lambda stop: response.pause() if stop else response.resume()
    flight.status = response.status
    exchange.start(response.status, answer_headers(flight, way.provider, response))
    try:
        await response.relay(_Capped(exchange.write).write)
        exchange.finish()
    except UpstreamFault:
        flight.word = "client_gone" if exchange.gone else "upstream_broken"
        exchange.abort()
    finally:
        exchange.on_gone = exchange.on_flow = None


def _is_streamed(path: str, response: UpstreamResponse) -> bool:
    media_type = response.headers.get("content-type", "").lower()
    return path.endswith("/content") or media_type.startswith("text/event-stream")


class _Capped:
    """Bytes on their way to a caller, and an end to them."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write
        self._left = _MOST_STREAMED

    def write(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left < 0:
            raise UpstreamFault("body_too_large", f"more than {_MOST_STREAMED} bytes", sent=True)
        self._write(data)


def _query(query: str) -> str:
    """What the routes know of a query, written anew."""
    fields = parse_qsl(query[:4096], max_num_fields=32) if query else []
    known = [(name, text) for name, text in fields if name in _QUERY or (name in _NUMBERS and text.isdigit())]
    return f"?{urlencode(known)}" if known else ""

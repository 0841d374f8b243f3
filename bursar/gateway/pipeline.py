"""The way of a request, on one page (design.md §2). Nothing else decides the order.

     1 receive        the wire has parsed the head; the route is found or refused
     2 authenticate   before a byte of the body is read
     3 admit          requests per second and minute, concurrency: one act; then the body is read
     4 understand     the dialect reads the governed fields; the raw body is kept
     5 policy         models, purpose, caps, max_tokens
     6 guard          screens look at the content
     7 price          candidates, their ceilings and expected costs
     8 hold           tokens per minute and all budgets, one act, durable before anything is dispatched
     9 attempt        lease a provider key, send, stream back, meter, cut
    10 settle         post, void or keep the hold; tokens given back
    11 report         counted, and what was decided put on record, when the answer has left

`POST /v1/estimate` goes through 3 to 7 as a call does, tries 8, and is told what would happen (bursar.gateway.trial).
8 to 10 happen once an attempt, inside `run_attempts`. What 3 took is given back in `finally`, whatever happened.
The task is the connection's own and is not cancelled when the caller leaves: settlement cannot be lost with him.
"""

import asyncio

from bursar.core.discretion import told_refusal
from bursar.core.errors import ClientGone, Refusal
from bursar.gateway import answer
from bursar.gateway.admit import admit, leave
from bursar.gateway.attempt import run_attempts
from bursar.gateway.authenticate import authenticate
from bursar.gateway.batches import serve_batches
from bursar.gateway.decide import apply_policy
from bursar.gateway.deployed import understand_deployed
from bursar.gateway.explain import explain
from bursar.gateway.files import serve_files
from bursar.gateway.flight import Flight
from bursar.gateway.follow import check_room
from bursar.gateway.guard import guard
from bursar.gateway.hand_over import hand_over
from bursar.gateway.health import by_health
from bursar.gateway.models import list_models
from bursar.gateway.node import Node
from bursar.gateway.own import check_references
from bursar.gateway.owned import ask_about
from bursar.gateway.price import Priced, price
from bursar.gateway.report import report
from bursar.gateway.routes import Route, dialect_of_path, find_route
from bursar.gateway.trial import trial
from bursar.gateway.vitals import VITALS, vital_sign
from bursar.ports import Exchange

_ON_LOOP_BYTES = 262_144


class Pipeline:
    """The handler that the server calls for each request."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def serve(self, exchange: Exchange) -> None:
        """Answer one request. Raises nothing but what is a fault of our own."""
        node = self._node
        if exchange.path in VITALS:
            vital_sign(node, exchange)
            return
        request_id = node.next_id()
        flight = Flight(
            exchange=exchange,
            request_id=request_id,
            number=node.flights,
            started=exchange.received,
            dialect=dialect_of_path(exchange.path),
        )
        try:
            route = self._enter(node, flight)
            if route.kind == "metered":  # two in a row, not one in another: what is resumed comes through fewer
                ways = await self._prepare(node, flight, route)
                check_room(node, flight)
                await run_attempts(node, flight, ways)
            else:
                await self._aside(node, flight, route)
        except Refusal as refusal:
            refuse(flight, refusal)
        except ClientGone:
            flight.word = "client_gone"
        except BaseException:
            flight.word, flight.status = "internal_error", flight.status or 500
            raise
        finally:
            leave(node, flight)
            report(node, flight)
            explain(node, flight)
            flight.refusal = None  # its traceback leads back here, by a way that no collector of garbage sees

    def _enter(self, node: Node, flight: Flight) -> Route:
        """1 and 2."""
        exchange = flight.exchange
        if not node.ready:
            raise Refusal("not_ready", "This node has no directory yet", "Try again in a moment", retry_after=1)
        route = flight.route = find_route(exchange.method, exchange.path)
        if route.kind != "handed":
            authenticate(node, flight)
        return route

    async def _aside(self, node: Node, flight: Flight, route: Route) -> None:
        """What is no call, or not yet: a batch holds for its calls by itself."""
        if route.kind == "handed":
            await hand_over(node, flight)
        elif route.kind == "owned":
            await ask_about(node, flight, route)
        elif route.kind == "files":
            await serve_files(node, flight, route)
        elif route.kind == "batches":
            await serve_batches(node, flight, route)
        elif route.kind == "models":
            list_models(node, flight, route)
        else:
            await trial(node, flight, route, self._prepare)

    async def _prepare(self, node: Node, flight: Flight, route: Route) -> list[Priced]:
        """3 to 7, all that precedes a hold."""
        exchange = flight.exchange
        await admit(node, flight)
        body, dialect = await exchange.body(), node.dialects[route.dialect]
        understand = understand_deployed(node, flight, route, dialect) if route.azure else dialect.understand
        if len(body) > _ON_LOOP_BYTES:  # whatever they are made of, nobody else's stream waits for one
            flight.call = await asyncio.to_thread(understand, route.name, body)
        else:
            flight.call = understand(route.name, body)
        assert flight.plan is not None
        flight.plan = node.tenants.current(flight.plan)  # a body may take its time, and the rules may change meanwhile
        if flight.call.refers or flight.call.loose:
            await check_references(node, flight)
        options = apply_policy(node, flight)
        await guard(node, flight)
        flight.ways = price(node, flight, options)
        return by_health(node, flight, flight.ways)


def refuse(flight: Flight, refusal: Refusal) -> None:
    """Answer with a refusal in the caller's dialect; once an answer has begun, break it off visibly instead."""
    flight.word = refusal.word
    flight.status = refusal.rule.status
    flight.refusal = refusal
    exchange = flight.exchange
    if exchange.gone:
        return
    if exchange.started:
        exchange.abort()
        return
    refusal = told_refusal(flight.plan, refusal)
    fields = answer.refusal_headers(refusal, flight.dialect, flight.request_id)
    lines = answer.header_lines(fields) + flight.headers + flight.limit_lines
    body = answer.refusal_body(refusal, flight.dialect, flight.request_id)
    exchange.respond(refusal.rule.status, lines.encode("latin-1", "replace"), body)

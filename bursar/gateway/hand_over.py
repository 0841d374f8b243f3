"""Requests at the data port that control answers: the token endpoints. Bounded in size and number; never metered."""

from bursar.core.errors import RULES, Refusal
from bursar.gateway.answer import id_fields
from bursar.gateway.authenticate import caller_of
from bursar.gateway.flight import Flight
from bursar.gateway.node import Handed, Node

MAX_BODY = 65_536
_MOST_AT_ONCE = 64  # issuers of others can be slow: they must not fill this node
_HEADERS = ("authorization", "content-type", "accept")


async def hand_over(node: Node, flight: Flight) -> None:
    """Raises Refusal(body_too_large | malformed_request | overloaded | control_unavailable)."""
    exchange = flight.exchange
    length = exchange.headers.get("content-length", "0")
    if "transfer-encoding" in exchange.headers:
        raise Refusal("malformed_request", "This route takes no chunked body", "Send a content-length")
    if int(length) > MAX_BODY:
        raise Refusal("body_too_large", f"This route takes at most {MAX_BODY} bytes", "Send less")
    if node.handed >= _MOST_AT_ONCE:
        raise Refusal("overloaded", "Too many token requests are under way", "Try again in a moment", retry_after=1)
    node.handed += 1
    try:
        handed = Handed(
            method=exchange.method,
            path=exchange.path,
            query=exchange.query,
            headers={name: exchange.headers[name] for name in _HEADERS if name in exchange.headers}
            | {"x-bursar-request-id": flight.request_id},
            body=await exchange.body(),
            peer=caller_of(node, exchange),
        )
        status, fields, body = await node.control(handed)
    finally:
        node.handed -= 1
    flight.status = status
    word = dict(fields).get("x-bursar-word")
    if word is not None:
        flight.word, flight.refusal = word, Refusal(word, RULES[word].title)
    exchange.respond(status, [*fields, *id_fields(flight.dialect, flight.request_id)], body)

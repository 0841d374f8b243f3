"""Work that goes on at a provider after the answer was given: asked about until it ends, then settled.

The hold stays open for as long. A node that stops, or dies, finds it open at its next start and books its ceiling
(`unreconciled`), as for any call of which nobody saw the end.
"""

import asyncio
from collections.abc import Sequence

from bursar.core.errors import Refusal, UpstreamFault
from bursar.core.made_ids import Reference, is_id
from bursar.gateway.flight import Flight
from bursar.gateway.forward import upstream_headers
from bursar.gateway.node import Node, Option
from bursar.gateway.settle import Attempt, settle
from bursar.ports import UpstreamResponse

MOST = 1_000  # followed at a time
_FIRST_S, _LONGEST_S = 1.0, 30.0  # between two looks
_LONGEST_WORK_S = 24 * 3600.0
_MOST_BODY = 64 * 2**20


def check_room(node: Node, flight: Flight) -> None:
    """Raises Refusal(overloaded) when nobody could follow what the call asks for."""
    assert flight.call is not None
    if flight.call.background and len(node.followed) >= MOST:
        raise Refusal("overloaded", f"This node follows {MOST} responses already", "Try again later", retry_after=30)


def response_among(made: Sequence[Reference]) -> str:
    """The id of the response among what was made; "" for none that can be asked about."""
    return next((made_id for kind, made_id in made if kind == "response" and is_id(made_id)), "")


def follow(node: Node, flight: Flight, attempt: Attempt, option: Option) -> None:
    """Take the hold over from the call."""
    attempt.ending, attempt.reservations = "followed", []  # tokens stay as they were expected
    task = asyncio.ensure_future(_follow(node, flight, attempt, option, attempt.running))
    node.followed.add(task)
    task.add_done_callback(node.followed.discard)


async def _follow(node: Node, flight: Flight, attempt: Attempt, option: Option, made_id: str) -> None:
    """Until it has ended, cannot be found any more, or has taken too long."""
    pause, end = _FIRST_S, node.clock.monotonic() + _LONGEST_WORK_S
    body = None
    while body is None and node.clock.monotonic() < end:
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, _LONGEST_S)
        try:
            body = await _look(node, attempt, option, made_id)
        except (UpstreamFault, Refusal):
            continue  # the provider or its key is away for now
    attempt.ending = "answered" if body else "upstream_broken"
    if body:
        assert flight.call is not None
        attempt.usage, attempt.visible_bytes, attempt.invalid = attempt.provider.dialect.read_usage(flight.call, body)
    settle(node, flight, attempt)


async def _look(node: Node, attempt: Attempt, option: Option, made_id: str) -> bytes | None:
    """The ended response, b"" when there is none any more, None while it goes on. Raises UpstreamFault, Refusal."""
    provider = attempt.provider
    if option.presented:
        value = attempt.key_value  # for as long as its work goes on
    else:
        value = None if provider.auth == "none" else (await node.leases.borrow(option.key)).value
    headers = upstream_headers(provider, None, value)
    target = f"{provider.targets['responses']}/{made_id}"
    response: UpstreamResponse = await node.upstream.ask(provider, "GET", target, headers, b"")
    body = await response.read(_MOST_BODY)
    if response.status == 404:
        return b""
    if response.status != 200 or provider.dialect.still_running(body):
        return None
    return body

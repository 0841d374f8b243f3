"""Whose is what a provider keeps: every id that a call names must be of the caller's own team.

Looked up before anything is sent. An id is kept before its maker learns it, and what builds upon it later goes to the
very account that made it. A call that names no id never comes here.
"""

from collections.abc import Iterable, Sequence

from bursar.core.errors import Refusal
from bursar.core.made_ids import MadeId, Maker, Reference, is_id, unknown_id
from bursar.core.observing import is_passed_on
from bursar.gateway.flight import Flight
from bursar.gateway.node import Node, Option

_AT_ONCE = 2_000  # texts that one question to the register holds


async def find_own(node: Node, flight: Flight, reference: Reference) -> MadeId:
    """Raises Refusal(unknown_id | ids_unavailable)."""
    assert flight.plan is not None
    kind, made_id = reference
    found = await node.made_ids.find(flight.plan.team_id, kind, made_id) if is_id(made_id) else None
    if found is None:
        raise unknown_id(kind)
    return found


async def check_references(node: Node, flight: Flight) -> None:
    """Every id in the body is the team's own; the flight is then bound to where they were made.

    Raises Refusal(unknown_id | ids_unavailable | invalid_field).
    """
    assert flight.call is not None
    assert flight.plan is not None
    if is_passed_on(flight.plan.observed):
        return  # the key that the call came with goes up with it: what it may name, its provider knows
    if flight.call.loose:
        await check_loose(node, flight, flight.call.loose)
    for reference in flight.call.refers:
        found = await find_own(node, flight, reference)
        bound = flight.bound
        if bound is not None and (bound.provider, bound.secret) != (found.provider, found.secret):
            raise Refusal(
                "invalid_field",
                f"The {bound.kind} and the {found.kind} that the body names were made with different provider keys",
                "No provider knows both: make one of them again",
            )
        flight.bound = found


async def check_loose(node: Node, flight: Flight, loose: Sequence[str]) -> None:
    """What a field names that Bursar does not know may be nobody's, but no other team's. Raises Refusal(unknown_id)."""
    assert flight.plan is not None
    for begin in range(0, len(loose), _AT_ONCE):
        if await node.made_ids.any_foreign(flight.plan.team_id, loose[begin : begin + _AT_ONCE]):
            raise Refusal(
                "unknown_id",
                "A field that Bursar does not know names something that this team did not make",
                "Leave the field out, or name in it what was made by this team through this broker",
            )


def bound_ways(node: Node, bound: MadeId, ways: Sequence[Option]) -> list[Option]:
    """Of the ways those that lead to the account which made it. Raises Refusal(no_provider_key).

    A provider key that is gone was replaced by one of the same provider: whether that is of the same account, the
    provider tells.
    """
    gone = bound.secret != "" and bound.secret not in node.tenants.provider_keys
    left = [way for way in ways if way.provider.name == bound.provider and (gone or way.key.id in ("", bound.secret))]
    if not left:
        raise Refusal(
            "no_provider_key",
            f"The {bound.kind} was made with a provider key that may not serve this call",
            "Ask for a model that the provider key which made it may be used for, or make it again",
        )
    return left


async def keep_made(node: Node, flight: Flight, way: Option, references: Iterable[Reference]) -> None:
    """Write down what the call made, before its caller learns of it. Raises Refusal(ids_unavailable)."""
    assert flight.plan is not None
    maker = Maker(flight.plan.team_id, flight.plan.key_id, way.provider.name, way.key.id)
    made = maker.made(references, node.id_lives, node.clock.now())
    if made:
        await node.made_ids.keep(made)


async def keep_or_count(node: Node, flight: Flight, way: Option, references: Iterable[Reference]) -> None:
    """The same for an answer that has been paid for: it reaches its caller all the same, who cannot build upon it."""
    try:
        await keep_made(node, flight, way, references)
    except Refusal:
        assert flight.plan is not None
        node.counters.add("bursar_ids_unkept_total", (flight.plan.team_id,))
        flight.headers += "x-bursar-ids: not-kept\r\n"

"""Stage 6: look at the content before it is priced. A screen sees the call and may refuse it; none changes its order.

Bodies over 64 kB are screened off the loop, so that one long prompt delays nobody else's stream.
"""

import asyncio
from collections.abc import Iterator

from bursar.core.calls import Call
from bursar.core.controls import would_refuse
from bursar.core.errors import Refusal
from bursar.core.parts import Part
from bursar.gateway.flight import Flight
from bursar.gateway.node import Node
from bursar.gateway.shadow import note_shadow
from bursar.ports import Dialect

_ON_LOOP_BYTES = 65_536


async def guard(node: Node, flight: Flight) -> None:
    """Raises the first screen's Refusal."""
    screens, plan = node.screens, flight.plan
    assert flight.call is not None
    assert plan is not None
    if screens and plan.guard_mode != "off":
        if flight.call.input_bytes > _ON_LOOP_BYTES:
            verdict = await asyncio.to_thread(first_finding, node, flight.call)
        else:
            verdict = first_finding(node, flight.call)
        if verdict is not None:
            if plan.guard_mode == "enforce":
                node.counters.add("bursar_guard_total", ("block",))
                raise verdict
            note_shadow(node, flight, would_refuse("guard", "guard", verdict.word))
    node.counters.guard_passes += 1


class Content:
    """The parts of a call: walked when the first screen asks for them, and once for all screens."""

    def __init__(self, dialect: Dialect, call: Call) -> None:
        self._dialect, self._call = dialect, call
        self._parts: tuple[Part, ...] | None = None

    def __iter__(self) -> Iterator[Part]:
        if self._parts is None:
            self._parts = tuple(self._dialect.parts(self._call))
        return iter(self._parts)


def first_finding(node: Node, call: Call) -> Refusal | None:
    """Raises Refusal(malformed_request | duplicate_field) where a screen asks for parts that cannot be read."""
    content = Content(node.dialects[call.dialect], call)
    for screen in node.screens:
        verdict = screen.look(call, content)
        if verdict is not None:
            return verdict
    return None

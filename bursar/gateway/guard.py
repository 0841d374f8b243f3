"""Stage 6: look at the content before it is priced. A screen sees the call and may refuse it; none changes its order.

Bodies over 64 kB are screened off the loop, so that one long prompt delays nobody else's stream.
"""

import asyncio
from collections.abc import Sequence

from bursar.core.calls import Call
from bursar.core.controls import would_refuse
from bursar.core.errors import Refusal
from bursar.gateway.flight import Flight
from bursar.gateway.node import Node, Screen
from bursar.gateway.shadow import note_shadow

_ON_LOOP_BYTES = 65_536


async def guard(node: Node, flight: Flight) -> None:
    """Raises the first screen's Refusal."""
    screens, plan = node.screens, flight.plan
    assert flight.call is not None
    assert plan is not None
    if screens and plan.guard_mode != "off":
        if flight.call.input_bytes > _ON_LOOP_BYTES:
            verdict = await asyncio.to_thread(first_finding, screens, flight.call)
        else:
            verdict = first_finding(screens, flight.call)
        if verdict is not None:
            if plan.guard_mode == "enforce":
                node.counters.add("bursar_guard_total", ("block",))
                raise verdict
            note_shadow(node, flight, would_refuse("guard", "guard", verdict.word))
    node.counters.guard_passes += 1


def first_finding(screens: Sequence[Screen], call: Call) -> Refusal | None:
    for screen in screens:
        verdict = screen.look(call)
        if verdict is not None:
            return verdict
    return None

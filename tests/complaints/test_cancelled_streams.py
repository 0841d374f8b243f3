"""Streams whose caller left, and spend that was lost on its way to the books (docs/complaints.md, 3.4).

`tests/faults/test_bill.py` has the same with sockets, beside the emulator's own bill.
"""

from collections.abc import Callable
from typing import Any

import pytest

from bursar.core.directory import Policy
from tests.gateway.answers import (
    BLOCK_START,
    BLOCK_STOP,
    DONE,
    IN,
    MESSAGE_STOP,
    OUT,
    ceiling_of,
    chat,
    chunk,
    message,
    message_delta,
    message_start,
    stream,
    text_delta,
    usage_chunk,
)
from tests.gateway.ground import PLENTY, Stand, budget

MakeStand = Callable[..., Stand]
CAP = 1_000
EVENTS: dict[str, list[Any]] = {
    "openai": [chunk("Hel"), chunk("lo"), chunk(" there"), chunk(finish="stop"), usage_chunk(10, 4), DONE],
    "anthropic": [message_start(10), BLOCK_START, text_delta("Hel"), text_delta("lo"), BLOCK_STOP, message_delta(4),
                  MESSAGE_STOP],
}  # fmt: skip
PATHS = {"openai": "/v1/chat/completions", "anthropic": "/v1/messages"}
BODIES = {"openai": chat(max_tokens=CAP, stream=True), "anthropic": message(max_tokens=CAP, stream=True)}
COST = 10 * IN + 4 * OUT


async def left_after(stand: Stand, dialect: str, place: int) -> bytes:
    """A stream whose caller leaves when so many of its events have come -> what he saw."""
    exchange = stand.exchange(PATHS[dialect], BODIES[dialect])
    events = EVENTS[dialect]
    stand.upstream.will(stream(*events[:place], exchange.leave, *events[place:]))
    await stand.pipeline.serve(exchange)
    stand.at_rest()
    return exchange.sent


@pytest.mark.parametrize("hard", [True, False])
@pytest.mark.parametrize("on_disconnect", ["drain", "abort"])
@pytest.mark.parametrize("dialect", EVENTS)
async def test_a_caller_who_leaves_is_billed_wherever_he_does(
    make_stand: MakeStand, dialect: str, on_disconnect: str, hard: bool
) -> None:
    """litellm 14457, 13245, 35958: a disconnect, and nothing was billed. bifrost 3357, PR 4575: the same.

    litellm PR 37558, PR 33736, PR 30630: what was seen is billed, and the input in any case.
    """
    stand = make_stand(budgets=[budget(PLENTY, hard=hard)], policy=Policy(on_disconnect=on_disconnect))
    for place in range(len(EVENTS[dialect])):
        posted = stand.balance()[0]
        seen = await left_after(stand, dialect, place)
        cost = stand.balance()[0] - posted
        visible = sum(len(text) for text in ("Hel", "lo", " there") if text.encode() in seen)
        assert cost >= visible // 3 * OUT + (10 * IN if hard or on_disconnect == "drain" else IN), place
        assert cost <= ceiling_of(BODIES[dialect], CAP)
        if on_disconnect == "drain":
            assert cost == COST, place


@pytest.mark.parametrize("dialect", EVENTS)
async def test_upstream_is_drained_to_learn_what_it_cost(make_stand: MakeStand, dialect: str) -> None:
    """litellm PR 36008: drained by a task of its own, which no caller who leaves can end."""
    stand = make_stand(budgets=[budget(PLENTY)], policy=Policy(on_disconnect="drain"))
    await left_after(stand, dialect, 1)
    assert (stand.post.cost_pico, stand.post.exact, stand.post.outcome) == (COST, True, "ok")


@pytest.mark.parametrize("on_disconnect", ["drain", "abort"])
async def test_leaving_again_and_again_empties_the_budget(make_stand: MakeStand, on_disconnect: str) -> None:
    """new-api 5235: a full refund to who left, so that whoever left always paid nothing."""
    stand = make_stand(
        budgets=[budget(ceiling_of(BODIES["openai"], CAP) + 10 * COST)], policy=Policy(on_disconnect=on_disconnect)
    )
    calls = 0
    while calls < 50:
        exchange = stand.exchange(body=BODIES["openai"])
        stand.upstream.answers = [stream(*EVENTS["openai"][:1], exchange.leave, *EVENTS["openai"][1:])]
        await stand.pipeline.serve(exchange)
        if exchange.word == "budget_exhausted":
            break
        calls += 1
    assert calls <= 11

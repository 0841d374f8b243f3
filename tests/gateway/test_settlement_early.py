"""Anthropic tells the input side in its first event: the hold shrinks by it, and what breaks later costs less."""

from collections.abc import Callable
from typing import Any

from bursar.core.ledger import Settlement
from tests.gateway.answers import (
    BLOCK_START,
    BLOCK_STOP,
    IN,
    MESSAGE_STOP,
    OUT,
    SLACK,
    broken,
    ceiling_of,
    message,
    message_delta,
    message_start,
    named,
    stream,
    text_delta,
)
from tests.gateway.ground import PLENTY, Stand, budget

MakeStand = Callable[..., Stand]
CAP = 4000


def hard(make_stand: MakeStand) -> Stand:
    return make_stand(budgets=[budget(PLENTY)])


def soft(make_stand: MakeStand) -> Stand:
    return make_stand(budgets=[budget(PLENTY, hard=False)])


def claude(**fields: Any) -> dict[str, Any]:
    return message(max_tokens=CAP, stream=True, **fields)


async def test_the_hold_shrinks_when_the_input_is_told(make_stand: MakeStand) -> None:
    stand = hard(make_stand)
    seen: list[tuple[int, int]] = []
    look = lambda: seen.append(stand.balance())  # noqa: E731
    await stand.ask(
        stream(
            look, message_start(10), look, BLOCK_START, text_delta("Hi"), BLOCK_STOP, message_delta(2), MESSAGE_STOP
        ),
        path="/v1/messages",
        body=claude(),
    )
    assert seen == [(0, ceiling_of(claude(), CAP)), (0, 10 * IN + CAP * OUT)]
    assert (stand.post.cost_pico, stand.post.exact) == (10 * IN + 2 * OUT, True)


async def test_soft_budgets_do_not_shrink(make_stand: MakeStand) -> None:
    stand = soft(make_stand)
    answer = stream(message_start(10), text_delta("Hi"), message_delta(2), MESSAGE_STOP)
    await stand.ask(answer, path="/v1/messages", body=claude())
    assert stand.journal.shrunk == {}


async def test_a_hold_never_grows(make_stand: MakeStand) -> None:
    stand = hard(make_stand)
    answer = stream(message_start(90_000), text_delta("Hi"), message_delta(2), MESSAGE_STOP)
    await stand.ask(answer, path="/v1/messages", body=claude())
    assert stand.journal.shrunk == {}
    assert stand.post.cost_pico == 90_000 * IN + 2 * OUT


async def test_broken_after_the_input_was_told(make_stand: MakeStand) -> None:
    stand = hard(make_stand)
    await stand.ask(stream(message_start(10), text_delta("Hello"), broken()), path="/v1/messages", body=claude())
    assert stand.post == Settlement(10 * IN + (5 + SLACK) * OUT, None, False, "upstream_broken")


async def test_contradictory_input_usage_neither_shrinks_nor_is_believed(make_stand: MakeStand) -> None:
    stand = hard(make_stand)
    said = {"input_tokens": 10, "output_tokens": 1, "output_tokens_details": {"thinking_tokens": 5}}
    start = named("message_start", message={"usage": said})
    await stand.ask(stream(start, text_delta("Hello"), broken()), path="/v1/messages", body=claude())
    assert stand.post.cost_pico <= ceiling_of(claude(), CAP)
    assert stand.post.cost_pico >= (5 + SLACK) * OUT


async def test_thinking_keeps_the_shrunk_hold(make_stand: MakeStand) -> None:
    stand = hard(make_stand)
    body = claude(thinking={"type": "enabled", "budget_tokens": 1024})
    await stand.ask(stream(message_start(10), text_delta("Hello"), broken()), path="/v1/messages", body=body)
    assert stand.post.cost_pico == 10 * IN + CAP * OUT

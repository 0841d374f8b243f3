"""`shrink_to_budget`: instead of a refusal, as much output as the tightest hard budget affords; told to the caller."""

from collections.abc import Callable
from typing import Any

import pytest

from bursar.core.directory import Policy
from tests.gateway.answers import (
    IN,
    OUT,
    ceiling_of,
    chat,
    chunk,
    completion,
    error,
    input_pico,
    message,
    stream,
    usage,
)
from tests.gateway.ground import TWO_KEYS, Stand, budget

MakeStand = Callable[..., Stand]
CAP = 1000
BODY = chat(max_tokens=CAP)
SHRINK = Policy(shrink_to_budget=True)


def ok() -> Any:
    return completion("Hi", usage(10, 2))


def affords(make_stand: MakeStand, tokens: int, body: Any = None, **settings: Any) -> Stand:
    """A budget in which the input and so many tokens of output fit."""
    limit = input_pico(body or BODY) + tokens * OUT
    return make_stand(**{"budgets": [budget(limit)], "policy": SHRINK} | settings)


@pytest.mark.parametrize("spare", [0, 1, OUT - 1])
async def test_the_cap_is_what_fits(make_stand: MakeStand, spare: int) -> None:
    limit = input_pico(BODY) + 100 * OUT + spare
    stand = make_stand(budgets=[budget(limit)], policy=SHRINK)
    seen: list[tuple[int, int]] = []
    stand.upstream.before = lambda: seen.append(stand.balance())
    exchange = await stand.ask(ok(), body=BODY)
    assert stand.upstream.sent[0].json == chat(max_tokens=100)
    assert seen == [(0, input_pico(BODY) + 100 * OUT)]
    assert exchange.header("x-bursar-max-tokens-applied") == "100"
    assert exchange.header("x-bursar-truncated") == "budget"


async def test_with_several_choices_each_gets_its_share(make_stand: MakeStand) -> None:
    body = chat(max_tokens=CAP, n=4)
    stand = affords(make_stand, 4 * 50 + 3, body)
    exchange = await stand.ask(ok(), body=body)
    assert stand.upstream.sent[0].json["max_tokens"] == 50
    assert exchange.header("x-bursar-max-tokens-applied") == "50"


async def test_where_it_fits_nothing_changes(make_stand: MakeStand) -> None:
    stand = affords(make_stand, CAP)
    exchange = await stand.ask(ok(), body=BODY)
    assert stand.upstream.sent[0].json == BODY
    assert exchange.header("x-bursar-truncated") is None


@pytest.mark.parametrize("settings", [{"policy": Policy()}, {"budgets": [budget(5, hard=False)]}])
async def test_only_where_policy_says_so_and_a_hard_budget_binds(make_stand: MakeStand, settings: Any) -> None:
    stand = affords(make_stand, 100, **settings)
    exchange = await stand.ask(body=BODY)
    assert exchange.status in (402, 429)
    assert exchange.word in ("can_never_fit", "budget_exhausted")


async def test_too_little_to_be_of_use_is_refused_in_the_budgets_words(make_stand: MakeStand) -> None:
    stand = affords(make_stand, 15)
    exchange = await stand.ask(body=BODY)
    assert exchange.word == "can_never_fit"
    assert exchange.header("x-bursar-truncated") is None


async def test_a_thinking_budget_is_not_starved(make_stand: MakeStand) -> None:
    body = message(max_tokens=4000, thinking={"type": "enabled", "budget_tokens": 2000})
    stand = affords(make_stand, 1500, body)
    exchange = await stand.ask(path="/v1/messages", body=body)
    assert exchange.status in (402, 429)


async def test_what_policy_set_is_told_once(make_stand: MakeStand) -> None:
    """The policy's cap is lowered by the budget: the caller hears the one number that holds."""
    policy = Policy(shrink_to_budget=True, max_tokens_cap=500)
    stand = affords(make_stand, 100, policy=policy)
    exchange = await stand.ask(ok(), body=BODY)
    assert exchange.header("x-bursar-max-tokens-applied") == "100"
    assert exchange.header("x-bursar-truncated") == "budget"


async def test_a_stream_is_cut_at_what_fits(make_stand: MakeStand) -> None:
    body = chat(max_tokens=CAP, stream=True)
    stand = affords(make_stand, 20, body)
    exchange = await stand.ask(stream(*[chunk("x" * 100)] * 20), body=body)
    assert exchange.finished
    assert stand.post.outcome == "cut"
    assert stand.post.cost_pico <= input_pico(body) + 20 * OUT


async def test_each_attempt_gets_what_fits_then(make_stand: MakeStand) -> None:
    stand = affords(make_stand, 100, provider_keys=TWO_KEYS)
    exchange = await stand.ask(error(429), ok(), body=BODY)
    assert exchange.status == 200
    assert [sent.json["max_tokens"] for sent in stand.upstream.sent] == [100, 100]
    assert exchange.header("x-bursar-max-tokens-applied") == "100"
    assert stand.balance() == (10 * IN + 2 * OUT, 0)


async def test_the_hold_is_of_what_is_sent(make_stand: MakeStand) -> None:
    stand = affords(make_stand, 100, provider_keys=TWO_KEYS)
    seen: list[int] = []
    stand.upstream.before = lambda: seen.append(stand.balance()[1])
    await stand.ask(error(429), ok(), body=BODY)
    assert seen == [ceiling_of(BODY, 100)] * 2

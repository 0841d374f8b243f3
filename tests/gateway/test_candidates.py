"""Several ways to serve a call: each dispatch is its own hold, and nothing of one attempt leaks into the next."""

from collections.abc import Callable
from typing import Any

import pytest

from bursar.core.directory import LimitDef, Policy
from bursar.core.errors import Refusal
from bursar.core.ledger import Settlement
from tests.gateway.answers import (
    IN,
    MODEL,
    OUT,
    broken,
    ceiling_of,
    chat,
    chunk,
    completion,
    error,
    input_pico,
    stream,
    unsent,
    usage,
    whole_stream,
)
from tests.gateway.fakes import FakeResponse
from tests.gateway.ground import (
    PLENTY,
    PRICES,
    TWO_KEYS,
    Stand,
    budget,
    override,
    price_table,
    provider,
    provider_key,
)

MakeStand = Callable[..., Stand]
CAP = 1000
BODY = chat(max_tokens=CAP)
COST = 10 * IN + 2 * OUT
TWO_PROVIDERS = {
    "providers": [provider("openai"), provider("second")],
    "provider_keys": [
        provider_key("pk-first", "openai/*/api/prod/*"),
        provider_key("pk-second", "second/*/api/prod/*"),
    ],
}


def ok() -> FakeResponse:
    return completion("Hi", usage(10, 2))


def two_keys(make_stand: MakeStand, limit: int = PLENTY, **settings: Any) -> Stand:
    return make_stand(budgets=[budget(limit)], provider_keys=TWO_KEYS, **settings)


def used(stand: Stand) -> list[str]:
    return [sent.headers["authorization"].removeprefix("Bearer ") for sent in stand.upstream.sent]


# ---- on to the next --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "end"),
    [
        (lambda: error(429), "refused"),
        (lambda: error(529), "refused"),
        (lambda: error(401), "refused"),
        (lambda: error(403, "invalid_api_key"), "refused"),
        (unsent, "unsent"),
        (lambda: unsent("timeout_connect"), "unsent"),
    ],
)
async def test_after_one_that_cost_nothing_comes_the_next(make_stand: MakeStand, first: Any, end: str) -> None:
    stand = two_keys(make_stand)
    exchange = await stand.ask(first(), ok(), body=BODY)
    assert exchange.status == 200
    assert used(stand) == ["sk-pk-a-1", "sk-pk-b-1"]
    assert stand.ends == [end, Settlement(COST, stand.journal.posts[2].usage, True, "ok")]
    assert stand.balance() == (COST, 0)


@pytest.mark.parametrize("first", [broken, lambda: broken("timeout_total"), lambda: FakeResponse([b"{", broken()])])
async def test_after_one_that_may_have_cost_comes_the_next_with_a_hold_of_its_own(
    make_stand: MakeStand, first: Any
) -> None:
    stand = two_keys(make_stand)
    seen: list[tuple[int, int]] = []
    stand.upstream.before = lambda: seen.append(stand.balance())
    exchange = await stand.ask(first(), ok(), body=BODY)
    assert exchange.status == 200
    top = ceiling_of(BODY, CAP)
    assert stand.ends[0] == Settlement(top, None, False, "upstream_broken")
    assert seen == [(0, top), (top, top)]
    assert stand.balance() == (top + COST, 0)


async def test_the_next_needs_room_beside_what_the_first_may_have_cost(make_stand: MakeStand) -> None:
    top = ceiling_of(BODY, CAP)
    stand = two_keys(make_stand, limit=2 * top - 1)
    exchange = await stand.ask(broken(), body=BODY)
    assert exchange.word == "budget_exhausted"
    assert len(stand.upstream.sent) == 1
    assert stand.balance() == (top, 0)


async def test_what_was_refused_leaves_its_room_to_the_next(make_stand: MakeStand) -> None:
    stand = two_keys(make_stand, limit=ceiling_of(BODY, CAP))
    assert (await stand.ask(error(429), ok(), body=BODY)).status == 200


async def test_a_key_that_is_not_released_is_passed_over(make_stand: MakeStand) -> None:
    stand = two_keys(make_stand)
    release = stand.releases.release

    async def only_b(secret_id: str, version: int) -> Any:
        if secret_id == "pk-a":
            raise Refusal("no_provider_key", "Switched off")
        return await release(secret_id, version)

    stand.releases.release = only_b  # type: ignore[method-assign]
    assert (await stand.ask(ok(), body=BODY)).status == 200
    assert used(stand) == ["sk-pk-b-1"]
    assert stand.ends[0] == "unsent"


async def test_when_all_fail_the_last_word_is_told(make_stand: MakeStand) -> None:
    stand = two_keys(make_stand)
    exchange = await stand.ask(error(401), unsent(), body=BODY)
    assert exchange.word == "upstream_unreachable"
    assert stand.ends == ["refused", "unsent"]


async def test_the_last_ones_own_answer_is_passed_on(make_stand: MakeStand) -> None:
    stand = two_keys(make_stand)
    busy = error(429)
    busy.headers |= {"retry-after": "7", "x-ratelimit-remaining-requests": "0", "set-cookie": "a=b"}
    exchange = await stand.ask(error(429), busy, body=BODY)
    assert exchange.status == 429
    assert exchange.json["error"]["code"] == "some_error"
    assert exchange.header("retry-after") == "7"
    assert exchange.header("x-ratelimit-remaining-requests") is None  # theirs say nothing to our caller
    assert exchange.header("set-cookie") is None
    assert stand.count("bursar_upstream_errors_total", kind="429") == 2


@pytest.mark.parametrize("answer", [lambda: error(400), lambda: error(500), lambda: error(404)])
async def test_what_the_call_itself_has_earned_is_not_tried_elsewhere(make_stand: MakeStand, answer: Any) -> None:
    stand = two_keys(make_stand)
    await stand.ask(answer(), body=BODY)
    assert len(stand.upstream.sent) == 1


async def test_once_a_stream_has_begun_nothing_is_tried_again(make_stand: MakeStand) -> None:
    stand = two_keys(make_stand)
    exchange = await stand.ask(stream(chunk("Hi"), broken()), body=chat(max_tokens=CAP, stream=True))
    assert exchange.aborted
    assert len(stand.ends) == 1


# ---- nothing leaks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", ["requests", "concurrency"])
async def test_a_second_attempt_is_not_a_second_request(make_stand: MakeStand, unit: Any) -> None:
    by_model = LimitDef(id="by-model", unit=unit, amount=1, scope="model")
    stand = two_keys(make_stand, policy=Policy(limits=(by_model,)))
    assert (await stand.ask(error(429), ok(), body=BODY)).status == 200
    if unit == "requests":
        assert stand.tokens_taken(by_model, f"{stand.key.id}/{MODEL}") == 1


async def test_by_provider_key_each_attempt_counts_with_its_own(make_stand: MakeStand) -> None:
    by_key = LimitDef(id="by-key", unit="requests", amount=1, scope="provider_key")
    stand = two_keys(make_stand, policy=Policy(limits=(by_key,)))
    assert (await stand.ask(error(429), ok(), body=BODY)).status == 200
    assert [stand.tokens_taken(by_key, key.id) for key in TWO_KEYS] == [1, 1]


async def test_requests_of_what_was_never_sent_are_given_back(make_stand: MakeStand) -> None:
    rpm = LimitDef(id="rpm", unit="requests", amount=2)
    stand = two_keys(make_stand, policy=Policy(limits=(rpm,)))
    await stand.ask(unsent(), unsent(), body=BODY)
    assert stand.tokens_taken(rpm, stand.key.id) == 0
    await stand.ask(broken(), unsent(), body=BODY)
    assert stand.tokens_taken(rpm, stand.key.id) == 1


async def test_one_providers_quirks_do_not_follow_to_the_next(make_stand: MakeStand) -> None:
    quirky = provider("openai", quirks=frozenset({"max_tokens_only", "no_stream_options"}))
    stand = make_stand(**TWO_PROVIDERS | {"providers": [quirky, provider("second")]})
    body = chat(max_completion_tokens=50, stream=True)
    await stand.ask(error(429), whole_stream(), body=body)
    first, second = (sent.json for sent in stand.upstream.sent)
    assert first == chat(max_tokens=50, stream=True)
    assert second == body | {"stream_options": {"include_usage": True}}


async def test_each_provider_gets_its_own_name_for_the_model(make_stand: MakeStand) -> None:
    providers = [provider("openai", models=(), deployments={MODEL: MODEL}), provider("second")]
    stand = make_stand(**TWO_PROVIDERS | {"providers": providers})
    await stand.ask(error(429), ok(), body=chat(model=MODEL))
    assert [sent.json["model"] for sent in stand.upstream.sent] == [MODEL, MODEL]


# ---- what a hard budget asks of each ---------------------------------------------------------------------------------


def table(*prices: Any) -> Any:
    return price_table().with_overrides([*PRICES, *prices])


async def test_a_way_without_a_finite_ceiling_is_left_out(make_stand: MakeStand) -> None:
    """An image's tokens are bounded by the context window, which the first price does not know."""
    prices = table(override("openai", "seer-1", context_window=None), override("second", "seer-1"))
    stand = make_stand(**TWO_PROVIDERS, prices=prices, budgets=[budget(PLENTY)])
    image = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    body = chat(model="seer-1", max_tokens=CAP, messages=[{"role": "user", "content": [image]}])
    exchange = await stand.ask(ok(), body=body)
    assert exchange.status == 200
    assert used(stand) == ["sk-pk-second-1"]


async def test_where_no_way_has_one_the_call_is_refused(make_stand: MakeStand) -> None:
    stand = make_stand(**TWO_PROVIDERS, budgets=[budget(PLENTY)])
    exchange = await stand.ask(body=chat(max_tokens=CAP, brand_new=1))
    assert exchange.word == "unbounded_request"


async def test_a_way_without_a_price_is_left_out(make_stand: MakeStand) -> None:
    prices = table(override("openai", "rare-1"))
    stand = make_stand(**TWO_PROVIDERS, prices=prices, budgets=[budget(PLENTY)])
    exchange = await stand.ask(error(429), body=chat(model="rare-1", max_tokens=CAP))
    assert exchange.status == 429
    assert used(stand) == ["sk-pk-first-1"]


async def test_each_way_is_held_at_its_own_price(make_stand: MakeStand) -> None:
    prices = table(override("second", "m-2", input=3 * IN, output=2 * OUT), override("openai", "m-2"))
    stand = make_stand(**TWO_PROVIDERS, prices=prices, budgets=[budget(PLENTY)])
    body = chat(model="m-2", max_tokens=CAP)
    seen: list[int] = []
    stand.upstream.before = lambda: seen.append(stand.balance()[1])
    await stand.ask(unsent(), ok(), body=body)
    assert seen == [input_pico(body) + CAP * OUT, 3 * input_pico(body) + CAP * 2 * OUT]
    assert stand.balance() == (10 * 3 * IN + 2 * 2 * OUT, 0)


async def test_without_a_hard_budget_a_model_nobody_prices_costs_the_dearest(make_stand: MakeStand) -> None:
    stand = make_stand(budgets=[budget(PLENTY, hard=False)])
    await stand.ask(ok(), body=chat(model="unheard-of"))
    assert stand.post.cost_pico > COST


async def test_a_provider_without_any_price_is_free_and_says_so(make_stand: MakeStand) -> None:
    stand = make_stand(providers=[provider("local")], provider_keys=[provider_key("pk-local", "local/*/api/prod/*")])
    await stand.ask(ok(), body=chat(model="llama"))
    assert (stand.post.cost_pico, stand.post.exact) == (0, True)


async def test_the_dearest_may_be_assumed_under_a_hard_budget(make_stand: MakeStand) -> None:
    stand = make_stand(budgets=[budget(10**15)], policy=Policy(unpriced="assume_dearest"))
    exchange = await stand.ask(ok(), body=chat(model="unheard-of", max_tokens=20))
    assert exchange.status == 200
    assert stand.post.cost_pico > COST

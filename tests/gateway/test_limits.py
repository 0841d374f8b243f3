"""Rates and slots: a refused call burns nothing, a shadow refuses nothing, every path gives back what it took."""

from collections.abc import Callable
from typing import Any

import pytest

from bursar.core.directory import LimitDef, Mode, Policy
from bursar.core.errors import Refusal
from tests.gateway.answers import MODEL, broken, chat, completion, error, message, stream, unsent, usage, whole_stream
from tests.gateway.ground import PLENTY, TWO_KEYS, Stand, budget
from tests.gateway.test_refusals import Screen

MakeStand = Callable[..., Stand]

PER_MINUTE = LimitDef(id="rpm", unit="requests", amount=2)
SLOT = LimitDef(id="slots", unit="concurrency", amount=1)
TOKENS = LimitDef(id="tpm", unit="tokens", amount=100_000)


def limited(*limits: LimitDef, mode: Mode = "enforce", **more: Any) -> Policy:
    return Policy(limits=limits, modes={"limits": mode}, **more)


def ok() -> Any:
    return completion("Hi", usage(10, 2))


# ---- what a refused call costs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "asked",
    [
        {"body": b"{"},
        {"body": Refusal("request_timeout", "Too slow")},
        {"body": chat(model="forbidden")},
        {"body": chat(model="gpt-no-such", max_tokens=5)},
        {"body": chat(brand_new=1)},
        {"body": chat(max_tokens=10**8)},
    ],
)
async def test_a_refused_call_burns_no_requests(make_stand: MakeStand, asked: Any) -> None:
    policy = limited(PER_MINUTE, SLOT, TOKENS, models=(MODEL, "gpt-*"))
    stand = make_stand(policy=policy, budgets=[budget(10**10)])
    for _ in range(5):
        exchange = await stand.ask(**asked)
        assert exchange.word not in (None, "rate_limited", "concurrency_limited")
    assert stand.tokens_taken(PER_MINUTE, stand.key.id) == 0
    assert stand.tokens_taken(TOKENS, stand.key.id) == 0
    assert (await stand.ask(ok())).status == 200


async def test_a_screened_call_burns_no_requests(make_stand: MakeStand) -> None:
    stand = make_stand(policy=limited(PER_MINUTE))
    stand.node.screens = [Screen(Refusal("guard_blocked", "No"))]
    await stand.ask()
    assert stand.tokens_taken(PER_MINUTE, stand.key.id) == 0


async def test_a_call_whose_key_is_not_released_burns_no_requests(make_stand: MakeStand) -> None:
    stand = make_stand(policy=limited(PER_MINUTE, TOKENS))
    stand.releases.refusal = Refusal("audit_unavailable", "No")
    await stand.ask()
    assert stand.tokens_taken(PER_MINUTE, stand.key.id) == 0
    assert stand.tokens_taken(TOKENS, stand.key.id) == 0


@pytest.mark.parametrize("answer", [ok, lambda: error(500), lambda: error(400), broken, whole_stream])
async def test_what_was_sent_counts(make_stand: MakeStand, answer: Any) -> None:
    stand = make_stand(policy=limited(PER_MINUTE))
    await stand.ask(answer(), body=chat(stream=True))
    assert stand.tokens_taken(PER_MINUTE, stand.key.id) == 1


async def test_a_limit_is_kept_and_says_when_to_come_back(make_stand: MakeStand) -> None:
    stand = make_stand(policy=limited(PER_MINUTE))
    for _ in range(2):
        assert (await stand.ask(ok())).status == 200
    exchange = await stand.ask()
    assert (exchange.status, exchange.word, exchange.header("retry-after")) == (429, "rate_limited", "30")
    assert "'rpm' allows 2 requests per 60 s" in exchange.json["error"]["message"]
    assert exchange.json["bursar"]["facts"] == {"limit": "rpm", "unit": "requests", "amount": 2}
    stand.clock.advance(30)
    assert (await stand.ask(ok())).status == 200


# ---- slots -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer", [ok, whole_stream, lambda: stream(broken()), broken, unsent, lambda: error(500), lambda: error(401)]
)
async def test_a_slot_is_free_again_whatever_happened(make_stand: MakeStand, answer: Any) -> None:
    stand = make_stand(policy=limited(SLOT))
    for _ in range(3):
        exchange = await stand.ask(answer(), body=chat(stream=True))
        assert exchange.word != "concurrency_limited"


async def test_a_second_call_in_flight_is_refused(make_stand: MakeStand) -> None:
    stand = make_stand(policy=limited(SLOT))
    inside: list[Any] = []
    stand.upstream.before = lambda: inside.append(stand.rates._in_flight.copy())
    await stand.ask(ok())
    ((taken,),) = [seen.values() for seen in inside]
    assert taken == 1
    stand.rates.arrive(stand.node.tenants.current(plan_of(stand)).arrival_bounds("").enforced, 1000.0, 99)
    exchange = stand.exchange()
    await stand.pipeline.serve(exchange)
    assert (exchange.status, exchange.word, exchange.header("retry-after")) == (429, "concurrency_limited", "1")
    assert "1 calls in flight" in exchange.json["error"]["message"]
    stand.rates.release(99)


def plan_of(stand: Stand) -> Any:
    (found,) = stand.node.tenants.by_digest.values()
    return found.plan


# ---- tokens ----------------------------------------------------------------------------------------------------------


async def test_tokens_are_settled_by_what_was_used(make_stand: MakeStand) -> None:
    stand = make_stand(policy=limited(TOKENS))
    seen: list[float] = []
    stand.upstream.before = lambda: seen.append(stand.tokens_taken(TOKENS, stand.key.id))
    await stand.ask(completion("Hi", usage(40, 20)), body=chat(max_tokens=1000))
    assert seen[0] > 300  # as expected of it
    assert stand.tokens_taken(TOKENS, stand.key.id) == 60


@pytest.mark.parametrize("answer", [unsent, lambda: error(400)])
async def test_tokens_of_what_was_not_run_are_given_back(make_stand: MakeStand, answer: Any) -> None:
    stand = make_stand(policy=limited(TOKENS))
    await stand.ask(answer())
    assert stand.tokens_taken(TOKENS, stand.key.id) == 0


async def test_tokens_without_usage_stay_as_expected(make_stand: MakeStand) -> None:
    stand = make_stand(policy=limited(TOKENS))
    seen: list[float] = []
    stand.upstream.before = lambda: seen.append(stand.tokens_taken(TOKENS, stand.key.id))
    await stand.ask(completion("Hi"))
    assert stand.tokens_taken(TOKENS, stand.key.id) == seen[0] > 0


async def test_tokens_are_given_back_when_money_refuses(make_stand: MakeStand) -> None:
    by_model = LimitDef(id="rpm-model", unit="requests", amount=5, scope="model")
    stand = make_stand(policy=limited(TOKENS, by_model), budgets=[budget(5)])
    assert (await stand.ask()).word == "can_never_fit"
    assert stand.tokens_taken(TOKENS, stand.key.id) == 0
    assert stand.tokens_taken(by_model, f"{stand.key.id}/{MODEL}") == 0


# ---- shadow ----------------------------------------------------------------------------------------------------------


async def test_a_limit_in_shadow_refuses_nothing_and_is_counted(make_stand: MakeStand) -> None:
    stand = make_stand(policy=limited(LimitDef(id="rpm", unit="requests", amount=1), mode="shadow"))
    for _ in range(3):
        assert (await stand.ask(ok())).status == 200
    assert stand.count("bursar_shadow_total", team="team-1", control="limits", word="rate_limited") == 2


async def test_slots_in_shadow_are_taken_and_given_back(make_stand: MakeStand) -> None:
    stand = make_stand(policy=limited(SLOT, mode="shadow"))
    seen: list[int] = []
    stand.upstream.before = lambda: seen.append(len(stand.rates._in_flight))
    for _ in range(3):
        await stand.ask(ok())
    assert seen == [1, 1, 1]
    assert stand.count("bursar_shadow_total") == 0


async def test_tokens_in_shadow_are_settled_too(make_stand: MakeStand) -> None:
    stand = make_stand(policy=limited(TOKENS, mode="shadow"))
    await stand.ask(completion("Hi", usage(40, 20)))
    assert stand.tokens_taken(TOKENS, stand.key.id, shadow=True) == 60
    await stand.ask(unsent())
    assert stand.tokens_taken(TOKENS, stand.key.id, shadow=True) == 60


async def test_tokens_in_shadow_that_would_refuse_take_nothing(make_stand: MakeStand) -> None:
    none = LimitDef(id="tpm", unit="tokens", amount=0)
    stand = make_stand(policy=limited(none, mode="shadow"), budgets=[budget(5)])
    assert (await stand.ask()).word == "can_never_fit"
    assert stand.count("bursar_shadow_total", control="limits", word="rate_limited") == 1


async def test_a_refused_call_gives_its_shadow_requests_back(make_stand: MakeStand) -> None:
    stand = make_stand(policy=limited(PER_MINUTE, SLOT, TOKENS, mode="shadow"), budgets=[budget(5)])
    for _ in range(5):
        assert (await stand.ask()).word == "can_never_fit"
    assert stand.tokens_taken(PER_MINUTE, stand.key.id) == 0
    assert stand.tokens_taken(TOKENS, stand.key.id) == 0
    assert stand.count("bursar_shadow_total") == 0


async def test_limits_that_are_off_count_nothing(make_stand: MakeStand) -> None:
    stand = make_stand(policy=limited(LimitDef(id="rpm", unit="requests", amount=0), mode="off"))
    assert (await stand.ask(ok())).status == 200
    assert stand.count("bursar_shadow_total") == 0


async def test_a_budget_in_shadow_refuses_nothing_and_is_counted(make_stand: MakeStand) -> None:
    stand = make_stand(budgets=[budget(5, mode="shadow")])
    assert (await stand.ask(ok())).status == 200
    assert stand.count("bursar_shadow_total", control="budgets", rule="b") == 1
    assert stand.balance() == (18_000, 0)


@pytest.mark.parametrize(
    ("policy", "control"),
    [
        (Policy(models=("other",), modes={"models": "shadow"}), "models"),
        (Policy(max_prompt_chars=1, modes={"prompt": "shadow"}), "prompt"),
        (Policy(max_tokens_cap=5, modes={"max_tokens": "shadow"}), "max_tokens"),
    ],
)
async def test_a_policy_in_shadow_refuses_nothing_and_is_counted(
    make_stand: MakeStand, policy: Policy, control: str
) -> None:
    stand = make_stand(policy=policy)
    exchange = await stand.ask(ok(), body=chat(max_tokens=50))
    assert exchange.status == 200
    assert stand.upstream.sent[0].json["max_tokens"] == 50
    assert stand.count("bursar_shadow_total", team="team-1", control=control) == 1


# ---- by provider key -------------------------------------------------------------------------------------------------


async def test_a_limit_by_provider_key_counts_by_provider_key(make_stand: MakeStand) -> None:
    by_key = LimitDef(id="rpm-key", unit="requests", amount=1, scope="provider_key")
    stand = make_stand(team_policy=limited(by_key))
    assert (await stand.ask(ok())).status == 200
    assert stand.tokens_taken(by_key, "pk-openai") == 1
    assert (await stand.ask()).word == "rate_limited"
    answer = completion("", None)
    answer.script = [b'{"content":[],"usage":{"input_tokens":1,"output_tokens":0}}']
    assert (await stand.ask(answer, path="/v1/messages", body=message())).status == 200
    assert stand.tokens_taken(by_key, "pk-anthropic") == 1


async def test_a_slot_by_provider_key_is_free_again(make_stand: MakeStand) -> None:
    by_key = LimitDef(id="slots-key", unit="concurrency", amount=1, scope="provider_key")
    stand = make_stand(team_policy=limited(by_key))
    for _ in range(3):
        assert (await stand.ask(ok())).status == 200


async def test_a_budget_on_a_provider_key_is_held_and_posted(make_stand: MakeStand) -> None:
    stand = make_stand(budgets=[budget(PLENTY, "b", "provider_key", "pk-openai")])
    seen: list[tuple[int, int]] = []
    stand.upstream.before = lambda: seen.append(stand.balance())
    await stand.ask(ok(), body=chat(max_tokens=10))
    assert seen[0][1] > 0
    assert stand.balance() == (18_000, 0)


async def test_a_hard_budget_on_one_key_alone_asks_for_a_price(make_stand: MakeStand) -> None:
    """The policy lets the unpriced model pass; the budget of the key that would serve it does not."""
    stand = make_stand(
        budgets=[budget(PLENTY, "b", "provider_key", key.id) for key in TWO_KEYS[:1]], provider_keys=TWO_KEYS
    )
    exchange = await stand.ask(ok(), body=chat(model="unheard-of"))
    assert exchange.status == 200
    assert stand.upstream.sent[0].headers["authorization"] == "Bearer sk-pk-b-1"


async def test_a_hard_budget_on_every_key_refuses_an_unpriced_model(make_stand: MakeStand) -> None:
    stand = make_stand(budgets=[budget(PLENTY, "b", "provider_key", "pk-openai")])
    assert (await stand.ask(body=chat(model="unheard-of"))).word == "unpriced_model"


# ---- users -----------------------------------------------------------------------------------------------------------


async def test_a_user_has_a_counter_of_his_own(make_stand: MakeStand) -> None:
    by_user = LimitDef(id="rpm-user", unit="requests", amount=1, scope="user")
    stand = make_stand(policy=limited(by_user, user_header="X-User"))
    for user in ("ann", "bob"):
        assert (await stand.ask(ok(), headers={"x-user": user})).status == 200
        assert (await stand.ask(headers={"x-user": user})).word == "rate_limited"

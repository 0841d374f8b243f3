"""What the gateway puts on record: of every refusal all that was asked with its numbers, of a flood only so much."""

from collections.abc import Callable
from typing import Any

import pytest

from bursar.core.decisions import Decision, RuleAsked, decode, number
from bursar.core.directory import LimitDef, Policy
from bursar.core.errors import Refusal
from bursar.gateway import explain as stage
from bursar.gateway.decisions import Decisions
from tests.gateway.answers import IN, MODEL, OUT, ceiling_of, chat, chunk, completion, error, stream, usage
from tests.gateway.ground import PLENTY, Stand, budget
from tests.gateway.test_refusals import Screen

MakeStand = Callable[..., Stand]
CANARY = "the-text-of-a-prompt-0123456789"
PER_MINUTE = LimitDef(id="rpm", unit="requests", amount=2)
TOKENS = LimitDef(id="tpm", unit="tokens", amount=100)
SLOTS = LimitDef(id="slots", unit="concurrency", amount=1)


def recorded(stand: Stand) -> list[Decision]:
    """What control would get now."""
    batch = stand.node.decisions.next(stand.clock.now(), 1)
    if batch is None:
        return []
    stand.node.decisions.taken(batch.number)
    return [decode(record) for record in batch.records]


def only(stand: Stand) -> Decision:
    (found,) = recorded(stand)
    return found


def by_name(decision: Decision) -> dict[str, RuleAsked]:
    return {rule.rule: rule for rule in decision.rules}


# ---- what a record says ----------------------------------------------------------------------------------------------


async def test_a_budget_that_refuses_is_told_with_all_others(make_stand: MakeStand) -> None:
    body = chat(max_tokens=100)
    policy = Policy(limits=(PER_MINUTE,), models=("plain-*",), max_tokens_cap=500)
    budgets = [budget(PLENTY), budget(10**5, "small", "key", "", hard=True), budget(PLENTY, "soft", hard=False)]
    stand = make_stand(policy=policy)
    stand.snapshot.budgets[:] = [budgets[0], budget(10**5, "small", "key", stand.key.id), budgets[2]]
    stand.node.tenants.replace(stand.snapshot)
    exchange = await stand.ask(body=body)
    assert exchange.word == "can_never_fit"
    told = only(stand)
    assert told.request_id == exchange.header("x-bursar-request-id")
    assert (told.outcome, told.status, told.word) == ("refused", 402, "can_never_fit")
    assert (told.key_id, told.team_id, told.owner_id) == (stand.key.id, "team-1", "owner-1")
    assert told.ceiling_pico == ceiling_of(body, 100)
    assert 0 < number(told.expected_pico) < number(told.ceiling_pico)
    assert told.call is not None
    assert (told.call.model, told.call.max_tokens, told.model) == (MODEL, 100, MODEL)
    rules = by_name(told)
    assert list(rules) == ["alive", "rpm", "models", "max_tokens_cap", "small", "b", "soft"]
    assert told.binding is rules["small"]
    small = rules["small"]
    assert (small.limit, small.used, small.held, small.left) == (10**5, 0, 0, 10**5)
    assert (small.asked, small.word, small.subject) == (ceiling_of(body, 100), "can_never_fit", f"key/{stand.key.id}")
    assert rules["b"].asked == ceiling_of(body, 100)
    assert rules["soft"].asked == told.expected_pico
    assert (rules["rpm"].limit, rules["rpm"].left, rules["rpm"].asked) == (2, 2, 1)
    assert (rules["max_tokens_cap"].limit, rules["max_tokens_cap"].asked) == (500, 100)


@pytest.mark.parametrize(
    ("method", "path", "route"),
    [
        ("POST", "/v1/chat/completions", "chat"),
        ("POST", "/v1/messages", "messages"),
        ("GET", f"/v1/responses/{CANARY}", "responses"),
        ("POST", f"/v1/{CANARY}", ""),
    ],
)
async def test_the_route_is_on_record_before_the_body_is_understood(
    make_stand: MakeStand, method: str, path: str, route: str
) -> None:
    stand = make_stand()
    exchange = await stand.ask(method=method, path=path, body=b"{")
    assert exchange.status >= 400
    told = only(stand)
    assert (told.route, told.call) == (route, None)
    assert CANARY not in told.route


async def test_a_rate_that_refuses_says_when_to_come_back(make_stand: MakeStand) -> None:
    stand = make_stand(policy=Policy(limits=(PER_MINUTE,)))
    for _ in range(2):
        await stand.ask(completion("Hi", usage(10, 2)))
    recorded(stand)
    exchange = await stand.ask()
    assert exchange.word == "rate_limited"
    told = only(stand)
    assert told.binding is not None
    assert (told.binding.rule, told.binding.left, told.binding.used, told.binding.asked) == ("rpm", 0, 2, 1)
    assert told.binding.resets_ns is not None
    assert round((told.binding.resets_ns - stand.clock.now()) / 10**9, 3) == 30
    assert told.call is None
    assert [rule.rule for rule in told.rules] == ["alive", "rpm"]


async def test_tokens_that_refuse_are_asked_after_the_policy(make_stand: MakeStand) -> None:
    stand = make_stand(policy=Policy(limits=(PER_MINUTE, TOKENS), models=(MODEL,)), budgets=[budget(PLENTY)])
    await stand.ask(completion("Hi", usage(90, 5)), body=chat(max_tokens=20))
    recorded(stand)
    exchange = await stand.ask(body=chat(max_tokens=20))
    assert exchange.word == "rate_limited"
    told = only(stand)
    assert [rule.rule for rule in told.rules] == ["alive", "rpm", "models", "tpm"]
    assert told.binding is not None
    assert told.binding.unit == "tokens"
    assert number(told.binding.left) == 5
    assert number(told.binding.asked) > 5


@pytest.mark.parametrize(
    ("policy", "body", "word", "control"),
    [
        (Policy(models=("other-*",)), chat(), "model_not_allowed", "models"),
        (Policy(purposes=("embedding",)), chat(), "purpose_not_allowed", "purposes"),
        (Policy(max_prompt_chars=2), chat(), "prompt_too_large", "prompt"),
        (Policy(max_tokens_cap=5, over_max_tokens="refuse"), chat(max_tokens=6), "max_tokens_exceeded", "max_tokens"),
        (Policy(user_header="x-user"), chat(), "user_required", "user"),
        (Policy(networks=("10.0.0.0/8",)), chat(), "network_not_allowed", "networks"),
        (Policy(unpriced="refuse"), chat(model="gpt-unheard-of"), "unpriced_model", "unpriced"),
    ],
)
async def test_a_policy_that_refuses_is_the_binding_rule(
    make_stand: MakeStand, policy: Policy, body: Any, word: str, control: str
) -> None:
    stand = make_stand(policy=policy)
    exchange = await stand.ask(body=body)
    assert exchange.word == word
    told = only(stand)
    assert told.binding is not None
    assert (told.binding.control, told.binding.word) == (control, word)
    assert told.rules[-1] is told.binding  # nothing is asked after it
    assert told.message
    assert told.key_id == stand.key.id


async def test_a_key_that_is_off_is_told_by_its_id(make_stand: MakeStand) -> None:
    stand = make_stand()
    stand.snapshot.keys[0] = stand.key.__class__(**{**_fields(stand.key), "disabled": True})
    stand.node.tenants.replace(stand.snapshot)
    assert (await stand.ask()).word == "key_disabled"
    told = only(stand)
    assert (told.key_id, told.team_id) == (stand.key.id, "team-1")
    assert told.binding is not None
    assert told.binding.control == "key"


def _fields(struct: Any) -> dict[str, Any]:
    return {name: getattr(struct, name) for name in struct.__struct_fields__}


async def test_without_a_key_only_the_word_is_known(make_stand: MakeStand) -> None:
    stand = make_stand()
    assert (await stand.ask(headers={"authorization": ""})).word == "key_missing"
    told = only(stand)
    assert (told.word, told.key_id, told.rules) == ("key_missing", "", ())


async def test_an_unbounded_call_binds_at_the_hard_budget(make_stand: MakeStand) -> None:
    stand = make_stand(budgets=[budget(PLENTY), budget(PLENTY, "soft", hard=False)])
    assert (await stand.ask(body=chat(brand_new=1))).word == "unbounded_request"
    told = only(stand)
    assert told.binding is not None
    assert (told.binding.rule, told.binding.says) == ("b", "hard")


async def test_what_a_provider_refuses_or_breaks_is_a_failure(make_stand: MakeStand) -> None:
    stand = make_stand(budgets=[budget(PLENTY)])
    await stand.ask(error(500))
    told = only(stand)
    assert (told.outcome, told.word, told.binding) == ("failed", "upstream_error", None)
    assert by_name(told)["b"].verdict == "allows"


async def test_a_cut_stream_is_on_record(make_stand: MakeStand) -> None:
    stand = make_stand(budgets=[budget(PLENTY)])
    await stand.ask(stream(*[chunk("x" * 2000) for _ in range(5)]), body=chat(max_tokens=10, stream=True))
    told = only(stand)
    assert (told.outcome, told.status, told.max_tokens_applied) == ("cut", 200, None)
    assert told.output_cap == 10
    assert number(told.cost_pico) > 0


async def test_an_ordinary_call_is_on_record_while_there_is_room(make_stand: MakeStand) -> None:
    stand = make_stand(policy=Policy(max_tokens_cap=50), budgets=[budget(PLENTY)])
    stand.node.decisions.ordinary_left = 1
    await stand.ask(completion("Hi", usage(10, 2)), body=chat(max_tokens=90))
    await stand.ask(completion("Hi", usage(10, 2)), body=chat(max_tokens=90))
    told = only(stand)
    assert told.ordinary
    assert (told.outcome, told.cost_pico) == ("allowed", 10 * IN + 2 * OUT)
    assert (told.input_tokens, told.output_tokens) == (10, 2)
    assert by_name(told)["max_tokens_cap"].verdict == "clamps"
    assert (told.max_tokens_applied, told.output_cap) == (50, 50)


# ---- shadow ----------------------------------------------------------------------------------------------------------


async def test_rules_in_shadow_tell_what_they_would_have_saved(make_stand: MakeStand) -> None:
    policy = Policy(
        limits=(LimitDef(id="rpm", unit="requests", amount=1), LimitDef(id="tpm", unit="tokens", amount=1)),
        models=("nothing-*",),
        max_tokens_cap=10,
        modes={"limits": "shadow", "models": "shadow", "max_tokens": "shadow"},
    )
    shadow = budget(10**5, "tiny", mode="shadow")
    stand = make_stand(policy=policy, budgets=[budget(PLENTY), shadow])
    answer = completion("Hi", usage(100, 30))
    for _ in range(2):
        assert (await stand.ask(answer, body=chat(max_tokens=1000))).status == 200
        answer = completion("Hi", usage(100, 30))
    batch = stand.node.decisions.next(stand.clock.now(), 1)
    assert batch is not None
    first, second = (decode(record) for record in batch.records)
    cost = 100 * IN + 30 * OUT
    said = {rule.rule: (rule.verdict, rule.word, rule.saved_pico) for rule in second.shadowed}
    assert said == {
        "rpm": ("refuses", "rate_limited", cost),
        "tpm": ("refuses", "rate_limited", cost),
        "models": ("refuses", "model_not_allowed", cost),
        "max_tokens_cap": ("clamps", "", 20 * OUT),
        "tiny": ("refuses", "can_never_fit", cost),
    }
    assert "rpm" not in {rule.rule for rule in first.shadowed}
    assert second.outcome == "allowed"
    assert not second.ordinary
    tiny = by_name(second)["tiny"]
    assert (tiny.limit, tiny.used, tiny.asked, tiny.mode) == (10**5, cost, second.ceiling_pico, "shadow")
    sums = {it.rule: (it.calls, it.saved_pico, it.cost_pico, it.ceiling_pico) for it in batch.sums}
    ceilings = 2 * number(second.ceiling_pico)
    assert sums["models"] == (2, 2 * cost, 2 * cost, ceilings)
    assert sums["rpm"][0] == 1
    assert sums["max_tokens_cap"][:2] == (2, 40 * OUT)


async def test_sums_of_shadow_are_exact_where_records_have_no_room(make_stand: MakeStand) -> None:
    stand = make_stand(policy=Policy(models=("nothing-*",), modes={"models": "shadow"}))
    stand.node.decisions = Decisions("s", refused=3)
    for _ in range(10):
        await stand.ask(completion("Hi", usage(10, 2)))
    batch = stand.node.decisions.next(stand.clock.now(), 1)
    assert batch is not None
    assert len(batch.records) == 3
    (models,) = batch.sums
    assert (models.calls, models.saved_pico) == (10, 10 * (10 * IN + 2 * OUT))
    assert [(it.key_id, it.why, it.count) for it in batch.dropped] == [(stand.key.id, "flood", 7)]


async def test_a_call_that_is_refused_anyway_saves_nothing_in_shadow(make_stand: MakeStand) -> None:
    policy = Policy(limits=(PER_MINUTE,), models=("nothing-*",), modes={"models": "shadow"})
    stand = make_stand(policy=policy, budgets=[budget(1)])
    assert (await stand.ask()).word == "can_never_fit"
    told = only(stand)
    assert told.outcome == "refused"
    assert [(rule.rule, rule.saved_pico) for rule in told.shadowed] == [("models", 0)]


# ---- bounds ----------------------------------------------------------------------------------------------------------


async def test_a_flood_is_recorded_up_to_its_bound_and_counted_beyond(make_stand: MakeStand) -> None:
    stand = make_stand(budgets=[budget(1)])
    for _ in range(50):
        await stand.ask()
    batch = stand.node.decisions.next(stand.clock.now(), 1)
    assert batch is not None
    assert len(batch.records) == 20
    assert sum(it.count for it in batch.dropped) == 30
    stand.node.decisions.beat()
    await stand.ask()
    stand.node.decisions.taken(batch.number)
    only(stand)


def test_all_keys_together_are_bounded() -> None:
    decisions = Decisions("s", refused=20, in_all=50)
    made = sum(decisions.has_room(f"k{i % 10}") for i in range(1000))
    assert made == 50
    batch = decisions.next(0, 1)
    assert batch is not None
    assert sum(it.count for it in batch.dropped) == 950


def test_while_control_is_away_memory_is_bounded_and_what_is_lost_is_counted() -> None:
    decisions = Decisions("s")
    for i in range(20_000):
        decisions.put(f"key {i}", b"x" * 1000)
    sent = []
    while (batch := decisions.next(0, 1)) is not None:
        sent.append(batch)
        decisions.taken(batch.number)
    assert sum(len(record) for batch in sent for record in batch.records) <= 8 << 20
    assert all(sum(map(len, batch.records)) <= 2 << 20 for batch in sent)
    dropped = [it for batch in sent for it in batch.dropped]
    assert sum(it.count for it in dropped) == 20_000 - sum(len(batch.records) for batch in sent)
    assert {it.why for it in dropped} == {"buffer"}
    assert len(dropped) <= 1001


def test_a_batch_is_sent_once_a_connection_until_it_is_taken() -> None:
    decisions = Decisions("s")
    decisions.put("k", b"1")
    batch = decisions.next(0, 1)
    assert batch is not None
    decisions.put("k", b"2")
    assert decisions.next(0, 1) is None
    assert decisions.next(0, 2) is batch  # the connection broke: control knows by its number whether it came
    decisions.taken(batch.number - 1)
    assert decisions.next(0, 2) is None
    decisions.taken(batch.number)
    following = decisions.next(0, 2)
    assert following is not None
    assert (following.number, following.records) == (batch.number + 1, [b"2"])


async def test_a_fault_of_ours_costs_the_record_and_nothing_else(
    make_stand: MakeStand, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stand = make_stand(budgets=[budget(1)])

    def fails(*_: object) -> Any:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(stage, "_decision", fails)
    exchange = await stand.ask()
    assert exchange.status == 402
    batch = stand.node.decisions.next(0, 1)
    assert batch is not None
    assert [it.why for it in batch.dropped] == ["fault"]
    assert "a fault of ours" in caplog.text


# ---- secrets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("screened", [True, False])
@pytest.mark.parametrize(
    ("body", "path"),
    [
        (chat(messages=[{"role": "user", "content": CANARY}]), "/v1/chat/completions"),
        (chat(messages=[{"role": "user", "content": CANARY}], **{CANARY: 1}), "/v1/chat/completions"),
        (chat(messages=CANARY), "/v1/chat/completions"),
        (f'{{"model": "{CANARY}'.encode(), "/v1/chat/completions"),
        (chat(tools=[{"type": CANARY}], service_tier=CANARY[:40] * 3), "/v1/chat/completions"),
        (chat(), f"/v1/{CANARY}"),
        (chat(), f"/openai/deployments/{CANARY}/chat/completions"),
        (chat(model=CANARY), "/openai/v1/chat/completions"),
    ],
)
async def test_no_text_of_a_prompt_is_on_record(make_stand: MakeStand, body: Any, path: str, screened: bool) -> None:
    stand = make_stand(policy=Policy(max_prompt_chars=10 if screened else None), budgets=[budget(PLENTY)])
    if screened:
        stand.node.screens = [Screen(Refusal("guard_blocked", f"It says {CANARY}", CANARY, facts={"found": CANARY}))]
    await stand.ask(completion(CANARY, usage(3, 4)), body=body, path=path)
    batch = stand.node.decisions.next(0, 1)
    assert batch is not None
    (record,) = batch.records
    assert CANARY.encode() not in record
    assert stand.key_text.encode() not in record

"""`POST /v1/estimate` says what the call right after meets, and leaves nothing behind."""

import asyncio
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bursar.core.directory import LimitDef, Policy
from bursar.core.errors import Refusal
from tests.gateway.answers import CLAUDE, IN, MODEL, OUT, chat, completion, message, usage
from tests.gateway.ground import PLENTY, Stand, budget
from tests.gateway.test_refusals import Screen

MakeStand = Callable[..., Stand]
PATHS = {"/v1/chat/completions": "/v1/estimate/chat/completions", "/v1/messages": "/v1/estimate/messages"}
WHOLE = "/v1/estimate/chat/completions"


async def estimated(stand: Stand, path: str = WHOLE, **asked: Any) -> dict[str, Any]:
    exchange = await stand.ask(path=path, **asked)
    assert exchange.status == 200, exchange.sent
    found: dict[str, Any] = json.loads(exchange.sent)
    return found


def ok() -> Any:
    return completion("Hi", usage(10, 2))


def a_state(stand: Stand) -> Any:
    """All that a call may change: counters of rates, balances, holds, what is recorded."""
    taken = {key: at for key, at in stand.rates._full_at.items() if at > stand.clock.monotonic() + 1e-6}
    return taken, stand.journal.balances(), stand.ends, stand.count("bursar_shadow_total"), len(stand.upstream.sent)


# ---- what it tells ---------------------------------------------------------------------------------------------------


async def test_tokens_cost_and_the_rule_that_is_nearest(make_stand: MakeStand) -> None:
    stand = make_stand(budgets=[budget(PLENTY), budget(10 * PLENTY, "wide")])
    told = await estimated(stand, body=chat(max_tokens=100))
    assert told["decision"] == "run"
    assert told["refusal"] is None
    for side in ("input", "output"):
        tokens = told["tokens"][side]
        assert tokens["expected"] <= tokens["p95"] <= tokens["ceiling"]
    assert told["tokens"]["output"]["ceiling"] == 100
    cost = told["cost"]
    assert int(cost["expected_pico"]) <= int(cost["p95_pico"]) <= int(cost["worst_pico"])
    assert int(cost["worst_pico"]) == told["tokens"]["input"]["ceiling"] * IN + 100 * OUT
    assert told["binding"]["rule"] == "b"
    assert told["binding"]["asked"] == cost["worst_pico"]
    assert told["candidates"] == [MODEL]
    assert told["clamps"] == []


async def test_a_refusal_is_an_answer_with_its_numbers(make_stand: MakeStand) -> None:
    stand = make_stand(budgets=[budget(5)])
    told = await estimated(stand, body=chat(max_tokens=100))
    assert (told["decision"], told["refusal"]["word"]) == ("refuse", "can_never_fit")
    assert told["refusal"]["hint"]
    assert told["refusal"]["facts"]["limit_pico"] == "5"
    assert (told["binding"]["rule"], told["binding"]["verdict"], told["binding"]["limit"]) == ("b", "refuses", "5")
    assert told["cost"]["worst_pico"] == told["refusal"]["facts"]["asked_pico"]


async def test_what_policy_would_change(make_stand: MakeStand) -> None:
    stand = make_stand(policy=Policy(max_tokens_cap=50, stop=("END",)), budgets=[budget(PLENTY)])
    told = await estimated(stand, body=chat(max_tokens=100))
    assert {"field": "max_tokens", "asked": 100, "applied": 50, "by": "policy"} in told["clamps"]
    assert {"field": "stop", "asked": None, "applied": ["END"], "by": "policy"} in told["clamps"]


async def test_what_a_budget_would_change(make_stand: MakeStand) -> None:
    worst = int(
        (await estimated(make_stand(budgets=[budget(PLENTY)]), body=chat(max_tokens=100)))["cost"]["worst_pico"]
    )
    stand = make_stand(policy=Policy(shrink_to_budget=True), budgets=[budget(worst - 40 * OUT)])
    told = await estimated(stand, body=chat(max_tokens=100))
    assert told["decision"] == "run"
    assert [(it["applied"], it["by"]) for it in told["clamps"]] == [(60, "budget")]
    assert int(told["cost"]["worst_pico"]) == worst - 40 * OUT
    assert (await stand.ask(ok(), body=chat(max_tokens=100))).header("x-bursar-max-tokens-applied") == "60"


async def test_of_a_message_by_path_or_by_the_version_header(make_stand: MakeStand) -> None:
    stand = make_stand(budgets=[budget(PLENTY)])
    by_path = await estimated(stand, "/v1/estimate/messages", body=message())
    by_header = await estimated(stand, "/v1/estimate", body=message(), headers={"anthropic-version": "2023-06-01"})
    assert by_path["model"] == by_header["model"] == CLAUDE
    assert by_path["cost"] == by_header["cost"]
    bare = await estimated(stand, "/v1/estimate", body=chat())
    assert bare["model"] == MODEL


async def test_what_was_learned_is_told(make_stand: MakeStand) -> None:
    stand = make_stand(budgets=[budget(PLENTY)])
    before = await estimated(stand, body=chat())
    assert before["tokens"]["learned_from"] == {"input": 0, "output": 0}
    for _ in range(20):
        await stand.ask(completion("Hi", usage(10, 2)), body=chat())
    after = await estimated(stand, body=chat())
    assert after["tokens"]["learned_from"]["output"] == 20
    assert after["tokens"]["output"]["expected"] < before["tokens"]["output"]["expected"]
    assert after["cost"]["worst_pico"] == before["cost"]["worst_pico"]


# ---- what it leaves --------------------------------------------------------------------------------------------------


async def test_nothing_is_held_sent_or_counted(make_stand: MakeStand) -> None:
    limits = (
        LimitDef(id="rpm", unit="requests", amount=1, per_seconds=60),
        LimitDef(id="slots", unit="concurrency", amount=1),
        LimitDef(id="tpm", unit="tokens", amount=100_000),
        LimitDef(id="tried", unit="requests", amount=0, mode="shadow"),
        LimitDef(id="by model", unit="requests", amount=1, scope="model"),
    )
    stand = make_stand(policy=Policy(limits=limits), budgets=[budget(PLENTY), budget(1, "s", mode="shadow")])
    before = a_state(stand)
    for _ in range(5):
        told = await estimated(stand, body=chat())
        assert told["decision"] == "run"
        assert {rule["rule"] for rule in told["shadow"]} == {"tried"}
        assert a_state(stand) == before
    assert (await stand.ask(ok(), body=chat())).status == 200
    told = await estimated(stand, body=chat())
    assert (told["decision"], told["refusal"]["word"]) == ("refuse", "rate_limited")
    assert told["binding"]["rule"] == "rpm"
    assert (await stand.ask(body=chat())).word == "rate_limited"


async def test_it_is_no_free_oracle(make_stand: MakeStand) -> None:
    stand = make_stand(budgets=[budget(PLENTY)])
    answers = [await stand.ask(path=WHOLE, body=chat()) for _ in range(101)]
    assert {answer.status for answer in answers[:100]} == {200}
    assert (answers[100].status, answers[100].word) == (429, "rate_limited")
    assert "estimates" in answers[100].sent.decode()
    assert (await stand.ask(ok(), body=chat())).status == 200, "a call has its own limits"
    stand.clock.advance(1)
    assert (await stand.ask(path=WHOLE, body=chat())).status == 200


@pytest.mark.parametrize("body", [b"{", b"[]", {"model": "m"}, Refusal("request_timeout", "Too slow")])
async def test_a_body_that_no_call_could_have_is_refused_as_a_call_is(make_stand: MakeStand, body: Any) -> None:
    stand = make_stand(budgets=[budget(PLENTY)])
    asked, called = await stand.ask(path=WHOLE, body=body), await stand.ask(body=body)
    assert (asked.status, asked.word) == (called.status, called.word)
    assert asked.word is not None


async def test_it_holds_no_slot_that_calls_could_have(make_stand: MakeStand) -> None:
    """However long its body is understood, screened, or its money looked at: slots of the node are everybody's."""
    limits = (
        LimitDef(id="slots", unit="concurrency", amount=1, scope="node"),
        LimitDef(id="of model", unit="concurrency", amount=1, scope="model"),
        LimitDef(id="tried", unit="concurrency", amount=1, mode="shadow"),
        LimitDef(id="rpm", unit="requests", amount=1, scope="node"),
    )
    stand = make_stand(policy=Policy(limits=limits), budgets=[budget(PLENTY)])
    seen: list[int] = []

    class Looking(Screen):
        def look(self, call: Any, content: Any) -> None:
            seen.append(sum(stand.rates._in_flight.values()))

    looking, tried = Looking(Refusal("guard_blocked", "No")), stand.journal.try_hold

    async def try_hold(request: Any) -> None:
        looking.look(None, ())
        await tried(request)

    stand.node.screens = [looking]
    stand.journal.try_hold = try_hold  # type: ignore[method-assign]
    for body in (chat(), chat(messages=[{"role": "user", "content": "x" * 300_000}])):
        assert (await estimated(stand, body=body))["decision"] == "run"
    assert seen == [0, 0, 0, 0]
    assert (await stand.ask(ok(), body=chat())).status == 200
    assert seen[4:] == [2], "a call holds its own"


async def test_without_a_key_nobody_is_told_anything(make_stand: MakeStand) -> None:
    stand = make_stand()
    exchange = await stand.ask(path=WHOLE, headers={"authorization": "Bearer bsr_no"})
    assert (exchange.status, exchange.body_asked) == (401, False)


async def test_screens_look_as_well(make_stand: MakeStand) -> None:
    stand = make_stand(budgets=[budget(PLENTY)])
    stand.node.screens = [Screen(Refusal("guard_blocked", "No"))]
    assert (await estimated(stand, body=chat()))["refusal"]["word"] == "guard_blocked"


# ---- the call right after --------------------------------------------------------------------------------------------

MODES = st.sampled_from(("enforce", "shadow", "off"))
LIMITS = st.builds(
    LimitDef,
    id=st.sampled_from(("one", "two")),
    unit=st.sampled_from(("requests", "tokens", "input_tokens", "output_tokens", "concurrency")),
    amount=st.sampled_from((0, 1, 30, 400, 10**6)),
    scope=st.sampled_from(("key", "team", "model")),
    mode=st.none() | MODES,
)
POLICIES = st.builds(
    Policy,
    models=st.none() | st.just(("plain-*",)) | st.just(("other",)),
    purposes=st.none() | st.just(("inference",)) | st.just(("embedding",)),
    max_tokens_cap=st.none() | st.sampled_from((1, 64, 5_000)),
    max_tokens_default=st.none() | st.sampled_from((16, 512)),
    over_max_tokens=st.none() | st.sampled_from(("clamp", "refuse")),
    max_prompt_chars=st.none() | st.sampled_from((10, 10_000)),
    max_input_tokens=st.none() | st.sampled_from((5, 10_000)),
    unknown_fields=st.none() | st.sampled_from(("refuse", "allow")),
    unpriced=st.none() | st.sampled_from(("refuse", "assume_dearest")),
    shrink_to_budget=st.none() | st.booleans(),
    user_header=st.none() | st.just("x-user"),
    user_missing=st.none() | st.sampled_from(("deny", "shared")),
    modes=st.dictionaries(st.sampled_from(("models", "limits", "max_tokens", "prompt", "unpriced")), MODES, max_size=2),
    limits=st.lists(LIMITS, max_size=3).map(tuple),
)
BUDGETS = st.lists(
    st.tuples(st.sampled_from((0, 5, 10**7, 10**9, 10**12, 10**15)), st.booleans(), MODES), max_size=3
).map(lambda rows: [budget(limit, f"b{n}", hard=hard, mode=mode) for n, (limit, hard, mode) in enumerate(rows)])
CHATS = st.builds(
    chat,
    model=st.sampled_from((MODEL, "gpt-4o-mini", "no-such-model")),
    max_tokens=st.none() | st.sampled_from((1, 100, 10**6)),
    n=st.sampled_from((1, 3)),
    stream=st.booleans(),
    brand_new=st.none() | st.just(1),
).map(lambda body: {name: value for name, value in body.items() if value is not None})
MESSAGES = st.builds(message, max_tokens=st.sampled_from((1, 100, 10**6)))


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_a_call_right_after_meets_what_was_told(data: st.DataObject) -> None:
    """Twice each: the second time on what the first has left behind."""
    policy, team, budgets = data.draw(POLICIES), data.draw(POLICIES), data.draw(BUDGETS)
    path = data.draw(st.sampled_from(sorted(PATHS)))
    body = data.draw(CHATS if path == "/v1/chat/completions" else MESSAGES)

    async def play(stand: Stand) -> None:
        for _ in range(2):
            before = a_state(stand)
            told = await stand.ask(path=PATHS[path], body=body)
            assert a_state(stand) == before
            stand.upstream.will(ok())
            called = stand.exchange(path, body)
            await stand.pipeline.serve(called)
            stand.upstream.answers.clear()
            if told.status != 200:
                assert (told.status, told.word) == (called.status, called.word)
                continue
            answer = json.loads(told.sent)
            if answer["decision"] == "refuse":
                assert answer["refusal"]["word"] == called.word
                assert answer["refusal"]["status"] == called.status
            else:
                assert len(stand.upstream.sent) > before[-1], f"{called.status} {called.word}"
                applied = [str(it["applied"]) for it in answer["clamps"] if it["field"].startswith("max_")]
                assert applied == ([it] if (it := called.header("x-bursar-max-tokens-applied")) else [])

    with tempfile.TemporaryDirectory() as folder:
        stand = Stand(Path(folder), policy=policy, team_policy=team, budgets=budgets)
        try:
            asyncio.run(play(stand))
        finally:
            stand.close()

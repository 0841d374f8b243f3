"""A replay: the same rules change nothing, each control speaks as on the way of a request, and money is kept."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.core.decisions import CallFacts
from bursar.core.directory import BudgetDef, LimitDef, Owner, Policy, Team, VirtualKey
from bursar.core.prices import Price
from bursar.core.replay import Findings, Past, Verdict, World
from bursar.core.units import NS_PER_S
from tests.core.test_policy import PLAIN

START = 1_764_000_000 * NS_PER_S
OWNER = Owner(id="o", name="o")
NOBODY = Policy()


def find_price(_provider: str, model: str, _at: int) -> Price | None:
    return PLAIN if model == PLAIN.model else None


def world(policy: Policy = NOBODY, *budgets: BudgetDef, team: Policy = NOBODY) -> World:
    holder = VirtualKey(id="k", name="k", team_id="t", secrets=(), policy=policy)
    of_team = Team(id="t", name="t", owner_id="o", policy=team)
    return World(lambda key: (holder, of_team, OWNER) if key == "k" else None, budgets, find_price, START)


def budget(limit: int, **more: Any) -> BudgetDef:
    return BudgetDef(**{"id": "b", "version": 1, "subject_kind": "team", "subject": "t", "limit_pico": limit, **more})


def past(second: float = 0, cost: int = 100, **more: Any) -> Past:
    at = START + int(second * NS_PER_S)
    told = {"request_id": f"r{second}", "key_id": "k", "team_id": "t", "model": PLAIN.model, "price_id": "p/m@1"}
    told |= {"t_ns": at, "ended_ns": at + NS_PER_S, "cost": cost, "held": cost, "input_tokens": 10, "output_tokens": 50}
    return Past(**(told | more))  # type: ignore[arg-type]


def facts(**more: Any) -> CallFacts:
    return CallFacts(
        **{"route": "chat", "dialect": "openai", "model": PLAIN.model, "input_bytes": 40, "messages": 1, **more}
    )


def verdict(made: World, *asked: Past) -> Verdict:
    said = None
    for one in asked:
        said = made.ask(one)
    assert said is not None
    return said


policies = st.builds(
    Policy,
    models=st.sampled_from((None, ("gpt-*",), ("*",), ())),
    max_tokens_cap=st.sampled_from((None, 10, 1000)),
    over_max_tokens=st.sampled_from((None, "refuse", "clamp")),
    max_input_tokens=st.sampled_from((None, 5, 500)),
    limits=st.sampled_from(
        (
            (),
            (LimitDef(id="rpm", unit="requests", amount=2),),
            (LimitDef(id="tpm", unit="tokens", amount=100), LimitDef(id="slots", unit="concurrency", amount=1)),
        )
    ),
)
pasts = st.lists(
    st.builds(
        past,
        second=st.integers(0, 300),
        cost=st.integers(0, 1000),
        attempt=st.integers(0, 2),
        call=st.sampled_from((None, facts(), facts(max_tokens=2000), facts(model="else", max_tokens=5))),
    ),
    max_size=40,
).map(lambda found: sorted(found, key=lambda it: it.t_ns))


@given(policies, pasts, st.booleans())
@settings(max_examples=60)
def test_the_same_rules_change_nothing(policy: Policy, history: list[Past], hard: bool) -> None:
    findings = Findings()
    today, again = (world(policy, budget(2_000, hard=hard)) for _ in range(2))
    for one in history:
        findings.take(one, today.ask(one), again.ask(one))
    assert not findings.groups
    assert findings.saved == findings.unknown == 0
    assert findings.cost == sum(it.cost for it in history)


@given(pasts)
@settings(max_examples=60)
def test_what_a_world_lets_through_fits_its_hard_budget(history: list[Past]) -> None:
    made, spent = world(NOBODY, budget(2_000)), 0
    for one in history:
        said = made.ask(one)
        assert said is not None
        if not said.word and one.attempt:
            spent += one.cost - said.saved
    assert spent <= 2_000


@given(pasts)
@settings(max_examples=40)
def test_a_rate_lets_through_no_more_than_it_says(history: list[Past]) -> None:
    made = world(Policy(limits=(LimitDef(id="rpm", unit="requests", amount=3),)))
    passed = [one for one in history if one.attempt <= 1 and not verdict(made, one).word]
    for one in passed:
        since = [it for it in passed if one.t_ns <= it.t_ns < one.t_ns + 60 * NS_PER_S]
        assert len(since) <= 6, "a full bucket, and what flowed back meanwhile"


def test_each_control_has_its_word() -> None:
    assert verdict(world(Policy(models=("o3",))), past()).word == "model_not_allowed"
    assert verdict(world(Policy(max_input_tokens=5)), past()).word == "prompt_too_large"
    assert verdict(world(Policy(purposes=("batch",))), past(call=facts())).word == "purpose_not_allowed"
    assert verdict(world(Policy(unpriced="refuse")), past(price_id="p/m@unpriced")).word == "unpriced_model"
    assert verdict(
        world(team=Policy(limits=(LimitDef(id="l", unit="requests", amount=1),))), past(), past(1)
    ) == Verdict("rate_limited", "l", None, 100)
    slots = world(Policy(limits=(LimitDef(id="s", unit="concurrency", amount=1),)))
    assert verdict(slots, past(), past(0.5)).word == "concurrency_limited"
    assert verdict(slots, past(2)).word == "", "the first one has ended"
    assert verdict(world(NOBODY, budget(150)), past(), past(1)) == Verdict("budget_exhausted", "b", None, 100)
    assert verdict(world(NOBODY, budget(150, mode="shadow")), past(), past(1)).word == ""


def test_an_answer_that_is_cut_saves_what_it_would_not_have_said() -> None:
    asked = past(cost=10**9, output_tokens=50, call=facts(max_tokens=80))
    said = verdict(world(Policy(max_tokens_cap=20)), asked)
    assert (said.word, said.cap) == ("", 20)
    assert said.saved == 30 * PLAIN.bands[0].output
    assert verdict(world(Policy(max_tokens_cap=20, over_max_tokens="refuse")), asked).word == "max_tokens_exceeded"


def test_what_was_refused_and_would_be_allowed_is_told() -> None:
    findings = Findings()
    refused = past(attempt=0, cost=0, expected=70, call=facts())
    strict, lax = world(Policy(models=("o3",))), world()
    findings.take(refused, strict.ask(refused), lax.ask(refused))
    (place,) = findings.groups
    assert place == ("t", "k", "allowed", "model_not_allowed", "")
    assert (findings.refused_today, findings.refused_changed) == (1, 0)


def test_a_key_that_is_gone_is_counted_and_nothing_said() -> None:
    findings = Findings()
    gone = past(key_id="gone")
    findings.take(gone, world().ask(gone), world().ask(gone))
    assert (findings.calls, findings.unknown, findings.groups) == (1, 1, {})

"""Promotion and demotion of controls: what moves, what does not, and the way back."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from bursar.control.budgets import BudgetTerms
from bursar.control.directory import PREVIEW, Previewed
from bursar.control.history import History, differences
from bursar.control.keys import KeyInput
from bursar.control.promotion import Promotions, Way, differing, moved
from bursar.core.compiling import compile_policy
from bursar.core.controls import CONTROLS, mode_of_limit
from bursar.core.directory import LimitDef, Mode, Owner, Policy, Team, VirtualKey
from bursar.core.errors import Refusal
from tests.control.tenants import ACTOR, Tenants

MODES: tuple[Mode, ...] = ("off", "shadow", "enforce")
_limits = st.lists(
    st.builds(
        LimitDef,
        id=st.sampled_from("abc"),
        unit=st.just("requests"),
        amount=st.just(5),
        mode=st.sampled_from((None, *MODES)),
    ),
    max_size=3,
    unique_by=lambda limit: limit.id,
).map(tuple)
policies = st.builds(
    Policy,
    models=st.none() | st.just(("gpt-*",)),
    max_tokens_cap=st.none() | st.just(9),
    networks=st.none() | st.just(("10.0.0.0/8",)),
    stop=st.none() | st.just(("END",)),
    unpriced=st.sampled_from((None, "refuse", "assume_dearest")),
    limits=_limits,
    modes=st.dictionaries(st.sampled_from(list(CONTROLS)), st.sampled_from(MODES)),
)


def team_plan(policy: Policy) -> Any:
    key = VirtualKey(id="k", name="k", team_id="t", secrets=())
    return compile_policy(key, Team(id="t", name="t", owner_id="o", policy=policy), Owner(id="o", name="o"), ())


@given(policies)
def test_promoted_nothing_is_in_shadow_and_what_is_off_stays_off(policy: Policy) -> None:
    after = moved(policy, "promote")
    assert "shadow" not in after.modes.values()
    assert all(mode_of_limit(after, limit) != "shadow" for limit in after.limits)
    assert {name for name, mode in after.modes.items() if mode == "off"} == {
        name for name, mode in policy.modes.items() if mode == "off"
    }
    was = [(limit.id, mode_of_limit(policy, limit) == "off") for limit in policy.limits]
    assert was == [(limit.id, mode_of_limit(after, limit) == "off") for limit in after.limits]
    assert team_plan(after).shadowed is None


@given(policies)
def test_demoted_nothing_that_is_stated_refuses(policy: Policy) -> None:
    after = moved(policy, "demote")
    plan = team_plan(after)
    assert plan.enforced == type(plan.enforced)()
    assert plan.arrival_bounds("").enforced == ()


@given(policies)
def test_there_and_back_moves_the_same(policy: Policy) -> None:
    settled = moved(policy, "promote")
    assert team_plan(moved(moved(settled, "demote"), "promote")).enforced == team_plan(settled).enforced


@given(policies, st.sampled_from(["models", "limits", "limits/a"]))
def test_one_control_moves_alone(policy: Policy, control: str) -> None:
    ways: tuple[Way, ...] = ("promote", "demote")
    for way in ways:
        after = moved(policy, way, {control})
        assert replace(after, modes={}, limits=()) == replace(policy, modes={}, limits=())
        for name in differing(policy, after):
            assert name == control or name.startswith(f"{control}/")


# ---- in the directory


@pytest.fixture
def tenants(tmp_path: Path) -> Iterator[Tenants]:
    made = Tenants(tmp_path)
    yield made
    made.store.close()


SHADOWED = Policy(models=("gpt-*",), max_tokens_cap=9, modes={"models": "shadow", "max_tokens": "shadow"})


async def test_a_team_brings_its_budgets_along_and_one_undo_takes_all_back(tenants: Tenants) -> None:
    team = await tenants.team(SHADOWED)
    terms = BudgetTerms(limit_pico=5, mode="shadow")
    budget = await tenants.budgets.create(ACTOR, "team", team, terms)
    elsewhere = await tenants.budgets.create(ACTOR, "owner", "acme", terms)
    promotions = Promotions(tenants.directory)
    done = await promotions.move(ACTOR, "promote", "team", team)
    assert done == ["models", "max_tokens", f"budgets/{budget.id}"]
    assert tenants.teams.get(team).policy.modes == {}
    assert tenants.budgets.get(budget.id).mode == "enforce"
    assert tenants.budgets.get(elsewhere.id).mode == "shadow"
    assert tenants.audit.actions[-1] == "team.promote"
    version = tenants.directory.book.version
    assert await promotions.move(ACTOR, "promote", "team", team) == []
    assert tenants.directory.book.version == version, "a repeated command leaves no trace"
    await History(tenants.directory).undo(ACTOR, version)
    assert tenants.teams.get(team).policy == SHADOWED
    assert (tenants.budgets.get(budget.id).mode, tenants.budgets.get(budget.id).version) == ("shadow", 3)


async def test_a_budget_moves_by_itself(tenants: Tenants) -> None:
    team = await tenants.team()
    budget = await tenants.budgets.create(ACTOR, "team", team, BudgetTerms(limit_pico=5))
    promotions = Promotions(tenants.directory)
    assert await promotions.move(ACTOR, "demote", "budget", budget.id) == [f"budgets/{budget.id}"]
    assert tenants.audit.lines[-1].facts["subject"] == f"team/{team}", "a restored node knows whom it binds"
    assert await promotions.move(ACTOR, "promote", "team", team, ["budgets"]) == [f"budgets/{budget.id}"]
    await tenants.budgets.remove(ACTOR, budget.id)
    with pytest.raises(Refusal) as caught:
        await promotions.move(ACTOR, "demote", "budget", budget.id)
    assert caught.value.word == "unknown_id"


async def test_a_control_that_is_none_is_refused_with_a_suggestion(tenants: Tenants) -> None:
    team = await tenants.team()
    with pytest.raises(Refusal) as caught:
        await Promotions(tenants.directory).move(ACTOR, "promote", "team", team, ["limit"])
    assert caught.value.word == "invalid_input"
    assert "limits" in caught.value.hint


async def test_a_key_cannot_be_put_in_shadow_where_its_team_says_enforce(tenants: Tenants) -> None:
    team = await tenants.team(Policy(modes={"models": "enforce"}))
    key = (await tenants.keys.create(ACTOR, team, KeyInput(name="k", policy=Policy(models=("a",))))).key
    with pytest.raises(Refusal) as caught:
        await Promotions(tenants.directory).move(ACTOR, "demote", "key", key.id)
    assert caught.value.word == "policy_widens"


async def test_a_preview_changes_nothing(tenants: Tenants) -> None:
    team, token = await tenants.team(SHADOWED), PREVIEW.set(True)
    try:
        with pytest.raises(Previewed) as caught:
            await Promotions(tenants.directory).move(ACTOR, "promote", "team", team)
    finally:
        PREVIEW.reset(token)
    (edit,) = caught.value.edits
    assert sorted(it.field for it in differences(edit)) == ["policy.modes.max_tokens", "policy.modes.models"]
    assert tenants.teams.get(team).policy == SHADOWED

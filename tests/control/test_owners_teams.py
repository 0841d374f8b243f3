"""Owners and teams: an owner for every team, nothing removed that something else needs."""

import fnmatch
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.control.budgets import BudgetTerms
from bursar.control.keys import KeyInput
from bursar.control.naming import check_id, id_from
from bursar.control.owners import OwnerInput
from bursar.control.policies import covers
from bursar.control.teams import TeamInput
from bursar.core.errors import Refusal
from tests.control.tenants import ACTOR, Tenants


@pytest.fixture
def tenants(tmp_path: Path) -> Iterator[Tenants]:
    made = Tenants(tmp_path)
    yield made
    made.store.close()


async def refused_word(act) -> str:
    with pytest.raises(Refusal) as refused:
        await act
    assert refused.value.hint, "every refusal says what to do"
    return refused.value.word


async def test_an_owner_is_created_changed_and_removed(tenants: Tenants) -> None:
    owner = await tenants.owners.create(ACTOR, "  Search & Ads ", ("a@x.test", "a@x.test"))
    assert (owner.id, owner.name, owner.contacts) == ("search-ads", "Search & Ads", ("a@x.test",))
    changed = await tenants.owners.update(ACTOR, owner.id, lambda o: OwnerInput(name="S&A", contacts=o.contacts))
    assert (changed.id, changed.name) == ("search-ads", "S&A")
    await tenants.owners.remove(ACTOR, owner.id)
    assert tenants.owners.all() == []
    assert tenants.audit.actions == ["owner.create", "owner.update", "owner.remove"]


async def test_a_team_needs_an_owner_that_exists(tenants: Tenants) -> None:
    assert await refused_word(tenants.teams.create(ACTOR, TeamInput(name="T", owner_id="nobody"))) == "unknown_id"
    team = await tenants.team()
    moved = tenants.teams.update(ACTOR, team, lambda t: TeamInput(name=t.name, owner_id="nobody"))
    assert await refused_word(moved) == "unknown_id"


async def test_what_is_in_use_cannot_go(tenants: Tenants) -> None:
    team = await tenants.team()
    key = (await tenants.keys.create(ACTOR, team, KeyInput(name="k"))).key
    assert await refused_word(tenants.owners.remove(ACTOR, "acme")) == "in_use"
    assert await refused_word(tenants.teams.remove(ACTOR, team)) == "in_use"
    key_budget = await tenants.budgets.create(ACTOR, "key", key.id, BudgetTerms(limit_pico=1))
    assert await refused_word(tenants.keys.remove(ACTOR, key.id)) == "in_use"
    await tenants.budgets.remove(ACTOR, key_budget.id)
    await tenants.keys.remove(ACTOR, key.id)
    team_budget = await tenants.budgets.create(ACTOR, "team", team, BudgetTerms(limit_pico=1))
    assert await refused_word(tenants.teams.remove(ACTOR, team)) == "in_use"
    await tenants.budgets.remove(ACTOR, team_budget.id)
    await tenants.teams.remove(ACTOR, team)
    await tenants.owners.remove(ACTOR, "acme")


async def test_a_taken_id_is_refused(tenants: Tenants) -> None:
    await tenants.team()
    assert await refused_word(tenants.owners.create(ACTOR, "X", (), "acme")) == "already_exists"
    given = TeamInput(name="X", owner_id="acme")
    assert await refused_word(tenants.teams.create(ACTOR, given, "search")) == "already_exists"


@pytest.mark.parametrize("owner_id", ["UPPER", "with space", "-dash", "ü", "x" * 64, "a/b", "a\n"])
async def test_an_id_is_short_and_plain(tenants: Tenants, owner_id: str) -> None:
    assert await refused_word(tenants.owners.create(ACTOR, "X", (), owner_id)) == "invalid_input"


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=100), st.sets(st.text(max_size=10), max_size=3))
def test_a_generated_id_is_always_an_id_and_free(name: str, more: set[str]) -> None:
    first = id_from(name, more)
    assert check_id(first) == first
    assert first not in more
    assert id_from(name, {first, *more}) not in {first, *more}


_GLOB = st.text(alphabet="ab*?", max_size=6)
_NAME = st.text(alphabet="abc", max_size=7)


@settings(max_examples=1500, deadline=None)
@given(_GLOB, _GLOB, st.lists(_NAME, min_size=1, max_size=8))
def test_a_glob_that_covers_another_matches_all_that_it_matches(pattern: str, other: str, names: list[str]) -> None:
    if covers(pattern, other):
        assert all(fnmatch.fnmatchcase(name, pattern) for name in names if fnmatch.fnmatchcase(name, other))


@pytest.mark.parametrize(
    ("pattern", "other", "covered"),
    [
        ("*", "[ab]*", True),
        ("gpt-*", "gpt-4o", True),
        ("gpt-*", "gpt-*-mini", True),
        ("gpt-*-mini", "gpt-*", False),
        ("?", "*", False),
        ("**", "*", True),
        ("a*", "[ab]*", False),
        ("[ab]", "[ab]", True),
        ("", "", True),
        ("", "*", False),
    ],
)
def test_what_covers_what(pattern: str, other: str, covered: bool) -> None:
    assert covers(pattern, other) is covered

"""History and undo: what is taken back is as it was, and what cannot be taken back says so."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.control.budgets import BudgetTerms
from bursar.control.directory import PREVIEW, Previewed
from bursar.control.history import History, differences
from bursar.control.keys import KeyInput
from bursar.control.owners import OwnerInput
from bursar.control.teams import TeamInput
from bursar.control.token_marks import TokenMarks
from bursar.control.trust import TrustRules
from bursar.core.directory import Policy, Team, TrustRule
from bursar.core.errors import Refusal
from tests.control.tenants import ACTOR, Tenants


@pytest.fixture
def tenants(tmp_path: Path) -> Iterator[Tenants]:
    made = Tenants(tmp_path)
    yield made
    made.store.close()


def version(tenants: Tenants) -> int:
    return tenants.directory.book.version


async def refused(history: History, number: int) -> Refusal:
    with pytest.raises(Refusal) as caught:
        await history.undo(ACTOR, number)
    assert caught.value.hint
    return caught.value


async def test_a_change_is_taken_back_and_the_undo_as_well(tenants: Tenants) -> None:
    history, team = History(tenants.directory), await tenants.team()
    before = tenants.teams.get(team)
    await tenants.teams.update(ACTOR, team, lambda _: TeamInput(name="New", owner_id=before.owner_id))
    after, changed = tenants.teams.get(team), version(tenants)
    await history.undo("somebody", changed)
    assert tenants.teams.get(team) == before
    assert tenants.audit.actions[-1] == "team.update.undo"
    assert tenants.audit.lines[-1].facts["undoes"] == changed
    await history.undo("somebody", version(tenants))
    assert tenants.teams.get(team) == after


async def test_a_removed_owner_comes_back_a_removed_key_does_not(tenants: Tenants) -> None:
    history, team = History(tenants.directory), await tenants.team()
    await tenants.owners.create(ACTOR, "Other")
    await tenants.owners.remove(ACTOR, "other")
    await history.undo(ACTOR, version(tenants))
    assert tenants.owners.get("other").name == "Other"
    minted = await tenants.keys.create(ACTOR, team, KeyInput(name="K"))
    created = version(tenants)
    assert (await refused(history, created)).word == "no_undo"
    await tenants.keys.remove(ACTOR, minted.key.id)
    assert (await refused(history, version(tenants))).word == "no_undo"
    assert (await refused(history, 999)).word == "unknown_id"


async def test_a_budget_goes_on_with_its_versions(tenants: Tenants) -> None:
    history, team = History(tenants.directory), await tenants.team()
    budget = await tenants.budgets.create(ACTOR, "team", team, BudgetTerms(limit_pico=5 * 10**12))
    await tenants.budgets.update(ACTOR, budget.id, lambda _: BudgetTerms(limit_pico=9 * 10**12))
    await history.undo(ACTOR, version(tenants))
    present = tenants.budgets.get(budget.id)
    assert (present.limit_pico, present.version) == (5 * 10**12, 3)
    await tenants.budgets.remove(ACTOR, budget.id)
    await history.undo(ACTOR, version(tenants))
    assert (tenants.budgets.get(budget.id).limit_pico, tenants.budgets.get(budget.id).version) == (5 * 10**12, 5)


async def test_what_was_changed_again_is_left_alone(tenants: Tenants) -> None:
    history, team = History(tenants.directory), await tenants.team()
    await tenants.teams.set_disabled(ACTOR, team, True)
    disabled = version(tenants)
    await tenants.teams.update(ACTOR, team, lambda t: TeamInput(name="N", owner_id=t.owner_id))
    assert (await refused(history, disabled)).word == "changed_since"
    assert tenants.teams.get(team).disabled


async def test_a_team_does_not_come_back_to_an_owner_who_is_gone(tenants: Tenants) -> None:
    history, team = History(tenants.directory), await tenants.team()
    owner = tenants.teams.get(team).owner_id
    await tenants.teams.remove(ACTOR, team)
    removed = version(tenants)
    await tenants.owners.remove(ACTOR, owner)
    assert (await refused(history, removed)).word == "unknown_id"


async def test_a_preview_tells_and_changes_nothing(tenants: Tenants) -> None:
    team = await tenants.team()
    before, lines = version(tenants), len(tenants.audit.lines)
    token = PREVIEW.set(True)
    try:
        with pytest.raises(Previewed) as previewed:
            await tenants.teams.set_disabled(ACTOR, team, True)
    finally:
        PREVIEW.reset(token)
    (edit,) = previewed.value.edits
    assert [(d.field, d.before, d.after) for d in differences(edit)] == [("disabled", "false", "true")]
    assert (version(tenants), len(tenants.audit.lines), tenants.teams.get(team).disabled) == (before, lines, False)


async def test_differences_show_money_as_money_and_no_digest(tenants: Tenants) -> None:
    history, team = History(tenants.directory), await tenants.team()
    await tenants.budgets.create(ACTOR, "team", team, BudgetTerms(limit_pico=12_500_000_000_000))
    minted = await tenants.keys.create(ACTOR, team, KeyInput(name="K", policy=Policy(models=("gpt-*",))))
    told = [d for edit in await history.page(9) for d in differences(edit)]
    assert ("limit_usd", "", "12.50") in [(d.field, d.before, d.after) for d in told]
    assert ("policy.models", "", '["gpt-*"]') in [(d.field, d.before, d.after) for d in told]
    shown = repr(told)
    digest = minted.key.secrets[0].digest
    assert digest.hex() not in shown
    assert repr(digest)[2:-1] not in shown


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(["name", "disable", "enable", "contacts", "undo"]), max_size=12), st.data())
async def test_any_history_can_be_walked_back(
    tmp_path_factory: pytest.TempPathFactory, acts: list[str], data: st.DataObject
) -> None:
    """Undoing the newest changes one by one leads through the very states that were."""
    tenants = Tenants(tmp_path_factory.mktemp("h"))
    try:
        history, team = History(tenants.directory), await tenants.team()
        floor = version(tenants)
        states: list[Team] = [tenants.teams.get(team)]
        for number, act in enumerate(acts):
            if act == "name":
                await tenants.teams.update(
                    ACTOR, team, lambda t, n=number: TeamInput(name=f"N{n}", owner_id=t.owner_id)
                )
            elif act in ("disable", "enable"):
                await tenants.teams.set_disabled(ACTOR, team, act == "disable")
            elif act == "contacts":
                owner = tenants.teams.get(team).owner_id
                contacts = (f"a{number}@example.invalid",)
                await tenants.owners.update(ACTOR, owner, lambda o, c=contacts: OwnerInput(name=o.name, contacts=c))
            elif version(tenants) > floor:
                await history.undo(ACTOR, version(tenants))
            if version(tenants) - floor == len(states):
                states.append(tenants.teams.get(team))
        assert len(states) == version(tenants) - floor + 1
        for number in range(version(tenants), floor, -1):
            await history.undo(ACTOR, number)
            assert tenants.teams.get(team) == states[number - floor - 1]
            if data.draw(st.booleans()):
                again = version(tenants)
                await history.undo(ACTOR, again)
                await history.undo(ACTOR, version(tenants))
    finally:
        tenants.store.close()


async def test_what_concerns_tokens_says_how_it_goes_back(tenants: Tenants) -> None:
    history = History(tenants.directory)
    await tenants.team()
    rule = TrustRule(id="ci", team_id="search", issuer="https://i", audience="a", match={"sub": ("job:*",)})
    await TrustRules(tenants.directory).put(ACTOR, rule)
    assert "bursar trust remove ci" in (await refused(history, version(tenants))).hint
    await TrustRules(tenants.directory).set_disabled(ACTOR, "ci", True)
    await history.undo(ACTOR, version(tenants))
    assert tenants.directory.book.get(TrustRule, "ci") == rule
    await TokenMarks(tenants.directory).revoke(ACTOR, "jti", tenants.clock.now() + 1, {})
    assert (await refused(history, version(tenants))).word == "no_undo"

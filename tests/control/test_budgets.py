"""Budget definitions: every change a new version, subjects that exist, windows that mean something."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from bursar.control.budgets import BudgetTerms
from bursar.control.keys import KeyInput
from bursar.core.directory import WindowDef
from bursar.core.errors import Refusal
from bursar.core.units import usd_to_pico
from tests.control.tenants import ACTOR, Tenants

FIFTY = BudgetTerms(limit_pico=usd_to_pico("50"))


@pytest.fixture
def tenants(tmp_path: Path) -> Iterator[Tenants]:
    made = Tenants(tmp_path)
    yield made
    made.store.close()


async def test_every_change_is_a_new_version_and_says_in_which_direction(tenants: Tenants) -> None:
    team = await tenants.team()
    budget = await tenants.budgets.create(ACTOR, "team", team, FIFTY)
    assert (budget.id, budget.version, budget.hard) == ("team-search-month", 1, True)
    await tenants.budgets.update(ACTOR, budget.id, lambda _: replace(FIFTY, limit_pico=usd_to_pico("60")))
    await tenants.budgets.update(ACTOR, budget.id, lambda _: replace(FIFTY, limit_pico=usd_to_pico("40")))
    await tenants.budgets.update(ACTOR, budget.id, lambda _: replace(FIFTY, limit_pico=usd_to_pico("40"), hard=False))
    assert tenants.budgets.get(budget.id).version == 4
    assert tenants.audit.actions[-4:] == ["budget.create", "budget.raise", "budget.lower", "budget.update"]
    assert tenants.audit.lines[-3].facts["before_usd"] == "50.00"
    assert [delta.budgets[0].version for delta in tenants.deltas if delta.budgets] == [1, 2, 3, 4]


async def test_an_edit_that_changes_nothing_is_no_new_version(tenants: Tenants) -> None:
    budget = await tenants.budgets.create(ACTOR, "team", await tenants.team(), FIFTY)
    await tenants.budgets.update(ACTOR, budget.id, lambda _: FIFTY)
    assert tenants.budgets.get(budget.id).version == 1
    assert tenants.audit.actions[-1] == "budget.create"


async def test_a_removed_budget_keeps_its_id_and_its_last_word(tenants: Tenants) -> None:
    budget = await tenants.budgets.create(ACTOR, "team", await tenants.team(), FIFTY)
    await tenants.budgets.remove(ACTOR, budget.id)
    gone = tenants.deltas[-1].budgets[0]
    assert (gone.deleted, gone.version) == (True, 2)
    assert tenants.budgets.all() == []
    assert [b.id for b in tenants.budgets.all(deleted=True)] == [budget.id]
    for act in (
        tenants.budgets.remove(ACTOR, budget.id),
        tenants.budgets.update(ACTOR, budget.id, lambda _: FIFTY),
    ):
        with pytest.raises(Refusal, match="removed"):
            await act
    with pytest.raises(Refusal, match="is or was"):
        await tenants.budgets.create(ACTOR, "team", "search", FIFTY, budget.id)
    second = await tenants.budgets.create(ACTOR, "team", "search", FIFTY)
    assert second.id == "team-search-month-2"


async def test_subjects_that_are_entities_must_exist(tenants: Tenants) -> None:
    team = await tenants.team()
    key = (await tenants.keys.create(ACTOR, team, KeyInput(name="k"))).key
    for kind, subject in (("key", key.id), ("owner", "acme"), ("user", "u@x.test"), ("tag", "batch"), ("model", "o3")):
        made = await tenants.budgets.create(ACTOR, kind, subject, FIFTY)
        assert (made.subject_kind, made.subject) == (kind, subject)
    for kind in ("key", "team", "owner", "provider_key"):
        with pytest.raises(Refusal) as refused:
            await tenants.budgets.create(ACTOR, kind, "nobody", FIFTY)
        assert refused.value.word == "unknown_id"
    with pytest.raises(Refusal, match="needs its name"):
        await tenants.budgets.create(ACTOR, "user", " ", FIFTY)


BAD = [
    BudgetTerms(limit_pico=-1),
    BudgetTerms(limit_pico=usd_to_pico("1000000000001")),
    BudgetTerms(limit_pico=1, thresholds=(0,)),
    BudgetTerms(limit_pico=1, window=WindowDef(zone="Europe/Nowhere")),
    BudgetTerms(limit_pico=1, window=WindowDef(zone="../../etc/passwd")),
    BudgetTerms(limit_pico=1, window=WindowDef(zone="")),
    BudgetTerms(limit_pico=1, window=WindowDef(kind="rolling", seconds=0)),
    BudgetTerms(limit_pico=1, window=WindowDef(kind="rolling", seconds=10**9)),
    BudgetTerms(limit_pico=1, window=WindowDef(week_start=7)),
    BudgetTerms(limit_pico=1, name="x" * 500),
]


@pytest.mark.parametrize("terms", BAD)
async def test_nonsense_is_refused_with_what_to_write(tenants: Tenants, terms: BudgetTerms) -> None:
    team = await tenants.team()
    with pytest.raises(Refusal) as refused:
        await tenants.budgets.create(ACTOR, "team", team, terms)
    assert refused.value.word == "invalid_input"
    assert refused.value.hint


@pytest.mark.parametrize(
    "window",
    [
        WindowDef(zone="Europe/Berlin"),
        WindowDef(period="week", week_start=6, zone="Pacific/Auckland"),
        WindowDef(kind="rolling", seconds=86_400),
        WindowDef(kind="lifetime"),
    ],
)
async def test_windows_that_mean_something_are_taken(tenants: Tenants, window: WindowDef) -> None:
    team = await tenants.team()
    assert (await tenants.budgets.create(ACTOR, "team", team, replace(FIFTY, window=window))).window == window


async def test_a_limit_of_zero_stops_a_subject_and_thresholds_are_sorted(tenants: Tenants) -> None:
    terms = BudgetTerms(limit_pico=0, thresholds=(100, 50, 50))
    made = await tenants.budgets.create(ACTOR, "team", await tenants.team(), terms)
    assert (made.limit_pico, made.thresholds) == (0, (50, 100))

"""The directory as files: what was exported changes nothing, what was applied is there, all of it or nothing."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from bursar.control.access import Access
from bursar.control.budgets import BudgetTerms
from bursar.control.deployments import Deployments
from bursar.control.directory import BREAK_GLASS, Change
from bursar.control.history import History
from bursar.control.keys import KeyInput
from bursar.control.manifest_plan import Given, Plan, said_digest
from bursar.control.manifest_shapes import SHAPES
from bursar.control.manifest_yaml import read_yaml, to_yaml
from bursar.control.manifests import Applied, Manifests
from bursar.control.owners import OwnerInput
from bursar.control.promotion import Promotions
from bursar.control.teams import TeamInput
from bursar.control.trust import TrustRules
from bursar.core.directory import (
    KINDS,
    AccessGrant,
    BudgetDef,
    Deployment,
    Entity,
    KeySecret,
    LimitDef,
    Managed,
    Owner,
    Policy,
    Team,
    VirtualKey,
    WindowDef,
    id_of,
    kind_of,
)
from bursar.core.errors import Refusal
from bursar.core.strict import Faults
from bursar.core.tokens import digest, parse
from bursar.stores.directory_db import DirectoryDb
from tests.control.tenants import ACTOR, PEPPER, START_NS, SeededEntropy, Tenants

GIT = "git:platform"


class Desk(Tenants):
    """Tenants with files."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.trust = TrustRules(self.directory)
        entropy = SeededEntropy()
        entropy.token_bytes(1)  # other draws than those of `self.keys`
        self.manifests = Manifests(self.directory, entropy, PEPPER, self.trust.checked)
        self.history = History(self.directory)

    async def plan(self, documents: dict[str, Any], **more: Any) -> Plan:
        return await self.manifests.plan(given_of(documents, **more))

    async def apply(self, documents: dict[str, Any], **more: Any) -> Applied:
        said = given_of(documents, **more)
        plan = await self.manifests.plan(said)
        return await self.manifests.apply(ACTOR, said, plan.digest, plan.version)

    async def faults(self, documents: dict[str, Any], **more: Any) -> list[tuple[str, str]]:
        with pytest.raises(Faults) as caught:
            await self.plan(documents, **more)
        assert all(fault.message for fault in caught.value.faults)
        return [(fault.path, fault.word) for fault in caught.value.faults]

    def exported(self, source: str = "") -> dict[str, Any]:
        found: dict[str, Any] = {}
        for one in self.manifests.export(source):
            found.setdefault(one.section, {})[one.name] = one.said
        return found

    def content(self) -> dict[str, Any]:
        """The directory but for secrets, versions of budgets and who applied when."""
        book = self.directory.book
        return {kind: [_bare(entity) for entity in book.all(KINDS[kind].type)] for kind in [*SHAPES, "managed"]}


def _bare(entity: Entity) -> Entity:
    if isinstance(entity, VirtualKey):
        return replace(entity, secrets=())
    if isinstance(entity, BudgetDef):
        return replace(entity, version=0)
    return replace(entity, by="", at=0, file="") if isinstance(entity, Managed) else entity


def given_of(documents: dict[str, Any], **more: Any) -> Given:
    sources = {one["managed_by"] for part in documents.values() for one in part.values() if "managed_by" in one}
    return Given(documents=documents, sources=more.pop("sources", tuple(sorted(sources))), **more)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.store.close()


FILES: dict[str, Any] = {
    "owners": {"acme": {"name": "ACME Inc.", "contacts": ["ann@example.org"]}},
    "teams": {"search": {"name": "Search", "owner": "acme", "policy": {"models": ["gpt-4o*"]}, "tags": ["prod"]}},
    "keys": {"nightly": {"team": "search", "name": "Nightly jobs", "policy": {"models": ["gpt-4o-mini"]}}},
    "budgets": {
        "search-month": {"subject": "team/search", "limit_usd": "100"},
        "nightly-day": {"subject": "key/nightly", "limit_usd": "2.50", "window": {"period": "day"}},
    },
    "grants": {"ops": {"subject": "role/operator", "acts": ["rotate"]}},
    "deployments": {"chat-prod": {"model": "gpt-4o"}, "search:chat-prod": {"model": "gpt-4o-mini"}},
    "trust": {
        "ci": {
            "team": "search",
            "kind": "github",
            "issuer": "https://token.actions.githubusercontent.com",
            "audience": "https://bursar.example.org",
            "match": {"repository": ["octo/app"]},
        }
    },
}


def managed(documents: dict[str, Any], source: str = GIT) -> dict[str, Any]:
    return {
        section: {name: {**said, "managed_by": source} for name, said in entries.items()}
        for section, entries in documents.items()
    }


def without(documents: dict[str, Any], section: str, name: str) -> dict[str, Any]:
    return {**documents, section: {other: said for other, said in documents[section].items() if other != name}}


def edited(documents: dict[str, Any], section: str, which: str, /, **changes: Any) -> dict[str, Any]:
    entries = documents[section]
    return {**documents, section: {**entries, which: {**entries[which], **changes}}}


async def refused(doing: Any) -> Refusal:
    with pytest.raises(Refusal) as caught:
        await doing
    assert caught.value.hint
    return caught.value


# ---- apply


@pytest.mark.parametrize("documents", [FILES, managed(FILES)])
async def test_what_files_say_is_there_in_one_version_and_a_second_time_changes_nothing(
    desk: Desk, documents: dict[str, Any]
) -> None:
    done = await desk.apply(documents)
    assert desk.directory.book.version == done.version == 1
    assert [line.action for line in desk.audit.lines] == ["apply"]
    assert (await desk.plan(documents)).steps == ()
    assert (await desk.plan(documents)).unchanged == sum(map(len, documents.values()))
    key = desk.keys.all("search")[0]
    assert [budget.subject for budget in desk.budgets.all()] == [key.id, "search"]
    assert (await desk.apply(documents)).version == 1
    assert len(desk.audit.lines) == 1


async def test_a_new_key_works_by_the_text_that_is_told_once(desk: Desk) -> None:
    (minted,) = (await desk.apply(managed(FILES))).minted
    parsed = parse(minted.text.reveal())
    assert parsed is not None
    assert minted.name == "nightly"
    key = desk.keys.get(parsed.public_id)
    assert key.secrets == (KeySecret(digest=digest(minted.text.reveal(), PEPPER)),)
    assert minted.text.reveal() not in str(desk.exported())
    assert minted.text.reveal() not in str(desk.audit.lines)
    assert desk.exported()["keys"].keys() == {"nightly"}


async def test_a_key_without_a_mark_is_found_again_by_team_and_name(desk: Desk) -> None:
    await desk.apply(FILES)
    renamed = {**FILES, "keys": {"other": FILES["keys"]["nightly"]}}
    renamed = edited(renamed, "budgets", "nightly-day", subject="key/other")
    assert (await desk.plan(renamed)).steps == ()
    await desk.keys.create(ACTOR, "search", KeyInput(name="Nightly jobs"))
    assert ("keys.nightly", "ambiguous") in await desk.faults(FILES)


async def test_what_is_exported_changes_nothing_and_makes_the_same_elsewhere(desk: Desk, tmp_path: Path) -> None:
    for documents in (FILES, managed(FILES)):
        await desk.apply(documents)
        exported = desk.exported()
        assert (await desk.plan(exported)).steps == ()
    (tmp_path / "other").mkdir()
    other = Desk(tmp_path / "other")
    await other.apply(exported)
    key, same = desk.keys.all()[0], other.keys.all()[0]
    assert (key.name, key.team_id, key.policy) == (same.name, same.team_id, same.policy)
    other.store.close()


async def test_ten_faults_are_ten_faults_each_with_its_path(desk: Desk) -> None:
    wrong = {
        "owners": {"acme": {"nam": "ACME"}, "BAD ID": {"name": "x"}},
        "teams": {
            "search": {"name": "", "owner": "nobody", "policy": {"max_tokens_cap": -1, "models": [""]}, "tags": ["A B"]}
        },
        "keys": {"k": {"team": "search", "name": "K", "expires_at": "soon"}},
        "budgets": {"b": {"subject": "search", "limit_usd": 1.5}},
    }
    found = await desk.faults(wrong)
    assert len(found) >= 10
    assert {
        ("owners.acme.nam", "unknown_key"),
        ("owners.acme.name", "missing"),
        ("owners.BAD ID", "invalid_input"),
        ("teams.search.name", "invalid_input"),
        ("teams.search.owner", "unknown_id"),
        ("teams.search.policy.max_tokens_cap", "invalid_input"),
        ("teams.search.policy.models", "invalid_input"),
        ("teams.search.tags", "invalid_input"),
        ("keys.k.expires_at", "bad_value"),
        ("budgets.b.limit_usd", "bad_value"),
    } <= set(found)
    assert desk.directory.book.version == 0


async def test_a_key_beyond_its_team_and_things_that_are_not_there_are_refused(desk: Desk) -> None:
    wide = edited(FILES, "keys", "nightly", policy={"models": ["claude-*"]})
    assert await desk.faults(wide) == [("keys.nightly.policy", "policy_widens")]
    assert await desk.faults(edited(FILES, "budgets", "nightly-day", subject="key/nobody")) == [
        ("budgets.nightly-day.subject", "unknown_id")
    ]
    assert [word for _, word in await desk.faults({"teem": {}, **FILES})] == ["unknown_key"]


async def test_a_key_stays_with_its_team_and_a_budget_with_its_subject(desk: Desk) -> None:
    await desk.apply(managed(FILES))
    files = managed({**FILES, "teams": {**FILES["teams"], "ads": {"name": "Ads", "owner": "acme"}}})
    assert await desk.faults(edited(files, "keys", "nightly", team="ads", policy={})) == [
        ("keys.nightly.team", "invalid_input")
    ]
    assert await desk.faults(edited(files, "budgets", "search-month", subject="team/ads")) == [
        ("budgets.search-month.subject", "invalid_input")
    ]


# ---- what was planned, and nothing else


async def test_a_plan_is_not_carried_out_on_another_directory(desk: Desk) -> None:
    await desk.apply(FILES)
    said = given_of(edited(FILES, "teams", "search", name="Search and ads"))
    plan = await desk.manifests.plan(said)
    team = desk.teams.get("search")
    await desk.teams.update("ann", "search", lambda _: TeamInput(name="Other", owner_id="acme", policy=team.policy))
    refusal = await refused(desk.manifests.apply(ACTOR, said, plan.digest, plan.version))
    assert refusal.word == "plan_stale"
    assert "team/search by ann (team.update, version 2)" in refusal.message
    assert desk.teams.get("search").name == "Other"


async def test_what_does_not_touch_the_plan_does_not_stop_it(desk: Desk) -> None:
    await desk.apply(FILES)
    said = given_of(edited(FILES, "teams", "search", name="Search and ads"))
    plan = await desk.manifests.plan(said)
    await desk.owners.create("ann", "Somebody else")
    await desk.manifests.apply(ACTOR, said, plan.digest, plan.version)
    assert desk.teams.get("search").name == "Search and ads"


async def test_two_applies_of_one_plan_at_once_make_each_thing_once(desk: Desk) -> None:
    said = given_of(managed(FILES))
    plan = await desk.manifests.plan(said)
    doing = [desk.manifests.apply(f"p{i}", said, plan.digest, plan.version) for i in range(5)]
    done = await asyncio.gather(*doing, return_exceptions=True)
    assert sum(isinstance(one, Applied) for one in done) == 1
    assert {one.word for one in done if isinstance(one, Refusal)} == {"plan_stale"}
    assert len(desk.keys.all()) == 1
    assert desk.directory.book.version == 1


async def test_where_store_or_audit_fail_nothing_is_half_done(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    said = given_of(managed(FILES))
    plan = await desk.manifests.plan(said)
    desk.audit.broken = True
    assert (await refused(desk.manifests.apply(ACTOR, said, plan.digest, 0))).word == "audit_unavailable"
    desk.audit.broken = False

    async def full(*_: object) -> None:
        raise Refusal("directory_unavailable", "the disk is full", "free it")

    with monkeypatch.context() as patch:
        patch.setattr(desk.store, "commit", full)
        assert (await refused(desk.manifests.apply(ACTOR, said, plan.digest, 0))).word == "directory_unavailable"
    again = DirectoryDb(desk.path)
    assert again.load() == desk.directory.book.snapshot()
    assert again.version() == 0
    again.close()
    await desk.manifests.apply(ACTOR, said, plan.digest, 0)
    assert len(desk.keys.all()) == 1


async def test_more_changes_than_are_made_at_once_are_refused(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bursar.control.manifests.MOST_CHANGES", 3)
    assert (await refused(desk.apply(FILES))).word == "too_many_changes"
    assert desk.directory.book.version == 0


# ---- deployments


async def test_a_team_does_not_go_while_deployments_are_its_own(desk: Desk) -> None:
    tenants = managed({name: FILES[name] for name in ("owners", "teams")})
    await desk.apply(tenants)
    await Deployments(desk.directory).map("ann", "chat-prod", "gpt-4o", "search")
    gone = without(tenants, "teams", "search")
    assert await desk.faults(gone, prune=True, sources=(GIT,)) == [("teams.search", "in_use")]
    assert (await refused(desk.teams.remove("ann", "search"))).word == "in_use"
    await Deployments(desk.directory).unmap("ann", "search:chat-prod")
    await desk.apply(gone, prune=True, sources=(GIT,))
    assert desk.teams.all() == []


async def test_what_no_deployment_can_be_is_told_of_each(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"a b": "gpt-4o", "nobody:chat": "gpt-4o", "chat": " ", "x" * 65: "gpt-4o", ":chat": "gpt-4o"}
    found = await desk.faults({"deployments": {name: {"model": model} for name, model in names.items()}})
    words = {name: "unknown_id" if name == "nobody:chat" else "invalid_input" for name in names}
    assert sorted(found) == sorted((f"deployments.{name}", word) for name, word in words.items())
    monkeypatch.setattr("bursar.control.manifest_plan.MOST_DEPLOYMENTS", 1)
    assert await desk.faults(FILES) == [("deployments", "invalid_input")]


# ---- managed by git

HANDS: list[Callable[[Desk], Any]] = [
    lambda desk: desk.teams.update("ann", "search", lambda _: TeamInput(name="X", owner_id="acme")),
    lambda desk: desk.owners.update("ann", "acme", lambda _: OwnerInput(name="X")),
    lambda desk: desk.keys.update("ann", desk.keys.all()[0].id, lambda _: KeyInput(name="X")),
    lambda desk: desk.budgets.update("ann", "search-month", lambda _: BudgetTerms(limit_pico=1)),
    lambda desk: desk.budgets.remove("ann", "search-month"),
    lambda desk: desk.trust.remove("ann", "ci"),
    lambda desk: Access(desk.directory).revoke("ann", "ops"),
    lambda desk: Deployments(desk.directory).map("ann", "chat-prod", "other", "search"),
    lambda desk: Deployments(desk.directory).unmap("ann", "search:chat-prod"),
    lambda desk: Promotions(desk.directory).move("ann", "demote", "team", "search"),
    lambda desk: Promotions(desk.directory).move("ann", "demote", "key", desk.keys.all()[0].id),
    lambda desk: Promotions(desk.directory).move("ann", "demote", "budget", "search-month"),
]


@pytest.mark.parametrize("act", HANDS)
async def test_what_git_manages_refuses_other_hands_but_not_with_a_reason(
    desk: Desk, act: Callable[[Desk], Any]
) -> None:
    await desk.apply(managed(FILES), files={"team/search": "teams.yaml"})
    before = desk.content()
    refusal = await refused(act(desk))
    assert refusal.word == "managed_by_git"
    assert GIT in refusal.message
    assert "--break-glass" in refusal.hint
    assert desk.content() == before
    token = BREAK_GLASS.set("the site burns")
    try:
        await act(desk)
    finally:
        BREAK_GLASS.reset(token)
    assert desk.audit.lines[-1].facts["break_glass"] == "the site burns"
    assert desk.audit.lines[-1].facts["managed_by"] == GIT
    plan = await desk.plan(managed(FILES))
    assert plan.steps
    assert all(step.drifted or step.act == "create" for step in plan.steps)
    await desk.apply(managed(FILES))
    assert (await desk.plan(managed(FILES))).steps == ()


async def test_switching_off_and_new_secrets_are_never_refused(desk: Desk) -> None:
    await desk.apply(managed(FILES))
    key = desk.keys.all()[0].id
    await desk.keys.rotate("ann", key, 0)
    assert (await desk.plan(managed(FILES))).steps == ()
    await desk.keys.set_disabled("ann", key, True)
    await desk.teams.set_disabled("ann", "search", True)
    assert (await refused(desk.keys.set_disabled("ann", key, False))).word == "managed_by_git"
    plan = await desk.plan(managed(FILES))
    assert {(step.kind, step.drifted) for step in plan.steps} == {("key", True), ("team", True)}


async def test_files_of_another_source_do_not_take_over_unasked(desk: Desk) -> None:
    await desk.apply(managed(FILES))
    other = edited(managed(FILES, "git:other"), "teams", "search", name="Mine")
    assert {word for _, word in await desk.faults(other)} == {"managed_by_git"}
    assert await desk.faults(edited(FILES, "teams", "search", name="Mine")) == [("teams.search", "managed_by_git")]
    assert (await desk.plan(FILES)).steps == ()
    await desk.manifests.release(ACTOR, ["team/search"])
    mine = {"teams": {"search": other["teams"]["search"]}}
    await desk.apply(mine)
    assert desk.directory.book.get(Managed, "team/search").source == "git:other"


async def test_only_what_the_same_source_manages_is_pruned(desk: Desk) -> None:
    await desk.owners.create(ACTOR, "By hand")
    await desk.apply(managed({"owners": {"theirs": {"name": "T"}}}, "git:other"))
    await desk.apply(managed(FILES))
    fewer = without(managed(FILES), "budgets", "search-month")
    plan = await desk.plan(fewer)
    assert (plan.steps, plan.orphans) == ((), ("budget/search-month",))
    await desk.apply(fewer, prune=True)
    assert [budget.id for budget in desk.budgets.all()] == ["nightly-day"]
    assert {owner.id for owner in desk.owners.all()} == {"acme", "theirs", "by-hand"}
    assert await desk.faults(without(fewer, "teams", "search"), prune=True) != []
    await desk.apply({"owners": {}}, sources=(GIT,), prune=True)
    assert {owner.id for owner in desk.owners.all()} == {"theirs", "by-hand"}
    assert (desk.keys.all(), desk.teams.all(), desk.trust.all()) == ([], [], [])
    assert [mark.source for mark in desk.manifests.managed()] == ["git:other"]


async def test_a_budget_that_was_removed_comes_back_under_its_id(desk: Desk) -> None:
    await desk.apply(FILES)
    await desk.budgets.remove(ACTOR, "search-month")
    (step,) = (await desk.plan(FILES)).steps
    assert step.act == "create"
    await desk.apply(FILES)
    assert desk.budgets.get("search-month").version == 3


# ---- back


async def test_an_apply_is_undone_as_a_whole(desk: Desk) -> None:
    await desk.apply(managed(FILES))
    before = desk.content()
    secrets = desk.keys.all()[0].secrets
    await desk.apply(edited(without(managed(FILES), "trust", "ci"), "teams", "search", name="New"), prune=True)
    await desk.history.undo("ann", 2)
    assert desk.content() == before
    assert desk.keys.all()[0].secrets == secrets
    await desk.history.undo("ann", 3)
    assert desk.teams.get("search").name == "New"
    await desk.history.undo("ann", 4)
    await desk.apply({"owners": {}}, sources=(GIT,), prune=True)
    await desk.history.undo("ann", desk.directory.book.version)
    assert desk.content() == before
    assert desk.keys.all()[0].secrets == secrets


async def test_the_first_apply_is_undone_to_nothing_and_not_where_somebody_leans_on_it(desk: Desk) -> None:
    await desk.apply(FILES)
    await desk.keys.create(ACTOR, "search", KeyInput(name="By hand"))
    assert (await refused(desk.history.undo(ACTOR, 1))).word == "in_use"
    await desk.keys.remove(ACTOR, next(key.id for key in desk.keys.all() if key.name == "By hand"))
    await desk.history.undo(ACTOR, 1)
    assert (desk.keys.all(), desk.teams.all(), desk.owners.all(), desk.budgets.all()) == ([], [], [], [])


async def test_a_rollback_leads_back_but_opens_nothing_that_was_closed(desk: Desk) -> None:
    await desk.apply(managed(FILES))
    before = desk.content()
    key = desk.keys.all()[0]
    await desk.keys.rotate(ACTOR, key.id, 0)
    rotated = desk.keys.get(key.id).secrets
    await desk.apply(edited(managed(FILES), "budgets", "search-month", limit_usd="7"))
    await desk.owners.create(ACTOR, "Later")
    plan = await desk.manifests.plan_rollback(1)
    assert {(step.kind, step.act) for step in plan.steps} == {("budget", "change"), ("owner", "remove")}
    await desk.manifests.rollback(ACTOR, 1, plan.digest, plan.version)
    assert desk.content() == before
    assert desk.keys.get(key.id).secrets == rotated
    await desk.keys.set_disabled(ACTOR, key.id, True)
    assert (await desk.manifests.plan_rollback(1)).steps == ()
    version = desk.directory.book.version
    await desk.history.undo(ACTOR, version - 1)
    assert [owner.id for owner in desk.owners.all()] == ["acme", "later"]
    assert (await refused(desk.manifests.plan_rollback(99))).word == "unknown_id"


# ---- any directory

_IDS = st.sampled_from(["a", "b1", "c-d", "e.f"])
_TAGS = st.lists(st.sampled_from(["prod", "batch", "x1"]), unique=True, max_size=2).map(tuple)
_NAMES = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=12)
_LIMITS = st.lists(
    st.builds(
        LimitDef,
        id=st.sampled_from(["l1", "l2", "l3"]),
        unit=st.sampled_from(["requests", "tokens", "concurrency"]),
        amount=st.integers(1, 10**9),
        per_seconds=st.integers(1, 86_400),
        burst=st.none() | st.integers(1, 1000),
        scope=st.sampled_from(["key", "team", "user"]),
        on_outage=st.sampled_from(["open", "closed"]),
    ),
    unique_by=lambda limit: limit.id,
    max_size=2,
).map(tuple)
_POLICIES = st.builds(
    Policy,
    models=st.none() | st.just(("gpt-4o*", "*")) | st.just(("no", "1", "~")),
    max_tokens_cap=st.none() | st.integers(1, 10**6),
    external=st.none() | st.booleans(),
    stop=st.none() | st.just(("\n", "#", "a: b")),
    networks=st.none() | st.just(("10.0.0.0/8",)),
    limits=_LIMITS,
    modes=st.dictionaries(st.sampled_from(["limits", "models"]), st.sampled_from(["off", "shadow", "enforce"])),
)
_WINDOWS = (
    st.just(WindowDef())
    | st.builds(
        WindowDef,
        period=st.sampled_from(["day", "week", "year"]),
        zone=st.just("Europe/Berlin"),
        week_start=st.integers(0, 6),
    )
    | st.builds(WindowDef, kind=st.just("rolling"), seconds=st.integers(60, 10**6))
)
_ENDS = st.none() | st.integers(1, 10**9).map(lambda us: START_NS + us * 1000)


@st.composite
def directories(draw: st.DrawFn) -> list[Entity]:
    """Entities of a directory that could have come about."""
    owners = [Owner(id=i, name=draw(_NAMES), contacts=draw(_TAGS)) for i in draw(st.sets(_IDS, min_size=1))]
    teams = [
        Team(
            id=i,
            name=draw(_NAMES),
            owner_id=draw(st.sampled_from(owners)).id,
            policy=draw(_POLICIES),
            disabled=draw(st.booleans()),
            tags=draw(_TAGS),
        )
        for i in draw(st.sets(_IDS))
    ]
    found: list[Entity] = [*owners, *teams]
    for team in teams:
        for letter in draw(st.sets(st.sampled_from("abc"), max_size=2)):
            key_id = f"{team.id[0]}{letter}{'x' * 10}"
            found.append(
                VirtualKey(
                    id=key_id,
                    name=draw(_NAMES),
                    team_id=team.id,
                    secrets=(KeySecret(digest=key_id.encode()),),
                    policy=Policy(max_tokens_default=draw(st.none() | st.integers(1, 99)), limits=draw(_LIMITS)),
                    expires_at=draw(_ENDS),
                    disabled=draw(st.booleans()),
                    tags=draw(_TAGS),
                )
            )
    subjects = [("team", team.id) for team in teams] + [("owner", owner.id) for owner in owners]
    subjects += [("key", one.id) for one in found if isinstance(one, VirtualKey)] + [
        ("user", "ann@x"),
        ("model", "gpt 4"),
    ]
    for number in range(draw(st.integers(0, 3))):
        kind, subject = draw(st.sampled_from(subjects))
        found.append(
            BudgetDef(
                id=f"budget-{number}",
                version=draw(st.integers(1, 9)),
                subject_kind=kind,  # type: ignore[arg-type]
                subject=subject,
                limit_pico=draw(st.integers(0, 10**18)),
                hard=draw(st.booleans()),
                window=draw(_WINDOWS),
                thresholds=draw(st.sampled_from([(50, 80, 95, 100), (), (90,)])),
                name=draw(st.just("") | _NAMES),
                mode=draw(st.sampled_from(["off", "shadow", "enforce"])),
            )
        )
    found += [
        AccessGrant(
            id="g1", subject="role/operator", acts=("read", "rotate"), path="openai/*/*/prod-*/*", tags={"a": "1"}
        )
    ] * draw(st.booleans())
    places = [f"{team}chat-{letter}" for team in ("", *(f"{team.id}:" for team in teams)) for letter in "aB"]
    found += [Deployment(id=i, model=draw(_NAMES)) for i in draw(st.sets(st.sampled_from(places)))]
    marks = draw(st.sets(st.sampled_from([f"{type(one).__name__}:{one.id}" for one in found]), max_size=4))  # type: ignore[union-attr]
    return found + [one for mark in marks for one in _marked(found, mark, draw(st.sampled_from(["git", GIT])))]


def _marked(found: list[Entity], wanted: str, source: str) -> list[Entity]:
    return [
        Managed(id=f"{kind_of(one)}/{id_of(one)}", source=source, applied=said_digest(one))
        for one in found
        if f"{type(one).__name__}:{id_of(one)}" == wanted
    ]


def planted(folder: Path, entities: list[Entity]) -> Desk:
    desk = Desk(folder)
    asyncio.run(desk.directory.change(ACTOR, lambda _: Change(action="plant", target="x", put=entities, by_git=True)))
    return desk


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(entities=directories())
def test_any_directory_is_exported_and_made_again(
    tmp_path_factory: pytest.TempPathFactory, entities: list[Entity]
) -> None:
    desk = planted(tmp_path_factory.mktemp("one"), entities)
    other = Desk(tmp_path_factory.mktemp("two"))
    try:
        exported = desk.exported()
        assert asyncio.run(desk.plan(exported)).steps == ()
        read = read_yaml(to_yaml(exported))
        assert (read.data or {}, read.faults) == (exported, [])
        asyncio.run(other.apply(exported))
        assert other.content() == desk.content()
        assert other.exported() == exported
        assert asyncio.run(other.plan(exported)).steps == ()
    finally:
        desk.store.close()
        other.store.close()

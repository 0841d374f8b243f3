"""The directory as a gateway serves by it: deltas must lead where the whole snapshot leads, and money comes first."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.core.directory import (
    KINDS,
    AccessGrant,
    BreakerMark,
    BudgetDef,
    Delta,
    Deployment,
    KeySecret,
    Owner,
    Policy,
    Snapshot,
    Team,
    TokenKey,
    TokenMark,
    TrustRule,
    VirtualKey,
    WindowDef,
    id_of,
)
from bursar.core.errors import Refusal
from bursar.gateway.tenants import Tenants
from tests.gateway.ground import Stand, budget, override, provider_key

MakeStand = Callable[..., Stand]

MODELS = ("m-1", "m-2")
USERS = ("", "ann")


class Definitions:
    """What the money store was told, in order."""

    def __init__(self) -> None:
        self.told: list[BudgetDef] = []

    def __call__(self, definition: BudgetDef) -> None:
        self.told.append(definition)

    @property
    def alive(self) -> set[str]:
        latest = {definition.id: definition for definition in self.told}
        return {name for name, definition in latest.items() if not definition.deleted}


def tenants_of(snapshot: Snapshot) -> tuple[Tenants, Definitions]:
    told = Definitions()
    tenants = Tenants(told)
    tenants.replace(snapshot)
    return tenants, told


def digest_of(name: str) -> bytes:
    return name.encode().ljust(32, b".")


def key(name: str, team: str = "t1", *, secrets: tuple[str, ...] = (), **changes: Any) -> VirtualKey:
    held = tuple(KeySecret(digest=digest_of(secret)) for secret in secrets or (name,))
    return VirtualKey(**{"id": name, "name": name, "team_id": team, "secrets": held} | changes)


def team(name: str = "t1", owner: str = "o1", **changes: Any) -> Team:
    return Team(**{"id": name, "name": name, "owner_id": owner} | changes)


def owner(name: str = "o1") -> Owner:
    return Owner(id=name, name=name)


def start(**changes: Any) -> Snapshot:
    return Snapshot(**{"version": 1, "owners": [owner()], "teams": [team()], "keys": [key("k1")]} | changes)


# ---- who is served ---------------------------------------------------------------------------------------------------


def served(tenants: Tenants, name: str) -> bool:
    found = tenants.by_digest.get(digest_of(name))
    if found is None:
        return False
    found.plan.check_alive(1)
    return tenants.current(found.plan) is found.plan


def test_a_key_is_found_by_each_of_its_secrets() -> None:
    tenants, _ = tenants_of(start(keys=[key("k1", secrets=("old", "new"))]))
    assert tenants.by_digest[digest_of("old")].plan is tenants.by_digest[digest_of("new")].plan


def test_a_secret_that_was_taken_away_is_not_found() -> None:
    tenants, _ = tenants_of(start(keys=[key("k1", secrets=("old", "new"))]))
    tenants.change(Delta(version=2, keys=[key("k1", secrets=("new",))]))
    assert set(tenants.by_digest) == {digest_of("new")}
    assert tenants.version == 2


def test_the_end_of_an_overlap_is_the_secrets_own() -> None:
    secrets = (KeySecret(digest=digest_of("old"), expires_at=100), KeySecret(digest=digest_of("new")))
    tenants, _ = tenants_of(start(keys=[key("k1")]))
    tenants.change(Delta(version=2, keys=[msgspec.structs.replace(key("k1"), secrets=secrets)]))
    assert tenants.by_digest[digest_of("old")].expires_at == 100
    assert tenants.by_digest[digest_of("new")].expires_at is None


@pytest.mark.parametrize(
    "delta",
    [
        Delta(version=2, keys=[key("k1", disabled=True)]),
        Delta(version=2, teams=[team(disabled=True)]),
    ],
)
def test_switched_off_is_refused_by_the_next_hold(delta: Delta) -> None:
    tenants, _ = tenants_of(start())
    before = tenants.by_digest[digest_of("k1")].plan
    tenants.change(delta)
    with pytest.raises(Refusal) as refused:
        tenants.current(before).check_alive(1)
    assert refused.value.word == "key_disabled"


@pytest.mark.parametrize("gone", [("key", "k1"), ("team", "t1"), ("owner", "o1")])
def test_a_key_without_its_team_or_owner_is_not_served(gone: tuple[str, str]) -> None:
    tenants, _ = tenants_of(start())
    before = tenants.by_digest[digest_of("k1")].plan
    tenants.change(Delta(version=2, gone=[gone]))
    assert tenants.by_digest == {}
    with pytest.raises(Refusal) as refused:
        tenants.current(before)
    assert refused.value.word == "key_disabled"


def test_a_team_that_comes_back_brings_its_keys() -> None:
    tenants, _ = tenants_of(start())
    tenants.change(Delta(version=2, gone=[("team", "t1")]))
    tenants.change(Delta(version=3, teams=[team()]))
    assert served(tenants, "k1")


def test_a_key_that_moves_is_its_new_teams() -> None:
    tenants, _ = tenants_of(start(teams=[team(), team("t2", policy=Policy(models=("only",)))]))
    tenants.change(Delta(version=2, keys=[key("k1", "t2")]))
    assert not tenants.by_digest[digest_of("k1")].plan.allows_model("m-1")
    tenants.change(Delta(version=3, teams=[team(disabled=True)]))
    assert served(tenants, "k1")


def test_what_is_not_in_a_new_snapshot_is_gone() -> None:
    tenants, told = tenants_of(start(budgets=[budget(5, "b1"), budget(5, "b2")], keys=[key("k1"), key("k2")]))
    tenants.replace(start(version=7, budgets=[budget(6, "b2", version=2)], keys=[key("k2")]))
    assert set(tenants.by_digest) == {digest_of("k2")}
    assert told.alive == {"b2"}
    assert tenants.version == 7


# ---- money knows a budget before any plan names it -------------------------------------------------------------------


def test_a_definition_is_handed_over_before_a_hold_can_name_it() -> None:
    known: set[str] = set()

    def define(definition: BudgetDef) -> None:
        found = tenants.by_digest.get(digest_of("k1"))
        if found is not None:
            assert definition.id not in found.plan.budget_set("m-1", "m-1", "").ids or definition.id in known
        known.add(definition.id)

    tenants = Tenants(define)
    tenants.replace(start(budgets=[budget(5, "b1", "team", "t1")]))
    assert tenants.by_digest[digest_of("k1")].plan.budget_set("m-1", "m-1", "").ids == ("b1",)
    tenants.change(Delta(version=2, budgets=[budget(5, "b2", "key", "k1")]))
    assert set(tenants.by_digest[digest_of("k1")].plan.budget_set("m-1", "m-1", "").ids) == known == {"b1", "b2"}


@pytest.mark.parametrize(
    ("kind", "subject"),
    [("key", "k1"), ("team", "t1"), ("owner", "o1"), ("tag", "red"), ("model", "m-*"), ("node", "*")],
)
def test_a_new_budget_binds_whom_it_is_on(kind: str, subject: str) -> None:
    tenants, _ = tenants_of(start(keys=[key("k1", tags=("red",))]))
    tenants.change(Delta(version=2, budgets=[budget(5, "b1", kind, subject)]))
    assert tenants.by_digest[digest_of("k1")].plan.budget_set("m-1", "m-1", "").ids == ("b1",)
    gone = budget(5, "b1", kind, subject, version=2, deleted=True)
    tenants.change(Delta(version=3, budgets=[gone]))
    assert tenants.by_digest[digest_of("k1")].plan.budget_set("m-1", "m-1", "").ids == ()


def test_a_budget_that_moves_leaves_its_old_subject() -> None:
    tenants, _ = tenants_of(start(keys=[key("k1"), key("k2")], budgets=[budget(5, "b1", "key", "k1")]))
    tenants.change(Delta(version=2, budgets=[budget(5, "b1", "key", "k2", version=2)]))
    for name, bound in (("k1", ()), ("k2", ("b1",))):
        assert tenants.by_digest[digest_of(name)].plan.budget_set("m-1", "m-1", "").ids == bound


# ---- provider keys and prices ----------------------------------------------------------------------------------------


def test_provider_keys_come_and_go() -> None:
    tenants, _ = tenants_of(start(provider_keys=[provider_key("a", "openai/*/*/*/*")]))
    tenants.change(Delta(version=2, provider_keys=[provider_key("b", "openai/*/*/*/*")], gone=[("provider_key", "a")]))
    assert set(tenants.provider_keys) == {"b"}


def test_prices_are_told_in_the_order_in_which_they_hold() -> None:
    late, early = override("openai", "m", from_ns=9), override("openai", "m", from_ns=3)
    tenants, _ = tenants_of(start(prices=[late, early]))
    assert tenants.prices == [early, late]
    tenants.change(Delta(version=2, gone=[("price", "openai/m@9")]))
    assert tenants.prices == [early]


# ---- deltas against a plain rebuild ----------------------------------------------------------------------------------

_NAMES = {"owner": ("o1", "o2"), "team": ("t1", "t2"), "key": ("k1", "k2", "k3"), "budget": ("b1", "b2")}
_policies = st.sampled_from([Policy(), Policy(models=("m-1",)), Policy(max_tokens_cap=7), Policy(user_header="x-user")])
_owners = st.sampled_from([owner("o1"), owner("o2")])
_teams = st.builds(
    team,
    st.sampled_from(_NAMES["team"]),
    st.sampled_from(_NAMES["owner"]),
    policy=_policies,
    disabled=st.booleans(),
    tags=st.sampled_from([(), ("red",)]),
)
_keys = st.builds(
    lambda name, team_id, generation, **more: key(
        name, team_id, secrets=tuple(f"{name}{g}" for g in generation), **more
    ),
    st.sampled_from(_NAMES["key"]),
    st.sampled_from(_NAMES["team"]),
    st.sampled_from([(1,), (1, 2), (2,)]),
    policy=_policies,
    disabled=st.booleans(),
    tags=st.sampled_from([(), ("red",)]),
)
_subjects = st.sampled_from(
    [("key", "k1"), ("team", "t1"), ("team", "t2"), ("owner", "o1"), ("tag", "red"), ("model", "m-2"), ("user", "ann")]
)
_budgets = st.builds(
    lambda name, subject, limit, **more: budget(limit, name, *subject, **more),
    st.sampled_from(_NAMES["budget"]),
    _subjects,
    st.sampled_from([5, 6]),
    hard=st.booleans(),
    deleted=st.booleans(),
    mode=st.sampled_from(["enforce", "shadow", "off"]),
)
_provider_keys = st.builds(
    provider_key, st.sampled_from(["a", "b"]), st.just("openai/*/*/*/*"), version=st.integers(1, 3)
)
_prices = st.builds(override, st.just("openai"), st.just("m-1"), from_ns=st.integers(1, 3))
_trust = st.builds(
    lambda name, team_id, **more: TrustRule(
        id=name, team_id=team_id, issuer="https://i", audience="a", match={"sub": ("x",)}, **more
    ),
    st.sampled_from(["r1", "r2"]),
    st.sampled_from(_NAMES["team"]),
    policy=_policies,
    disabled=st.booleans(),
)
_token_keys = st.builds(TokenKey, id=st.sampled_from(["kid-1", "kid-2"]), public=st.just(b"p" * 32))
_token_marks = st.builds(TokenMark, id=st.sampled_from(["revoked/a", "used/b"]), until=st.integers(1, 3))
_grants = st.builds(
    AccessGrant,
    id=st.sampled_from(["g1", "g2"]),
    subject=st.just("team/t1"),
    acts=st.sampled_from([("use",), ("read",)]),
)
_deployments = st.builds(
    Deployment, id=st.sampled_from(["chat", "t1:chat"]), model=st.sampled_from(["gpt-4o", "gpt-4o-mini"])
)
_breakers = st.builds(
    BreakerMark,
    id=st.sampled_from(["provider/openai", "key/a/m-1"]),
    open=st.booleans(),
    at=st.integers(1, 3),
    until=st.sampled_from([None, 2]),
)
_gone = st.sampled_from(
    [(kind, name) for kind in ("owner", "team", "key") for name in _NAMES[kind]]
    + [
        ("trust", "r1"),
        ("trust", "r2"),
        ("token_key", "kid-1"),
        ("token_mark", "revoked/a"),
        ("grant", "g1"),
        ("deployment", "chat"),
        ("breaker", "provider/openai"),
    ]
    + [("provider_key", "a"), ("provider_key", "b"), ("price", "openai/m-1@1"), ("price", "openai/m-1@2")]
)


def _few(values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(values, max_size=2, unique_by=id_of)


_changes = st.fixed_dictionaries(
    {
        "owners": _few(_owners),
        "teams": _few(_teams),
        "keys": _few(_keys),
        "budgets": _few(_budgets),
        "provider_keys": _few(_provider_keys),
        "prices": _few(_prices),
        "trust": _few(_trust),
        "token_keys": _few(_token_keys),
        "token_marks": _few(_token_marks),
        "grants": _few(_grants),
        "deployments": _few(_deployments),
        "breakers": _few(_breakers),
        "gone": st.lists(_gone, max_size=2, unique=True),
    }
)

Table = dict[str, dict[str, Any]]


def rebuilt(table: Table, version: int) -> Snapshot:
    return Snapshot(version=version, **{field: list(rows.values()) for field, rows in table.items()})


def seen(tenants: Tenants) -> dict[bytes, Any]:
    """All that a request could learn of each accepted secret."""
    return {
        digest: (
            found.expires_at,
            found.plan.key_id,
            found.plan.team_id,
            found.plan.owner_id,
            found.plan.tags,
            found.plan.disabled,
            found.plan.enforced,
            found.plan.user_header,
            {(model, user): found.plan._find_budgets(model, model, user, "a") for model in MODELS for user in USERS},
            tenants.current(found.plan) is found.plan,
        )
        for digest, found in tenants.by_digest.items()
    }


def of_rules(tenants: Tenants) -> dict[str, Any]:
    """What tokens of each trust rule could do."""
    plans = {name: plan for name, plan in tenants._plans.items() if name.startswith("trust:")}
    return {name: (plan.team_id, plan.owner_id, plan.disabled, plan.enforced) for name, plan in plans.items()}


@settings(max_examples=150, deadline=None)
@given(st.lists(_changes, max_size=6))
def test_deltas_lead_where_the_snapshot_leads(steps: list[dict[str, Any]]) -> None:
    """Whatever the order of the changes: as if this gateway had connected only now."""
    tenants, told = tenants_of(start())
    table: Table = {
        "owners": {"o1": owner()},
        "teams": {"t1": team()},
        "keys": {"k1": key("k1")},
        "budgets": {},
        "provider_keys": {},
        "prices": {},
        "trust": {},
        "token_keys": {},
        "token_marks": {},
        "grants": {},
        "deployments": {},
        "breakers": {},
    }
    fields = {kind: row.field for kind, row in KINDS.items()}
    for version, step in enumerate(steps, 2):
        tenants.change(Delta(version=version, **step))
        for kind, name in step["gone"]:
            table[fields[kind]].pop(name, None)
        for field in table:
            table[field].update((id_of(entity), entity) for entity in step[field])
    plain, plainly_told = tenants_of(rebuilt(table, len(steps) + 1))
    assert seen(tenants) == seen(plain)
    assert tenants.version == plain.version
    assert tenants.provider_keys == plain.provider_keys
    assert tenants.prices == plain.prices
    assert tenants.token_keys == plain.token_keys
    assert tenants.token_marks == plain.token_marks
    assert tenants.grants == plain.grants
    assert tenants.deployments == plain.deployments
    assert (tenants.marks, tenants.shut) == (plain.marks, plain.shut)
    assert {grant.id for grant in tenants.use_grants} == {grant.id for grant in plain.use_grants}
    assert of_rules(tenants) == of_rules(plain)
    assert told.alive == plainly_told.alive


def test_the_kinds_here_are_all_there_are() -> None:
    """A new kind in the directory must be taken up by the gateway, and by the test above."""
    fields = {field for field in Delta.__struct_fields__ if field != "version"}
    assert fields - {row.field for row in KINDS.values() if row.private} == {
        "owners",
        "teams",
        "keys",
        "budgets",
        "provider_keys",
        "prices",
        "trust",
        "token_keys",
        "token_marks",
        "grants",
        "deployments",
        "breakers",
        "gone",
    }


async def test_a_budget_that_the_ledger_cannot_keep_closes_what_it_binds(make_stand: MakeStand) -> None:
    """It neither ends the link nor leaves its key unbound."""
    stand = make_stand()
    broken = budget(10**12, window=WindowDef(zone="No/Where"))
    stand.node.tenants.change(Delta(version=2, budgets=[broken]))
    exchange = await stand.ask()
    assert (exchange.status, exchange.word) == (503, "store_unavailable")
    assert stand.upstream.sent == []

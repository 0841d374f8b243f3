"""A key only narrows its team, shadow never refuses, and no default starves a model."""

from itertools import product

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.core.calls import Call, ServerTool
from bursar.core.ceiling import ceiling
from bursar.core.directory import BudgetDef, LimitDef, Mode, Owner, Policy, Team, VirtualKey
from bursar.core.errors import Refusal
from bursar.core.estimate import Estimate
from bursar.core.limits import Bound
from bursar.core.policy import (
    HARD_DEFAULT,
    UNCAPPED,
    Allowed,
    BudgetIndex,
    KeyPlan,
    compile_policy,
    decide,
    resolve_user,
)
from bursar.core.prices import Price
from bursar.stores import catalogue

TABLE = catalogue.load()
NOW = 1_795_000_000 * 10**9  # November 2026


def price_of(provider: str, model: str) -> Price:
    found = TABLE.find(provider, model, NOW)
    assert found is not None
    return found


PLAIN = price_of("openai", "gpt-4o")
THINKER = price_of("openai", "gpt-6-sol")
CLAUDE = price_of("anthropic", "claude-sonnet-4-5")
OLD = price_of("openai", "gpt-4-turbo")  # writes 4,096 tokens at most


def plan(
    team: Policy | None = None,
    key: Policy | None = None,
    budgets: tuple[BudgetDef, ...] = (),
    **changes: object,
) -> KeyPlan:
    values: dict[str, object] = {"id": "key_1", "name": "k", "team_id": "team_1", "secrets": (), "tags": ("blue",)}
    return compile_policy(
        VirtualKey(**{**values, "policy": key or Policy(), **changes}),  # type: ignore[arg-type]
        Team(id="team_1", name="t", owner_id="owner_1", policy=team or Policy(), tags=("red",)),
        Owner(id="owner_1", name="o"),
        budgets,
    )


def budget(kind: str, subject: str, **changes: object) -> BudgetDef:
    values: dict[str, object] = {"id": f"{kind}-{subject}", "version": 1, "subject_kind": kind, "subject": subject}
    return BudgetDef(**{**values, "limit_pico": 10**12, **changes})  # type: ignore[arg-type]


HARD = (budget("key", "key_1"),)


def a_call(**changes: object) -> Call:
    values: dict[str, object] = {
        "route": "chat",
        "dialect": "openai",
        "purpose": "inference",
        "model": "gpt-4o",
        "stream": False,
        "body": b"{}",
        "input_bytes": 4_000,
        "prompt_chars": 4_000,
        "messages": 1,
    }
    return Call(**{**values, **changes})  # type: ignore[arg-type]


def asking(tokens: int, **changes: object) -> Call:
    return a_call(max_tokens=tokens, max_tokens_field="max_tokens", **changes)


def refused(word: str, the_plan: KeyPlan, call: Call, price: Price | None = PLAIN, **given: object) -> Refusal:
    with pytest.raises(Refusal) as found:
        decide(the_plan, call, price, **given)  # type: ignore[arg-type]
    assert found.value.word == word
    return found.value


# ---- models, purposes, prompts --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("team", "key", "model", "allowed"),
    [
        (None, None, "anything", True),
        (("*",), None, "anything", True),
        (("gpt-4o",), None, "gpt-4o", True),
        (("gpt-4o",), None, "gpt-4o-mini", False),
        (("gpt-4*",), None, "gpt-4o-mini", True),
        (("gpt-4o",), None, "openai/gpt-4o", True),
        (("openai/*",), None, "azure/gpt-4o", False),
        (("gpt-4o",), ("*",), "claude-opus-5", False),
        (("*",), ("gpt-4o",), "claude-opus-5", False),
        (("gpt-4o", "o3"), ("o3", "o1"), "o3", True),
        (("gpt-4o", "o3"), ("o3", "o1"), "o1", False),
        ((), None, "gpt-4o", False),
    ],
)
def test_both_levels_must_allow_a_model(
    team: tuple[str, ...] | None, key: tuple[str, ...] | None, model: str, allowed: bool
) -> None:
    the_plan = plan(Policy(models=team), Policy(models=key))
    for _ in range(2):  # the second time from memory
        if allowed:
            decide(the_plan, a_call(model=model), PLAIN)
        else:
            refused("model_not_allowed", the_plan, a_call(model=model))


def test_a_provider_keys_tags_bind() -> None:
    refused("model_not_allowed", plan(), a_call(), allowed_by_tag=False)


def test_purposes_are_those_of_both_levels() -> None:
    the_plan = plan(Policy(purposes=("inference", "batch")), Policy(purposes=("embedding", "inference")))
    decide(the_plan, a_call(), PLAIN)
    for purpose in ("batch", "embedding"):
        refused("purpose_not_allowed", the_plan, a_call(purpose=purpose))
    refused("purpose_not_allowed", plan(Policy(purposes=())), a_call())


def test_prompts_have_the_smaller_cap_of_both_levels() -> None:
    the_plan = plan(Policy(max_prompt_chars=5_000, max_input_tokens=800), Policy(max_prompt_chars=4_500))
    refused("prompt_too_large", the_plan, a_call(prompt_chars=4_501))
    refused("prompt_too_large", the_plan, a_call(), expected_input=801)
    refused("prompt_too_large", the_plan, a_call(input_bytes=4_000), expected_input=0)  # 1,000 by its bytes
    decide(the_plan, a_call(prompt_chars=4_500), PLAIN, expected_input=800)


def test_external_prompts_are_small_and_conservative_unless_said_otherwise() -> None:
    outside = plan(Policy(), Policy(external=True))
    refused("prompt_too_large", outside, a_call(prompt_chars=20_001))
    assert decide(outside, asking(5_000), PLAIN).output_cap == 256
    assert decide(outside, a_call(), PLAIN).max_tokens_applied == 256
    told = plan(Policy(external=True, max_tokens_profile="standard"), Policy(max_prompt_chars=30_000))
    assert decide(told, a_call(prompt_chars=25_000), PLAIN).max_tokens_applied == 512
    assert decide(told, asking(5_000), PLAIN).output_cap == 5_000


# ---- max_tokens -----------------------------------------------------------------------------------------------------


def test_a_caller_without_a_cap_is_left_alone_where_nothing_asks_for_one() -> None:
    allowed = decide(plan(), a_call(), PLAIN)
    assert (allowed.edits.max_tokens, allowed.max_tokens_applied, allowed.output_cap) == (None, None, 16_384)
    assert decide(plan(), a_call(), None).output_cap == UNCAPPED


@pytest.mark.parametrize(
    ("price", "dialect", "default", "field"),
    [
        (PLAIN, "openai", HARD_DEFAULT, "max_tokens"),
        (THINKER, "openai", 4_096, "max_completion_tokens"),
        (OLD, "openai", 4_096, "max_tokens"),
        (CLAUDE, "anthropic", HARD_DEFAULT, "max_tokens"),
        (msgspec.structs.replace(PLAIN, max_output=1_000), "openai", 1_000, "max_tokens"),
    ],
)
def test_a_hard_budget_needs_a_cap_and_says_so(price: Price, dialect: str, default: int, field: str) -> None:
    allowed = decide(plan(budgets=HARD), a_call(dialect=dialect), price)
    assert allowed.strict
    assert (allowed.output_cap, allowed.max_tokens_applied, allowed.truncated) == (default, default, False)
    assert (allowed.edits.max_tokens, allowed.edits.max_tokens_field) == (default, field)


def test_defaults_go_from_the_key_to_the_team_to_the_profile_to_the_tag() -> None:
    def default(team: Policy, key: Policy, tag: int | None = 900) -> int | None:
        return decide(plan(team, key), a_call(), PLAIN, tag_default=tag).max_tokens_applied

    standard = Policy(max_tokens_profile="standard")
    assert default(Policy(max_tokens_default=100), Policy(max_tokens_default=200)) == 200
    assert default(Policy(max_tokens_default=100), standard) == 100
    assert default(standard, Policy()) == 512
    assert default(standard, Policy(max_tokens_profile="conservative")) == 256
    assert default(Policy(), Policy()) == 900
    assert default(Policy(), Policy(), None) is None
    assert default(Policy(max_tokens_cap=300), Policy(max_tokens_default=1_000)) == 300
    assert default(Policy(max_tokens_cap=300), Policy(), None) == 300


def test_a_cap_clamps_or_refuses_and_the_stricter_word_counts() -> None:
    clamping = plan(Policy(max_tokens_cap=1_000), Policy(max_tokens_cap=700))
    allowed = decide(clamping, asking(5_000), PLAIN)
    assert (allowed.output_cap, allowed.edits.max_tokens, allowed.truncated) == (700, 700, True)
    assert allowed.edits.max_tokens_field == "max_tokens"  # the caller's own field
    assert decide(clamping, asking(700), PLAIN).max_tokens_applied is None
    for over in product(("clamp", "refuse"), repeat=2):
        both = plan(
            Policy(max_tokens_cap=1_000, over_max_tokens=over[0]), Policy(over_max_tokens=over[1], max_tokens_cap=900)
        )
        if "refuse" in over:
            refused("max_tokens_exceeded", both, asking(901))
        else:
            assert decide(both, asking(901), PLAIN).output_cap == 900


def test_a_thinking_budget_is_never_cut_off_from_its_answer() -> None:
    the_plan = plan(Policy(max_tokens_cap=2_000))
    call = asking(9_000, dialect="anthropic", thinking_budget=4_000)
    assert "thinking" in refused("max_tokens_exceeded", the_plan, call, CLAUDE).hint
    roomy = decide(plan(Policy(max_tokens_default=512)), a_call(thinking_budget=4_000), CLAUDE)
    assert roomy.output_cap > 4_000
    refused("max_tokens_exceeded", the_plan, a_call(thinking_budget=4_000), CLAUDE)


POLICIES = st.builds(
    Policy,
    max_tokens_profile=st.sampled_from([None, "conservative", "standard"]),
    max_tokens_default=st.one_of(st.none(), st.integers(1, 10_000)),
    max_tokens_cap=st.one_of(st.none(), st.integers(1, 10_000)),
    over_max_tokens=st.sampled_from([None, "clamp", "refuse"]),
    external=st.sampled_from([None, False, True]),
    modes=st.dictionaries(
        st.sampled_from(["models", "purposes", "max_tokens", "prompt", "unpriced"]),
        st.sampled_from(["off", "shadow", "enforce"]),
    ),
)


@settings(deadline=None, max_examples=400)
@given(
    team=POLICIES,
    key=POLICIES,
    asked=st.one_of(st.none(), st.integers(1, 100_000)),
    price=st.sampled_from([PLAIN, THINKER, CLAUDE, OLD]),
    hard=st.booleans(),
    tag=st.one_of(st.none(), st.integers(1, 5_000)),
)
def test_whatever_the_policy_no_model_starves_and_no_cap_grows(
    team: Policy, key: Policy, asked: int | None, price: Price, hard: bool, tag: int | None
) -> None:
    call = a_call() if asked is None else asking(asked)
    the_plan = plan(team, key, HARD if hard else ())
    if (
        the_plan.enforced.over == "refuse"
        and asked is not None
        and asked > max(the_plan.enforced.cap or asked, price.reasoning_floor)
    ):
        refused("max_tokens_exceeded", the_plan, call, price, tag_default=tag)
        return
    allowed = decide(the_plan, call, price, tag_default=tag)
    applied = allowed.max_tokens_applied
    assert allowed.edits.max_tokens == applied
    if asked is not None:
        assert allowed.output_cap <= asked
        assert allowed.truncated == (applied is not None)
    if applied is not None:
        assert applied >= min(price.reasoning_floor, price.max_output or applied)
        assert applied == allowed.output_cap
    if hard:
        assert ceiling(call, price, allowed.output_cap, Estimate(), strict=True).pico > 0
        assert applied is not None or asked is not None


# ---- modes ----------------------------------------------------------------------------------------------------------

BROKEN_BY = {
    "models": (Policy(models=("o3",)), a_call(), "model_not_allowed"),
    "purposes": (Policy(purposes=("batch",)), a_call(), "purpose_not_allowed"),
    "prompt": (Policy(max_prompt_chars=10), a_call(), "prompt_too_large"),
    "max_tokens": (Policy(max_tokens_cap=10, over_max_tokens="refuse"), asking(11), "max_tokens_exceeded"),
    "unpriced": (Policy(unpriced="refuse"), a_call(), "unpriced_model"),
}


@pytest.mark.parametrize("control", BROKEN_BY)
@pytest.mark.parametrize("level", ["team", "key"])
def test_every_control_is_off_shadow_or_enforced(control: str, level: str) -> None:
    policy, call, word = BROKEN_BY[control]
    price = None if control == "unpriced" else PLAIN

    def outcome(mode: Mode) -> Allowed:
        told = msgspec.structs.replace(policy, modes={control: mode})
        return decide(plan(**{level: told}), call, price)

    with pytest.raises(Refusal) as found:
        outcome("enforce")
    assert found.value.word == word
    assert [refusal.word for refusal in outcome("shadow").shadowed] == [word]
    assert outcome("shadow").max_tokens_applied is None
    assert outcome("off").shadowed == []


@pytest.mark.parametrize("control", [name for name in BROKEN_BY if name != "unpriced"])
@pytest.mark.parametrize("mode", ["off", "shadow"])
def test_a_key_cannot_loosen_what_its_team_enforces(control: str, mode: Mode) -> None:
    policy, call, word = BROKEN_BY[control]
    refused(word, plan(policy, Policy(modes={control: mode})), call)


def test_a_key_in_shadow_does_not_tighten_an_enforcing_team() -> None:
    the_plan = plan(Policy(models=("gpt-*",)), Policy(models=("o3",), modes={"models": "shadow"}))
    assert [refusal.word for refusal in decide(the_plan, a_call(), PLAIN).shadowed] == ["model_not_allowed"]


# ---- prices, budgets ------------------------------------------------------------------------------------------------


def test_a_hard_budget_refuses_the_unpriced_in_any_mode() -> None:
    lax = Policy(unpriced="assume_dearest", modes={"unpriced": "off"})
    refused("unpriced_model", plan(lax, budgets=HARD), a_call(), None)
    soft = plan(budgets=(budget("key", "key_1", hard=False),))
    assert decide(soft, a_call(), None).price is None
    assert not plan(lax, Policy(unpriced="refuse")).assume_dearest


def test_budgets_are_those_of_key_team_owner_tags_model_and_user() -> None:
    budgets = tuple(
        budget(kind, subject, hard=False)
        for kind, subject in [
            ("key", "key_1"),
            ("key", "key_2"),
            ("team", "team_1"),
            ("owner", "owner_1"),
            ("owner", "owner_2"),
            ("tag", "red"),
            ("tag", "blue"),
            ("tag", "green"),
            ("model", "gpt-4o"),
            ("model", "claude-*"),
            ("user", "ann"),
            ("user", "bob"),
            ("user", "*"),
            ("provider_key", "pk_1"),
        ]
    )
    the_plan = plan(budgets=budgets)
    common = {"key-key_1", "team-team_1", "owner-owner_1", "tag-red", "tag-blue"}
    assert set(decide(the_plan, a_call(), PLAIN).budgets) == common | {"model-gpt-4o"}
    # an alias, a snapshot or a prefix does not slip past the model's budget
    assert "model-gpt-4o" in decide(the_plan, a_call(model="gpt-4o-2024-08-06"), PLAIN).budgets
    assert "model-gpt-4o" in decide(the_plan, a_call(model="openai/gpt-4o"), PLAIN).budgets
    ann = decide(the_plan, a_call(model="claude-sonnet-4-5"), CLAUDE, user="ann").budgets
    assert set(ann) == common | {"model-claude-*", "user-ann", "user-*"}
    assert "provider_key-pk_1" in the_plan.budget_set("gpt-4o", "gpt-4o", "", "pk_1").ids
    assert len(ann) == len(set(ann))


@pytest.mark.parametrize(
    ("changes", "strict", "counted"),
    [
        ({}, True, True),
        ({"hard": False}, False, True),
        ({"mode": "shadow"}, False, True),
        ({"mode": "off"}, False, False),
        ({"deleted": True}, False, False),
    ],
)
def test_only_an_enforced_hard_budget_is_strict(changes: dict[str, object], strict: bool, counted: bool) -> None:
    allowed = decide(plan(budgets=(budget("team", "team_1", **changes),)), a_call(), PLAIN)
    assert (allowed.strict, bool(allowed.budgets)) == (strict, counted)


def test_one_index_serves_many_plans() -> None:
    index = BudgetIndex([budget("key", f"key_{number}") for number in range(100)])
    key = VirtualKey(id="key_7", name="k", team_id="team_1", secrets=())
    team, owner = Team(id="team_1", name="t", owner_id="owner_1"), Owner(id="owner_1", name="o")
    assert compile_policy(key, team, owner, index).budget_set("m", "m", "").ids == ("key-key_7",)


# ---- limits ---------------------------------------------------------------------------------------------------------


def names(bounds: tuple[Bound, ...]) -> set[tuple[str, str]]:
    return {(bound.name, bound.key[1]) for bound in bounds}


def test_limits_are_split_by_what_is_known_when() -> None:
    team = Policy(
        limits=(
            LimitDef(id="team-rpm", unit="requests", amount=60, scope="team"),
            LimitDef(id="each-key", unit="requests", amount=6),
            LimitDef(id="by-model", unit="requests", amount=5, scope="model"),
            LimitDef(id="by-user", unit="tokens", amount=1_000, scope="user"),
            LimitDef(id="by-tag", unit="concurrency", amount=9, scope="tag"),
            LimitDef(id="by-lease", unit="requests", amount=9, scope="provider_key"),
        )
    )
    key = Policy(limits=(LimitDef(id="tpm", unit="tokens", amount=100),))
    the_plan = plan(team, key)
    assert names(the_plan.arrival_bounds("ann").enforced) == {
        ("team-rpm", "team_1"),
        ("each-key", "key_1"),
        ("by-tag", "red"),
        ("by-tag", "blue"),
    }
    assert names(the_plan.call_bounds("gpt-4o", "ann").enforced) == {
        ("by-model", "team_1/gpt-4o"),
        ("by-user", "team_1/ann"),
        ("tpm", "key_1"),
    }
    assert names(the_plan.provider_key_limits("pk_1").enforced) == {("by-lease", "pk_1")}
    assert the_plan.call_bounds("o3", "").enforced != the_plan.call_bounds("gpt-4o", "").enforced


def test_both_levels_limits_hold_even_under_one_name() -> None:
    the_plan = plan(
        Policy(limits=(LimitDef(id="rpm", unit="requests", amount=60),)),
        Policy(limits=(LimitDef(id="rpm", unit="requests", amount=6),)),
    )
    bounds = the_plan.arrival_bounds("").enforced
    assert [bound.amount for bound in bounds] == [60, 6]
    assert len({bound.key for bound in bounds}) == 2


def test_limits_of_a_level_have_its_mode() -> None:
    limit = (LimitDef(id="rpm", unit="requests", amount=6),)
    shadow = plan(Policy(limits=limit, modes={"limits": "shadow"}), Policy(modes={"limits": "enforce"}))
    assert (len(shadow.arrival_bounds("").enforced), len(shadow.arrival_bounds("").shadowed)) == (0, 1)
    off = plan(Policy(limits=limit, modes={"limits": "off"}))
    assert off.arrival_bounds("") == ((), ())


def test_names_from_outside_do_not_grow_a_plan() -> None:
    the_plan = plan(Policy(models=("x*",), limits=(LimitDef(id="u", unit="requests", amount=6, scope="user"),)))
    for number in range(2_000):
        the_plan.allows_model(f"m{number}")
        the_plan.arrival_bounds(f"u{number}")
        the_plan.call_bounds(f"m{number}", "")
        the_plan.budget_set(f"m{number}", "", "")
    memos = (the_plan._models, the_plan._arrivals, the_plan._calls, the_plan._budget_sets)
    assert all(len(memo) <= 256 for memo in memos)  # type: ignore[arg-type]


# ---- who ------------------------------------------------------------------------------------------------------------


def test_disabled_and_expired_keys_are_told_apart() -> None:
    plan().check_alive(NOW)
    for dead, word in [
        (plan(disabled=True), "key_disabled"),
        (plan(expires_at=NOW), "key_expired"),
    ]:
        with pytest.raises(Refusal) as found:
            dead.check_alive(NOW)
        assert found.value.word == word
    plan(expires_at=NOW + 1).check_alive(NOW)


def test_users_are_named_by_the_trusted_header_only() -> None:
    trusting = plan(Policy(), Policy(user_header="X-User"))
    assert resolve_user(plan(), {"x-user": "ann"}) == ""
    assert resolve_user(trusting, {"x-user": " ann "}) == "ann"
    for headers in ({}, {"x-user": " "}, {"x-user": "a" * 257}, {"x-user": "a\x00b"}):
        with pytest.raises(Refusal) as found:
            resolve_user(trusting, headers)
        assert found.value.word == "user_required"
    shared = plan(Policy(user_missing="shared"), Policy(user_header="X-User"))
    assert resolve_user(shared, {}) == "shared"
    strict = plan(Policy(user_missing="deny", user_header="X-User"), Policy(user_missing="shared"))
    with pytest.raises(Refusal):
        resolve_user(strict, {})


def test_the_rest_of_a_policy_reaches_the_plan() -> None:
    the_plan = plan(
        Policy(tool_uses_cap=5, stop=("END",), unknown_fields="allow", on_disconnect="abort", shrink_to_budget=True),
        Policy(tool_uses_cap=3, stop=("END", "STOP"), shrink_to_budget=False),
    )
    assert (the_plan.on_disconnect, the_plan.shrink_to_budget) == ("abort", False)
    allowed = decide(the_plan, a_call(server_tools=(ServerTool("web_search", None),)), PLAIN)
    assert allowed.edits.tool_uses_cap == 3
    assert allowed.edits.stop == ("END", "STOP")
    assert allowed.allow_unknown
    assert decide(the_plan, a_call(), PLAIN).edits.tool_uses_cap is None
    assert not plan(Policy(unknown_fields="allow"), Policy(unknown_fields="refuse")).allow_unknown

"""A key and its team, compiled into one plan. What each level states holds in that level's own mode for the control."""

from collections.abc import Collection, Iterable, Sequence
from typing import Literal, TypeVar

from bursar.core.controls import STRENGTH, Control, mode_of, mode_of_limit
from bursar.core.directory import BudgetDef, Mode, Owner, Policy, Team, VirtualKey
from bursar.core.ledger_records import OBSERVED
from bursar.core.networks import read_networks
from bursar.core.plans import BudgetIndex, KeyPlan, LimitPlan, Rules

PROFILES = {"conservative": 256, "standard": 512}  # max_tokens for callers that give none
EXTERNAL_PROMPT_CHARS = 20_000
_ENFORCED: tuple[Mode, ...] = ("enforce",)
_SHADOWED: tuple[Mode, ...] = ("shadow",)
_TRIED: tuple[Mode, ...] = ("enforce", "shadow")


def compile_policy(key: VirtualKey, team: Team, owner: Owner, budgets: BudgetIndex | Sequence[BudgetDef]) -> KeyPlan:
    """The plan of a key. A budget carries its own mode; each other rule has that of the level that states it."""
    index = budgets if isinstance(budgets, BudgetIndex) else BudgetIndex(budgets)
    levels = (team.policy, key.policy)
    tags = tuple(dict.fromkeys((*team.tags, *key.tags)))
    external = any(policy.external for policy in levels)
    enforced, shadowed, tried = (_rules(levels, external, modes) for modes in (_ENFORCED, _SHADOWED, _TRIED))
    limits = [
        LimitPlan(limit, level, mode)
        for level, policy in ((team.id, team.policy), (key.id, key.policy))
        for limit in policy.limits
        if (mode := mode_of_limit(policy, limit)) != "off"
    ]
    return KeyPlan(
        key_id=key.id,
        team_id=team.id,
        owner_id=owner.id,
        tags=tags,
        disabled=key.disabled or team.disabled,
        expires_at=key.expires_at,
        enforced=enforced,
        shadowed=None if shadowed == Rules() else shadowed,
        tried=None if _output_of(tried) == _output_of(enforced) else tried,
        external=external,
        assume_dearest=not enforced.refuses_unpriced and any(it.unpriced == "assume_dearest" for it in levels),
        allow_unknown=_one_of([policy.unknown_fields for policy in levels], "refuse", "allow") == "allow",
        on_disconnect=key.policy.on_disconnect or team.policy.on_disconnect or "drain",
        shrink_to_budget=bool(_last(policy.shrink_to_budget for policy in levels)),
        user_header=(key.policy.user_header or team.policy.user_header or "").lower(),
        user_missing=_one_of([policy.user_missing for policy in levels], "deny", "shared") or "deny",
        user_mode=_strictest(_denying(levels), "user"),
        guard_mode=_strictest([policy for policy in levels if "guard" in policy.modes], "guard"),
        limits=tuple(limits),
        by_provider_key=tuple(limit for limit in limits if limit.definition.scope == "provider_key"),
        budgets=index,
        credential=OBSERVED if key.observed is not None and not key.observed.secret_id else "",
        observed=key.observed,
        fixed_budgets=(
            *index.on("key", key.id),
            *index.on("team", team.id),
            *index.on("owner", owner.id),
            *index.on("tag", *tags),
            *index.on("node", "", "*", "node"),
        ),
    )


def _output_of(rules: Rules) -> tuple[int | None, str, int | None]:
    return rules.cap, rules.over, rules.default


def _rules(levels: Sequence[Policy], external: bool, modes: Collection[Mode]) -> Rules:
    """What the levels state in these modes."""

    def stating(control: Control) -> list[Policy]:
        return [policy for policy in levels if mode_of(policy, control) in modes]

    purposes = [frozenset(policy.purposes) for policy in stating("purposes") if policy.purposes is not None]
    prompts, outputs = stating("prompt"), stating("max_tokens")
    chars = _least(policy.max_prompt_chars for policy in prompts)
    if chars is None and any(policy.external for policy in prompts):
        stated = any(policy.max_prompt_chars is not None for policy in levels)
        chars = None if stated else EXTERNAL_PROMPT_CHARS
    return Rules(
        models=tuple(policy.models for policy in stating("models") if policy.models is not None),
        purposes=frozenset.intersection(*purposes) if purposes else None,
        cap=_least(_cap(policy, external and _profile(levels) is None) for policy in outputs),
        over=_one_of([policy.over_max_tokens for policy in outputs], "refuse", "clamp") or "clamp",
        default=_default(outputs, external),
        max_input_tokens=_least(policy.max_input_tokens for policy in prompts),
        max_prompt_chars=chars,
        tool_uses_cap=_least(policy.tool_uses_cap for policy in stating("tools")),
        stop=tuple(dict.fromkeys(stop for policy in stating("stop") for stop in policy.stop or ())),
        networks=tuple(read_networks(it.networks) for it in stating("networks") if it.networks is not None),
        refuses_unpriced=any(policy.unpriced == "refuse" for policy in stating("unpriced")),
    )


def _cap(policy: Policy, outside: bool) -> int | None:
    """A level's cap: as stated, else that of the conservative profile, which external prompts have by default."""
    if policy.max_tokens_cap is not None:
        return policy.max_tokens_cap
    conservative = policy.max_tokens_profile == "conservative" or (outside and policy.external)
    return PROFILES["conservative"] if conservative else None


def _profile(levels: Sequence[Policy]) -> Literal["conservative", "standard"] | None:
    return _one_of([policy.max_tokens_profile for policy in levels], "conservative", "standard")


def _default(told: Sequence[Policy], external: bool) -> int | None:
    """max_tokens for callers that give none: the key's, the team's, that of the profile."""
    stated = _last(policy.max_tokens_default for policy in told)
    if stated is not None:
        return stated
    profile = _profile(told) or ("conservative" if external and any(policy.external for policy in told) else None)
    return PROFILES[profile] if profile else None


def _denying(levels: Sequence[Policy]) -> list[Policy]:
    """The levels that want a user to be named: those that say so, else those that name the header."""
    return [it for it in levels if it.user_missing == "deny"] or [it for it in levels if it.user_header]


_Word = TypeVar("_Word", bound=str)
_Value = TypeVar("_Value")


def _one_of(stated: Sequence[_Word | None], strict: _Word, loose: _Word) -> _Word | None:
    """The stricter of what the levels state; None when they say nothing."""
    if strict in stated:
        return strict
    return loose if loose in stated else None


def _strictest(stating: Sequence[Policy], control: Control) -> Mode:
    return max((mode_of(policy, control) for policy in stating), key=lambda mode: STRENGTH[mode], default="enforce")


def _least(values: Iterable[int | None]) -> int | None:
    return min((value for value in values if value is not None), default=None)


def _last(values: Iterable[_Value | None]) -> _Value | None:
    """The key's word, else the team's: levels come team first."""
    return next((value for value in reversed([*values]) if value is not None), None)

"""A key's effective policy, compiled once per change of the directory, so that a request only looks things up.

A key can only narrow what its team allows. What either level states holds in that level's own mode: a key that tries
a rule in shadow cannot loosen the team's enforced one, and cannot tighten it unasked either.
"""

from bisect import insort
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from operator import attrgetter
from typing import Any, Literal, NamedTuple, TypeVar

import msgspec

from bursar.core.directory import BudgetDef, LimitDef, Mode, OverMax, Owner, Policy, SubjectKind, Team, VirtualKey
from bursar.core.errors import Refusal
from bursar.core.grants import Grant
from bursar.core.ledger_records import Credential
from bursar.core.limits import Bound, bind
from bursar.core.networks import Network, is_within, read_networks

PROFILES = {"conservative": 256, "standard": 512}  # max_tokens for callers that give none
EXTERNAL_PROMPT_CHARS = 20_000
SHARED_USER = "shared"
_REMEMBERED = 256  # names of models and users come from callers: what a plan remembers of them is bounded


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """The caps that hold in one mode, the narrowest of all levels."""

    models: tuple[tuple[str, ...], ...] = ()  # each level's list must allow the model
    purposes: frozenset[str] | None = None
    cap: int | None = None  # output tokens
    over: OverMax = "clamp"
    max_input_tokens: int | None = None
    max_prompt_chars: int | None = None


class BoundSet(NamedTuple):
    """Rate limits of one call: those that refuse, and those that only tell."""

    enforced: tuple[Bound, ...]
    shadowed: tuple[Bound, ...]


class Shown(NamedTuple):
    """The rates of one unit: an answer tells how the tightest of them stands."""

    unit: str  # as header names spell it: "requests", "input-tokens", ...
    bounds: tuple[Bound, ...]


class CallBounds(NamedTuple):
    """A `BoundSet` of what is checked once the call is understood, and every enforced rate of the call, by unit."""

    enforced: tuple[Bound, ...]
    shadowed: tuple[Bound, ...]
    shown: tuple[Shown, ...]


class BudgetSet(NamedTuple):
    """Ids of the budgets that a call counts against, each once; whether one of them is hard and enforced."""

    ids: tuple[str, ...]
    hard: bool


_by_id = attrgetter("id")


class BudgetIndex:
    """Budgets by whom they bind. Make it once for many plans: a directory holds thousands of each.

    A plan remembers what it found: after `put`, the plans that the budget can bind are compiled anew.
    """

    def __init__(self, budgets: Iterable[BudgetDef]) -> None:
        self._by_subject: dict[tuple[SubjectKind, str], list[BudgetDef]] = {}
        self.by_model: list[BudgetDef] = []
        for budget in budgets:
            self.put(None, budget)

    def put(self, before: BudgetDef | None, budget: BudgetDef) -> None:
        """Take a budget in the place of what it was before."""
        if before is not None and before in (place := self._place(before)):
            place.remove(before)
        if not budget.deleted and budget.mode != "off":
            insort(self._place(budget), budget, key=_by_id)  # one order, whatever way led here

    def _place(self, budget: BudgetDef) -> list[BudgetDef]:
        if budget.subject_kind == "model":
            return self.by_model
        return self._by_subject.setdefault((budget.subject_kind, budget.subject), [])

    def on(self, kind: SubjectKind, *subjects: str) -> list[BudgetDef]:
        return [budget for subject in subjects for budget in self._by_subject.get((kind, subject), ())]


class _Limit(NamedTuple):
    definition: LimitDef
    level: str  # id of the key or team that states it
    mode: Mode


class KeyPlan(msgspec.Struct, kw_only=True):
    """What one key may do. Looked up, never computed, on the way of a request."""

    key_id: str
    team_id: str
    owner_id: str
    tags: tuple[str, ...]
    disabled: bool
    expires_at: int | None  # ns
    enforced: Rules
    shadowed: Rules | None  # None = nothing is in shadow
    default: int | None  # max_tokens for callers that give none
    external: bool
    unpriced: Literal["refuse", "assume_dearest"] | None
    unpriced_mode: Mode
    allow_unknown: bool  # unknown top-level fields under a hard budget
    tool_uses_cap: int | None
    on_disconnect: Literal["drain", "abort"]
    shrink_to_budget: bool
    stop: tuple[str, ...]
    user_header: str  # lower case; "" = this key names no users
    user_missing: Literal["deny", "shared"]
    limits: tuple[_Limit, ...]
    by_provider_key: tuple[LimitDef, ...]  # those enforced that count by provider key
    budgets: BudgetIndex
    fixed_budgets: tuple[BudgetDef, ...]  # of key, team, owner, tags and node
    networks: tuple[tuple[Network, ...], ...] = ()  # of each level that states any: all must hold the caller
    credential: Credential = ""
    caller: str = ""
    grant: Grant | None = None  # of a token; `parent` is then the plan that it narrows
    parent: "KeyPlan | None" = None
    _models: dict[str, bool] = {}
    _arrivals: dict[str, BoundSet] = {}
    _calls: dict[tuple[str, str], CallBounds] = {}
    _budget_sets: dict[tuple[str, str, str, str], BudgetSet] = {}

    def check_alive(self, now: int) -> None:
        """Raises Refusal(key_disabled | key_expired | token_expired).

        Asked again at the hold: a body may take its time.
        """
        if self.disabled:
            raise Refusal("key_disabled", "The key, or its team, is switched off", "Ask the team's owner")
        if self.expires_at is not None and now >= self.expires_at:
            if self.grant is not None:
                raise Refusal("token_expired", "The token has expired", "Fetch a new one: POST /oauth/token")
            raise Refusal("key_expired", "The key has expired", "Issue a new key, or extend this one")

    def check_network(self, address: str) -> None:
        """Raises Refusal(network_not_allowed) unless every level that states networks holds the caller's address."""
        if not all(is_within(address, level) for level in self.networks):
            raise Refusal(
                "network_not_allowed",
                f"The key may not be used from {address[:64] or 'an unknown address'}",
                "Call from a network that it is bound to, or have its policy changed: networks",
            )

    def allows_model(self, model: str) -> bool:
        """By the enforced lists; remembered."""
        known = self._models.get(model)
        if known is None:
            known = self._models[model] = matches_all(self.enforced.models, model)
            _bounded(self._models)
        return known

    def arrival_bounds(self, user: str) -> BoundSet:
        """Limits that are checked before the body is read: requests and concurrency, but those by model."""
        found = self._arrivals.get(user)
        if found is None:
            found = self._bind(_at_arrival, "", user)
            self._arrivals[user] = found
            _bounded(self._arrivals)
        return found

    def call_bounds(self, model: str, user: str) -> CallBounds:
        """Limits that are checked once the call is understood: all on tokens, and every one by model.

        `model` is the canonical name, so that an alias has no counter of its own.
        """
        found = self._calls.get((model, user))
        if found is None:
            bounds = self._bind(lambda limit: limit.scope != "provider_key" and not _at_arrival(limit), model, user)
            shown = _by_unit((*self.arrival_bounds(user).enforced, *bounds.enforced))
            found = self._calls[(model, user)] = CallBounds(*bounds, shown)
            _bounded(self._calls)
        return found

    def provider_key_limits(self, provider_key: str) -> tuple[Bound, ...]:
        """The enforced limits that count by provider key; mostly none."""
        return provider_key_bounds(self.by_provider_key, provider_key) if self.by_provider_key else ()

    def budget_set(self, model: str, canonical: str, user: str, provider_key: str = "") -> BudgetSet:
        """Budgets of a call. A model's budget counts by the name asked for and by the canonical one."""
        name = (model, canonical, user, provider_key)
        found = self._budget_sets.get(name)
        if found is None:
            found = self._budget_sets[name] = self._find_budgets(model, canonical, user, provider_key)
            _bounded(self._budget_sets)
        return found

    def _find_budgets(self, model: str, canonical: str, user: str, provider_key: str) -> BudgetSet:
        found = [
            *self.fixed_budgets,
            *self.budgets.on("user", user, "*" if user else ""),
            *self.budgets.on("provider_key", provider_key),
            *(b for b in self.budgets.by_model if matches((b.subject,), model) or matches((b.subject,), canonical)),
        ]
        return BudgetSet(
            tuple(dict.fromkeys(budget.id for budget in found)),
            any(budget.hard and budget.mode == "enforce" for budget in found),
        )

    def _bind(self, wanted: Callable[[LimitDef], bool], model: str, user: str) -> BoundSet:
        chosen: dict[Mode, dict[tuple[str, str], Bound]] = {"enforce": {}, "shadow": {}, "off": {}}
        for limit in self.limits:
            if wanted(limit.definition):
                for subject in self._subjects(limit, model, user):
                    bound = bind(limit.definition, subject)
                    chosen[limit.mode][bound.key] = bound
        return BoundSet(tuple(chosen["enforce"].values()), tuple(chosen["shadow"].values()))

    def _subjects(self, limit: _Limit, model: str, user: str) -> tuple[str, ...]:
        """Who has a counter of his own. Users and models are counted within the key or team that states the limit."""
        fixed = {"key": self.key_id, "team": self.team_id, "owner": self.owner_id, "node": "node"}
        scope = limit.definition.scope
        if scope == "tag":
            return self.tags
        if scope in fixed:
            return (fixed[scope],)
        return (f"{limit.level}/{user if scope == 'user' else model}",)


def _by_unit(bounds: Iterable[Bound]) -> tuple[Shown, ...]:
    by_unit: dict[str, tuple[Bound, ...]] = {}
    for bound in bounds:
        if bound.unit != "concurrency":
            name = bound.unit.replace("_", "-")
            by_unit[name] = (*by_unit.get(name, ()), bound)
    return tuple(Shown(unit, of_unit) for unit, of_unit in by_unit.items())


def _at_arrival(limit: LimitDef) -> bool:
    return limit.unit in ("requests", "concurrency") and limit.scope not in ("model", "provider_key")


def _bounded(memo: dict[Any, Any]) -> None:
    if len(memo) > _REMEMBERED:
        memo.clear()


def provider_key_bounds(limits: Iterable[LimitDef], provider_key: str) -> tuple[Bound, ...]:
    """Limits by provider key among these, for the lease of one."""
    return tuple(bind(limit, provider_key) for limit in limits if limit.scope == "provider_key")


def matches(patterns: Iterable[str], model: str) -> bool:
    """Whether one of the names or globs means the model; `provider/model` is also meant by its model part."""
    bare = model.partition("/")[2]
    return any(
        pattern in ("*", model) or fnmatchcase(model, pattern) or (bare != "" and fnmatchcase(bare, pattern))
        for pattern in patterns
    )


def matches_all(levels: Iterable[tuple[str, ...]], model: str) -> bool:
    return all(matches(patterns, model) for patterns in levels)


# ---- compiling -------------------------------------------------------------------------------------------------------


def compile_policy(key: VirtualKey, team: Team, owner: Owner, budgets: BudgetIndex | Sequence[BudgetDef]) -> KeyPlan:
    """The plan of a key. A budget carries its own mode; each other rule has that of the level that states it."""
    index = budgets if isinstance(budgets, BudgetIndex) else BudgetIndex(budgets)
    levels = (team.policy, key.policy)
    tags = tuple(dict.fromkeys((*team.tags, *key.tags)))
    external = any(policy.external for policy in levels)
    shadowed = _rules(levels, external, "shadow")
    limits = [
        _Limit(limit, level, mode)
        for level, policy in ((team.id, team.policy), (key.id, key.policy))
        if (mode := mode_of(policy, "limits")) != "off"
        for limit in policy.limits
    ]
    return KeyPlan(
        key_id=key.id,
        team_id=team.id,
        owner_id=owner.id,
        tags=tags,
        disabled=key.disabled or team.disabled,
        expires_at=key.expires_at,
        enforced=_rules(levels, external, "enforce"),
        shadowed=None if shadowed == Rules() else shadowed,
        default=_default(levels, external),
        external=external,
        unpriced=_one_of([policy.unpriced for policy in levels], "refuse", "assume_dearest"),
        unpriced_mode=_strictest([policy for policy in levels if policy.unpriced], "unpriced"),
        allow_unknown=_one_of([policy.unknown_fields for policy in levels], "refuse", "allow") == "allow",
        tool_uses_cap=_least(policy.tool_uses_cap for policy in levels),
        on_disconnect=key.policy.on_disconnect or team.policy.on_disconnect or "drain",
        shrink_to_budget=bool(_last(policy.shrink_to_budget for policy in levels)),
        stop=tuple(dict.fromkeys(stop for policy in levels for stop in policy.stop or ())),
        user_header=(key.policy.user_header or team.policy.user_header or "").lower(),
        user_missing=_one_of([policy.user_missing for policy in levels], "deny", "shared") or "deny",
        limits=tuple(limits),
        by_provider_key=tuple(
            limit.definition for limit in limits if limit.mode == "enforce" and limit.definition.scope == "provider_key"
        ),
        budgets=index,
        fixed_budgets=(
            *index.on("key", key.id),
            *index.on("team", team.id),
            *index.on("owner", owner.id),
            *index.on("tag", *tags),
            *index.on("node", "", "*", "node"),
        ),
        networks=tuple(read_networks(policy.networks) for policy in levels if policy.networks is not None),
    )


def mode_of(policy: Policy, control: str) -> Mode:
    """How a level wants what it states on a control to be taken."""
    return policy.modes.get(control, "enforce")


def _rules(levels: Sequence[Policy], external: bool, mode: Mode) -> Rules:
    """What the levels state in this mode."""

    def stating(control: str) -> list[Policy]:
        return [policy for policy in levels if mode_of(policy, control) == mode]

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
        max_input_tokens=_least(policy.max_input_tokens for policy in prompts),
        max_prompt_chars=chars,
    )


def _cap(policy: Policy, outside: bool) -> int | None:
    """A level's cap: as stated, else that of the conservative profile, which external prompts have by default."""
    if policy.max_tokens_cap is not None:
        return policy.max_tokens_cap
    conservative = policy.max_tokens_profile == "conservative" or (outside and policy.external)
    return PROFILES["conservative"] if conservative else None


def _profile(levels: Sequence[Policy]) -> Literal["conservative", "standard"] | None:
    return _one_of([policy.max_tokens_profile for policy in levels], "conservative", "standard")


def _default(levels: Sequence[Policy], external: bool) -> int | None:
    """max_tokens for callers that give none: the key's, the team's, that of the profile."""
    told = [policy for policy in levels if mode_of(policy, "max_tokens") == "enforce"]
    stated = _last(policy.max_tokens_default for policy in told)
    if stated is not None:
        return stated
    profile = _profile(told) or ("conservative" if external and any(policy.external for policy in told) else None)
    return PROFILES[profile] if profile else None


_Word = TypeVar("_Word", bound=str)
_Value = TypeVar("_Value")
_STRENGTH: dict[Mode, int] = {"off": 0, "shadow": 1, "enforce": 2}


def _one_of(stated: Sequence[_Word | None], strict: _Word, loose: _Word) -> _Word | None:
    """The stricter of what the levels state; None when they say nothing."""
    if strict in stated:
        return strict
    return loose if loose in stated else None


def _strictest(stating: Sequence[Policy], control: str) -> Mode:
    return max((mode_of(policy, control) for policy in stating), key=lambda mode: _STRENGTH[mode], default="enforce")


def _least(values: Iterable[int | None]) -> int | None:
    return min((value for value in values if value is not None), default=None)


def _last(values: Iterable[_Value | None]) -> _Value | None:
    """The key's word, else the team's: levels come team first."""
    return next((value for value in reversed([*values]) if value is not None), None)

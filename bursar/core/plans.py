"""A key's effective policy, compiled once per change of the directory, so that a request only looks things up.

A key can only narrow what its team allows. What either level states holds in that level's own mode: a key that tries
a rule in shadow cannot loosen the team's enforced one, and cannot tighten it unasked either.
"""

from bisect import insort
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from operator import attrgetter
from typing import Any, Literal, NamedTuple

import msgspec

from bursar.core.directory import BudgetDef, LimitDef, Mode, Observed, OverMax, SubjectKind
from bursar.core.discretion import own_bounds
from bursar.core.errors import Refusal
from bursar.core.grants import Grant
from bursar.core.ledger_records import Credential
from bursar.core.limits import Bound, bind
from bursar.core.networks import Network, is_within

SHARED_USER = "shared"
_REMEMBERED = 256  # names of models and users come from callers: what a plan remembers of them is bounded


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """What holds in some modes, the narrowest of all levels."""

    models: tuple[tuple[str, ...], ...] = ()  # each level's list must allow the model
    purposes: frozenset[str] | None = None
    cap: int | None = None  # output tokens
    over: OverMax = "clamp"
    default: int | None = None  # max_tokens for callers that give none
    max_input_tokens: int | None = None
    max_prompt_chars: int | None = None
    tool_uses_cap: int | None = None
    stop: tuple[str, ...] = ()
    networks: tuple[tuple[Network, ...], ...] = ()  # of each level that states any: all must hold the caller
    refuses_unpriced: bool = False


class BoundSet(NamedTuple):
    """Rate limits of one call: those that refuse, and those that only tell."""

    enforced: tuple[Bound, ...]
    shadowed: tuple[Bound, ...]


class Shown(NamedTuple):
    """The rates of one unit: an answer tells how the tightest of them stands."""

    unit: str  # as header names spell it: "requests", "input-tokens", ...
    bounds: tuple[Bound, ...]


class CallBounds(NamedTuple):
    """A `BoundSet` of what is checked once the call is understood, and the enforced rates that may be told, by unit."""

    enforced: tuple[Bound, ...]
    shadowed: tuple[Bound, ...]
    shown: tuple[Shown, ...]
    groups: tuple[tuple[Bound, ...], ...]  # the same without their names
    told: dict[str, object]  # for whoever tells callers how they stand: what stays the same in every answer


class BudgetSet(NamedTuple):
    """Ids of the budgets that a call counts against, each once."""

    ids: tuple[str, ...]
    hard: bool  # one of them is hard and enforced
    tried: bool = False  # one of them is hard and in shadow


_by_id = attrgetter("id")


class BudgetIndex:
    """Budgets by whom they bind. Make it once for many plans: a directory holds thousands of each.

    A plan remembers what it found: after `put`, the plans that the budget can bind are compiled anew.
    """

    def __init__(self, budgets: Iterable[BudgetDef]) -> None:
        self._by_subject: dict[tuple[SubjectKind, str], list[BudgetDef]] = {}
        self.by_model: list[BudgetDef] = []
        self.by_provider_key = False  # there may be one of a provider key
        for budget in budgets:
            self.put(None, budget)

    def put(self, before: BudgetDef | None, budget: BudgetDef) -> None:
        """Take a budget in the place of what it was before."""
        self.by_provider_key |= budget.subject_kind == "provider_key"
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


class LimitPlan(NamedTuple):
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
    shadowed: Rules | None  # what the levels state in shadow; None = nothing
    tried: Rules | None  # caps and default of the output, were what is in shadow enforced; None = they are the same
    external: bool
    assume_dearest: bool  # a model without a price costs what its provider's dearest does
    allow_unknown: bool  # unknown top-level fields under a hard budget
    on_disconnect: Literal["drain", "abort"]
    shrink_to_budget: bool
    user_header: str  # lower case; "" = this key names no users
    user_missing: Literal["deny", "shared"]
    user_mode: Mode  # of "deny"
    guard_mode: Mode
    limits: tuple[LimitPlan, ...]
    by_provider_key: tuple[LimitPlan, ...]  # those that count by provider key
    budgets: BudgetIndex
    fixed_budgets: tuple[BudgetDef, ...]  # of key, team, owner, tags and node
    credential: Credential = ""
    caller: str = ""
    observed: Observed | None = None  # the application came with its own provider key
    grant: Grant | None = None  # of a token; `parent` is then the plan that it narrows, or of which it is the twin
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

    def check_network(self, address: str) -> Refusal | None:
        """Raises Refusal(network_not_allowed) unless every level that states networks holds the caller's address.

        The same refusal is returned where only a level in shadow does not.
        """
        if not _holds(self.enforced.networks, address):
            raise _network_refusal(address)
        if self.shadowed is not None and not _holds(self.shadowed.networks, address):
            return _network_refusal(address)
        return None

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
            shown = _by_unit(own_bounds((*self.arrival_bounds(user).enforced, *bounds.enforced)))
            found = self._calls[(model, user)] = CallBounds(*bounds, shown, tuple(one.bounds for one in shown), {})
            _bounded(self._calls)
        return found

    def provider_key_limits(self, provider_key: str) -> BoundSet:
        """The limits that count by provider key; mostly none."""
        return provider_key_bounds(self.by_provider_key, provider_key) if self.by_provider_key else _UNBOUND

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
            any(budget.hard and budget.mode == "shadow" for budget in found),
        )

    def _bind(self, wanted: Callable[[LimitDef], bool], model: str, user: str) -> BoundSet:
        return _bound_set(
            (limit, subject)
            for limit in self.limits
            if wanted(limit.definition)
            for subject in self._subjects(limit, model, user)
        )

    def _subjects(self, limit: LimitPlan, model: str, user: str) -> tuple[str, ...]:
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


def provider_key_bounds(limits: Iterable[LimitPlan], provider_key: str) -> BoundSet:
    """Limits by provider key among these, for the lease of one."""
    return _bound_set((limit, provider_key) for limit in limits if limit.definition.scope == "provider_key")


def _bound_set(limits: Iterable[tuple[LimitPlan, str]]) -> BoundSet:
    """Each counter once. One in shadow has a counter of its own: it takes nothing from its enforced twin."""
    chosen: dict[Mode, dict[tuple[str, str], Bound]] = {"enforce": {}, "shadow": {}, "off": {}}
    for limit, subject in limits:
        bound = bind(limit.definition, subject, shadow=limit.mode == "shadow")
        chosen[limit.mode][bound.key] = bound
    return BoundSet(tuple(chosen["enforce"].values()), tuple(chosen["shadow"].values()))


_UNBOUND = BoundSet((), ())


def _holds(levels: Iterable[tuple[Network, ...]], address: str) -> bool:
    return all(is_within(address, level) for level in levels)


def _network_refusal(address: str) -> Refusal:
    return Refusal(
        "network_not_allowed",
        f"The key may not be used from {address[:64] or 'an unknown address'}",
        "Call from a network that it is bound to, or have its policy changed: networks",
        facts={"address": address[:64]},
    )


def matches(patterns: Iterable[str], model: str) -> bool:
    """Whether one of the names or globs means the model; `provider/model` is also meant by its model part."""
    bare = model.partition("/")[2]
    return any(
        pattern in ("*", model) or fnmatchcase(model, pattern) or (bare != "" and fnmatchcase(bare, pattern))
        for pattern in patterns
    )


def matches_all(levels: Iterable[tuple[str, ...]], model: str) -> bool:
    return all(matches(patterns, model) for patterns in levels)

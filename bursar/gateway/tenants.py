"""The directory as this gateway serves by it: keys found by digest, each with its plan.

Applied as versioned deltas, not swapped whole: a change costs what it touches, not the size of the directory. A plan is
compiled when its key first calls, so that hundreds of thousands of keys cost nothing until they do.
"""

import logging
from collections.abc import Callable, Sequence

import msgspec

from bursar.core.access_tokens import trust_plan
from bursar.core.circuits import subject_of
from bursar.core.directory import (
    AccessGrant,
    BreakerMark,
    BudgetDef,
    Delta,
    Deployment,
    Owner,
    PriceOverride,
    ProviderKey,
    Snapshot,
    Team,
    TokenKey,
    TrustRule,
    VirtualKey,
    revoked_mark,
)
from bursar.core.errors import Refusal
from bursar.core.grants import Grant, narrow, token_revoked
from bursar.core.ledger_records import OBSERVED, SWAPPED
from bursar.core.observing import swapped
from bursar.core.policy import BudgetIndex, KeyPlan, compile_policy
from bursar.gateway.credentials import Credentials

_log = logging.getLogger("bursar.tenants")


class Tenants:
    """`define` is the money store's: budget definitions are ledger entries, made before any hold names them."""

    def __init__(self, define: Callable[[BudgetDef], None]) -> None:
        self._define = define
        self.version = 0
        self.owners: dict[str, Owner] = {}
        self.teams: dict[str, Team] = {}
        self.keys: dict[str, VirtualKey] = {}
        self.observed: set[str] = set()  # ids of those whose application still presents its provider key
        self.budgets: dict[str, BudgetDef] = {}
        self.provider_keys: dict[str, ProviderKey] = {}
        self.grants: dict[str, AccessGrant] = {}
        self.use_grants: tuple[AccessGrant, ...] = ()
        self.deployments: dict[str, Deployment] = {}
        self.marks: dict[str, BreakerMark] = {}  # circuits that people have opened or closed
        self.shut: dict[str, BreakerMark] = {}  # those that they opened, by subject
        self.on_closed: Callable[[str], None] = lambda _subject: None
        self.by_digest = Credentials(self._plan_of)
        self.token_keys: dict[str, TokenKey] = {}
        self.token_marks: dict[str, int] = {}  # until when, ns
        self._prices: dict[tuple[str, str, int], PriceOverride] = {}
        self._plans: dict[str, KeyPlan] = {}  # by key id; those that were asked for
        self._keys_of_team: dict[str, set[str]] = {}
        self._index = BudgetIndex(())

    @property
    def prices(self) -> list[PriceOverride]:
        """Overrides in the order in which they hold."""
        return sorted(self._prices.values(), key=lambda price: price.from_ns)

    def replace(self, snapshot: Snapshot) -> None:
        """Take a whole directory; what is not in it is gone. Budgets that are gone are defined as deleted."""
        known = {budget.id for budget in snapshot.budgets}
        marks = self.marks if self.version else {mark.id: mark for mark in snapshot.breakers}
        dropped = [b for b in self.budgets.values() if b.id not in known and not b.deleted]
        for table in (
            self.owners,
            self.teams,
            self.keys,
            self.budgets,
            self.provider_keys,
            self.grants,
            self.deployments,
            self._prices,
            self.token_keys,
            self.token_marks,
        ):
            table.clear()
        self.by_digest.clear()
        self._plans.clear()
        self.observed.clear()
        self._keys_of_team.clear()
        self._index = BudgetIndex(())
        for budget in dropped:
            self._define(msgspec.structs.replace(budget, deleted=True, version=budget.version + 1))
        self.marks = marks  # what was closed while this node did not hear is closed now
        self._take(snapshot)
        self._take_marks(snapshot.breakers, whole=True)
        self.version = snapshot.version

    def change(self, delta: Delta) -> None:
        """Apply the next version. The caller has checked that none was missed."""
        self._forget(delta)
        for kind, entity_id in delta.gone:
            self._remove(kind, entity_id)
        self._take(delta)
        if delta.breakers:
            self._take_marks(delta.breakers)
        self.version = delta.version
        self._forget(delta)

    def current(self, plan: KeyPlan) -> KeyPlan:
        """The plan of a key or token as it is by now. Raises Refusal(key_disabled | token_revoked)."""
        key_id = plan.key_id
        if self._plans.get(key_id) is plan and key_id in self.keys:
            return plan  # a key's own, unchanged: what nearly every call asks for
        found = self._plan_by_id(key_id)
        if plan.grant is not None:
            return plan if self._stands(plan.grant) and found is plan.parent else self.narrowed(plan.grant)
        if found is None:
            if plan.credential == OBSERVED:
                return plan  # the directory hears of it when its provider has taken it
            raise Refusal("key_disabled", "The key was removed", "Ask the team's owner for another")
        if plan.credential == SWAPPED and found.observed is not None and found.observed.secret_id:
            return plan if found is plan.parent else swapped(found)
        return found

    def compiled(self, key: VirtualKey, team: Team, owner: Owner) -> KeyPlan:
        """The plan of a key that is not in the directory."""
        return compile_policy(key, team, owner, self._index)

    def narrowed(self, grant: Grant) -> KeyPlan:
        """The plan of a token. Raises Refusal(token_revoked) when what it stands on is gone."""
        parent, key = self._plan_by_id(grant.parent), self.keys.get(grant.parent)
        if parent is None or key is None or not self._stands(grant):
            raise token_revoked()
        if grant.secret and all(secret.digest.hex()[: len(grant.secret)] != grant.secret for secret in key.secrets):
            raise token_revoked("The text of the key that was exchanged for this token has been replaced")
        return narrow(parent, grant)

    def _stands(self, grant: Grant) -> bool:
        return grant.kid in self.token_keys and revoked_mark(grant.jti) not in self.token_marks

    def _take_budget(self, budget: BudgetDef) -> None:
        """One that the ledger cannot keep (control lets none through) closes what it binds, and nothing else."""
        try:
            self._define(budget)
        except ValueError as fault:
            _log.error("budget %s cannot be kept in the ledger: %s", budget.id, fault)
        self._index.put(self.budgets.get(budget.id), budget)
        self.budgets[budget.id] = budget

    def _take(self, news: Snapshot | Delta) -> None:
        for owner in news.owners:
            self.owners[owner.id] = owner
        for team in news.teams:
            self.teams[team.id] = team
        for budget in news.budgets:
            self._take_budget(budget)
        for token_key in news.token_keys:
            self.token_keys[token_key.id] = token_key
        for mark in news.token_marks:
            self.token_marks[mark.id] = mark.until
        self._take_keys(news.keys)
        self._take_keys([_as_key(rule) for rule in news.trust])
        for provider_key in news.provider_keys:
            self.provider_keys[provider_key.id] = provider_key
        for grant in news.grants:
            self.grants[grant.id] = grant
        self.use_grants = tuple(grant for grant in self.grants.values() if "use" in grant.acts)
        self.deployments.update((deployment.id, deployment) for deployment in news.deployments)
        for price in news.prices:
            self._prices[price.provider, price.model, price.from_ns] = price

    def _take_marks(self, marks: Sequence[BreakerMark], *, whole: bool = False) -> None:
        before, self.marks = self.marks, {} if whole else self.marks
        for mark in marks:
            if not mark.open and before.get(mark.id) != mark:
                self.on_closed(subject_of(mark.id))
            self.marks[mark.id] = mark
        self.shut = {subject_of(mark.id): mark for mark in self.marks.values() if mark.open}

    def _take_keys(self, keys: Sequence[VirtualKey]) -> None:
        """Plainly: a start takes hundreds of thousands, and callers wait for it."""
        of_team = self._keys_of_team
        for key in keys:
            key_id, team_id = key.id, key.team_id
            if key_id in self.keys:
                self._remove("key", key_id)
            self.keys[key_id] = key
            if team_id in of_team:
                of_team[team_id].add(key_id)
            else:
                of_team[team_id] = {key_id}
            if key.observed is not None and not key.observed.secret_id:
                self.observed.add(key_id)
        self.by_digest.add(keys)

    def _remove(self, kind: str, entity_id: str) -> None:
        if kind == "key" and (key := self.keys.pop(entity_id, None)) is not None:
            self._keys_of_team.get(key.team_id, set()).discard(entity_id)
            self.observed.discard(entity_id)
            self._plans.pop(key.id, None)
            self.by_digest.remove(key)
        elif kind == "price":
            self._prices = {n: p for n, p in self._prices.items() if f"{p.provider}/{p.model}@{p.from_ns}" != entity_id}
        elif kind == "trust":
            self._remove("key", trust_plan(entity_id))
        elif kind == "breaker":
            self.marks.pop(entity_id, None)
            self.shut.pop(subject_of(entity_id), None)
        else:
            tables = {"team": self.teams, "owner": self.owners, "provider_key": self.provider_keys}
            tables |= {"token_key": self.token_keys, "token_mark": self.token_marks, "grant": self.grants}
            tables["deployment"] = self.deployments
            tables.get(kind, {}).pop(entity_id, None)  # type: ignore[attr-defined]  # dicts of different values

    def _forget(self, delta: Delta) -> None:
        """Drop the plans that a delta can change, as the tables stand now: before it, and after."""
        budgets = [*delta.budgets, *(self.budgets[b.id] for b in delta.budgets if b.id in self.budgets)]
        if any(b.subject_kind in ("tag", "model", "user", "node", "provider_key") for b in budgets):
            self._plans.clear()
            self.by_digest.forget_all()
            return
        teams = {team.id for team in delta.teams}
        owners = {owner.id for owner in delta.owners}
        keys = {key.id for key in delta.keys} | {trust_plan(rule.id) for rule in delta.trust}
        subjects = [*delta.gone, *((budget.subject_kind, budget.subject) for budget in budgets)]
        for kind, subject in subjects:
            {"team": teams, "owner": owners, "key": keys}.get(kind, set()).add(subject)
        if owners:
            teams |= {team.id for team in self.teams.values() if team.owner_id in owners}
        for team_id in teams:
            keys |= self._keys_of_team.get(team_id, set())
        for key_id in keys & self._plans.keys():
            del self._plans[key_id]
            self.by_digest.forget(self.keys[key_id])

    def _plan_by_id(self, key_id: str) -> KeyPlan | None:
        key = self.keys.get(key_id)
        return None if key is None else self._plan_of(key)

    def _plan_of(self, key: VirtualKey) -> KeyPlan | None:
        """None for a key without its team or owner: it is not served, nobody would pay."""
        found = self._plans.get(key.id)
        if found is not None:
            return found
        team = self.teams.get(key.team_id)
        owner = self.owners.get(team.owner_id) if team is not None else None
        if team is None or owner is None:
            return None
        if key.observed is not None and key.observed.owner in self.owners:
            owner = self.owners[key.observed.owner]
        found = self._plans[key.id] = compile_policy(key, team, owner, self._index)
        return found


def _as_key(rule: TrustRule) -> VirtualKey:
    """A trust rule holds a plan just as a key does; it only has no text of its own."""
    return VirtualKey(
        id=trust_plan(rule.id),
        name=rule.id,
        team_id=rule.team_id,
        secrets=(),
        policy=rule.policy,
        disabled=rule.disabled,
        tags=rule.tags,
    )

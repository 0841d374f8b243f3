"""A file of changed rules: subject -> what the admin API takes to change it. All faults at once, with their paths.

    team/search:
      policy: {models: ["gpt-4o*"], limits: [{unit: requests, amount: 60}]}
    key/3f2a...:
      policy: {max_tokens_cap: 500}
    budget/search-month:
      limit_usd: "20"
    budget/new-one: {subject_kind: team, subject: search, limit_usd: "5"}
    budget/old-one: null

A subject that exists is patched as PATCH does (RFC 7396): what is not named stays, null takes a field away.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from bursar.control.budgets import BudgetTerms
from bursar.control.budgets import faults_of as budget_faults
from bursar.control.directory import Book
from bursar.control.policies import check_narrows, named
from bursar.control.policies import faults_of as policy_faults
from bursar.core.directory import BudgetDef, Entity, Policy, Team, VirtualKey
from bursar.core.errors import Refusal
from bursar.core.strict import Fault, Faults, read_what_fits, suggest
from bursar.faces import admin_shapes as shapes
from bursar.faces import admin_views as views

S = TypeVar("S", bound=msgspec.Struct)
_KINDS = ("team", "key", "budget")
_MOST_SUBJECTS = 10_000
_LIST = {"team": "bursar teams list", "key": "bursar keys list", "budget": "bursar budgets list"}


class Changed(msgspec.Struct, kw_only=True):
    """What would be different: whole new values. A budget that would be gone is marked deleted."""

    teams: list[Team] = []
    keys: list[VirtualKey] = []
    budgets: list[BudgetDef] = []

    def put(self, entity: Entity | None) -> None:
        """Of what a plan would make: what bears on what is refused."""
        if isinstance(entity, Team):
            self.teams.append(entity)
        elif isinstance(entity, VirtualKey):
            self.keys.append(replace(entity, secrets=()))
        elif isinstance(entity, BudgetDef):
            self.budgets.append(entity)


class _Rules(shapes.Shape, frozen=True, kw_only=True):
    """Of a team or a key only the policy and the tags bear on what is refused."""

    policy: Policy = Policy()
    tags: tuple[str, ...] = ()


def read_changes(book: Book, subjects: Mapping[str, object], now: int) -> Changed:
    """Raises Faults with everything that is wrong."""
    reader = _Reader(book, now)
    if len(subjects) > _MOST_SUBJECTS:
        raise Faults([Fault("", "bad_value", f"more than {_MOST_SUBJECTS} subjects", "take several files")])
    for kind in _KINDS:  # a key's policy is held against its team's as it would be
        for subject, said in subjects.items():
            if subject.partition("/")[0] == kind:
                reader.one(kind, subject, said)
    for subject in subjects:
        if subject.partition("/")[0] not in _KINDS:
            hint = suggest(subject.partition("/")[0], _KINDS) or "write team/ID, key/ID or budget/ID"
            reader.fault(subject, "unknown_key", "names no subject", hint)
    if reader.faults:
        raise Faults(reader.faults)
    return reader.changed


class _Reader:
    def __init__(self, book: Book, now: int) -> None:
        self._book, self._now = book, now
        self.faults: list[Fault] = []
        self.changed = Changed()

    def fault(self, path: str, word: str, message: str, hint: str = "") -> None:
        self.faults.append(Fault(path, word, message, hint))

    def one(self, kind: str, subject: str, said: object) -> None:
        name = subject.partition("/")[2]
        if kind == "budget":
            self._budget(subject, name, said)
            return
        holder = self._book.find(Team, name) if kind == "team" else self._book.find(VirtualKey, name)
        if holder is None:
            self.fault(subject, "unknown_id", f"there is no {kind} {name[:64]!r}", f"see: {_LIST[kind]}")
        elif not isinstance(said, Mapping):
            self.fault(subject, "wrong_kind", "wants a mapping: policy, tags")
        else:
            present: dict[str, Any] = {"policy": msgspec.to_builtins(holder.policy), "tags": list(holder.tags)}
            rules = self._read(subject, _Rules, views.merge_patch(present, said))
            if rules is not None and self._fits(subject, rules.policy):
                self._take(subject, holder, rules)

    def _take(self, subject: str, holder: Team | VirtualKey, rules: _Rules) -> None:
        policy = named(rules.policy)
        if isinstance(holder, Team):
            self.changed.teams.append(replace(holder, policy=policy, tags=rules.tags))
            return
        try:
            check_narrows(holder.team_id, self._team(holder.team_id).policy, policy)
        except Refusal as refusal:
            self.fault(f"{subject}.policy", refusal.word, refusal.message, refusal.hint)
        self.changed.keys.append(replace(holder, policy=policy, tags=rules.tags, secrets=()))

    def _team(self, team_id: str) -> Team:
        changed = next((team for team in self.changed.teams if team.id == team_id), None)
        return changed or self._book.get(Team, team_id)

    def _budget(self, subject: str, name: str, said: object) -> None:
        present = self._book.find(BudgetDef, name)
        if said is None:
            if present is None:
                self.fault(subject, "unknown_id", f"there is no budget {name[:64]!r}", f"see: {_LIST['budget']}")
            else:
                self.changed.budgets.append(replace(present, deleted=True, version=present.version + 1))
            return
        if not isinstance(said, Mapping):
            self.fault(subject, "wrong_kind", "wants a mapping: limit_usd, window, mode, ...; or null")
            return
        if present is None or present.deleted:
            made = self._read(subject, shapes.BudgetCreate, dict(said))
            blank = None if made is None else _blank(name, made)
        else:
            view = views.editable(views.budget_view(present), shapes.BudgetInput)
            made, blank = self._read(subject, shapes.BudgetInput, views.merge_patch(view, said)), present  # type: ignore[assignment]
        if made is not None and blank is not None:
            self._terms(subject, blank, made)

    def _terms(self, subject: str, blank: BudgetDef, made: shapes.BudgetInput) -> None:
        said = {"hard": made.hard, "window": made.window, "thresholds": made.thresholds, "mode": made.mode}
        terms = BudgetTerms(limit_pico=made.limit_usd, **said)  # type: ignore[arg-type]  # as BudgetInput has them
        for refusal in budget_faults(terms, self._now):
            self.fault(subject, refusal.word, refusal.message, refusal.hint)
        changed = replace(blank, limit_pico=terms.limit_pico, version=blank.version + 1, deleted=False, **said)
        self.changed.budgets.append(changed)

    def _read(self, subject: str, shape: type[S], data: object) -> S | None:
        value, faults = read_what_fits(shape, data)
        for it in faults:
            self.fault(f"{subject}.{it.path}" if it.path else subject, it.word, it.message, it.hint)
        return value

    def _fits(self, subject: str, policy: Policy) -> bool:
        found = list(policy_faults(policy))
        for refusal in found:
            field = str(refusal.facts.get("field", ""))
            self.fault(f"{subject}.policy.{field}", "bad_value", refusal.message, refusal.hint)
        return not found


def _blank(name: str, made: shapes.BudgetCreate) -> BudgetDef:
    return BudgetDef(id=name, version=0, subject_kind=made.subject_kind, subject=made.subject, limit_pico=0)

"""One entry of a file to the entity that it asks for: each rule of its kind is asked, each fault is told. Pure."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from bursar.control.access import GrantTerms, check_terms
from bursar.control.budgets import check_subject
from bursar.control.budgets import faults_of as budget_faults
from bursar.control.deployments import check_deployment
from bursar.control.manifest_ahead import Ahead
from bursar.control.manifest_shapes import (
    BudgetManifest,
    DeploymentManifest,
    GrantManifest,
    KeyManifest,
    Manifest,
    OwnerManifest,
    TeamManifest,
    TrustManifest,
    access_grant,
    subject_of,
    terms_of,
    trust_rule,
)
from bursar.control.naming import check_id, check_name, check_tags
from bursar.control.owners import check_contacts
from bursar.control.policies import check_narrows, named
from bursar.control.policies import faults_of as policy_faults
from bursar.core.access import ACTS
from bursar.core.directory import (
    AccessGrant,
    BudgetDef,
    Deployment,
    Entity,
    Kind,
    Owner,
    Policy,
    Team,
    TrustRule,
    VirtualKey,
)
from bursar.core.errors import Refusal
from bursar.core.strict import Fault


@dataclass(frozen=True, slots=True)
class Reading:
    """Where an entry stands, and what it is held against."""

    path: str
    name: str
    ahead: Ahead
    present: Entity | None
    keys: Mapping[str, str]  # name of a key in the files -> its id; "" = not made yet
    now: int  # ns
    check_trust: Callable[[TrustRule, Team], TrustRule]
    faults: list[Fault]

    @contextmanager
    def at(self, field: str) -> Iterator[None]:
        """A refusal within becomes a fault of this field."""
        try:
            yield
        except Refusal as refusal:
            self.tell(field, refusal)

    def tell(self, field: str, refusal: Refusal) -> None:
        path = f"{self.path}.{field}" if field else self.path
        self.faults.append(Fault(path, refusal.word, refusal.message, refusal.hint))

    def policy(self, policy: Policy, team: Team | None = None) -> Policy:
        found = list(policy_faults(policy))
        for refusal in found:
            self.tell(str(refusal.facts.get("field", "") and f"policy.{refusal.facts['field']}"), refusal)
        if not found and team is not None:
            with self.at("policy"):
                check_narrows(team.id, team.policy, policy)
        return named(policy)


def entity_of(kind: Kind, entity_id: str, given: Manifest, reading: Reading) -> Entity | None:
    """None where it cannot even be thought of. Faults go to the reading."""
    if reading.present is None and kind not in ("key", "deployment"):
        with reading.at(""):
            check_id(entity_id)
    return _READ[type(given)](entity_id, given, reading)


def _owner(entity_id: str, given: OwnerManifest, reading: Reading) -> Owner:
    name, contacts = given.name, given.contacts
    with reading.at("name"):
        name = check_name(given.name)
    with reading.at("contacts"):
        contacts = check_contacts(given.contacts)
    return Owner(id=entity_id, name=name, contacts=contacts)


def _team(entity_id: str, given: TeamManifest, reading: Reading) -> Team:
    name, tags = given.name, given.tags
    with reading.at("name"):
        name = check_name(given.name)
    with reading.at("owner"):
        reading.ahead.get(Owner, given.owner)
    with reading.at("tags"):
        tags = check_tags(given.tags)
    policy = reading.policy(given.policy)
    return Team(id=entity_id, name=name, owner_id=given.owner, policy=policy, tags=tags, disabled=given.disabled)


def _key(entity_id: str, given: KeyManifest, reading: Reading) -> VirtualKey:
    name, tags, team = given.name, given.tags, None
    present = reading.present if isinstance(reading.present, VirtualKey) else None
    if not entity_id:
        with reading.at(""):
            check_id(reading.name)
    with reading.at("name"):
        name = check_name(given.name)
    with reading.at("team"):
        team = reading.ahead.get(Team, given.team)
        if present is not None and present.team_id != given.team:
            message = f"The key is of team {present.team_id!r}, and stays there"
            raise Refusal("invalid_input", message, "Make another key for the other team")
    with reading.at("tags"):
        tags = check_tags(given.tags)
    policy = reading.policy(given.policy, team)
    return VirtualKey(
        id=entity_id,
        name=name,
        team_id=given.team,
        secrets=present.secrets if present else (),
        policy=policy,
        expires_at=given.expires_at,
        disabled=given.disabled,
        tags=tags,
        observed=present.observed if present else None,
    )


def _budget(entity_id: str, given: BudgetManifest, reading: Reading) -> BudgetDef | None:
    present = reading.present if isinstance(reading.present, BudgetDef) else None
    kind, subject = subject_of(given)
    if kind is None:
        hint = "Write kind/name, as team/search, key/nightly or user/ann"
        reading.tell("subject", Refusal("invalid_input", f"`{given.subject[:64]}` names no subject", hint))
        return None
    with reading.at("subject"):
        if kind == "key":
            check_subject(reading.ahead, kind, reading.keys.get(subject) or subject)
            subject = reading.keys.get(subject) or subject
        else:
            check_subject(reading.ahead, kind, subject)
        if present is not None and (present.subject_kind, present.subject) != (kind, subject):
            message = f"The budget {entity_id!r} is or was one on {present.subject_kind}/{present.subject}"
            raise Refusal("invalid_input", message, "Make another budget, under another id")
    terms = terms_of(given)
    for refusal in budget_faults(terms, reading.now):
        reading.tell("", refusal)
    name = given.name
    with reading.at("name"):
        name = check_name(given.name) if given.name else ""
    version = present.version + 1 if present else 1
    return BudgetDef(
        id=entity_id,
        version=version,
        subject_kind=kind,
        subject=subject,
        limit_pico=terms.limit_pico,
        hard=terms.hard,
        window=terms.window,
        thresholds=tuple(sorted(set(terms.thresholds))),
        name=name,
        mode=terms.mode,
    )


def _trust(entity_id: str, given: TrustManifest, reading: Reading) -> TrustRule | None:
    rule = trust_rule(entity_id, given)
    with reading.at(""):
        checked = reading.check_trust(rule, reading.ahead.get(Team, given.team))
        return replace(checked, policy=named(checked.policy))
    return None


def _grant(entity_id: str, given: GrantManifest, reading: Reading) -> AccessGrant:
    grant = access_grant(entity_id, given)
    ordered = replace(grant, acts=tuple(act for act in ACTS if act in grant.acts))
    if ordered != reading.present:
        with reading.at(""):
            terms = GrantTerms(**{name: getattr(ordered, name) for name in GrantTerms.__struct_fields__})
            over = terms.expires_at is not None and terms.expires_at <= reading.now  # does nothing, and may be said
            is_team = terms.subject.startswith("team/")
            check_terms(reading.ahead, replace(terms, expires_at=None) if over and not is_team else terms, reading.now)
    return ordered


def _deployment(entity_id: str, given: DeploymentManifest, reading: Reading) -> Deployment:
    made = Deployment(id=entity_id, model=given.model.strip())
    with reading.at(""):
        check_deployment(reading.ahead, made)
    return made


_READ: dict[type[Manifest], Callable[[str, Any, Reading], Entity | None]] = {
    OwnerManifest: _owner,
    TeamManifest: _team,
    KeyManifest: _key,
    BudgetManifest: _budget,
    TrustManifest: _trust,
    GrantManifest: _grant,
    DeploymentManifest: _deployment,
}

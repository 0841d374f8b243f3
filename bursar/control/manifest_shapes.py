"""The directory as files: one shape a kind, and the way between a shape and the entity it stands for. Pure.

A file maps, by kind, ids to what is said of them; what is left out has its default:

    managed_by: git
    teams:
      search: {name: Search, owner: acme, policy: {models: ["gpt-4o*"]}}
    budgets:
      team-search-month: {subject: team/search, limit_usd: "100"}
    keys:
      nightly: {team: search, name: Nightly jobs}

A key is named by its public id, or by a name of the file's own: its text never stands in a file.
"""

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, cast

import msgspec

from bursar.control.budgets import BudgetTerms
from bursar.core.directory import (
    AccessGrant,
    Act,
    BudgetDef,
    Deployment,
    Entity,
    IssuerKind,
    Kind,
    LimitDef,
    Mode,
    Owner,
    Policy,
    SubjectKind,
    Team,
    TrustRule,
    VirtualKey,
    WindowDef,
)
from bursar.core.units import pico_to_usd
from bursar.core.written import Instant, instant, parse_usd


def _amount(raw: object) -> int:
    """A file may say 100 as well as "12.50": neither was ever a float."""
    return parse_usd(str(raw) if isinstance(raw, int) and not isinstance(raw, bool) else raw)


_Usd = Annotated[int, msgspec.Meta(extra={"parse": _amount})]


class Manifest(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What is common. `managed_by`: "git" or "git:NAME"; None = says nothing about it."""

    managed_by: str | None = None


class OwnerManifest(Manifest, frozen=True, kw_only=True, gc=False):
    name: str
    contacts: tuple[str, ...] = ()


class TeamManifest(Manifest, frozen=True, kw_only=True, gc=False):
    name: str
    owner: str
    policy: Policy = Policy()
    tags: tuple[str, ...] = ()
    disabled: bool = False


class KeyManifest(Manifest, frozen=True, kw_only=True, gc=False):
    team: str
    name: str
    policy: Policy = Policy()
    tags: tuple[str, ...] = ()
    expires_at: Instant | None = None
    disabled: bool = False


class BudgetManifest(Manifest, frozen=True, kw_only=True, gc=False):
    """`subject`: kind/name, as team/search, key/nightly, user/ann."""

    subject: str
    limit_usd: _Usd
    hard: bool = True
    window: WindowDef = WindowDef()
    thresholds: tuple[int, ...] = (50, 80, 95, 100)
    name: str = ""
    mode: Mode = "enforce"


class TrustManifest(Manifest, frozen=True, kw_only=True, gc=False):
    """As `bursar.core.directory.TrustRule`."""

    team: str
    kind: IssuerKind = "oidc"
    issuer: str
    audience: str
    match: dict[str, tuple[str, ...]]
    jwks: str = ""
    algorithms: tuple[str, ...] = ("RS256", "ES256", "EdDSA")
    policy: Policy = Policy()
    tags: tuple[str, ...] = ()
    single_use: bool = False
    life_s: int = 900
    allow_private: bool = False
    disabled: bool = False


class GrantManifest(Manifest, frozen=True, kw_only=True, gc=False):
    subject: str
    acts: tuple[Act, ...]
    path: str = "*/*/*/*/*"
    tags: dict[str, str] = {}
    expires_at: Instant | None = None


class DeploymentManifest(Manifest, frozen=True, kw_only=True, gc=False):
    """Named chat-prod for everybody, search:chat-prod for the team search."""

    model: str


SHAPES: dict[Kind, tuple[str, type[Manifest]]] = {
    "owner": ("owners", OwnerManifest),
    "team": ("teams", TeamManifest),
    "key": ("keys", KeyManifest),
    "budget": ("budgets", BudgetManifest),
    "trust": ("trust", TrustManifest),
    "grant": ("grants", GrantManifest),
    "deployment": ("deployments", DeploymentManifest),
}
"""Kind -> its section in a file, and the shape of one entry; in the order in which they lean on one another."""

SECTIONS: dict[str, Kind] = {section: kind for kind, (section, _) in SHAPES.items()}
_DEFAULT_WINDOW, _NO_POLICY = WindowDef(), Policy()


def terms_of(given: BudgetManifest) -> BudgetTerms:
    return BudgetTerms(
        limit_pico=given.limit_usd,
        hard=given.hard,
        window=given.window,
        thresholds=given.thresholds,
        name=given.name,
        mode=given.mode,
    )


def trust_rule(rule_id: str, given: TrustManifest) -> TrustRule:
    fields = {name: getattr(given, name) for name in TrustManifest.__struct_fields__ if hasattr(TrustRule, name)}
    return TrustRule(id=rule_id, team_id=given.team, **fields)


def access_grant(grant_id: str, given: GrantManifest) -> AccessGrant:
    return AccessGrant(
        id=grant_id,
        subject=given.subject,
        acts=given.acts,
        path=given.path,
        tags=given.tags,
        expires_at=given.expires_at,
    )


def subject_of(given: BudgetManifest) -> tuple[SubjectKind | None, str]:
    kind, slash, name = given.subject.partition("/")
    return (cast(SubjectKind, kind), name) if slash and kind in _SUBJECTS else (None, name)


_SUBJECTS = ("key", "user", "team", "owner", "tag", "model", "provider_key", "node")


# ---- from the directory to a file


def written(entity: Entity, names: Mapping[str, str] = {}) -> dict[str, Any]:
    """What a file says of an entity: its fields but for those at their default. `names`: ids of keys -> their names."""
    if isinstance(entity, Owner | Deployment):
        return _compact(entity, skip=("id",))
    if isinstance(entity, Team):
        return _filled(name=entity.name, owner=entity.owner_id, **_ruled(entity))
    if isinstance(entity, VirtualKey):
        return _filled(team=entity.team_id, name=entity.name, **_ruled(entity), expires_at=_at(entity.expires_at))
    if isinstance(entity, BudgetDef):
        return _budget(entity, names)
    if isinstance(entity, TrustRule):
        return {"team": entity.team_id, **_compact(entity, skip=("id", "team_id"))}
    assert isinstance(entity, AccessGrant)
    return {**_compact(entity, skip=("id", "expires_at")), **_filled(expires_at=_at(entity.expires_at))}


def _ruled(entity: Team | VirtualKey) -> dict[str, Any]:
    policy = {} if entity.policy == _NO_POLICY else _compact(entity.policy)
    return {"policy": policy, "tags": list(entity.tags), "disabled": entity.disabled}


def _budget(budget: BudgetDef, names: Mapping[str, str]) -> dict[str, Any]:
    subject = names.get(budget.subject, budget.subject) if budget.subject_kind == "key" else budget.subject
    said = _compact(budget, skip=("id", "version", "subject_kind", "subject", "limit_pico", "deleted", "window"))
    if budget.window != _DEFAULT_WINDOW:
        said["window"] = _compact(budget.window)
    return {"subject": f"{budget.subject_kind}/{subject}", "limit_usd": pico_to_usd(budget.limit_pico), **said}


def _filled(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value not in (None, [], {}, False)}


def _at(ns: int | None) -> str | None:
    return None if ns is None else instant(ns)


@cache  # there may be hundreds of thousands of a few kinds
def _fields_of(kind: type[msgspec.Struct]) -> tuple[msgspec.structs.FieldInfo, ...]:
    return msgspec.structs.fields(kind)


def _compact(value: msgspec.Struct, skip: tuple[str, ...] = ()) -> dict[str, Any]:
    """A struct as plain data without the fields that are at their default."""
    said = {}
    for field in _fields_of(type(value)):
        held = getattr(value, field.name)
        if field.name not in skip and held != field.default and not _is_empty(held, field):
            said[field.encode_name] = _plain(held)
    return said


def _is_empty(held: object, field: msgspec.structs.FieldInfo) -> bool:
    return field.default_factory is not msgspec.NODEFAULT and held == field.default_factory()


def _plain(value: Any) -> Any:
    if isinstance(value, LimitDef | Policy):
        return _compact(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value

"""What the admin API can do: one small function a route, from its input to its view. No HTTP in it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import msgspec

from bursar.control.access import Access
from bursar.control.admin_sessions import Sessions
from bursar.control.admins import Admins
from bursar.control.audit_desk import AuditDesk
from bursar.control.breakers import Breakers
from bursar.control.budgets import Budgets, BudgetTerms
from bursar.control.checklist import Checklist
from bursar.control.decisions import Decisions
from bursar.control.deployments import Deployments
from bursar.control.directory import Directory
from bursar.control.explain import Explainer
from bursar.control.federation import Federation
from bursar.control.fleet import Fleet
from bursar.control.history import History
from bursar.control.key_map import KeyMap
from bursar.control.keys import KeyInput, Keys
from bursar.control.manifests import Manifests
from bursar.control.observed_uses import ObservedUses
from bursar.control.observing import Observing
from bursar.control.owners import OwnerInput, Owners
from bursar.control.prices import Prices
from bursar.control.promotion import Promotions
from bursar.control.provider_key_imports import Imports
from bursar.control.provider_keys import ProviderKeys
from bursar.control.replay_feed import ReplayFeed
from bursar.control.restored import RestoredNode
from bursar.control.shadow import Shadow
from bursar.control.status import StatusBoard
from bursar.control.tag_sheets import TagSheets
from bursar.control.teams import TeamInput, Teams
from bursar.control.tokens import Tokens
from bursar.control.trust import TrustRules
from bursar.control.usage import Usage
from bursar.control.wrapping_keys import WrappingKeys
from bursar.core.directory import BudgetDef, Owner, PriceOverride, Team, VirtualKey, id_of
from bursar.core.ledger_records import UsageBy
from bursar.core.roles import Caller
from bursar.core.strict import read
from bursar.core.units import NS_PER_S
from bursar.faces import admin_shapes as shapes
from bursar.faces import admin_views as views
from bursar.faces.admin_door import Door

T = TypeVar("T")
S = TypeVar("S", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Services:
    """The use cases behind the routes, built by the composition root."""

    directory: Directory
    history: History
    admins: Admins
    sessions: Sessions
    owners: Owners
    teams: Teams
    keys: Keys
    budgets: Budgets
    provider_keys: ProviderKeys
    observing: Observing
    observed_uses: ObservedUses
    access: Access
    deployments: Deployments
    breakers: Breakers
    wrapping_keys: WrappingKeys
    prices: Prices
    usage: Usage
    key_map: KeyMap
    checklist: Checklist
    manifests: Manifests
    tag_sheets: TagSheets
    imports: Imports
    restored: RestoredNode
    status: StatusBoard
    decisions: Decisions
    explainer: Explainer
    fleet: Fleet
    audit: AuditDesk
    trust: TrustRules
    federation: Federation
    tokens: Tokens
    promotions: Promotions
    shadow: Shadow
    replay: ReplayFeed


@dataclass(frozen=True, slots=True)
class AdminCall:
    """One admitted call. `query` and `body` are of the route's kinds; a PATCH body is the raw merge patch."""

    services: Services
    door: Door
    caller: Caller
    path: Mapping[str, str]
    query: Any
    body: Any

    @property
    def actor(self) -> str:
        """The name under which the audit knows who called."""
        return self.caller.actor


def page_of(rows: Sequence[T], page: shapes.Page, key: Any) -> tuple[Sequence[T], str | None]:
    """The piece of an ordered list after `page.after`, and where the next one begins."""
    later = [row for row in rows if key(row) > page.after]
    piece = later[: page.limit]
    return piece, key(piece[-1]) if len(later) > len(piece) else None


def items(rows: Sequence[Any], following: str | None) -> dict[str, Any]:
    return {"items": list(rows), "next": following}


def patched(present: msgspec.Struct, patch: object, shape: type[S]) -> S:
    return read(shape, views.merge_patch(views.editable(present, shape), patch))


# ---- owners


def _owner_input(given: shapes.OwnerInput) -> OwnerInput:
    return OwnerInput(name=given.name, contacts=given.contacts)


async def list_owners(call: AdminCall) -> object:
    rows, following = page_of(call.services.owners.all(), call.query, lambda owner: owner.id)
    return items([views.owner_view(owner) for owner in rows], following)


async def create_owner(call: AdminCall) -> object:
    given: shapes.OwnerCreate = call.body
    return views.owner_view(await call.services.owners.create(call.actor, given.name, given.contacts, given.id))


async def get_owner(call: AdminCall) -> object:
    return views.owner_view(call.services.owners.get(call.path["id"]))


async def update_owner(call: AdminCall) -> object:
    def edit(present: Owner) -> OwnerInput:
        return _owner_input(patched(views.owner_view(present), call.body, shapes.OwnerInput))

    return views.owner_view(await call.services.owners.update(call.actor, call.path["id"], edit))


async def remove_owner(call: AdminCall) -> None:
    await call.services.owners.remove(call.actor, call.path["id"])


# ---- teams


def _team_input(given: shapes.TeamInput) -> TeamInput:
    return TeamInput(name=given.name, owner_id=given.owner, policy=given.policy, tags=given.tags)


async def list_teams(call: AdminCall) -> object:
    rows, following = page_of(call.services.teams.all(), call.query, lambda team: team.id)
    return items([views.team_view(team) for team in rows], following)


async def create_team(call: AdminCall) -> object:
    given: shapes.TeamCreate = call.body
    return views.team_view(await call.services.teams.create(call.actor, _team_input(given), given.id))


async def get_team(call: AdminCall) -> object:
    teams, team_id = call.services.teams, call.path["id"]
    return views.team_view(teams.get(team_id), teams.keys_beyond(team_id))


async def update_team(call: AdminCall) -> object:
    teams, team_id = call.services.teams, call.path["id"]

    def edit(present: Team) -> TeamInput:
        return _team_input(patched(views.team_view(present), call.body, shapes.TeamInput))

    team = await teams.update(call.actor, team_id, edit)
    return views.team_view(team, teams.keys_beyond(team_id))


async def disable_team(call: AdminCall) -> object:
    return views.team_view(await call.services.teams.set_disabled(call.actor, call.path["id"], True))


async def enable_team(call: AdminCall) -> object:
    return views.team_view(await call.services.teams.set_disabled(call.actor, call.path["id"], False))


async def remove_team(call: AdminCall) -> None:
    await call.services.teams.remove(call.actor, call.path["id"])


# ---- keys


def _key_input(given: shapes.KeyInput) -> KeyInput:
    return KeyInput(name=given.name, policy=given.policy, tags=given.tags, expires_at=given.expires_at)


def _key_view(call: AdminCall, key: VirtualKey) -> shapes.KeyView:
    return views.key_view(key, call.services.directory.now())


async def list_keys(call: AdminCall) -> object:
    query: shapes.KeyPage = call.query
    rows, following = page_of(call.services.keys.all(query.team), query, lambda key: key.id)
    return items([_key_view(call, key) for key in rows], following)


async def create_key(call: AdminCall) -> object:
    given: shapes.KeyCreate = call.body
    minted = await call.services.keys.create(call.actor, given.team, _key_input(given))
    return shapes.KeyMinted(key=_key_view(call, minted.key), text=minted.text.reveal())


async def get_key(call: AdminCall) -> object:
    return _key_view(call, call.services.keys.get(call.path["id"]))


async def update_key(call: AdminCall) -> object:
    def edit(present: VirtualKey) -> KeyInput:
        return _key_input(patched(_key_view(call, present), call.body, shapes.KeyInput))

    return _key_view(call, await call.services.keys.update(call.actor, call.path["id"], edit))


async def disable_key(call: AdminCall) -> object:
    return _key_view(call, await call.services.keys.set_disabled(call.actor, call.path["id"], True))


async def enable_key(call: AdminCall) -> object:
    return _key_view(call, await call.services.keys.set_disabled(call.actor, call.path["id"], False))


async def rotate_key(call: AdminCall) -> object:
    given: shapes.KeyRotate = call.body
    minted = await call.services.keys.rotate(call.actor, call.path["id"], given.overlap_s)
    return shapes.KeyMinted(key=_key_view(call, minted.key), text=minted.text.reveal())


async def remove_key(call: AdminCall) -> None:
    await call.services.keys.remove(call.actor, call.path["id"])


# ---- budgets and balances


def _terms(given: shapes.BudgetInput) -> BudgetTerms:
    return BudgetTerms(
        limit_pico=given.limit_usd,
        hard=given.hard,
        window=given.window,
        thresholds=given.thresholds,
        name=given.name,
        mode=given.mode,
    )


async def list_budgets(call: AdminCall) -> object:
    rows, following = page_of(call.services.budgets.all(), call.query, lambda budget: budget.id)
    return items([views.budget_view(budget) for budget in rows], following)


async def create_budget(call: AdminCall) -> object:
    given: shapes.BudgetCreate = call.body
    budgets = call.services.budgets
    made = await budgets.create(call.actor, given.subject_kind, given.subject, _terms(given), given.id)
    return views.budget_view(made)


async def get_budget(call: AdminCall) -> object:
    return views.budget_view(call.services.budgets.get(call.path["id"]))


async def update_budget(call: AdminCall) -> object:
    def edit(present: BudgetDef) -> BudgetTerms:
        return _terms(patched(views.budget_view(present), call.body, shapes.BudgetInput))

    return views.budget_view(await call.services.budgets.update(call.actor, call.path["id"], edit))


async def remove_budget(call: AdminCall) -> None:
    await call.services.budgets.remove(call.actor, call.path["id"])


async def list_balances(call: AdminCall) -> object:
    balances = sorted(await call.services.usage.balances(), key=lambda balance: balance.budget_id)
    rows, following = page_of(balances, call.query, lambda balance: balance.budget_id)
    return items([views.balance_view(balance) for balance in rows], following)


# ---- prices


async def list_prices(call: AdminCall) -> object:
    query: shapes.PriceQuery = call.query
    prices, provider = call.services.prices, call.path["provider"]
    if query.model:
        return items([views.price_view(prices.find(provider, query.model))], None)
    names, following = page_of(prices.models(provider), query, lambda name: name)
    return items([views.price_view(line) for line in prices.page(provider, list(names))], following)


async def list_overrides(call: AdminCall) -> object:
    rows, following = page_of(call.services.prices.overrides(), call.query, id_of)
    return items([views.override_view(override) for override in rows], following)


async def set_price(call: AdminCall) -> object:
    given: shapes.PriceSet = call.body
    override = PriceOverride(
        provider=call.path["provider"],
        model=call.path["model"],
        from_ns=call.services.directory.now() if given.from_ is None else given.from_,
        input=given.input,
        output=given.output,
        cache_read=given.cache_read,
        cache_write=given.cache_write,
        context_window=given.context_window,
        max_output=given.max_output,
        source=given.source,
    )
    return views.override_view(await call.services.prices.set(call.actor, override))


# ---- usage, status


async def usage_report(call: AdminCall) -> object:
    query: shapes.UsageQuery = call.query
    usage = call.services.usage
    until = call.services.directory.now() if query.until is None else query.until
    since = query.since if query.last_s is None else until - query.last_s * NS_PER_S
    by = cast(tuple[UsageBy, ...], (query.by, *filter(None, query.then.split(","))))
    report = await usage.report(by, since, until, query.limit + 1, query.after, query.zone)
    rows = report.rows[: query.limit]
    lines = [views.usage_line(row, usage.names_of(report.by, row.group)) for row in rows]
    more = len(report.rows) > len(rows)
    following = (rows[-1].group or "\0") if more else None  # the group without a name sorts first
    span = {
        "since": shapes.instant(report.since_ns),
        "until": shapes.instant(report.until_ns),
        "by": ",".join(report.by),
    }
    return {**span, **items(lines, following)}


async def status(call: AdminCall) -> object:
    return views.status_view(call.services.status.read(), call.door.failures)

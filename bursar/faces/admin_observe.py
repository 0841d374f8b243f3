"""Observed keys over the admin API: seen, named, sealed and swapped, closed."""

from typing import Annotated

import msgspec

from bursar.control.observed_uses import Uses
from bursar.control.observing import Naming, is_closed
from bursar.core.directory import Team, VirtualKey
from bursar.core.observing import is_passed_on
from bursar.core.secret import Secret
from bursar.core.units import pico_to_usd
from bursar.faces.admin_calls import AdminCall, items, page_of, patched
from bursar.faces.admin_route import Route
from bursar.faces.admin_shapes import Page, Shape, instant


class ObservedView(Shape, frozen=True, kw_only=True):
    """`state`: observed | sealed | closed. `old_calls`: of its provider key, after it was sealed.

    `billed_to` is `owner` where one is named, else the owner of the team.
    """

    id: str
    name: str
    provider: str
    team: str
    owner: str
    billed_to: str
    purpose: str
    state: str
    disabled: bool
    first_seen: str
    last_seen: str | None  # to the hour
    calls: int
    cost_usd: str
    models: tuple[str, ...]  # those that cost most, first
    secret: str  # id of the sealed provider key; "" = it is not sealed
    sealed_at: str | None
    old_calls: int


class ObservedPage(Page, frozen=True, kw_only=True):
    """`state`: only those in it; empty = all."""

    state: str = ""


class ObservedInput(Shape, frozen=True, kw_only=True):
    name: str
    owner: str = ""  # id of a billing owner; empty = nobody has said
    purpose: str = ""


class ObservedSeal(Shape, frozen=True, kw_only=True):
    """`value`: the very provider key. `team`: to which the key goes; empty = where it is."""

    value: Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
    team: str = ""

    def __repr__(self) -> str:
        return "ObservedSeal(***)"


class ObservedSealed(Shape, frozen=True, kw_only=True):
    """With the virtual key's text, this once."""

    observed: ObservedView
    text: str

    def __repr__(self) -> str:
        return f"ObservedSealed({self.observed.id}, ***)"


async def _views(call: AdminCall, keys: list[VirtualKey]) -> list[ObservedView]:
    services = call.services
    now, teams = services.directory.now(), {services.observing.team} - {""}
    uses = await services.observed_uses.read(keys, teams, now)
    return [_view(call, key, uses[key.id], now) for key in keys]


def _view(call: AdminCall, key: VirtualKey, uses: Uses, now: int) -> ObservedView:
    observed = key.observed
    assert observed is not None
    team = call.services.directory.book.find(Team, key.team_id)
    return ObservedView(
        id=key.id,
        name=key.name,
        provider=observed.provider,
        team=key.team_id,
        owner=observed.owner,
        billed_to=observed.owner or (team.owner_id if team is not None else ""),
        purpose=observed.purpose,
        state=_state(key, now),
        disabled=key.disabled,
        first_seen=instant(observed.since),
        last_seen=None if uses.last_ns is None else instant(uses.last_ns),
        calls=uses.calls,
        cost_usd=pico_to_usd(uses.cost_pico),
        models=uses.models,
        secret=observed.secret_id,
        sealed_at=instant(observed.sealed_at) if observed.sealed_at else None,
        old_calls=uses.old_calls,
    )


def _state(key: VirtualKey, now: int) -> str:
    if is_passed_on(key.observed):
        return "observed"
    return "closed" if is_closed(key, now) else "sealed"


async def _one(call: AdminCall, key: VirtualKey) -> ObservedView:
    (view,) = await _views(call, [key])
    return view


async def list_observed(call: AdminCall) -> object:
    query: ObservedPage = call.query
    now = call.services.directory.now()
    keys = [key for key in call.services.observing.all() if query.state in ("", _state(key, now))]
    rows, following = page_of(keys, query, lambda key: key.id)
    return items(await _views(call, list(rows)), following)


async def get_observed(call: AdminCall) -> object:
    return await _one(call, call.services.observing.get(call.path["id"]))


def _input(key: VirtualKey) -> ObservedInput:
    assert key.observed is not None
    return ObservedInput(name=key.name, owner=key.observed.owner, purpose=key.observed.purpose)


async def name_observed(call: AdminCall) -> object:
    def edit(present: VirtualKey) -> Naming:
        given = patched(_input(present), call.body, ObservedInput)
        return Naming(name=given.name, owner=given.owner, purpose=given.purpose)

    return await _one(call, await call.services.observing.name(call.actor, call.path["id"], edit))


async def seal_observed(call: AdminCall) -> object:
    given: ObservedSeal = call.body
    observing = call.services.observing
    minted = await observing.seal(call.actor, call.path["id"], Secret(given.value), given.team)
    return ObservedSealed(observed=await _one(call, minted.key), text=minted.text.reveal())


async def unseal_observed(call: AdminCall) -> object:
    return await _one(call, await call.services.observing.unseal(call.actor, call.path["id"]))


async def close_observed(call: AdminCall) -> object:
    return await _one(call, await call.services.observing.close(call.actor, call.path["id"]))


_ID = ("unknown_id",)

ROUTES = (
    Route(
        "GET",
        "/observed",
        "List observed keys with what they were used for",
        list_observed,
        ObservedView,
        query=ObservedPage,
        page=True,
        refusals=("ledger_unreadable",),
    ),
    Route("GET", "/observed/{id}", "Read an observed key", get_observed, ObservedView, refusals=_ID),
    Route(
        "PATCH",
        "/observed/{id}",
        "Name an observed key, its billing owner and its purpose",
        name_observed,
        ObservedView,
        body=ObservedInput,
        previews=True,
        refusals=_ID,
    ),
    Route(
        "POST",
        "/observed/{id}/seal",
        "Seal its provider key, and answer the text of its virtual key, this once",
        seal_observed,
        ObservedSealed,
        body=ObservedSeal,
        refusals=(*_ID, "invalid_secret", "already_exists", "policy_widens", "duplicate_secret", "changed_since"),
    ),
    Route(
        "POST",
        "/observed/{id}/unseal",
        "Take a sealing back: what the vault has of it is shredded",
        unseal_observed,
        ObservedView,
        refusals=(*_ID, "no_undo"),
    ),
    Route(
        "POST",
        "/observed/{id}/close",
        "Let its provider key in no more",
        close_observed,
        ObservedView,
        asks="operate",
        previews=True,
        refusals=_ID,
    ),
)

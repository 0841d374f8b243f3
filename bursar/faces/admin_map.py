"""The map of the provider keys and tags in bulk, over the admin API."""

from collections.abc import Sequence

from bursar.control.key_map import MapLine
from bursar.control.tag_sheet import TagRow
from bursar.control.tag_sheets import Retagged
from bursar.faces.admin_calls import AdminCall, items, page_of
from bursar.faces.admin_route import Route
from bursar.faces.admin_shapes import Page, Shape, instant


class MapView(Shape, frozen=True, kw_only=True):
    """See `bursar.control.key_map`. `read_by` is empty: no role gets a value in clear."""

    id: str
    address: str
    store: str
    disabled: bool
    team: str
    owner: str
    used_by: tuple[str, ...]
    keys: int
    read_by: tuple[str, ...]
    rotated_by: tuple[str, ...]
    last_use: str | None
    expires: str
    flags: tuple[str, ...]


class TagSheet(Shape, frozen=True, kw_only=True):
    """`apply` false = only tell what would change."""

    rows: tuple[TagRow, ...]
    apply: bool = False


class TagSheetView(Shape, frozen=True, kw_only=True):
    applied: bool
    changes: tuple[Retagged, ...]


def _view(line: MapLine) -> MapView:
    return MapView(
        id=line.id,
        address=line.address,
        store=line.store,
        disabled=line.disabled,
        team=line.team,
        owner=line.owner,
        used_by=line.used_by,
        keys=line.keys,
        read_by=line.read_by,
        rotated_by=line.rotated_by,
        last_use=None if line.last_use_ns is None else instant(line.last_use_ns),
        expires=line.expires,
        flags=line.flags,
    )


async def show_map(call: AdminCall) -> object:
    lines = sorted(await call.services.key_map.read(), key=lambda line: line.address)
    rows, following = page_of(lines, call.query, lambda line: line.address)
    return items([_view(line) for line in rows], following)


async def tag_sheet(call: AdminCall) -> object:
    given: TagSheet = call.body
    sheets = call.services.tag_sheets
    entries = {entry.id: entry for entry in await call.services.provider_keys.all()}
    changes: Sequence[Retagged] = await sheets.preview(given.rows)
    for change in changes:
        call.services.access.require(call.caller, "write", change.address, entries[change.id].tags)
    if given.apply:
        changes = await sheets.apply(call.actor, given.rows)
    return TagSheetView(applied=given.apply, changes=tuple(changes))


_STORES = ("secrets_unavailable", "audit_unavailable")

ROUTES = (
    Route(
        "GET",
        "/key-map",
        "Each provider key with its team, owner, users and flags",
        show_map,
        MapView,
        query=Page,
        page=True,
        refusals=("secrets_unavailable", "ledger_unreadable"),
    ),
    Route(
        "POST",
        "/provider-key-tags",
        "Set tags of many provider keys: all or none",
        tag_sheet,
        TagSheetView,
        asks="operate",
        body=TagSheet,
        refusals=("invalid_tags", "access_denied", *_STORES),
    ),
)

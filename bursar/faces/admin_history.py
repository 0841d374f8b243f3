"""History, undo and previews over the admin API."""

from collections.abc import Sequence
from itertools import groupby
from typing import Annotated

import msgspec

from bursar.control.directory import Previewed
from bursar.control.history import differences, why_no_undo
from bursar.core.directory import KINDS, Edit, Kind
from bursar.core.errors import Refusal
from bursar.faces.admin_calls import AdminCall, items
from bursar.faces.admin_route import Route
from bursar.faces.admin_shapes import Limit, Shape, instant


class HistoryQuery(Shape, frozen=True, kw_only=True):
    """`of`: only changes of one entity, as kind/id."""

    of: str = ""
    before: Annotated[int, msgspec.Meta(ge=1)] | None = None
    limit: Limit = 50


class DifferenceView(Shape, frozen=True, kw_only=True):
    field: str
    before: str
    after: str


class EditView(Shape, frozen=True, kw_only=True):
    kind: str
    id: str
    act: str  # created | changed | removed
    differences: tuple[DifferenceView, ...]


class ChangeView(Shape, frozen=True, kw_only=True):
    """One version of the directory. `undo` is its number where `POST /changes/{version}/undo` may take it back."""

    version: int
    at: str
    actor: str
    action: str
    undo: int | None
    edits: tuple[EditView, ...]


class PreviewView(Shape, frozen=True, kw_only=True):
    """What a change would do; nothing was changed."""

    action: str
    edits: tuple[EditView, ...]


def preview_view(previewed: Previewed) -> PreviewView:
    return PreviewView(action=previewed.action, edits=tuple(_edit_view(edit) for edit in previewed.edits))


def undo_of(edits: Sequence[Edit]) -> int | None:
    """The version by which these edits, all of one change, can be taken back."""
    return edits[0].version if edits and not any(map(why_no_undo, edits)) else None


def _edit_view(edit: Edit) -> EditView:
    act = "created" if edit.before is None else "removed" if edit.after is None else "changed"
    found = tuple(DifferenceView(field=d.field, before=d.before, after=d.after) for d in differences(edit))
    return EditView(kind=edit.kind, id=edit.id, act=act, differences=found)


def _change_view(edits: list[Edit]) -> ChangeView:
    first = edits[0]
    return ChangeView(
        version=first.version,
        at=instant(first.at_ns),
        actor=first.actor,
        action=first.action,
        undo=undo_of(edits),
        edits=tuple(_edit_view(edit) for edit in edits),
    )


def _subject(text: str) -> tuple[Kind, str] | None:
    """Raises Refusal(invalid_input)."""
    if not text:
        return None
    kind, _, name = text.partition("/")
    for known in KINDS:
        if kind == known and name:
            return known, name
    hint = f"Write kind/id, with a kind of: {', '.join(KINDS)}"
    raise Refusal("invalid_input", f"{text[:64]!r} names nothing in the directory", hint)


async def list_changes(call: AdminCall) -> object:
    query: HistoryQuery = call.query
    edits = await call.services.history.page(query.limit, query.before, _subject(query.of))
    changes = [_change_view(list(group)) for _, group in groupby(edits, key=lambda edit: edit.version)]
    more = len(changes) == query.limit and changes[-1].version > 1
    return items(changes, str(changes[-1].version) if more else None)


async def undo_change(call: AdminCall) -> None:
    version = call.path["version"]
    if not version.isascii() or not version.isdigit() or len(version) > 15:
        raise Refusal("invalid_input", f"{version[:32]!r} is no number of a change", "See: bursar history")
    await call.services.history.undo(call.actor, int(version))


ROUTES = (
    Route(
        "GET",
        "/changes",
        "What was changed, newest first",
        list_changes,
        ChangeView,
        "read_audit",
        query=HistoryQuery,
        page=True,
    ),
    Route(
        "POST",
        "/changes/{version}/undo",
        "Take a change back",
        undo_change,
        previews=True,
        refusals=("unknown_id", "no_undo", "changed_since"),
    ),
)

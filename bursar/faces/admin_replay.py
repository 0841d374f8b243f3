"""What a replay needs, over the admin API: the changed rules of a file, and history as it was."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

import msgspec

from bursar.control.manifest_plan import Given
from bursar.core.units import NS_PER_S
from bursar.faces.admin_calls import AdminCall
from bursar.faces.admin_manifests import MOST_BODY
from bursar.faces.admin_route import Route
from bursar.faces.admin_shapes import Shape
from bursar.faces.policy_file import read_changes


class PolicyFileInput(Shape, frozen=True, kw_only=True):
    """`subjects`: team/ID, key/ID or budget/ID -> what a PATCH of it would say; a budget may be new, or null.
    `documents`: as for a plan.
    """

    subjects: dict[str, Any] = msgspec.field(default_factory=dict)
    documents: dict[str, dict[str, Any]] = msgspec.field(default_factory=dict)


class ChangedView(Shape, frozen=True, kw_only=True):
    """Whole values as they would be, without any secret. Nothing was changed."""

    teams: tuple[dict[str, Any], ...]
    keys: tuple[dict[str, Any], ...]
    budgets: tuple[dict[str, Any], ...]


class HistoryReplay(Shape, frozen=True, kw_only=True):
    """The last so many seconds."""

    last_s: Annotated[int, msgspec.Meta(ge=60, le=400 * 86_400)] = 7 * 86_400


async def read_file(call: AdminCall) -> object:
    given: PolicyFileInput = call.body
    directory = call.services.directory
    changed = read_changes(directory.book, given.subjects, directory.now())
    if given.documents:
        for step in (await call.services.manifests.plan(Given(documents=given.documents))).steps:
            changed.put(step.after)
    return ChangedView(
        teams=tuple(map(msgspec.to_builtins, changed.teams)),
        keys=tuple(map(msgspec.to_builtins, changed.keys)),
        budgets=tuple(map(msgspec.to_builtins, changed.budgets)),
    )


async def replay(call: AdminCall) -> AsyncIterator[bytes]:
    query: HistoryReplay = call.query
    until = call.services.directory.now()
    return call.services.replay.lines(until - query.last_s * NS_PER_S, until)


ROUTES = (
    Route(
        "POST",
        "/policy-plans",
        "Read a file of changed rules, and change nothing",
        read_file,
        ChangedView,
        "read",
        body=PolicyFileInput,
        most=MOST_BODY,
    ),
    Route(
        "GET",
        "/replay",
        "History as lines of JSON, for a replay",
        replay,
        query=HistoryReplay,
        streams=True,
        refusals=("ledger_unreadable", "decisions_unavailable"),
    ),
)

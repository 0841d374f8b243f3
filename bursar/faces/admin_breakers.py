"""Circuits of upstreams over the admin API: how they stand, and opened or closed by hand."""

from typing import Annotated

import msgspec

from bursar.control.breakers import Standing
from bursar.core.directory import BreakerMark
from bursar.faces.admin_calls import AdminCall, items, page_of
from bursar.faces.admin_route import Route
from bursar.faces.admin_shapes import Page, Shape, instant

_Name = Annotated[str, msgspec.Meta(max_length=512)]
_Reason = Annotated[str, msgspec.Meta(max_length=200)]


class BreakerOpen(Shape, frozen=True, kw_only=True):
    """`name`: provider/openai, key/ID, key/ID/MODEL, or a bare name or id. Without `for_s` it is open until closed."""

    name: _Name
    for_s: Annotated[int, msgspec.Meta(ge=1)] | None = None
    reason: _Reason = ""


class BreakerClose(Shape, frozen=True, kw_only=True):
    name: _Name
    reason: _Reason = ""


class BreakerView(Shape, frozen=True, kw_only=True):
    """Instants are null where they do not apply."""

    name: str
    node: str  # whose gateway knows of its failures; "" = none does
    state: str  # open, half_open, busy, closed
    since: str | None  # open
    failures: int
    last_failure: str | None
    next_try: str | None
    opened_by: str  # an admin, or "failures"; "" = it is not open
    reason: str


class MarkView(Shape, frozen=True, kw_only=True):
    name: str
    open: bool
    at: str
    until: str | None
    by: str
    reason: str


def _instant(at: int | None) -> str | None:
    return None if at is None else instant(at)


def _view(one: Standing) -> BreakerView:
    seen, mark = one.seen, one.mark
    return BreakerView(
        name=one.name,
        node=one.node,
        state="open" if mark is not None else seen.state if seen is not None else "closed",
        since=_instant(mark.at if mark is not None else seen.since_ns if seen is not None else None),
        failures=0 if seen is None else seen.failures,
        last_failure=None if seen is None or not seen.failures else instant(seen.last_ns),
        next_try=_instant(_next(one)),
        opened_by=mark.by if mark is not None else "failures" if seen is not None and seen.since_ns is not None else "",
        reason="" if mark is None else mark.reason,
    )


def _next(one: Standing) -> int | None:
    """When it is used again, or tried."""
    if one.mark is not None:
        return one.mark.until
    return None if one.seen is None else one.seen.next_try_ns or one.seen.busy_until_ns


def _mark(mark: BreakerMark) -> MarkView:
    return MarkView(
        name=mark.id, open=mark.open, at=instant(mark.at), until=_instant(mark.until), by=mark.by, reason=mark.reason
    )


async def list_breakers(call: AdminCall) -> object:
    rows, following = page_of(call.services.breakers.all(), call.query, lambda one: f"{one.name}@{one.node}")
    return items([_view(one) for one in rows], following)


async def open_breaker(call: AdminCall) -> object:
    given: BreakerOpen = call.body
    return _mark(await call.services.breakers.open(call.actor, given.name, given.for_s, given.reason))


async def close_breaker(call: AdminCall) -> object:
    given: BreakerClose = call.body
    return _mark(await call.services.breakers.close(call.actor, given.name, given.reason))


ROUTES = (
    Route(
        "GET",
        "/breakers",
        "Circuits of upstreams that have failed, or that a person keeps open",
        list_breakers,
        BreakerView,
        query=Page,
        page=True,
    ),
    Route(
        "POST",
        "/breakers/open",
        "Keep calls away from a provider, a provider key, or a key for one model",
        open_breaker,
        MarkView,
        asks="operate",
        body=BreakerOpen,
        previews=True,
        refusals=("unknown_id",),
    ),
    Route(
        "POST",
        "/breakers/close",
        "Use it again, whatever is known of its failures",
        close_breaker,
        MarkView,
        asks="operate",
        body=BreakerClose,
        previews=True,
        refusals=("unknown_id",),
    ),
)

"""Wrapping keys over the admin API: what is sealed under which, and moving it along."""

from typing import Annotated

import msgspec

from bursar.control.wrapping_keys import RingState
from bursar.faces.admin_calls import AdminCall
from bursar.faces.admin_route import Route
from bursar.faces.admin_shapes import Shape


class RewrapStep(Shape, frozen=True, kw_only=True):
    """How many values to move at most: the caller asks again while some are left."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=200)] = 20


class RewrapMoved(Shape, frozen=True, kw_only=True):
    done: int
    left: int


class RecoveryId(Shape, frozen=True, kw_only=True):
    """The public half of a recovery key, as `bursar secrets recovery make` tells it."""

    id: str


async def show_ring(call: AdminCall) -> object:
    return await call.services.wrapping_keys.state()


async def rewrap(call: AdminCall) -> object:
    given: RewrapStep = call.body
    moved = await call.services.wrapping_keys.rewrap(call.actor, given.limit)
    return RewrapMoved(done=moved.done, left=moved.left)


async def set_recovery(call: AdminCall) -> object:
    given: RecoveryId = call.body
    return await call.services.wrapping_keys.set_recovery(call.actor, given.id)


_UNLOCKS = ("wrapper_lost", "wrapper_wrong", "wrapper_unavailable", "wrapper_denied", "tampered", "secrets_unavailable")
_AUDITED = (*_UNLOCKS, "audit_unavailable")

ROUTES = (
    Route("GET", "/wrapping-keys", "The wrapping keys and what is sealed under them", show_ring, RingState),
    Route(
        "POST",
        "/wrapping-keys/rewrap",
        "Bring some values under the present wrapping keys",
        rewrap,
        RewrapMoved,
        body=RewrapStep,
        refusals=_AUDITED,
    ),
    Route(
        "PUT",
        "/wrapping-keys/recovery",
        "Seal under a recovery key besides",
        set_recovery,
        RingState,
        body=RecoveryId,
        refusals=_AUDITED,
    ),
)

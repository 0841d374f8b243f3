"""Sessions of people over the admin API: who is logged in, and how one ends."""

import msgspec

from bursar.control.admin_sessions import Session
from bursar.core.roles import Role
from bursar.faces.admin_calls import AdminCall, items, page_of
from bursar.faces.admin_route import Route
from bursar.faces.admin_shapes import Page, Shape, instant


class SessionView(Shape, frozen=True, kw_only=True):
    """Never its token."""

    id: str
    actor: str
    role: Role
    began_at: str
    expires_at: str


def _view(session: Session) -> SessionView:
    return SessionView(
        id=session.id,
        actor=session.actor,
        role=session.role,
        began_at=instant(session.began_at),
        expires_at=instant(session.expires_at),
    )


async def list_sessions(call: AdminCall) -> object:
    rows, following = page_of(call.services.sessions.live(), call.query, lambda session: session.id)
    return items([_view(session) for session in rows], following)


async def end_session(call: AdminCall) -> None:
    await call.services.sessions.end(call.actor, call.path["id"])


_ID = ("unknown_id",)
_KIND: type[msgspec.Struct] = SessionView

ROUTES = (
    Route("GET", "/sessions", "List who is logged in", list_sessions, _KIND, "manage_admins", query=Page, page=True),
    Route("DELETE", "/sessions/{id}", "End a session", end_session, asks="manage_admins", refusals=_ID),
)

"""Admins over the admin API: who may enter besides the node's own token."""

import msgspec

from bursar.core.directory import Admin
from bursar.core.roles import RIGHTS, Role
from bursar.faces.admin_calls import AdminCall, items, page_of
from bursar.faces.admin_route import Route
from bursar.faces.admin_shapes import Instant, Page, Shape, instant


class AdminCreate(Shape, frozen=True, kw_only=True):
    name: str
    role: Role
    expires_at: Instant | None = None


class AdminRole(Shape, frozen=True, kw_only=True):
    role: Role


class AdminView(Shape, frozen=True, kw_only=True):
    id: str
    name: str
    role: Role
    state: str  # active | disabled | expired
    expires_at: str | None


class AdminMinted(Shape, frozen=True, kw_only=True):
    """The only answer that ever holds the text of the token."""

    admin: AdminView
    text: str

    def __repr__(self) -> str:
        return f"AdminMinted({self.admin.id}, ***)"


class CallerView(Shape, frozen=True, kw_only=True):
    """Who is asking, by the token that was sent."""

    actor: str
    role: Role
    rights: tuple[str, ...]
    session: str | None = None  # by which he is logged in
    expires_at: str | None = None  # of the session


def _view(admin: Admin, now: int) -> AdminView:
    state = "disabled" if admin.disabled else "active"
    if admin.expires_at is not None and admin.expires_at <= now:
        state = "expired"
    ends = None if admin.expires_at is None else instant(admin.expires_at)
    return AdminView(id=admin.id, name=admin.name, role=admin.role, state=state, expires_at=ends)


def _viewed(call: AdminCall, admin: Admin) -> AdminView:
    return _view(admin, call.services.directory.now())


async def list_admins(call: AdminCall) -> object:
    rows, following = page_of(call.services.admins.all(), call.query, lambda admin: admin.id)
    return items([_viewed(call, admin) for admin in rows], following)


async def create_admin(call: AdminCall) -> object:
    given: AdminCreate = call.body
    minted = await call.services.admins.create(call.actor, given.name, given.role, given.expires_at)
    return AdminMinted(admin=_viewed(call, minted.admin), text=minted.text.reveal())


async def get_admin(call: AdminCall) -> object:
    return _viewed(call, call.services.admins.get(call.path["id"]))


async def set_admin_role(call: AdminCall) -> object:
    given: AdminRole = call.body
    return _viewed(call, await call.services.admins.set_role(call.actor, call.path["id"], given.role))


async def disable_admin(call: AdminCall) -> object:
    return _viewed(call, await call.services.admins.set_disabled(call.actor, call.path["id"], True))


async def enable_admin(call: AdminCall) -> object:
    return _viewed(call, await call.services.admins.set_disabled(call.actor, call.path["id"], False))


async def remove_admin(call: AdminCall) -> None:
    await call.services.admins.remove(call.actor, call.path["id"])


async def whoami(call: AdminCall) -> object:
    caller = call.caller
    session = call.services.sessions.find(caller.session)
    return CallerView(
        actor=caller.actor,
        role=caller.role,
        rights=tuple(sorted(RIGHTS[caller.role])),
        session=session.id if session else None,
        expires_at=instant(session.expires_at) if session else None,
    )


_ID = ("unknown_id",)
_KIND: type[msgspec.Struct] = AdminView

ROUTES = (
    Route("GET", "/whoami", "Who is asking, and what he may do", whoami, CallerView),
    Route("GET", "/admins", "List admins", list_admins, _KIND, "manage_admins", query=Page, page=True),
    Route(
        "POST",
        "/admins",
        "Let somebody in; the text of the token is answered this once",
        create_admin,
        AdminMinted,
        "manage_admins",
        body=AdminCreate,
        created=True,
        previews=True,
    ),
    Route("GET", "/admins/{id}", "Read an admin", get_admin, _KIND, "manage_admins", refusals=_ID),
    Route(
        "PUT",
        "/admins/{id}/role",
        "Give an admin another role",
        set_admin_role,
        _KIND,
        "manage_admins",
        body=AdminRole,
        refusals=_ID,
        previews=True,
    ),
    Route(
        "POST",
        "/admins/{id}/disable",
        "Switch an admin off",
        disable_admin,
        _KIND,
        "manage_admins",
        refusals=_ID,
        previews=True,
    ),
    Route(
        "POST",
        "/admins/{id}/enable",
        "Switch an admin on",
        enable_admin,
        _KIND,
        "manage_admins",
        refusals=_ID,
        previews=True,
    ),
    Route(
        "DELETE",
        "/admins/{id}",
        "Remove an admin for ever",
        remove_admin,
        asks="manage_admins",
        refusals=_ID,
        previews=True,
    ),
)

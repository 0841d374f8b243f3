"""Who may do what with which provider keys, over the admin API; and the same rules as the policy of a store."""

from typing import Annotated, Literal

import msgspec

from bursar.control.access import GrantTerms
from bursar.core.directory import AccessGrant, Act
from bursar.faces.admin_calls import AdminCall, items, page_of
from bursar.faces.admin_route import Route
from bursar.faces.admin_shapes import Instant, Page, Shape, instant


class GrantCreate(Shape, frozen=True, kw_only=True):
    subject: str
    acts: Annotated[tuple[Act, ...], msgspec.Meta(min_length=1, max_length=4)]
    path: str = "*/*/*/*/*"
    tags: dict[str, str] = msgspec.field(default_factory=dict)
    expires_at: Instant | None = None


class GrantView(Shape, frozen=True, kw_only=True):
    id: str
    subject: str
    acts: tuple[Act, ...]
    path: str
    tags: dict[str, str]
    expires_at: str | None


class PolicyQuery(Shape, frozen=True, kw_only=True):
    """`store`: only that of this name; empty = every store of the kind."""

    target: Literal["vault", "aws"]
    store: str = ""


class PolicyFile(Shape, frozen=True, kw_only=True):
    name: str
    text: str


class PolicyView(Shape, frozen=True, kw_only=True):
    """`left_out`: rules that the store cannot express, and why. None is widened to make it fit."""

    policies: tuple[PolicyFile, ...]
    left_out: tuple[str, ...]


def _view(grant: AccessGrant) -> GrantView:
    ends = None if grant.expires_at is None else instant(grant.expires_at)
    return GrantView(
        id=grant.id, subject=grant.subject, acts=grant.acts, path=grant.path, tags=grant.tags, expires_at=ends
    )


async def list_grants(call: AdminCall) -> object:
    rows, following = page_of(call.services.access.all(), call.query, lambda grant: grant.id)
    return items([_view(grant) for grant in rows], following)


async def create_grant(call: AdminCall) -> object:
    given: GrantCreate = call.body
    terms = GrantTerms(
        subject=given.subject, acts=given.acts, path=given.path, tags=given.tags, expires_at=given.expires_at
    )
    return _view(await call.services.access.grant(call.actor, terms))


async def revoke_grant(call: AdminCall) -> None:
    await call.services.access.revoke(call.actor, call.path["id"])


async def export_policy(call: AdminCall) -> object:
    query: PolicyQuery = call.query
    found = call.services.access.export(query.target, query.store)
    files = tuple(PolicyFile(name=one.name, text=one.text) for one in found.policies)
    return PolicyView(policies=files, left_out=found.left_out)


ROUTES = (
    Route("GET", "/grants", "List who may do what with provider keys", list_grants, GrantView, query=Page, page=True),
    Route(
        "POST",
        "/grants",
        "Allow somebody something with provider keys",
        create_grant,
        GrantView,
        body=GrantCreate,
        created=True,
        previews=True,
        refusals=("unknown_id",),
    ),
    Route("DELETE", "/grants/{id}", "Revoke a grant", revoke_grant, previews=True, refusals=("unknown_id",)),
    Route(
        "GET",
        "/policy-export",
        "The same rules as the policy of the store",
        export_policy,
        PolicyView,
        "administer",
        query=PolicyQuery,
        refusals=("store_unknown", "template_unsafe"),
    ),
)

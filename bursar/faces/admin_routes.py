"""The table of the admin API: method, path, what goes in, what comes out. The OpenAPI document is made from it."""

from collections.abc import Awaitable, Callable
from typing import Literal, NamedTuple

import msgspec

from bursar.faces import admin_calls as calls
from bursar.faces import admin_shapes as shapes
from bursar.faces.admin_calls import AdminCall

PREFIX = "/v1/admin"

Method = Literal["GET", "POST", "PATCH", "PUT", "DELETE"]


class Route(NamedTuple):
    """One row. `answer` None = 204 without a body; `page` = the answer is a list in pieces."""

    method: Method
    path: str  # below PREFIX; {name} is a part of the path, {name:path} may hold slashes
    summary: str
    call: Callable[[AdminCall], Awaitable[object]]
    answer: type[msgspec.Struct] | None = None
    body: type[msgspec.Struct] | None = None  # for PATCH: the input over which the merge patch is laid
    query: type[msgspec.Struct] | None = None
    page: bool = False
    created: bool = False  # 201 instead of 200
    refusals: tuple[str, ...] = ()  # its own words, besides those that every route can answer


_ID = ("unknown_id",)
_NEW = ("already_exists",)
_FITS = ("policy_widens",)
_SECRET = ("secret_not_found", "secrets_unavailable", "audit_unavailable")
_STORED = ("invalid_address", "invalid_tags", "invalid_secret", "duplicate_secret", *_SECRET)
_USED = ("unknown_id", "in_use")

ROUTES: tuple[Route, ...] = (
    Route("GET", "/owners", "List billing owners", calls.list_owners, shapes.OwnerView, query=shapes.Page, page=True),
    Route(
        "POST",
        "/owners",
        "Create a billing owner",
        calls.create_owner,
        shapes.OwnerView,
        body=shapes.OwnerCreate,
        created=True,
        refusals=_NEW,
    ),
    Route("GET", "/owners/{id}", "Read a billing owner", calls.get_owner, shapes.OwnerView, refusals=_ID),
    Route(
        "PATCH",
        "/owners/{id}",
        "Change a billing owner",
        calls.update_owner,
        shapes.OwnerView,
        body=shapes.OwnerInput,
        refusals=_ID,
    ),
    Route("DELETE", "/owners/{id}", "Remove a billing owner without teams", calls.remove_owner, refusals=_USED),
    Route("GET", "/teams", "List teams", calls.list_teams, shapes.TeamView, query=shapes.Page, page=True),
    Route(
        "POST",
        "/teams",
        "Create a team",
        calls.create_team,
        shapes.TeamView,
        body=shapes.TeamCreate,
        created=True,
        refusals=_ID + _NEW,
    ),
    Route("GET", "/teams/{id}", "Read a team", calls.get_team, shapes.TeamView, refusals=_ID),
    Route(
        "PATCH", "/teams/{id}", "Change a team", calls.update_team, shapes.TeamView, body=shapes.TeamInput, refusals=_ID
    ),
    Route("POST", "/teams/{id}/disable", "Switch a team off", calls.disable_team, shapes.TeamView, refusals=_ID),
    Route("POST", "/teams/{id}/enable", "Switch a team on", calls.enable_team, shapes.TeamView, refusals=_ID),
    Route("DELETE", "/teams/{id}", "Remove a team without keys and budgets", calls.remove_team, refusals=_USED),
    Route("GET", "/keys", "List virtual keys", calls.list_keys, shapes.KeyView, query=shapes.KeyPage, page=True),
    Route(
        "POST",
        "/keys",
        "Create a virtual key; its text is answered this once",
        calls.create_key,
        shapes.KeyMinted,
        body=shapes.KeyCreate,
        created=True,
        refusals=_ID + _FITS,
    ),
    Route("GET", "/keys/{id}", "Read a virtual key", calls.get_key, shapes.KeyView, refusals=_ID),
    Route(
        "PATCH",
        "/keys/{id}",
        "Change a virtual key",
        calls.update_key,
        shapes.KeyView,
        body=shapes.KeyInput,
        refusals=_ID + _FITS,
    ),
    Route("POST", "/keys/{id}/disable", "Switch a key off", calls.disable_key, shapes.KeyView, refusals=_ID),
    Route("POST", "/keys/{id}/enable", "Switch a key on", calls.enable_key, shapes.KeyView, refusals=_ID),
    Route(
        "POST",
        "/keys/{id}/rotate",
        "Give a key a new text; the present one works on for the overlap",
        calls.rotate_key,
        shapes.KeyMinted,
        body=shapes.KeyRotate,
        refusals=_ID,
    ),
    Route("DELETE", "/keys/{id}", "Remove a key for ever", calls.remove_key, refusals=_USED),
    Route("GET", "/budgets", "List budgets", calls.list_budgets, shapes.BudgetView, query=shapes.Page, page=True),
    Route(
        "POST",
        "/budgets",
        "Create a budget",
        calls.create_budget,
        shapes.BudgetView,
        body=shapes.BudgetCreate,
        created=True,
        refusals=_ID + _NEW,
    ),
    Route("GET", "/budgets/{id}", "Read a budget", calls.get_budget, shapes.BudgetView, refusals=_ID),
    Route(
        "PATCH",
        "/budgets/{id}",
        "Change a budget: a new version of its definition",
        calls.update_budget,
        shapes.BudgetView,
        body=shapes.BudgetInput,
        refusals=_ID,
    ),
    Route("DELETE", "/budgets/{id}", "Remove a budget; its id stays taken", calls.remove_budget, refusals=_ID),
    Route(
        "GET",
        "/balances",
        "Where each budget stands",
        calls.list_balances,
        shapes.BalanceView,
        query=shapes.Page,
        page=True,
    ),
    Route(
        "GET",
        "/provider-keys",
        "List provider keys, without values",
        calls.list_provider_keys,
        shapes.SecretView,
        query=shapes.Page,
        page=True,
        refusals=_SECRET,
    ),
    Route(
        "POST",
        "/provider-keys",
        "Store a provider key, or a new version of the one at this address",
        calls.put_provider_key,
        shapes.SecretView,
        body=shapes.SecretPut,
        created=True,
        refusals=_STORED + _ID,
    ),
    Route(
        "GET",
        "/provider-keys/{id}",
        "Read a provider key's entry",
        calls.get_provider_key,
        shapes.SecretView,
        refusals=_SECRET,
    ),
    Route(
        "POST",
        "/provider-keys/{id}/tags",
        "Set tags; null removes one",
        calls.tag_provider_key,
        shapes.SecretView,
        body=shapes.SecretTag,
        refusals=("invalid_tags", *_SECRET, *_ID),
    ),
    Route(
        "POST",
        "/provider-keys/{id}/disable",
        "Switch a provider key off",
        calls.disable_provider_key,
        shapes.SecretView,
        refusals=_SECRET,
    ),
    Route(
        "POST",
        "/provider-keys/{id}/enable",
        "Switch a provider key on",
        calls.enable_provider_key,
        shapes.SecretView,
        refusals=_SECRET,
    ),
    Route(
        "DELETE",
        "/provider-keys/{id}",
        "Shred a provider key; no undo",
        calls.destroy_provider_key,
        refusals=_SECRET,
    ),
    Route(
        "GET",
        "/price-overrides",
        "List own prices",
        calls.list_overrides,
        shapes.OverrideView,
        query=shapes.Page,
        page=True,
    ),
    Route(
        "GET",
        "/prices/{provider}",
        "Prices in force at a provider",
        calls.list_prices,
        shapes.PriceView,
        query=shapes.PriceQuery,
        page=True,
        refusals=_ID,
    ),
    Route(
        "POST",
        "/prices/{provider}/{model:path}",
        "Append an own price",
        calls.set_price,
        shapes.OverrideView,
        body=shapes.PriceSet,
        created=True,
        refusals=_ID + _NEW,
    ),
    Route(
        "GET",
        "/usage",
        "Usage and cost of a span, by group",
        calls.usage_report,
        shapes.UsageLine,
        query=shapes.UsageQuery,
        page=True,
    ),
    Route("GET", "/status", "How this node is", calls.status, shapes.StatusView),
    Route(
        "GET",
        "/audit",
        "The newest audit records",
        calls.audit_tail,
        shapes.AuditView,
        query=shapes.AuditQuery,
        page=True,
        refusals=("audit_unavailable",),
    ),
)

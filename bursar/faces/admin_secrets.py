"""Provider keys, and the stores in which they lie, in the admin API."""

from typing import Annotated

import msgspec

from bursar.core.directory import Act
from bursar.core.provider_keys import SecretEntry
from bursar.core.secret import Secret
from bursar.faces.admin_calls import AdminCall, items, page_of
from bursar.faces.admin_route import Route
from bursar.faces.admin_shapes import Page, Shape, instant


class SecretPut(Shape, frozen=True, kw_only=True):
    """The value goes in; it comes out again only where a node lets it, to those with that right."""

    address: str
    value: str
    tags: dict[str, str] = msgspec.field(default_factory=dict)
    allow_duplicate: bool = False
    store: str = ""  # where a new entry goes; empty = the default store

    def __repr__(self) -> str:
        return f"SecretPut({self.address}, ***)"


class SecretTag(Shape, frozen=True, kw_only=True):
    tags: dict[str, str | None]  # null removes


class SecretMove(Shape, frozen=True, kw_only=True):
    store: str


class SecretAsk(Shape, frozen=True, kw_only=True):
    """Why somebody wants to see a value stands in the audit."""

    reason: Annotated[str, msgspec.Meta(min_length=3, max_length=200)]
    version: int | None = None  # null = the current one


class SecretVersionView(Shape, frozen=True, kw_only=True):
    version: int
    state: str  # current | previous | deleted | destroyed
    created_at: str


class SecretView(Shape, frozen=True, kw_only=True):
    id: str
    address: str
    store: str
    version: int
    versions: tuple[SecretVersionView, ...]
    tags: dict[str, str]
    unowned: bool
    disabled: bool
    fault: str  # the word why it cannot be used as it lies there; empty = fine
    flags: tuple[str, ...]  # what somebody should look at: unowned, unknown_owner, unknown_shape, the fault
    created_at: str
    updated_at: str


class SecretShown(Shape, frozen=True, kw_only=True):
    """A provider key in clear."""

    id: str
    value: str

    def __repr__(self) -> str:
        return f"SecretShown({self.id}, ***)"


class StoreView(Shape, frozen=True, kw_only=True):
    name: str
    default: bool
    writable: bool
    fault: str  # the word why it does not serve; empty = it does
    message: str
    stale_answers: int


def _view(call: AdminCall, entry: SecretEntry) -> SecretView:
    return SecretView(
        id=entry.id,
        address=entry.address,
        store=entry.store,
        version=entry.version,
        versions=tuple(
            SecretVersionView(version=v.version, state=v.state, created_at=instant(v.created_at))
            for v in entry.versions
        ),
        tags=entry.tags,
        unowned=entry.unowned,
        disabled=entry.disabled,
        fault=entry.fault,
        flags=call.services.provider_keys.flags(entry),
        created_at=instant(entry.created_at),
        updated_at=instant(entry.updated_at),
    )


def _place(entry: SecretEntry) -> str:
    """Where an entry stands in the list: two stores may have one of the same address."""
    return f"{entry.address} {entry.id}"


async def list_provider_keys(call: AdminCall) -> object:
    entries = sorted(await call.services.provider_keys.all(), key=_place)
    rows, following = page_of(entries, call.query, _place)
    return items([_view(call, entry) for entry in rows], following)


async def _checked(call: AdminCall, act: Act) -> str:
    """The id of the entry that the call is about, if the caller may do this with it. Raises Refusal(access_denied)."""
    entry = await call.services.provider_keys.get(call.path["id"])
    call.services.access.require(call.caller, act, entry.address, entry.tags)
    return entry.id


async def put_provider_key(call: AdminCall) -> object:
    given: SecretPut = call.body
    present = [entry for entry in await call.services.provider_keys.all() if entry.address == given.address]
    for entry in present:  # a new version of what is there
        call.services.access.require(call.caller, "rotate", given.address, entry.tags)
    if not present:
        call.services.access.require(call.caller, "write", given.address, given.tags)
    entry = await call.services.provider_keys.put(
        call.actor,
        given.address,
        Secret(given.value),
        given.tags,
        allow_duplicate=given.allow_duplicate,
        store=given.store,
    )
    return _view(call, entry)


async def get_provider_key(call: AdminCall) -> object:
    return _view(call, await call.services.provider_keys.get(call.path["id"]))


async def tag_provider_key(call: AdminCall) -> object:
    secret_id = await _checked(call, "write")
    given: SecretTag = call.body
    return _view(call, await call.services.provider_keys.tag(call.actor, secret_id, given.tags))


async def disable_provider_key(call: AdminCall) -> object:
    secret_id = await _checked(call, "write")
    return _view(call, await call.services.provider_keys.set_disabled(call.actor, secret_id, True))


async def enable_provider_key(call: AdminCall) -> object:
    secret_id = await _checked(call, "write")
    return _view(call, await call.services.provider_keys.set_disabled(call.actor, secret_id, False))


async def move_provider_key(call: AdminCall) -> object:
    secret_id = await _checked(call, "write")
    given: SecretMove = call.body
    return _view(call, await call.services.provider_keys.move(call.actor, secret_id, given.store))


async def reveal_provider_key(call: AdminCall) -> object:
    secret_id = await _checked(call, "read")
    given: SecretAsk = call.body
    keys = call.services.provider_keys
    entry, value = await keys.reveal(call.actor, secret_id, given.version, given.reason)
    return SecretShown(id=entry.id, value=value.reveal())


async def destroy_provider_key(call: AdminCall) -> None:
    secret_id = await _checked(call, "write")
    await call.services.provider_keys.destroy(call.actor, secret_id)


async def destroy_provider_key_version(call: AdminCall) -> object:
    secret_id = await _checked(call, "write")
    number = call.path["version"]
    version = int(number) if number.isascii() and number.isdigit() and len(number) < 19 else 0
    keys = call.services.provider_keys
    await keys.destroy(call.actor, secret_id, version)
    return _view(call, await keys.get(secret_id))


async def list_secret_stores(call: AdminCall) -> object:
    states = sorted(call.services.provider_keys.stores(), key=lambda state: state.name)
    rows, following = page_of(states, call.query, lambda state: state.name)
    return items([StoreView(**msgspec.structs.asdict(state)) for state in rows], following)


_ID = ("unknown_id",)
_STORE = (
    "secrets_unavailable",
    "store_sealed",
    "store_denied",
    "store_login_failed",
    "store_throttled",
    "store_mismatch",
)
_SECRET = ("secret_not_found", "audit_unavailable", *_STORE)
_WRITTEN = ("access_denied", "store_read_only", "secret_changed", *_SECRET)
_STORED = ("invalid_address", "invalid_tags", "invalid_secret", "duplicate_secret", *_WRITTEN)

ROUTES = (
    Route(
        "GET",
        "/provider-keys",
        "List provider keys, without values",
        list_provider_keys,
        SecretView,
        query=Page,
        page=True,
        refusals=_SECRET,
    ),
    Route(
        "POST",
        "/provider-keys",
        "Store a provider key, or a new version of the one at this address",
        put_provider_key,
        SecretView,
        asks="operate",
        body=SecretPut,
        created=True,
        refusals=("store_unknown", "already_exists", *_STORED, *_ID),
    ),
    Route("GET", "/provider-keys/{id}", "Read a provider key's entry", get_provider_key, SecretView, refusals=_SECRET),
    Route(
        "POST",
        "/provider-keys/{id}/tags",
        "Set tags; null removes one",
        tag_provider_key,
        SecretView,
        asks="operate",
        body=SecretTag,
        refusals=("invalid_tags", *_WRITTEN, *_ID),
    ),
    Route(
        "POST",
        "/provider-keys/{id}/disable",
        "Switch a provider key off",
        disable_provider_key,
        SecretView,
        asks="operate",
        refusals=_WRITTEN,
    ),
    Route(
        "POST",
        "/provider-keys/{id}/enable",
        "Switch a provider key on",
        enable_provider_key,
        SecretView,
        asks="operate",
        refusals=_WRITTEN,
    ),
    Route(
        "POST",
        "/provider-keys/{id}/move",
        "Move a provider key into another store; it is read back before the original is destroyed",
        move_provider_key,
        SecretView,
        body=SecretMove,
        refusals=("store_unknown", "already_exists", "move_unverified", *_WRITTEN),
    ),
    Route(
        "POST",
        "/provider-keys/{id}/reveal",
        "Read a provider key in clear, where the node lets it out; on record first",
        reveal_provider_key,
        SecretShown,
        asks="reveal",
        body=SecretAsk,
        refusals=("access_denied", "reveal_not_allowed", "secret_malformed", *_SECRET),
    ),
    Route(
        "DELETE",
        "/provider-keys/{id}",
        "Shred a provider key; no undo",
        destroy_provider_key,
        refusals=_WRITTEN,
    ),
    Route(
        "DELETE",
        "/provider-keys/{id}/versions/{version}",
        "Shred one version that is not current; no undo",
        destroy_provider_key_version,
        SecretView,
        refusals=("in_use", "store_unsupported", *_WRITTEN),
    ),
    Route("GET", "/secret-stores", "How the secret stores are", list_secret_stores, StoreView, query=Page, page=True),
)

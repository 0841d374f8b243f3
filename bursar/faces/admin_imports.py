"""Many provider keys in one act, over the admin API, and the way back."""

from typing import Annotated

import msgspec

from bursar.control.provider_key_imports import Planned
from bursar.core.directory import Act
from bursar.core.errors import Refusal
from bursar.core.provider_keys import Put
from bursar.core.secret import Secret
from bursar.faces.admin_calls import AdminCall
from bursar.faces.admin_route import Route
from bursar.faces.admin_shapes import Shape

MOST_BODY = 16 << 20
MOST_KEYS = 1_000


class ImportedKey(Shape, frozen=True, kw_only=True):
    address: str
    value: str
    tags: dict[str, str] = msgspec.field(default_factory=dict)

    def __repr__(self) -> str:
        return f"ImportedKey({self.address}, ***)"


class ProviderKeyImport(Shape, frozen=True, kw_only=True):
    """`apply` false = only tell what would become of each. `replace`: a new value where an address is taken."""

    keys: Annotated[tuple[ImportedKey, ...], msgspec.Meta(max_length=MOST_KEYS)]
    replace: bool = False
    apply: bool = False


class ProviderKeyImportView(Shape, frozen=True, kw_only=True):
    """`version`: the change by which it is taken back; 0 = nothing was changed."""

    version: int
    keys: tuple[Planned, ...]


class ProviderKeyImportUndone(Shape, frozen=True, kw_only=True):
    undone: int
    addresses: tuple[str, ...]  # of what is gone, or has the value from before


async def import_provider_keys(call: AdminCall) -> object:
    given: ProviderKeyImport = call.body
    imports, access = call.services.imports, call.services.access
    puts = [Put(key.address, Secret(key.value), key.tags) for key in given.keys]
    planned = await imports.plan(puts, replace=given.replace)
    tags = {entry.address: entry.tags for entry in await call.services.provider_keys.all()}
    for put, plan in zip(puts, planned, strict=True):
        if plan.act == "seal":
            access.require(call.caller, "write", put.address, put.tags)
        elif plan.act == "replace":
            access.require(call.caller, "rotate", put.address, tags[put.address])
    if not given.apply:
        return ProviderKeyImportView(version=0, keys=tuple(planned))
    planned, version = await imports.apply(call.actor, puts, replace=given.replace)
    return ProviderKeyImportView(version=version, keys=tuple(planned))


async def undo_import(call: AdminCall) -> object:
    text = call.path["version"]
    if not text.isascii() or not text.isdigit() or len(text) > 15:
        raise Refusal("invalid_input", f"{text[:32]!r} is no number of a change", "See: bursar history")
    imports, version = call.services.imports, int(text)
    entries = {entry.id: entry for entry in await call.services.provider_keys.all()}
    for edit in await imports.edits_of(version):
        if edit.id in entries:
            act: Act = "write" if edit.before is None else "rotate"
            call.services.access.require(call.caller, act, entries[edit.id].address, entries[edit.id].tags)
    return ProviderKeyImportUndone(undone=version, addresses=tuple(await imports.undo(call.actor, version)))


_STORE = (
    "secrets_unavailable",
    "store_sealed",
    "store_denied",
    "store_login_failed",
    "store_throttled",
    "store_mismatch",
    "store_read_only",
    "store_unsupported",
    "secret_changed",
    "access_denied",
    "audit_unavailable",
)

ROUTES = (
    Route(
        "POST",
        "/provider-key-imports",
        "Store many provider keys: all or none",
        import_provider_keys,
        ProviderKeyImportView,
        asks="operate",
        body=ProviderKeyImport,
        most=MOST_BODY,
        refusals=("invalid_address", "invalid_tags", "invalid_secret", "duplicate_secret", "unknown_id", *_STORE),
    ),
    Route(
        "POST",
        "/provider-key-imports/{version}/undo",
        "Shred what an import has stored; what it replaced has its value from before again",
        undo_import,
        ProviderKeyImportUndone,
        refusals=("unknown_id", "no_undo", "changed_since", "secret_not_found", *_STORE),
    ),
)

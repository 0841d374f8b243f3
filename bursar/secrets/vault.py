"""HashiCorp Vault or OpenBao as a store: KV engine version 2, in Bursar's own layout or in one that was there before.

It is `bursar.ports.SecretStore`. Tags lie in the secret's custom_metadata, or beside the value as data fields; both
ways are found as others have written them. Every write of a value is a check-and-set on the version that was read.
Bursar's own marks in custom_metadata: `bursar_id` (the entry's id, where it came from another store),
`bursar_fingerprint` (keyed) and `bursar_disabled`.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple

import msgspec

from bursar.core.errors import Refusal
from bursar.core.layout import Layout, derived_id
from bursar.core.provider_keys import Put, SecretEntry, SecretVersion, VersionState, check_address, check_tags
from bursar.core.secret import Secret
from bursar.core.units import NS_PER_S
from bursar.ports import Clock
from bursar.secrets.tagging import put_each, tag_each
from bursar.secrets.values import Fingerprint, check_value, found_value
from bursar.secrets.vault_leases import DynamicSecrets
from bursar.secrets.vault_login import NEVER, VaultClient
from bursar.secrets.vault_tree import walk

ID, FINGERPRINT, DISABLED = "bursar_id", "bursar_fingerprint", "bursar_disabled"
_OWN = frozenset({ID, FINGERPRINT, DISABLED})
_MOST_AT_ONCE = 8
_MAX_TAG_VALUE = 512  # bytes; Vault's limits of custom_metadata
_MAX_TAGS = 60  # 64, less our own marks

_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)", re.ASCII)

TagsIn = Literal["custom_metadata", "data"]


class VaultPlace(msgspec.Struct, frozen=True, kw_only=True):
    """Where in the Vault the entries lie, and how."""

    mount: str = "secret"
    layout: Layout = Layout()
    value_field: str = "value"
    tags_in: TagsIn = "custom_metadata"


class Lying(NamedTuple):
    """What was read of one secret, without its value."""

    path: str
    entry: SecretEntry
    current: int  # KV's current_version, also of a deleted one: what a check-and-set must name
    custom: dict[str, str]


class VaultStore:
    """`dynamic` are credentials that Vault makes at each read: entries of this store that cannot be written."""

    writable = True

    def __init__(
        self,
        client: VaultClient,
        place: VaultPlace,
        clock: Clock,
        fingerprint: Fingerprint,
        dynamic: DynamicSecrets | None = None,
    ) -> None:
        self._client = client
        self._place = place
        self._clock = clock
        self._fingerprint = fingerprint
        self._dynamic = dynamic or DynamicSecrets(client, (), clock)
        self._paths: dict[str, str] = {}  # id -> path, as last seen
        self._marks: dict[str, str] = {}  # fingerprint -> id, as last seen
        self._is_kv2 = False

    @property
    def name(self) -> str:
        return self._client.store

    async def close(self) -> None:
        """Give back what was lent: leases, then a login's token. Raises nothing: they end by themselves as well."""
        for give_back in (self._dynamic.close, self._client.login.leave):
            try:
                await give_back()
            except Refusal:
                continue

    async def tend(self) -> float:
        """Renew what is due -> seconds until the next time."""
        return min(await self._client.login.tend(), await self._dynamic.tend(), NEVER)

    # ---- reading

    async def entries(self) -> list[SecretEntry]:
        """Every secret that lies where the layout says, by address."""
        await self._check_engine()
        paths = await walk(self._client, self._place.mount, self._place.layout)
        gate = asyncio.Semaphore(_MOST_AT_ONCE)

        async def read(path: str) -> Lying | None:
            async with gate:
                return await self._lying(path)

        found = [lying for lying in await asyncio.gather(*map(read, paths)) if lying is not None]
        self._paths = {lying.entry.id: lying.path for lying in found}
        self._marks = {lying.custom[FINGERPRINT]: lying.entry.id for lying in found if FINGERPRINT in lying.custom}
        entries = [lying.entry for lying in found] + await self._dynamic.entries()
        return sorted(entries, key=lambda entry: (entry.address, entry.id))

    async def entry(self, secret_id: str) -> SecretEntry:
        if secret_id in self._dynamic:
            return await self._dynamic.entry(secret_id)
        return (await self._find(secret_id)).entry

    async def get(self, secret_id: str, version: int | None = None) -> Secret:
        """The value. Raises Refusal: secret_not_found (also of a deleted version), secret_malformed."""
        if secret_id in self._dynamic:
            return await self._dynamic.get(secret_id, version)
        path = self._paths.get(secret_id) or (await self._find(secret_id)).path
        query = f"version={version}" if version is not None else ""
        reply = await self._client.ask("GET", f"{self._place.mount}/data/{path}", query=query)
        fields = reply.data.get("data")
        if reply.status == 404 or not isinstance(fields, Mapping):
            wanted = "current version" if version is None else f"version {version}"
            raise Refusal("secret_not_found", f"Provider key {secret_id} has no {wanted} in {self.name}")
        name = self._place.value_field
        if name not in fields:
            message = f"The secret {path} in {self.name} has no field {name!r}"
            raise Refusal("secret_malformed", message, "Store it there, or set value_field to where it is")
        return found_value(fields[name], f"The field {name!r} of {path} in {self.name}")

    async def find(self, value: Secret) -> SecretEntry | None:
        entries = {entry.id: entry for entry in await self.entries()}
        return entries.get(self._marks.get(self._fingerprint(value), ""))

    # ---- writing

    async def put(
        self,
        address: str,
        value: Secret,
        tags: Mapping[str, str],
        allow_duplicate: bool = False,
        secret_id: str | None = None,
    ) -> tuple[str, int]:
        """Tags first, then the value: it must at no moment be usable without them."""
        await self._check_engine()
        check_address(address)
        clean = self._fitting(check_tags(tags))
        check_value(value, (address, *clean, *clean.values()))
        await self._check_duplicate(value, allow_duplicate)
        path = self._place.layout.place_of(address)
        lying = await self._lying(path, also_empty=True)
        found = lying.entry.id if lying else secret_id or derived_id(self.name, path)
        number = await self._write(path, lying, clean, value, found)
        self._paths[found] = path
        return found, number

    async def put_many(self, puts: Sequence[Put]) -> list[tuple[str, int]]:
        return await put_each(self, puts)

    async def put_version(self, secret_id: str, value: Secret, allow_duplicate: bool = False) -> int:
        lying = await self._writable(secret_id)
        tags = lying.entry.tags
        check_value(value, (lying.entry.address, *tags, *tags.values()))
        await self._check_duplicate(value, allow_duplicate)
        return await self._write(lying.path, lying, tags, value, secret_id)

    async def tag(self, secret_id: str, changes: Mapping[str, str | None]) -> SecretEntry:
        lying = await self._writable(secret_id)
        merged = {**lying.entry.tags, **changes}
        tags = self._fitting(check_tags({name: value for name, value in merged.items() if value is not None}))
        if self._place.tags_in == "data":
            await self._write(lying.path, lying, tags, None, secret_id)
        else:
            await self._mark(lying.path, lying, {name: tags.get(name) for name in {**lying.entry.tags, **tags}})
        return await self.entry(secret_id)

    async def tag_many(self, changes: Mapping[str, Mapping[str, str | None]]) -> list[SecretEntry]:
        return await tag_each(self, changes)

    async def set_disabled(self, secret_id: str, disabled: bool) -> SecretEntry:
        lying = await self._writable(secret_id)
        await self._mark(lying.path, lying, {DISABLED: "true" if disabled else None})
        return await self.entry(secret_id)

    async def destroy(self, secret_id: str, version: int | None = None) -> None:
        """One version's data, or the whole secret with its metadata, for ever: no `undelete` brings it back."""
        lying = await self._writable(secret_id)
        mount = self._place.mount
        if version is None:
            await self._client.ask("DELETE", f"{mount}/metadata/{lying.path}")
            self._paths.pop(secret_id, None)
            return
        if version == lying.current:
            hint = "Store a newer version first, or destroy the whole entry"
            raise Refusal("in_use", "This is the current version", hint)
        if not any(known.version == version and known.state != "destroyed" for known in lying.entry.versions):
            raise Refusal("secret_not_found", f"Provider key {secret_id} has no version {version}")
        await self._client.ask("POST", f"{mount}/destroy/{lying.path}", {"versions": [version]})

    # ---- inside

    async def _check_engine(self) -> None:
        """Is there a KV engine of version 2? Asked once; a policy may deny the question, not the answer's meaning."""
        if self._is_kv2:
            return
        mount = self._place.mount
        try:
            reply = await self._client.ask("GET", f"sys/internal/ui/mounts/{mount}")
        except Refusal as refusal:
            if refusal.word != "store_denied":
                raise
            return
        version = (reply.data.get("options") or {}).get("version")
        if reply.status == 404 or reply.data.get("type") != "kv" or version != "2":
            message = f"{mount!r} in {self.name} is no KV engine of version 2"
            raise Refusal("store_mismatch", message, "Name such a mount, or upgrade: `vault kv enable-versioning`")
        self._is_kv2 = True

    async def _check_duplicate(self, value: Secret, allowed: bool) -> None:
        holder = None if allowed else await self.find(value)
        if holder is not None:
            raise Refusal(
                "duplicate_secret",
                f"The same provider key is already stored as {holder.address}, version {holder.version}",
                "Use that entry, or allow the duplicate",
                facts={"secret": holder.id, "address": holder.address, "version": holder.version},
            )

    async def _writable(self, secret_id: str) -> Lying:
        if secret_id in self._dynamic:
            message = f"This credential is made by {self.name} itself, on lease"
            raise Refusal("store_read_only", message, "Change its role there")
        return await self._find(secret_id)

    async def _find(self, secret_id: str) -> Lying:
        """By the path as last seen; looked for anew when it is not there any more. Raises Refusal(secret_not_found)."""
        for look_again in (False, True):
            if look_again:
                await self.entries()
            path = self._paths.get(secret_id)
            lying = None if path is None else await self._lying(path)
            if lying is not None and lying.entry.id == secret_id:
                return lying
        hint = "See: bursar secrets list"
        raise Refusal("secret_not_found", f"There is no provider key {secret_id[:64]!r} in {self.name}", hint)

    async def _lying(self, path: str, *, also_empty: bool = False) -> Lying | None:
        """What lies at a path; None when there is nothing, or (unless `also_empty`) no version of it."""
        reply = await self._client.ask("GET", f"{self._place.mount}/metadata/{path}")
        if reply.status == 404:
            return None
        current = int(reply.data.get("current_version") or 0)
        if not current and not also_empty:
            return None
        custom = {str(k): str(v) for k, v in (reply.data.get("custom_metadata") or {}).items()}
        fields: Mapping[str, object] = custom
        if self._place.tags_in == "data":
            fields = await self._data(path)
        return Lying(path, self._entry_of(path, reply.data, custom, fields), current, custom)

    async def _data(self, path: str) -> dict[str, object]:
        """The data of the current version, {} when it has none. Holds the value: not for a local variable's repr."""
        reply = await self._client.ask("GET", f"{self._place.mount}/data/{path}")
        fields = reply.data.get("data")
        return _Masked(fields) if isinstance(fields, Mapping) else _Masked()

    def _entry_of(
        self, path: str, told: Mapping[str, Any], custom: Mapping[str, str], fields: Mapping[str, object]
    ) -> SecretEntry:
        shown = {name: fields[name] for name in fields if name != self._place.value_field and name not in _OWN}
        address, tags, fault = self._place.layout.read(path, shown)
        versions = _versions(told, self._clock.now())
        return SecretEntry(
            id=custom.get(ID) or derived_id(self.name, path),
            address=address,
            tags=tags,
            version=next((version.version for version in versions if version.state == "current"), 0),
            versions=versions,
            disabled=custom.get(DISABLED) == "true",
            created_at=_instant(told.get("created_time")),
            updated_at=_instant(told.get("updated_time")),
            store=self.name,
            fault=fault,
        )

    def _fitting(self, tags: dict[str, str]) -> dict[str, str]:
        """The tags, if custom_metadata can hold them. Raises Refusal(invalid_tags)."""
        if self._place.tags_in == "data":
            if self._place.value_field in tags:
                raise Refusal("invalid_tags", f"{self._place.value_field!r} is the value's own field in {self.name}")
            return tags
        long = [name for name, value in tags.items() if len(value.encode()) > _MAX_TAG_VALUE]
        if long or len(tags) > _MAX_TAGS or _OWN & set(tags):
            hint = f"At most {_MAX_TAGS} tags of {_MAX_TAG_VALUE} bytes each, none of them called bursar_..."
            raise Refusal("invalid_tags", f"{self.name} cannot hold these tags", hint)
        return tags

    async def _write(
        self, path: str, lying: Lying | None, tags: Mapping[str, str], value: Secret | None, secret_id: str
    ) -> int:
        """Marks, tags and value (None = the present one) as a new version -> its number. Raises secret_changed."""
        marks: dict[str, str | None] = {}
        if secret_id != derived_id(self.name, path):
            marks[ID] = secret_id
        if value is not None:
            marks[FINGERPRINT] = self._fingerprint(value)
        old = dict.fromkeys(lying.entry.tags) if lying else {}
        if self._place.tags_in == "custom_metadata":
            marks = {**old, **tags, **marks}
        await self._mark(path, lying, marks)
        data = await self._data(path) if lying and lying.current else _Masked()
        if self._place.tags_in == "data":
            for name in old:
                data.pop(name, None)
            data.update(tags)
        if value is not None:
            data[self._place.value_field] = value
        body = {"options": {"cas": lying.current if lying else 0}, "data": data}
        reply = await self._client.ask("POST", f"{self._place.mount}/data/{path}", body)
        return int(reply.data.get("version") or 0)

    async def _mark(self, path: str, lying: Lying | None, marks: Mapping[str, str | None]) -> None:
        """Set (None removes) fields of custom_metadata, leaving what others wrote there; new ones are written whole."""
        if all((lying.custom if lying else {}).get(name) == text for name, text in marks.items()):
            return
        method = "PATCH" if lying else "POST"
        body = {"custom_metadata": {name: text for name, text in marks.items() if lying or text is not None}}
        await self._client.ask(method, f"{self._place.mount}/metadata/{path}", body)


class _Masked(dict[str, object]):
    """Data with a value in it."""

    def __repr__(self) -> str:
        return "{***}"


def _versions(told: Mapping[str, Any], now: int) -> tuple[SecretVersion, ...]:
    current = told.get("current_version")
    found = []
    for text, facts in (told.get("versions") or {}).items():
        number = int(text)
        state: VersionState = "current" if number == current else "previous"
        deleted = _instant(facts.get("deletion_time"))
        if deleted and deleted <= now:
            state = "deleted"
        if facts.get("destroyed"):
            state = "destroyed"
        found.append(SecretVersion(version=number, state=state, created_at=_instant(facts.get("created_time"))))
    return tuple(sorted(found, key=lambda version: version.version))


def _instant(text: object) -> int:
    """Nanoseconds of an RFC 3339 text with up to nine decimals; 0 for none."""
    match = _RFC3339.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        return 0
    seconds = int(datetime.fromisoformat(match[1] + match[3].replace("Z", "+00:00")).timestamp())
    return seconds * NS_PER_S + int((match[2] or "").ljust(9, "0")[:9])

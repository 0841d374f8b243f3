"""Releasing a provider key to a gateway: the audit first, then the value. No durable record, no secret."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from bursar.core.audit import Event, Outcome
from bursar.core.errors import Refusal
from bursar.core.provider_keys import SecretEntry
from bursar.core.secret import Secret
from bursar.core.units import NS_PER_S
from bursar.ports import Clock

LEASE_S = 900
_MEND = "See: bursar secrets list; mend it where it lies"


class Store(Protocol):
    """What is needed of `bursar.ports.SecretStore`."""

    async def get(self, secret_id: str, version: int | None = None) -> Secret: ...

    async def entry(self, secret_id: str) -> SecretEntry: ...


class Audit(Protocol):
    """What is needed of `bursar.control.audit.AuditLog`."""

    async def append(
        self, actor: str, action: str, target: str, facts: Mapping[str, str | int], outcome: Outcome = "allowed"
    ) -> object: ...

    async def append_all(self, events: Sequence[Event]) -> object: ...


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """A provider key on loan to one gateway. `Secret` cannot be serialised: `link` opens it into its own message."""

    secret_id: str
    version: int
    value: Secret
    expires_at: int  # ns


class Releases:
    """`lease_s` is how long a gateway may use a key without asking again (it asks at two thirds).

    `look_at` sees each value that is lent: what looks odd is flagged.
    """

    def __init__(
        self,
        store: Store,
        audit: Audit,
        clock: Clock,
        lease_s: int = LEASE_S,
        look_at: Callable[[SecretEntry, int, Secret], object] = lambda *_: None,
    ) -> None:
        self._store = store
        self._look_at = look_at
        self._audit = audit
        self._clock = clock
        self._lease_ns = lease_s * NS_PER_S
        self._counting = asyncio.Lock()
        self._flushed: dict[str, str] = {}  # the last flush of each node that is on record

    async def release(self, secret_id: str, version: int | None, node: str, reason: str) -> Lease:
        """Lend a version (None = the current one) to `node`.

        Raises Refusal: audit_unavailable (nothing was opened), no_provider_key (unknown, off or destroyed), or the
        store's reason why it does not open. All but the first are on record.
        """
        actor, target = f"node:{node}", f"secret/{secret_id}"
        try:
            entry, number = await self._usable(secret_id, version)
        except Refusal as refusal:
            await self._audit.append(actor, "secret.release", target, {"word": refusal.word}, "refused")
            raise
        lease_until = self._clock.now() + self._lease_ns
        facts: dict[str, str | int] = {
            "version": number,
            "reason": reason,
            "address": entry.address,
            "billing_owner": entry.tags.get("billing_owner", ""),
            "expires_at": lease_until,
        }
        await self._audit.append(actor, "secret.release", target, facts)
        try:
            value = await self._store.get(secret_id, number)
        except Refusal as refusal:
            failed: dict[str, str | int] = {"version": number, "word": refusal.word}
            await self._audit.append(actor, "secret.release", target, failed, "failed")
            raise
        self._look_at(entry, number, value)
        return Lease(secret_id=secret_id, version=number, value=value, expires_at=lease_until)

    async def count_uses(self, node: str, counts: Sequence[tuple[str, int, int]], flush: str = "") -> None:
        """Record uses under leases as (secret id, version, uses) since the last count, flushed by the gateway.

        A flush that comes again by the same name is recorded once; after a restart in between perhaps twice, which
        its name in the records tells. Raises Refusal(audit_unavailable): the caller keeps the counts and tries again.
        """
        async with self._counting:
            if not flush or self._flushed.get(node) != flush:
                await self._record_uses(node, counts, flush)
                self._flushed[node] = flush

    async def _record_uses(self, node: str, counts: Sequence[tuple[str, int, int]], flush: str) -> None:
        events = [
            Event(
                actor=f"node:{node}",
                action="secret.use",
                target=f"secret/{secret_id}",
                facts={"version": version, "uses": uses, "flush": flush},
            )
            for secret_id, version, uses in counts
            if uses > 0
        ]
        if events:
            await self._audit.append_all(events)

    async def _usable(self, secret_id: str, version: int | None) -> tuple[SecretEntry, int]:
        """The entry and the version's number. Raises Refusal(no_provider_key)."""
        try:
            entry = await self._store.entry(secret_id)
        except Refusal as refusal:
            if refusal.word != "secret_not_found":
                raise
            raise Refusal("no_provider_key", refusal.message, refusal.hint) from None
        number = entry.version if version is None else version
        if entry.disabled:
            raise Refusal("no_provider_key", "The provider key is switched off", f"bursar secrets enable {entry.id}")
        if entry.fault:
            raise Refusal(entry.fault, "The provider key cannot be used as it lies in its store", _MEND)
        if version is not None and len(entry.versions) == 1 and version < entry.version:
            number = entry.version  # such a store keeps no older one, and the directory has not followed yet
        if not any(known.version == number and known.state in ("current", "previous") for known in entry.versions):
            raise Refusal("no_provider_key", f"The provider key has no version {number} that can be opened")
        return entry, number

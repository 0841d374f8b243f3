"""Stage 9a: borrow a provider key for one attempt. Control audits a release before it happens; here uses are counted.

A lease is kept until it ends and renewed in the background after two thirds of its life, so that a control process
that is away for a while stops nobody. The value is a `Secret`: only the outgoing header opens it.
"""

import asyncio
from typing import Protocol

import msgspec

from bursar.core.directory import ProviderKey
from bursar.core.secret import Secret
from bursar.ports import Clock

_RENEW_AFTER = 2 / 3
_RETRY_RENEWAL_NS = 5 * 10**9


class Granted(Protocol):
    """A released value and the instant (ns) at which its lease ends."""

    @property
    def value(self) -> Secret: ...

    @property
    def expires_at(self) -> int: ...


class Releases(Protocol):
    async def release(self, secret_id: str, version: int) -> Granted:
        """Raises Refusal (no_provider_key, audit_unavailable)."""
        ...


class Lease(msgspec.Struct):
    """A provider key in hand. `uses` counts since the last flush."""

    secret_id: str
    version: int
    value: Secret
    expires_at: int  # ns
    renew_at: int  # ns
    uses: int = 0


class Leases:
    """All provider keys this gateway holds, by entry and version."""

    def __init__(self, releases: Releases, clock: Clock) -> None:
        self._releases = releases
        self._clock = clock
        self._held: dict[tuple[str, int], Lease] = {}
        self._asking: dict[tuple[str, int], asyncio.Task[Lease]] = {}

    async def borrow(self, key: ProviderKey) -> Lease:
        """The key's lease, asked of control when there is none. Counts one use. Raises Refusal."""
        lease = self._held.get((key.id, key.version))
        now = self._clock.now()
        if lease is None or now >= lease.expires_at:
            lease = await self._ask(key.id, key.version)
        elif now >= lease.renew_at:
            lease.renew_at = now + _RETRY_RENEWAL_NS
            self._renew(key.id, key.version)
        lease.uses += 1
        return lease

    def forget(self, secret_id: str, version: int | None = None) -> None:
        """A revoked version (or every version of an entry) is gone at once."""
        for held in [k for k in self._held if k[0] == secret_id and version in (None, k[1])]:
            del self._held[held]

    def take_uses(self) -> list[tuple[str, int, int]]:
        """(secret id, version, uses) since the last call; for the audit, flushed at least every 10 s."""
        counts = [(lease.secret_id, lease.version, lease.uses) for lease in self._held.values() if lease.uses]
        for lease in self._held.values():
            lease.uses = 0
        return counts

    async def _ask(self, secret_id: str, version: int) -> Lease:
        # Shielded: one caller that leaves must not fail the others who wait for the same release.
        return await asyncio.shield(self._single_flight(secret_id, version))

    def _renew(self, secret_id: str, version: int) -> None:
        self._single_flight(secret_id, version).add_done_callback(_retrieve)

    def _single_flight(self, secret_id: str, version: int) -> "asyncio.Task[Lease]":
        name = (secret_id, version)
        task = self._asking.get(name)
        if task is None:
            task = asyncio.ensure_future(self._fetch(secret_id, version))
            self._asking[name] = task
            task.add_done_callback(lambda _: self._asking.pop(name, None))
        return task

    async def _fetch(self, secret_id: str, version: int) -> Lease:
        granted = await self._releases.release(secret_id, version)
        now = self._clock.now()
        renew_at = now + int((granted.expires_at - now) * _RENEW_AFTER)
        lease = Lease(secret_id, version, granted.value, granted.expires_at, renew_at)
        before = self._held.get((secret_id, version))
        lease.uses = before.uses if before is not None else 0
        self._held[secret_id, version] = lease
        return lease


def _retrieve(task: "asyncio.Task[Lease]") -> None:
    """A renewal that failed is tried again at the next use; the live lease goes on until its end."""
    if not task.cancelled():
        task.exception()

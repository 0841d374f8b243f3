"""Stage 9a: borrow a provider key for one attempt. Control audits a release before it happens; here uses are counted.

A lease is kept until it ends and renewed in the background after two thirds of its life, so that a control process
that is away for a while stops nobody. The value is a `Secret`: only the outgoing header opens it.
"""

import asyncio
from typing import Any, Protocol

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
        """Raises Refusal (no_provider_key, audit_unavailable, secrets_unavailable)."""
        ...


class Lease(msgspec.Struct):
    """A provider key in hand."""

    secret_id: str
    version: int
    value: Secret
    expires_at: int  # ns
    renew_at: int  # ns


class Leases:
    """All provider keys this gateway holds, by entry and version."""

    def __init__(self, releases: Releases, clock: Clock) -> None:
        self._releases = releases
        self._clock = clock
        self._held: dict[tuple[str, int], Lease] = {}
        self._asking: dict[tuple[str, int], asyncio.Task[Lease]] = {}
        self._uses: dict[tuple[str, int], int] = {}  # apart from the leases: those of a revoked one count as well

    async def borrow(self, key: ProviderKey) -> Lease:
        """The key's lease, asked of control when there is none. Counts one use. Raises Refusal."""
        lease = self.at_hand(key)
        if lease is None:
            name = (key.id, key.version)
            lease = await self._ask(name)
            self._uses[name] = self._uses.get(name, 0) + 1
        return lease

    def at_hand(self, key: ProviderKey) -> Lease | None:
        """`borrow` where nobody need be asked, as nearly always; None = somebody must be."""
        name = (key.id, key.version)
        lease = self._held.get(name)
        now = self._clock.now()
        if lease is None or now >= lease.expires_at:
            return None
        if now >= lease.renew_at:
            lease.renew_at = now + _RETRY_RENEWAL_NS
            self._renew(name)
        self._uses[name] = self._uses.get(name, 0) + 1
        return lease

    def forget(self, secret_id: str, version: int | None = None) -> None:
        """A revoked version (or every version of an entry) is gone at once; what is on its way is not kept."""
        tables: tuple[dict[tuple[str, int], Any], ...] = (self._held, self._asking)
        for table in tables:
            for name in [known for known in table if known[0] == secret_id and version in (None, known[1])]:
                del table[name]

    def take_uses(self) -> list[tuple[str, int, int]]:
        """(secret id, version, uses) since the last call; for the audit, flushed at least every 10 s."""
        counts = [(*name, uses) for name, uses in self._uses.items()]
        self._uses.clear()
        return counts

    async def _ask(self, name: tuple[str, int]) -> Lease:
        # Shielded: one caller that leaves must not fail the others who wait for the same release.
        return await asyncio.shield(self._single_flight(name))

    def _renew(self, name: tuple[str, int]) -> None:
        self._single_flight(name).add_done_callback(_retrieve)

    def _single_flight(self, name: tuple[str, int]) -> "asyncio.Task[Lease]":
        task = self._asking.get(name)
        if task is None:
            task = self._asking[name] = asyncio.ensure_future(self._fetch(name))
            task.add_done_callback(lambda done: self._answered(name, done))
        return task

    def _answered(self, name: tuple[str, int], done: "asyncio.Task[Lease]") -> None:
        if self._asking.get(name) is done:  # else it was revoked meanwhile, and perhaps asked anew
            del self._asking[name]

    async def _fetch(self, name: tuple[str, int]) -> Lease:
        granted = await self._releases.release(*name)
        now = self._clock.now()
        renew_at = now + int((granted.expires_at - now) * _RENEW_AFTER)
        lease = Lease(*name, granted.value, granted.expires_at, renew_at)
        if self._asking.get(name) is asyncio.current_task():
            self._held[name] = lease
        return lease


def _retrieve(task: "asyncio.Task[Lease]") -> None:
    """A renewal that failed is tried again at the next use; the live lease goes on until its end."""
    if not task.cancelled():
        task.exception()

"""Credentials that Vault makes at each read, on lease: renewed at two thirds, replaced before their end, revoked.

An entry is one path of a dynamic engine. Its version is the second at which the credential was made, so that it also
differs from what an earlier run of this process had. The one before stays usable until its own end: gateways that
still hold it have time to ask anew.
"""

import asyncio
from collections.abc import Sequence

import msgspec

from bursar.core.errors import Refusal
from bursar.core.layout import derived_id
from bursar.core.provider_keys import SecretEntry, SecretVersion, check_tags
from bursar.core.secret import Secret
from bursar.core.units import NS_PER_S
from bursar.ports import Clock
from bursar.secrets.values import found_value
from bursar.secrets.vault_login import NEVER, RENEW_AFTER, VaultClient

_TRY_AGAIN_S = 5.0


class DynamicSecret(msgspec.Struct, frozen=True, kw_only=True):
    """`path`: what is read, e.g. ``openai/creds/inference``; `field`: where in the answer the key stands."""

    path: str
    address: str
    field: str = "api_key"
    tags: dict[str, str] = {}


class _Lent(msgspec.Struct, kw_only=True):
    version: int
    value: Secret
    lease_id: str
    ttl: float  # as first given, seconds
    renewable: bool
    due: float  # monotonic instants
    ends: float


class DynamicSecrets:
    def __init__(self, client: VaultClient, secrets: Sequence[DynamicSecret], clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._secrets = {derived_id(client.store, secret.path): secret for secret in secrets}
        self._lent: dict[str, list[_Lent]] = {}  # the newest last
        self._turn = asyncio.Lock()
        self.revoke_faults: dict[str, str] = {}  # path -> word: what could not be given back

    def __contains__(self, secret_id: str) -> bool:
        return secret_id in self._secrets

    async def entries(self) -> list[SecretEntry]:
        """All of them; one whose engine refuses is shown with its fault, so that the others are not lost with it."""
        return [await self.entry(secret_id) for secret_id in self._secrets]

    async def entry(self, secret_id: str) -> SecretEntry:
        secret, fault, lent = self._secrets[secret_id], "", list[_Lent]()
        try:
            lent = await self._alive(secret_id)
        except Refusal as refusal:
            fault = refusal.word
        numbers = [one.version for one in lent]
        return SecretEntry(
            id=secret_id,
            address=secret.address,
            tags=check_tags(secret.tags),
            version=numbers[-1] if numbers else 0,
            versions=tuple(
                SecretVersion(
                    version=number,
                    state="current" if number == numbers[-1] else "previous",
                    created_at=number * NS_PER_S,
                )
                for number in numbers
            ),
            created_at=numbers[0] * NS_PER_S if numbers else 0,
            updated_at=numbers[-1] * NS_PER_S if numbers else 0,
            store=self._client.store,
            fault=fault,
        )

    async def get(self, secret_id: str, version: int | None) -> Secret:
        lent = await self._alive(secret_id)
        for one in reversed(lent):
            if version in (None, one.version):
                return one.value
        raise Refusal("secret_not_found", f"The leased credential {secret_id} of that version has ended")

    async def tend(self) -> float:
        """Renew or replace what is due -> seconds until the next time."""
        for secret_id, lent in list(self._lent.items()):
            if lent and self._clock.monotonic() >= lent[-1].due:
                async with self._turn:
                    await self._extend(secret_id, lent)
        due = [lent[-1].due for lent in self._lent.values() if lent]
        return min(due, default=NEVER) - self._clock.monotonic()

    async def close(self) -> None:
        """Revoke all that is lent. Each is tried; raises the last Refusal."""
        fault: Refusal | None = None
        for secret_id, lent in self._lent.items():
            for one in lent:
                try:
                    await self._client.ask("POST", "sys/leases/revoke", {"lease_id": one.lease_id})
                except Refusal as refusal:
                    fault = refusal
                    self.revoke_faults[self._secrets[secret_id].path] = refusal.word
        self._lent.clear()
        if fault is not None:
            raise fault

    # ----

    async def _alive(self, secret_id: str) -> list[_Lent]:
        """What is lent and has not ended, a new one if there is none."""
        async with self._turn:
            now = self._clock.monotonic()
            lent = self._lent.setdefault(secret_id, [])
            lent[:] = [one for one in lent if one.ends > now]
            if not lent:
                lent.append(await self._make(secret_id))
            return list(lent)

    async def _extend(self, secret_id: str, lent: list[_Lent]) -> None:
        """Renew the newest; where it cannot be renewed (for long), make another beside it."""
        newest, now = lent[-1], self._clock.monotonic()
        try:
            if not newest.renewable or not await self._renewed(newest):
                newest.due = NEVER
                lent.append(await self._make(secret_id))
        except Refusal:
            lent[-1].due = now + _TRY_AGAIN_S  # until its end there is time

    async def _renewed(self, one: _Lent) -> bool:
        body = {"lease_id": one.lease_id, "increment": int(one.ttl)}
        try:
            reply = await self._client.ask("POST", "sys/leases/renew", body)
        except Refusal as refusal:
            if refusal.word not in ("store_denied", "store_mismatch"):
                raise
            return False
        left = one.ttl if reply.status == 204 else float(reply.lease_duration)
        now = self._clock.monotonic()
        one.ends = now + left
        one.due = now + left * RENEW_AFTER
        return left >= one.ttl / 3

    async def _make(self, secret_id: str) -> _Lent:
        secret = self._secrets[secret_id]
        reply = await self._client.ask("GET", secret.path)
        if reply.status == 404:
            raise Refusal("secret_not_found", f"There is nothing at {secret.path} in {self._client.store}")
        value = found_value(reply.data.get(secret.field), f"The field {secret.field!r} of {secret.path}")
        now, ttl = self._clock.monotonic(), float(reply.lease_duration)
        known = self._lent.get(secret_id) or []
        return _Lent(
            version=max([self._clock.now() // NS_PER_S, *(one.version + 1 for one in known)]),
            value=value,
            lease_id=reply.lease_id,
            ttl=ttl,
            renewable=reply.renewable,
            due=now + ttl * RENEW_AFTER if ttl else NEVER,
            ends=now + ttl if ttl else NEVER,
        )

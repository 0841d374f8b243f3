"""The ring of wrapping keys as an operator sees it: what is sealed under which, moved along in small steps.

A rewrap is made of calls that each move a few values: it can be stopped at any point and gone on with, by anybody, and
nothing remembers that it was under way but the sealed values themselves.
"""

from collections.abc import Callable
from typing import Protocol

import msgspec

from bursar.control.directory import Audit
from bursar.core.secret import Secret
from bursar.ports import KeyWrapper

RECOVERY_NAME = "recovery-key"


class Moved(Protocol):
    @property
    def done(self) -> int: ...

    @property
    def left(self) -> int: ...


class SealedFile(Protocol):
    """What is needed of `bursar.secrets.sealed_file`."""

    @property
    def sealing(self) -> tuple[str, ...]: ...

    @property
    def ring(self) -> tuple[str, ...]: ...

    def recover_by(self, wrapper: KeyWrapper | None) -> None: ...

    async def under(self) -> dict[tuple[str, ...], int]: ...

    async def rewrap(self, limit: int | None = None) -> Moved: ...

    async def set_internal(self, name: str, value: Secret) -> None: ...


class WrappingKey(msgspec.Struct, frozen=True, kw_only=True):
    """One key of the ring. `values` are those that it opens."""

    id: str
    seals: bool  # new values are sealed under it
    opens: bool  # it is in hand; a recovery key's private half is kept elsewhere
    values: int


class RingState(msgspec.Struct, frozen=True, kw_only=True):
    keys: tuple[WrappingKey, ...]
    values: int  # sealed values in all
    left: int  # not yet under just the keys that seal


class WrappingKeys:
    """`recovery` makes a wrapper of a recovery key's id. Raises Refusal(wrapper_wrong) for what is none."""

    def __init__(self, file: SealedFile, audit: Audit, recovery: Callable[[str], KeyWrapper]) -> None:
        self._file = file
        self._audit = audit
        self._recovery = recovery

    async def state(self) -> RingState:
        """Every key that seals, opens, or is named by a sealed value."""
        under = await self._file.under()
        sealing, ring = self._file.sealing, self._file.ring
        named = [name for ids in under for name in ids]
        keys = [
            WrappingKey(
                id=name,
                seals=name in sealing,
                opens=name in ring,
                values=sum(count for ids, count in under.items() if name in ids),
            )
            for name in dict.fromkeys((*sealing, *ring, *named))
        ]
        values = sum(under.values())
        return RingState(keys=tuple(keys), values=values, left=values - under.get(sealing, 0))

    async def rewrap(self, actor: str, limit: int) -> Moved:
        """Bring up to `limit` values under the keys that seal. Raises SealError for one that does not unlock."""
        before = await self.state()
        if before.left:
            facts: dict[str, str | int] = {"left": before.left, "under": ", ".join(self._file.sealing)}
            await self._audit.append(actor, "secret.rewrap", "secrets", facts)
        return await self._file.rewrap(limit)

    async def set_recovery(self, actor: str, wrapper_id: str) -> RingState:
        """Seal under this recovery key besides, from now on; `rewrap` brings the stored values along."""
        wrapper = self._recovery(wrapper_id)
        await self._audit.append(actor, "secret.recovery", "secrets", {"recovery_key": wrapper.id})
        await self._file.set_internal(RECOVERY_NAME, Secret(wrapper.id))
        self._file.recover_by(wrapper)
        return await self.state()

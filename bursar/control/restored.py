"""A restored node on its way back: what may be missing, and a person's word that it may serve again."""

from typing import Protocol

from bursar.control.directory import Audit
from bursar.core.errors import Refusal
from bursar.core.restore import Restored, paused_refusal
from bursar.ports import Clock


class Marker(Protocol):
    """The file that keeps the node paused (`bursar.stores.restore_marker`)."""

    def read(self) -> Restored | None: ...

    def retire(self, now: int) -> None: ...


class RestoredNode:
    def __init__(self, marker: Marker, audit: Audit, clock: Clock) -> None:
        self._marker = marker
        self._audit = audit
        self._clock = clock
        self._paused = marker.read() is not None

    @property
    def paused(self) -> bool:
        return self._paused

    def check(self) -> None:
        """Raises Refusal(restore_unacknowledged) while nobody may be served."""
        if self._paused:
            raise paused_refusal()

    def state(self) -> Restored | None:
        return self._marker.read()

    async def note_backup(self, actor: str, file: str) -> None:
        """Whoever has a backup has the sealed secrets: that one is taken is on record."""
        await self._audit.append(actor, "backup.take", "node", {"file": file})

    async def acknowledge(self, actor: str) -> Restored:
        """Serve again, on a person's word -> what was known to be missing. Raises Refusal(unknown_id) if not paused."""
        state = self._marker.read()
        if state is None:
            raise Refusal("unknown_id", "This node is not paused by a restore", "See: bursar status")
        facts: dict[str, str | int] = {
            "backup_ns": state.taken_ns,
            "restored_ns": state.restored_ns,
            "replayed_until_ns": state.replayed.until_ns if state.replayed else 0,
        }
        await self._audit.append(actor, "restore.acknowledge", "node", facts)
        self._marker.retire(self._clock.now())
        self._paused = False
        return state

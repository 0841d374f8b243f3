"""Many provider keys at once: everything that is wrong first, then all of them or none, and one way back."""

from collections.abc import Sequence
from typing import Literal

import msgspec

from bursar.control.history import History
from bursar.control.provider_keys import IMPORT, ProviderKeys
from bursar.core.directory import Edit
from bursar.core.errors import Refusal
from bursar.core.provider_keys import Put, SecretEntry
from bursar.core.secret import Secret
from bursar.core.strict import Fault, Faults

Act = Literal["seal", "replace", "taken", "stored"]
"""A new entry · a new value for the entry of this address, whose tags stay · left alone: the address is taken · left
alone: this very value is stored already, or stands among them before."""


class Planned(msgspec.Struct, frozen=True, kw_only=True):
    address: str
    act: Act
    at: str = ""  # where the value is stored already


class Imports:
    def __init__(self, provider_keys: ProviderKeys, history: History) -> None:
        self._provider_keys = provider_keys
        self._history = history

    async def plan(self, puts: Sequence[Put], *, replace: bool) -> list[Planned]:
        """What would become of each. Raises Faults with every fault, its path being the address."""
        entries = {entry.address: entry for entry in await self._provider_keys.all()}
        faults: list[Fault] = []
        planned: list[Planned] = []
        seen: dict[Secret, str] = {}
        for put in puts:
            try:
                if any(put.address == one.address for one in planned):
                    raise Refusal("invalid_address", "The address stands there twice", "Keep one of them")
                planned.append(await self._one(put, entries.get(put.address), seen, replace))
            except Refusal as refusal:
                faults.append(Fault(put.address, refusal.word, refusal.message, refusal.hint))
            seen.setdefault(put.value, put.address)
        if faults:
            raise Faults(faults)
        return planned

    async def _one(self, put: Put, entry: SecretEntry | None, seen: dict[Secret, str], replace: bool) -> Planned:
        if entry is not None and not replace:
            return Planned(address=put.address, act="taken")
        self._provider_keys.checked(put)
        holder = await self._provider_keys.find(put.value)
        if holder is not None or put.value in seen:
            at = holder.address if holder is not None else seen[put.value]
            return Planned(address=put.address, act="stored", at=at)
        return Planned(address=put.address, act="seal" if entry is None else "replace")

    async def apply(self, actor: str, puts: Sequence[Put], *, replace: bool) -> tuple[list[Planned], int]:
        """-> what became of each, and the change by which it is taken back; 0 = nothing was to be done.

        Raises Faults, and the store's refusals: nothing is stored then.
        """
        planned = await self.plan(puts, replace=replace)
        tags = {entry.address: entry.tags for entry in await self._provider_keys.all()}
        wanted = [
            put._replace(tags=tags.get(put.address, put.tags))
            for put, plan in zip(puts, planned, strict=True)
            if plan.act in ("seal", "replace")
        ]
        return planned, await self._provider_keys.put_many(actor, wanted) if wanted else 0

    async def edits_of(self, version: int) -> list[Edit]:
        """What an import changed. Raises Refusal(unknown_id | no_undo)."""
        edits = await self._history.of_version(version)
        if any(edit.action != IMPORT for edit in edits):
            hint = f"See: bursar history; what is none goes back with bursar undo {version}"
            raise Refusal("no_undo", f"Change {version} is no import of provider keys", hint)
        return edits

    async def undo(self, actor: str, version: int) -> list[str]:
        """Addresses of what is gone, or as before. Raises Refusal(unknown_id | no_undo | changed_since)."""
        return await self._provider_keys.take_back(actor, await self.edits_of(version))

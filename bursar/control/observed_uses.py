"""What observed keys were used for, from the ledger: calls, spend, models, and who has not swapped yet."""

from collections.abc import Collection, Mapping
from typing import Protocol

import msgspec

from bursar.control.usage import Usage
from bursar.core.directory import VirtualKey
from bursar.core.ledger_records import JOINT, SWAPPED, UsageBy
from bursar.core.observing import presented_id
from bursar.core.units import NS_PER_S

_BY: tuple[UsageBy, ...] = ("team", "key", "credential", "model")
_PAGE = 5_000
_BEFORE_NS = 3600 * NS_PER_S  # the first call was held before its key was known, perhaps in the hour before
_NAMED = 5  # models of one key, those that cost most first


class LastUses(Protocol):
    async def last_uses(self) -> Mapping[str, int]:
        """Instant (ns, to the hour) of the last call under each provider key, by its id."""
        ...


class Uses(msgspec.Struct, kw_only=True):
    """Of one key, since it was seen first. `old_calls`: with the provider key, after it was sealed."""

    calls: int = 0
    cost_pico: int = 0
    old_calls: int = 0
    last_ns: int | None = None  # to the hour
    models: tuple[str, ...] = ()


class ObservedUses:
    def __init__(self, usage: Usage, ledger: LastUses) -> None:
        self._usage = usage
        self._ledger = ledger

    async def read(self, keys: Collection[VirtualKey], teams: Collection[str], now: int) -> dict[str, Uses]:
        """By key id. `teams`: those under which the keys stand or stood. Raises Refusal(ledger_unreadable)."""
        found = {key.id: Uses() for key in keys}
        if not found:
            return found
        since = min(key.observed.since for key in keys if key.observed is not None)
        since = min(since, now) - _BEFORE_NS
        costs: dict[str, dict[str, int]] = {key_id: {} for key_id in found}
        for team in sorted({*teams, *(key.team_id for key in keys)}):
            await self._add(found, costs, team, since, now)
        last = await self._ledger.last_uses()
        for key in keys:
            uses, models = found[key.id], costs[key.id]
            uses.models = tuple(sorted(models, key=lambda model, of=models: (-of[model], model))[:_NAMED])  # type: ignore[misc]
            sealed = key.observed.secret_id if key.observed is not None else ""
            uses.last_ns = max((last[name] for name in (presented_id(key.id), sealed) if name in last), default=None)
        return found

    async def _add(
        self, found: dict[str, Uses], costs: dict[str, dict[str, int]], team: str, since: int, now: int
    ) -> None:
        after = f"{team}{JOINT}"
        while True:
            rows = (await self._usage.report(_BY, since, now + 1, _PAGE, after)).rows
            for row in rows:
                its_team, key_id, credential, model = row.group.split(JOINT)
                if its_team != team:
                    return
                if (uses := found.get(key_id)) is not None:
                    uses.calls += row.attempts
                    uses.cost_pico += row.cost_pico
                    uses.old_calls += row.attempts if credential == SWAPPED else 0
                    costs[key_id][model] = costs[key_id].get(model, 0) + row.cost_pico
            if len(rows) < _PAGE:
                return
            after = rows[-1].group

"""What is looked at once a day: provider keys that nobody pays for are flagged until somebody tags them (S2)."""

import asyncio
import logging
from typing import Protocol

from bursar.control.directory import Audit
from bursar.control.fleet import OneNode
from bursar.control.provider_keys import ProviderKeys
from bursar.core.errors import Refusal

DAY_S = 86_400.0
_ALWAYS = OneNode()
_log = logging.getLogger("bursar.daily")


class Turns(Protocol):
    async def take_turn(self, name: str, seconds: float) -> bool:
        """Whether it is for this node to do. Raises Refusal when that cannot be told."""
        ...


async def flag_unowned(provider_keys: ProviderKeys, audit: Audit) -> int:
    """Write each unowned key to the audit and the log -> how many there are. Raises Refusal(audit_unavailable)."""
    unowned = await provider_keys.unowned()
    for entry in unowned:
        _log.warning("%s has no billing owner: bursar secrets tag %s billing_owner=OWNER", entry.address, entry.id)
        await audit.append("control", "secret.unowned", f"secret/{entry.id}", {"address": entry.address})
    return len(unowned)


async def every_day(provider_keys: ProviderKeys, audit: Audit, turns: Turns = _ALWAYS, day_s: float = DAY_S) -> None:
    """At start and then daily, for ever: once in a fleet, by the node that comes first.

    What fails is tried again the next day; it never stops control.
    """
    while True:
        try:
            if await turns.take_turn("daily", day_s * 0.9):
                await flag_unowned(provider_keys, audit)
        except Refusal as refusal:
            _log.error("the daily look failed: %s", refusal.message)
        await asyncio.sleep(day_s)

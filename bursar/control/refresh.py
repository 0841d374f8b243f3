"""What changes in the stores past Bursar: new versions, tags, entries that come and go. Looked for again and again.

A vault's own rotation, a symlink that is swapped, a tag set with the vendor's tool: the directory follows within
`every` seconds (and a store's cache), and gateways drop what they hold of the old version.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from bursar.control.provider_keys import ProviderKeys
from bursar.core.errors import Refusal

_MOST_S = 5.0
_log = logging.getLogger("bursar.secrets")


async def follow_stores(provider_keys: ProviderKeys, every: float) -> None:
    """For ever. What fails is tried again; each trouble is logged once, and its end."""
    told: dict[str, str] = {}
    while True:
        await asyncio.sleep(every)
        now: dict[str, str] = {}
        try:
            await provider_keys.sync()
        except Refusal as refusal:
            now["directory"] = refusal.message
        now |= {state.name: f"{state.message} ({state.fault})" for state in provider_keys.stores() if state.fault}
        for name in sorted({*told, *now}):
            if told.get(name) != now.get(name):
                _log.warning("secret store %s: %s", name, now.get(name) or "answers again")
        told = now


async def tend_stores(tend: Callable[[], Awaitable[float]]) -> None:
    """For ever: logins and leases are renewed when they are due. What fails is due again soon."""
    while True:
        due = min(_MOST_S, await tend())
        await asyncio.sleep(due)

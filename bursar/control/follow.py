"""Following the directory that other nodes change as well: woken by what is heard, and asking each second anyway.

Each time the store has answered, `confirm` learns at which instant the book was the present one. Gateways are told, and
serve by it for a few seconds: what they refuse after that is bursar.gateway.freshness.
"""

import logging
from collections.abc import Callable
from typing import Protocol

from bursar.control.directory import Directory
from bursar.core.errors import Refusal
from bursar.ports import Clock

EVERY_S = 1.0
_log = logging.getLogger("bursar.directory")


class Wake(Protocol):
    async def wait(self, seconds: float) -> None:
        """Return when something may have changed, or when the time is over."""
        ...


async def follow(directory: Directory, wake: Wake, clock: Clock, confirm: Callable[[float], None]) -> None:
    """For ever. `confirm` takes monotonic seconds: the instant before the store was asked."""
    away = False
    while True:
        asked = clock.monotonic()
        try:
            await directory.catch_up()
        except Refusal as refusal:
            if not away:
                _log.error("the directory cannot be followed: %s", refusal.message)
            away = True
        else:
            if away:
                _log.warning("the directory is followed again, at version %d", directory.book.version)
            away = False
            confirm(asked)
        await wake.wait(EVERY_S)

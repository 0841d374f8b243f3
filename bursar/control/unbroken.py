"""Acts that run to their end even if whoever asked for them leaves meanwhile."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Unbroken:
    """Keeps a reference to what still runs: the event loop itself holds tasks only weakly."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    async def run(self, act: Coroutine[Any, Any, T]) -> T:
        """The result of `act`. A cancelled caller gets its CancelledError at once, the act goes on."""
        task = asyncio.create_task(act)
        self._running.add(task)
        task.add_done_callback(self._forget)
        return await asyncio.shield(task)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # read once, so that an act whose caller left is not reported as never awaited

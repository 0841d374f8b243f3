"""Group commit: many waiters, one commit at a time."""

import asyncio
from collections.abc import Awaitable, Callable


class GroupCommit:
    """Runs `commit` for all that wait, again for those who came while it ran, and `after` behind each success.

    `commit` raises OSError, which all that wait for it get; `after` raises nothing, and nobody waits for it but those
    who came meanwhile.
    """

    def __init__(self, commit: Callable[[], Awaitable[None]], after: Callable[[], Awaitable[None]]) -> None:
        self._commit = commit
        self._after = after
        self._waiters: list[asyncio.Future[None]] = []
        self._task: asyncio.Task[None] | None = None

    async def committed(self) -> None:
        """Returns once a commit that began after this call is done. Raises OSError."""
        future = asyncio.get_running_loop().create_future()
        self._waiters.append(future)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        await future

    def stop(self) -> None:
        """What runs is cancelled where it waits. Who waits for it is told nothing: an ambiguous commit."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        while self._waiters:
            batch, self._waiters = self._waiters, []
            try:
                await self._commit()
            except OSError as error:
                for future in batch:
                    if not future.done():
                        future.set_exception(OSError(*error.args))
            else:
                for future in batch:
                    if not future.done():
                        future.set_result(None)
                await self._after()

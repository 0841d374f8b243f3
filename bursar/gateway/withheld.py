"""Stands before a caller while what his stream has named is written down: an id reaches him when it is known to be his.

The stream is read and metered on meanwhile; what is to be said waits here. A store takes microseconds on one node and
a round trip in a fleet.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from bursar.core.made_ids import Reference
from bursar.ports import Exchange, StreamMeter

Keep = Callable[[Sequence[Reference]], Awaitable[None]]


class Withheld:
    """The part of `bursar.ports.Exchange` that a relay writes to. `settled` must be awaited before the end."""

    def __init__(self, exchange: Exchange, meter: StreamMeter, keep: Keep) -> None:
        self._exchange = exchange
        self._meter = meter
        self._keep = keep
        self._known = 0  # of the meter's ids
        self._waiting: list[bytes] = []
        self._finished = False
        self._aborted = False
        self._task: asyncio.Task[None] | None = None

    @property
    def gone(self) -> bool:
        return self._exchange.gone

    def write(self, chunk: bytes) -> None:
        if self._task is None and len(self._meter.made) == self._known:
            self._exchange.write(chunk)
            return
        self._waiting.append(chunk)
        if self._task is None:
            self._task = asyncio.ensure_future(self._write_down())

    def finish(self) -> None:
        if self._task is None:
            self._exchange.finish()
        else:
            self._finished = True

    def abort(self) -> None:
        self._aborted = True
        self._exchange.abort()

    async def settled(self) -> None:
        """Everything that was seen is written down, and everything that was withheld is said."""
        if self._task is not None:
            await self._task
        new = self._meter.made[self._known :]  # seen after the caller had left
        if new:
            self._known += len(new)
            await self._keep(new)

    async def _write_down(self) -> None:
        while self._waiting:
            new = self._meter.made[self._known :]
            self._known += len(new)
            count = len(self._waiting)
            if new:
                await self._keep(new)
            said, self._waiting = b"".join(self._waiting[:count]), self._waiting[count:]
            if not self._exchange.gone and not self._aborted:
                self._exchange.write(said)
        self._task = None
        if self._finished and not self._exchange.gone and not self._aborted:
            self._exchange.finish()

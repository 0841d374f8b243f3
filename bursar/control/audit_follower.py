"""One sink that follows the audit's trail in a task of its own: in order, without gaps, retried for ever."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Sequence
from typing import TypeVar

from bursar.core.audit import AuditFailed, unframe
from bursar.ports import AuditSink, AuditTrail

T = TypeVar("T")

_AT_ONCE = 4096  # lines of one write
_FRESH_BATCHES = 64  # kept in memory; a sink further behind reads the trail
_FIRST_RETRY_S, _LAST_RETRY_S = 0.1, 5.0


async def within(doing: Awaitable[T], sink: AuditSink) -> T:
    """The result, if it comes within the sink's own timeout. Raises AuditFailed."""
    try:
        async with asyncio.timeout(sink.timeout):
            return await doing
    except TimeoutError:
        raise too_slow(sink) from None


def too_slow(sink: AuditSink) -> AuditFailed:
    message = f"The audit sink {sink.name} did not answer within {sink.timeout:g} s"
    return AuditFailed(message, "See whether its disk or server hangs", {"sink": sink.name})


class Follower:
    """`fault` says what is wrong with the sink now, "" when nothing is. Started by `start`, stopped by cancelling."""

    def __init__(self, sink: AuditSink, trail: AuditTrail) -> None:
        self.sink = sink
        self.fault = ""
        self._trail = trail
        self._position: int | None = None  # seq of the last record the sink has; None = to be asked
        self._known = 0  # seq of the last record it should have
        self._fresh: deque[tuple[int, Sequence[bytes]]] = deque(maxlen=_FRESH_BATCHES)
        self._offered = asyncio.Event()
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self._busy_since: float | None = None

    async def run(self) -> None:
        retry = _FIRST_RETRY_S
        while True:
            try:
                await self._locate()
                self._settle()
                await self._send()
                retry = _FIRST_RETRY_S
            except AuditFailed as fault:
                self._fail(fault)
                await asyncio.sleep(retry)
                retry = min(2 * retry, _LAST_RETRY_S)

    def offer(self, first: int, lines: Sequence[bytes]) -> None:
        """Lines that now stand in the trail, the first of them with this seq."""
        self._fresh.append((first, lines))
        self._known = first + len(lines) - 1
        self._offered.set()

    async def reached(self, seq: int) -> None:
        """Returns when the sink has the record `seq`. Raises AuditFailed when it cannot take it."""
        if self._position is not None and self._position >= seq:
            return
        if self.fault:
            raise AuditFailed(self.fault, facts={"sink": self.sink.name})
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((seq, waiter))
        await waiter

    def away(self) -> str:
        """Why it is of no use to wait for this sink; "" when it is not."""
        since = self._busy_since
        if since is not None and asyncio.get_running_loop().time() - since > self.sink.timeout:
            return f"The audit sink {self.sink.name} hangs"
        return self.fault

    async def _locate(self) -> None:
        """Where the sink stands, once, and whether what it holds is this trail's past."""
        if self._position is not None:
            return
        place = await self._watched(self.sink.position())
        head, _ = await self._trail.position()
        self._known = max(self._known, head)
        if place is None:
            self._position = head
            return
        seq, record_hash = place
        ours = await self._trail.read(seq - 1, 1) if seq else []
        if seq and not (ours and unframe(ours[0])[0] == record_hash):
            hint = "Move it away: it is written anew from the trail. Keep it, one of the two was altered or restored"
            message = f"The audit sink {self.sink.name} holds records that are not the trail's"
            raise AuditFailed(message, hint, {"sink": self.sink.name})
        self._position = seq

    async def _send(self) -> None:
        """Give the sink what it lacks; wait while it lacks nothing."""
        position = self._position
        assert position is not None
        if position >= self._known:
            self._offered.clear()
            await self._offered.wait()
        lines = self._next_fresh(position) or await self._trail.read(position, _AT_ONCE)
        if not lines:
            raise AuditFailed(f"The trail lacks records after {position} that it had", facts={"sink": self.sink.name})
        await self._watched(self.sink.write(lines))
        self._position = position + len(lines)

    def _next_fresh(self, position: int) -> list[bytes]:
        """The lines after `position` that are still in memory; none when they begin later."""
        lines: list[bytes] = []
        while self._fresh and len(lines) < _AT_ONCE:
            first, batch = self._fresh[0]
            following = position + len(lines) + 1
            if first > following:
                break
            lines += batch[following - first :]
            self._fresh.popleft()
        return lines

    def _settle(self) -> None:
        """The sink works: whoever waited for what it has now goes on."""
        self.fault = ""
        position = self._position
        assert position is not None
        still = []
        for seq, waiter in self._waiting:
            if seq <= position and not waiter.done():
                waiter.set_result(None)
            elif not waiter.done():
                still.append((seq, waiter))
        self._waiting = still

    def _fail(self, fault: AuditFailed) -> None:
        self.fault = fault.message
        waiting, self._waiting = self._waiting, []
        for _, waiter in waiting:
            if not waiter.done():
                waiter.set_exception(AuditFailed(fault.message, fault.hint, {"sink": self.sink.name}))

    async def _watched(self, doing: Awaitable[T]) -> T:
        """Not cut short: a write that hangs may still land, and a second one beside it would break the order."""
        self._busy_since = asyncio.get_running_loop().time()
        try:
            return await doing
        finally:
            self._busy_since = None

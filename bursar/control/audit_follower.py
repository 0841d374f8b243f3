"""One sink that follows the audit's trail in a task of its own: in order, without gaps, retried for ever."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Sequence
from typing import TypeVar

from bursar.core.audit import AuditFailed, decode_record, unframe
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
        self.failures = 0
        self.written = 0
        self._trail = trail
        self._position: int | None = None  # seq of the last record the sink has; None = to be asked
        self._had = 0  # the same, as last known
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

    @property
    def had(self) -> int:
        """The last record that the sink is known to have."""
        return self._had

    @property
    def lag(self) -> int:
        """Records that the trail has and the sink, as far as is known, has not."""
        return max(0, self._known - self._had)

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
        seq, record_hash = await self._watched(self.sink.position())
        head, _ = await self._trail.position()
        self._known = max(self._known, head)
        if seq and not await self._is_ours(seq, record_hash, head):
            hint = "Move it away: it is written anew from the trail. Keep it, one of the two was altered or restored"
            message = f"The audit sink {self.sink.name} holds records that are not the trail's"
            raise AuditFailed(message, hint, {"sink": self.sink.name})
        self._position = seq

    async def _is_ours(self, seq: int, record_hash: bytes, head: int) -> bool:
        """Whether the trail has this record; one that retention has pruned there is taken at its word."""
        ours = await self._trail.read(seq - 1, 1)
        if not ours or seq > head:
            return False
        found, payload = unframe(ours[0])
        return found == record_hash if decode_record(payload).seq == seq else True

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
        self._position = None  # if it fails, the sink is asked how much of it it has
        await self._watched(self.sink.write(lines))
        self._position = decode_record(unframe(lines[-1])[1]).seq
        self.written += len(lines)
        self.fault = ""

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
        """Whoever waited for what the sink has now goes on. It works when it lacks nothing, or has just taken some."""
        position = self._position
        assert position is not None
        if position >= self._known:
            self.fault = ""
        self._had = position
        still = []
        for seq, waiter in self._waiting:
            if seq <= position and not waiter.done():
                waiter.set_result(None)
            elif not waiter.done():
                still.append((seq, waiter))
        self._waiting = still

    def _fail(self, fault: AuditFailed) -> None:
        self.fault = fault.message
        self.failures += 1
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

"""The audit log: events in, a durable hash chain out. What is appended has been written when `append` returns.

Events that arrive together share one write (group commit). The chain lives in the trail; the other sinks follow it,
each in a task of its own that retries for ever and catches up from the trail, so that no sink holds up another and
none loses a record. An append waits for the trail and for every required sink, each within that sink's timeout;
otherwise it raises AuditFailed and the act does not happen. A sink known to be away is refused at once.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from bursar.control.audit_follower import Follower, too_slow, within
from bursar.control.audit_notary import Notary, Schedule, Signer
from bursar.core.audit import (
    CHECKPOINT_ACTION,
    AuditFailed,
    Event,
    Outcome,
    chain_hash,
    check_event,
    encode_record,
    frame,
)
from bursar.ports import AuditSink, AuditTrail, Clock

MAX_BATCH = 4096
MAX_WAITING = 100_000


class _Batch:
    """Events that share one write, one deadline and one answer: `durable`, the seq of the last record."""

    def __init__(self, trail: AuditTrail) -> None:
        loop = asyncio.get_running_loop()
        self.events: list[Event] = []
        self.durable: asyncio.Future[int] = loop.create_future()
        self.durable.add_done_callback(lambda durable: durable.exception())  # all who waited may have left
        self.deadline = loop.call_later(trail.timeout, lambda: self.fail(too_slow(trail)))

    def succeed(self, seq: int) -> None:
        if not self.durable.done():
            self.durable.set_result(seq)

    def fail(self, fault: AuditFailed) -> None:
        if not self.durable.done():
            self.durable.set_exception(fault)


class AuditLog:
    """Made inside a running loop; `close` when done. The sinks stay their maker's to close.

    `trail` holds the chain, `sinks` follow it, `checkpoints` takes the signed word on its end, a second place. `veil`
    puts pseudonyms in the place of people (`bursar.control.audit_people`).
    """

    def __init__(
        self,
        trail: AuditTrail,
        sinks: Sequence[AuditSink],
        checkpoints: AuditSink,
        signer: Signer,
        clock: Clock,
        schedule: Schedule | None = None,
        *,
        veil: Callable[[Event], Event] = lambda event: event,
    ) -> None:
        self._trail = trail
        self._clock = clock
        self._veil = veil
        self._followers = [Follower(sink, trail) for sink in sinks]
        self._required = [follower for follower in self._followers if follower.sink.required]
        self._notary = Notary(checkpoints, signer, clock, schedule or Schedule(), self._stand, self.note)
        self._head: tuple[int, bytes] | None = None  # (seq, hash) of the chain's end; None = to be asked of the trail
        self._batches: deque[_Batch] = deque()
        self._confirming: set[asyncio.Task[None]] = set()
        self._waiting = 0
        self._closed = False
        self._arrived = asyncio.Event()
        self._busy_since: float | None = None
        runs = [self._run(), self._notary.run(), *(follower.run() for follower in self._followers)]
        self._tasks = [asyncio.create_task(run) for run in runs]
        for task in self._tasks:
            task.add_done_callback(_report)
        facts: dict[str, str | int] = {"public_key": signer.public_key, "format": 1}
        self.note(Event(actor="control", action="audit.start", target="audit", facts=facts))

    async def append(
        self, actor: str, action: str, target: str, facts: Mapping[str, str | int], outcome: Outcome = "allowed"
    ) -> int:
        """Write one event -> a seq up to which the chain is durable. Raises AuditFailed when it is not in time."""
        return await self.append_all(
            [Event(actor=actor, action=action, target=target, facts=dict(facts), outcome=outcome)]
        )

    async def append_all(self, events: Sequence[Event]) -> int:
        """Write some events, in order and in one batch. Raises AuditFailed; TypeError, ValueError for a bad fact."""
        for event in events:
            check_event(event)
        self._refuse_if_away()
        return await asyncio.shield(self._enqueue([self._veil(event) for event in events]).durable)

    def note(self, event: Event) -> None:
        """Write an event without waiting: for what has happened anyway. Raises AuditFailed when too much waits."""
        check_event(event)
        self._enqueue([self._veil(event)])

    async def checkpoint(self) -> None:
        """Sign the chain's end now. Raises AuditFailed when the second place does not take it."""
        await self._notary.sign()

    def faults(self) -> dict[str, str]:
        """Sinks that are away and why: for readiness and the console."""
        faults = {follower.sink.name: follower.away() for follower in self._followers}
        faults |= {self._trail.name: self._trail_away(), "checkpoints": self._notary.fault}
        return {name: fault for name, fault in faults.items() if fault}

    async def delivered(self, spool: int) -> int:
        """The number up to which every sink has every record; one that lags by more than `spool` is not waited for."""
        head, _ = await self._stand()
        for follower in self._followers:
            with suppress(AuditFailed):  # away, or slower than its timeout: what it is known to have counts
                await within(follower.reached(head), follower.sink)
        return min([head, *(f.had for f in self._followers if f.lag <= spool)])

    def tell(self, state: Callable[[str, tuple[str, ...], float], None]) -> None:
        """Say how it stands: (metric, labels, value), see `bursar.core.telemetry`."""
        if self._head is not None:
            state("bursar_audit_sequence", (), self._head[0])
        away = self.faults()
        for name in (self._trail.name, "checkpoints"):
            state("bursar_audit_sink_up", (name,), name not in away)
        for follower in self._followers:
            labels = (follower.sink.name,)
            state("bursar_audit_sink_up", labels, follower.sink.name not in away)
            state("bursar_audit_sink_lag_records", labels, follower.lag)
            state("bursar_audit_sink_records_total", labels, follower.written)
            state("bursar_audit_sink_failures_total", labels, follower.failures)

    async def close(self) -> None:
        """Sign the end and stop. A sink that lags is given the rest at the next start, from the trail."""
        if self._closed:
            return
        try:
            # A sink that is away now is no reason not to stop: what stands in the trail is signed and sent later.
            with suppress(AuditFailed):
                await self.append("control", "audit.stop", "audit", {})
                await self._notary.sign()
                seq = await self._batches[-1].durable
                await asyncio.gather(*(within(f.reached(seq), f.sink) for f in self._followers))
        finally:
            self._closed = True
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _refuse_if_away(self) -> None:
        if self._closed:
            raise AuditFailed("The audit is closed", "Bursar is shutting down")
        for name, away in [(self._trail.name, self._trail_away()), *((f.sink.name, f.away()) for f in self._required)]:
            if away:
                raise AuditFailed(away, "See whether its disk or server hangs", {"sink": name})

    def _trail_away(self) -> str:
        since = self._busy_since
        hangs = since is not None and asyncio.get_running_loop().time() - since > self._trail.timeout
        return f"The audit sink {self._trail.name} hangs" if hangs else ""

    def _enqueue(self, events: Sequence[Event]) -> _Batch:
        if self._waiting + len(events) > MAX_WAITING:
            raise AuditFailed("Too many audit records wait to be written", "See whether a disk is slow")
        if not self._batches or len(self._batches[-1].events) + len(events) > MAX_BATCH:
            self._batches.append(_Batch(self._trail))
        batch = self._batches[-1]
        batch.events += events
        self._waiting += len(events)
        self._arrived.set()
        return batch

    async def _run(self) -> None:
        """Write batch after batch. One that fails is told to those who wait for it; the next one is tried afresh."""
        while True:
            await self._arrived.wait()
            batch = self._batches.popleft()
            if not self._batches:
                self._arrived.clear()
            self._waiting -= len(batch.events)
            self._busy_since = asyncio.get_running_loop().time()
            try:
                seq = await self._write(batch.events)
            except AuditFailed as fault:
                self._head = None  # whether the batch stands is for the trail to tell
                batch.fail(fault)
            else:
                self._confirm(batch, seq)
            finally:
                batch.deadline.cancel()
                self._busy_since = None

    def _confirm(self, batch: _Batch, seq: int) -> None:
        """The trail has the batch: it is durable once the required sinks have it too."""
        if not self._required:
            batch.succeed(seq)
            return
        task = asyncio.create_task(self._await_required(batch, seq))
        self._confirming.add(task)
        task.add_done_callback(self._confirming.discard)

    async def _await_required(self, batch: _Batch, seq: int) -> None:
        try:
            for follower in self._required:
                await within(follower.reached(seq), follower.sink)
        except AuditFailed as fault:
            batch.fail(fault)
        else:
            batch.succeed(seq)

    async def _write(self, events: Sequence[Event]) -> int:
        before, last = await self._stand()
        lines, seq, now = [], before, self._clock.now()
        for event in events:
            seq += 1
            payload = encode_record(seq, now, event)
            last = chain_hash(last, payload)
            lines.append(frame(last, payload))
        await self._trail.write(lines)
        self._head = seq, last
        for follower in self._followers:
            follower.offer(before + 1, lines)
        self._notary.count(sum(event.action != CHECKPOINT_ACTION for event in events))
        return seq

    async def _stand(self) -> tuple[int, bytes]:
        return self._head or await self._trail.position()


def _report(task: asyncio.Task[None]) -> None:
    """A loop that ends by a fault of ours leaves the audit refusing; that must be seen."""
    if not task.cancelled() and (fault := task.exception()) is not None:
        context = {"message": "the audit stopped by a fault", "exception": fault, "task": task}
        task.get_loop().call_exception_handler(context)

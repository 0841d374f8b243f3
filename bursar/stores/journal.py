"""The journal: the money store of one node. An append-only file that is written before anything is dispatched.

`core.ledger` decides and applies; here its records become durable, in the order in which they were applied. A hold
is on disk before it is reported. Settles are buffered and travel with the next hold, or at the end of the event
loop's turn; what cannot be written is kept and tried again for as long as the process lives.

`process` durability: one write on the loop; what was written survives kill -9. `power`: a group fdatasync besides.
The journal belongs to one event loop and is not safe across threads.
"""

import asyncio
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, TypeVar

from bursar.core.directory import BudgetDef
from bursar.core.ledger import Balance, Held, HoldRequest, Ledger, LedgerEvent, Settlement
from bursar.core.ledger_records import BudgetStand, CorrectRecord, Record
from bursar.ports import Clock
from bursar.stores.journal_power import GroupCommit
from bursar.stores.journal_recovery import begin, encode, find_hold, replay
from bursar.stores.journal_segment import (
    Files,
    Header,
    JournalDamaged,
    NewSegment,
    Segment,
    sync_and_close,
    sync_folder,
    take_lock,
    unavailable,
)

__all__ = ["Files", "Journal", "JournalDamaged"]

Durability = Literal["process", "power"]
SEGMENT_BYTES = 16 << 20  # replayed in well under a second
COMMIT_S = 0.25  # longest wait for a hold's fdatasync
PROBE_S = 0.1  # between attempts to write again

T = TypeVar("T")


class Journal:
    """See the module. `trace` is called at named points, for tests that end the process there: hold_encoded,
    hold_written, settle_buffered, settle_written, rotate_begun, rotate_tmp_written, rotate_renamed.
    """

    def __init__(self, folder: Path, clock: Clock, ledger: Ledger, segment: Segment) -> None:
        self._folder = folder
        self._clock = clock
        self._ledger = ledger
        self._segment = segment
        self._pending: list[bytes] = []  # applied, not yet written
        self._flush_due = False
        self._retry: asyncio.TimerHandle | None = None
        self._probe_at = 0.0
        self._segment_bytes = self._rotate_at = SEGMENT_BYTES
        self._switching = False  # a new segment is being made durable: nothing is written meanwhile
        self._suspect = False  # an fdatasync failed: only a new segment makes sure
        self._files = Files()
        self._group: GroupCommit | None = None
        self._executor: ThreadPoolExecutor | None = None
        self._lock = -1
        self._trace: Callable[[str], None] | None = None
        self._on_event: Callable[[LedgerEvent], None] | None = None
        self.down = ""  # why money is closed; "" = open

    # ---- opening and closing

    @classmethod
    def open(
        cls,
        folder: Path,
        clock: Clock,
        durability: Durability = "process",
        segment_bytes: int = SEGMENT_BYTES,
        on_event: Callable[[LedgerEvent], None] | None = None,
        trace: Callable[[str], None] | None = None,
        files: Files | None = None,
    ) -> "Journal":
        """Replay, repair a torn tail, and post the ceilings of holds found open as `unreconciled`.

        Raises JournalDamaged, OSError; BlockingIOError when another process has the journal open.
        """
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = take_lock(folder)
        try:
            files = files or Files()
            replayed = replay(folder, files)
            ledger = replayed.ledger if replayed else Ledger()
            segment = replayed.segment if replayed else begin(folder, ledger.snapshot(clock.now()), files)
            journal = cls(folder, clock, ledger, segment)
            journal._lock = lock
            journal._segment_bytes = journal._rotate_at = segment_bytes
            journal._files = files
            journal._trace = trace
            journal._on_event = on_event
            if durability == "power":
                journal._executor = ThreadPoolExecutor(1, "journal")
                journal._group = GroupCommit(journal._commit, journal._rotate_if_full)
            journal._start()
        except BaseException:
            os.close(lock)
            raise
        return journal

    def _start(self) -> None:
        now = self._clock.now()
        self._ledger.tell_closed(now)
        for record in self._ledger.unreconciled(now):
            self._note(record)
        self._deliver()
        self.flush()

    def close(self) -> None:
        """Write what is pending and let go. Raises OSError if that last write fails; the files are closed anyway."""
        if self._retry is not None:
            self._retry.cancel()
        try:
            if self._pending:
                self._segment.append(self._pending)
                self._pending = []
            self._files.sync(self._segment.fd)
        finally:
            if self._executor is not None and self._group is not None:
                if self._switching:  # the segment under way lacks what was just written: it must not take its place
                    self._group.stop()
                self._executor.shutdown()
            os.close(self._segment.fd)
            os.close(self._lock)

    # ---- holds

    async def hold(self, request: HoldRequest, token: str = "") -> Held:  # noqa: ARG002 - the gateway has looked at it
        """Hold on all budgets or none; durable when it returns. Raises Refusal.

        A hold whose commit fails, takes longer than `COMMIT_S` or is cancelled is voided, and never reported as held.
        """
        if self._group is None:
            return self.hold_now(request)
        now = self._admit(request)
        record, shadow = self._ledger.decide_hold(request, now)
        self._note(record)
        try:
            async with asyncio.timeout(COMMIT_S):
                await self._group.committed()
        except asyncio.CancelledError:
            self.void(record.id, "cancelled")
            raise
        except (OSError, TimeoutError) as error:
            self.void(record.id, "ambiguous")
            self._failed(error)
            raise unavailable() from error
        return Held(record.id, now, shadow)

    def hold_now(self, request: HoldRequest) -> Held:
        """`hold` without the event loop, for `process` durability: one write. Raises Refusal."""
        if self._group is not None:
            raise RuntimeError("durability is `power`: a hold has to be awaited")
        now = self._admit(request)
        ledger, pending = self._ledger, self._pending
        record, shadow = ledger.decide_hold(request, now)
        pending.append(encode(record))
        if (trace := self._trace) is not None:
            trace("hold_encoded")
        try:
            self._segment.append(pending)
        except OSError as error:
            pending.pop()
            self._failed(error)
            raise unavailable() from error
        if trace is not None:
            trace("hold_written")
        pending.clear()
        ledger.apply_hold(record)
        self.down = ""
        if self._segment.end >= self._rotate_at and not self._flush_due:
            self._flush_soon()
        return Held(record.id, now, shadow)

    async def try_hold(self, request: HoldRequest) -> None:
        """Raises the Refusal that `hold` would; nothing is held."""
        self._ledger.try_hold(request, self._admit(request))

    def _admit(self, request: HoldRequest) -> int:
        """The instant of a hold, with the windows of that instant open. Raises Refusal while money is closed."""
        if self.down and self._clock.monotonic() < self._probe_at:
            raise unavailable()
        now = self._clock.now()
        if not self._ledger.are_open(request.budgets, now):
            self._open_windows(request.budgets, now)
        return now

    def _open_windows(self, budgets: Sequence[str], now: int) -> None:
        for record in self._ledger.due(budgets, now):
            self._note(record)

    # ---- settles: idempotent by id, never refused, never lost while the process lives

    def shrink(self, hold_id: int, ceiling_pico: int) -> None:
        """Lower a hold's ceiling on its hard budgets; never raises it."""
        self._note(self._ledger.shrink(hold_id, ceiling_pico, self._clock.now()))

    def post(self, hold_id: int, settlement: Settlement) -> None:
        """End a hold in its cost; what is above the hold is booked as overage. The second end of a hold is ignored."""
        self._note(self._ledger.post(hold_id, settlement, self._clock.now()))

    def void(self, hold_id: int, reason: str) -> None:
        """End a hold of which no byte was sent."""
        self._note(self._ledger.void(hold_id, reason, self._clock.now()))

    async def correct(self, hold_id: int, delta_pico: int, reason: str) -> None:
        """Book what was learned after a hold's end, on the windows that admitted it. Reads segments in a thread.

        Raises ValueError for a hold that is open, or never was.
        """
        if hold_id in self._ledger.open:
            raise ValueError(f"hold {hold_id} has not ended: settle it instead")
        self.flush()
        legs = await asyncio.to_thread(find_hold, self._folder, hold_id)
        if legs is None:
            raise ValueError(f"there never was a hold {hold_id}")
        self._note(CorrectRecord(self._clock.now(), hold_id, (delta_pico, -delta_pico), reason, legs))

    def define(self, budget: BudgetDef) -> None:
        """Take a new or changed budget; an unchanged one makes no record. Raises ValueError if it means nothing."""
        self._note(self._ledger.define(budget, self._clock.now()))

    # ---- what it says

    def room(self, budgets: Sequence[str]) -> int | None:
        """Pico-USD left in the tightest of these hard budgets; None = none of them is one."""
        self._open_windows(budgets, self._clock.now())
        return self._ledger.room(budgets)

    def stands(self, budgets: Sequence[str]) -> list[BudgetStand]:
        return self._ledger.stands(budgets)

    def balances(self) -> list[Balance]:
        return self._ledger.balances(self._clock.now())

    @property
    def open_holds(self) -> int:
        return len(self._ledger.open)

    @property
    def ignored(self) -> dict[str, int]:  # settles that came after their hold's end, by kind
        return self._ledger.ignored

    # ---- writing

    def _note(self, record: Record | None) -> None:
        """Apply a record, if there is one, and queue it for the next write."""
        if record is None:
            return
        self._pending.append(encode(record))
        self._ledger.apply(record)
        if self._trace is not None:
            self._trace("settle_buffered")
        if self._ledger.events:
            self._deliver()
        if not self._flush_due:
            self._flush_soon()

    def _deliver(self) -> None:
        events = self._ledger.events[:]
        self._ledger.events.clear()
        if self._on_event is not None:
            for event in events:
                self._on_event(event)

    def _flush_soon(self) -> None:
        """At the end of the loop's turn. Without a loop the next hold, `flush` or `close` writes."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        self._flush_due = True
        loop.call_soon(self._flush_turn)

    def _flush_turn(self) -> None:
        self._flush_due = False
        self.flush()

    def flush(self) -> bool:
        """Write what is pending, go on in a new segment if this one is full.

        False: it cannot be written now, is kept, and will be tried again.
        """
        if self._switching:
            return False
        if self._pending:
            try:
                self._segment.append(self._pending)
            except OSError as error:
                self._failed(error)
                return False
            self._pending.clear()
            if self._trace is not None:
                self._trace("settle_written")
            if self._group is None:
                self.down = ""
        if self._segment.end >= self._rotate_at and self._group is None:
            self._rotate()
        return True

    def _failed(self, error: Exception) -> None:
        """Close money; try again soon, with the next hold or by the clock."""
        self.down = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        self._probe_at = self._clock.monotonic() + PROBE_S
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        if self._retry is None:
            self._retry = loop.call_later(PROBE_S, self._try_again)

    def _try_again(self) -> None:
        self._retry = None
        self.flush()

    # ---- segments

    def _next_segment(self) -> NewSegment:
        """All state as of now; pending is empty."""
        if (trace := self._trace) is not None:
            trace("rotate_begun")
        header = Header(self._segment.number + 1, self._ledger.next_id, self._segment.digest())
        snapshot = encode(self._ledger.snapshot(self._clock.now()))
        return NewSegment(self._folder, header, snapshot, self._files, self._trace)

    def _rotate(self) -> None:
        """Go on in a new segment. Not possible now: go on in this one and try again later."""
        new = self._next_segment()
        try:
            fresh = new.prepare(durable=False)
            new.place()
        except OSError:
            self._rotate_at = self._segment.end + self._segment_bytes // 16
            return
        old = self._switch_to(fresh)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            os.close(old.fd)
        else:
            loop.run_in_executor(None, sync_and_close, old.fd, os.dup(fresh.fd), self._folder)

    def _switch_to(self, fresh: Segment) -> Segment:
        old, self._segment = self._segment, fresh
        self._rotate_at = self._segment_bytes + fresh.end
        return old

    async def _commit(self) -> None:
        """Make everything noted so far survive a power cut. Raises OSError."""
        if not self.flush():
            raise OSError(self.down)
        if self._suspect:
            await self._rotate_durably()
        else:
            try:
                await self._in_thread(self._files.sync, self._segment.fd)
            except OSError:
                self._suspect = True
                raise
        self.down = ""

    async def _rotate_if_full(self) -> None:
        if self._segment.end < self._rotate_at:
            return
        try:
            await self._rotate_durably()
        except OSError as error:
            self._rotate_at = self._segment.end + self._segment_bytes // 16
            if self._suspect:
                self._failed(error)
            self.flush()  # what was noted meanwhile

    async def _rotate_durably(self) -> None:
        """As `_rotate`, written in a thread; what is noted meanwhile waits for the new segment. Raises OSError."""
        if not self.flush():
            raise OSError(self.down)
        self._switching = True
        try:
            new = self._next_segment()
            fresh = await self._in_thread(new.prepare, True)
            new.place()
        finally:
            self._switching = False
        os.close(self._switch_to(fresh).fd)
        self._suspect = True
        await self._in_thread(sync_folder, self._folder)
        self._suspect = False
        self.flush()

    async def _in_thread(self, work: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work, *args)

"""One task that sends what a node has gathered: settles and holds, an act at a time.

While an act is on its way the next one gathers: many holds share a round trip and a commit. A hold waits `HOLD_S` at
most, from being asked for to being answered. Whatever takes longer, and whatever breaks, closes money on this node at
once: all that wait are refused, the connection is dropped, what was on its way is given up by its id (and can then not
be made any more, however late it comes), settles are kept and sent again. It opens with the first act that is quick.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice

from bursar.core.errors import Refusal
from bursar.core.grants import token_revoked
from bursar.core.ledger import Held, HoldRequest
from bursar.core.ledger_budget import unknown_budget
from bursar.stores.postgres import AWAY, Connection, Postgres, said
from bursar.stores.postgres_money_act import (
    COUNT_BITS,
    DONE,
    HELD,
    MOST_ENDS,
    MOST_HOLDS,
    OVER,
    PAUSED,
    REFUSED,
    WINDOW_DUE,
    Answer,
    Batch,
    End,
    Waiting,
    act,
    unreconciled,
    void,
)
from bursar.stores.postgres_money_budgets import Budgets
from bursar.stores.postgres_money_labels import Labels
from bursar.stores.postgres_money_nodes import Nodes, first_id

HOLD_S = 0.25  # longest wait for a hold, unless told otherwise
SETTLE_S = 5.0  # longest wait for an act without holds: nobody waits for those
RETRY_S = 0.1  # between attempts while money is closed
_TURNS = 3  # of the loop, before an act goes out: those whom the last one answered ask again, and travel together

Shrink = tuple[int, int]  # hold, new ceiling
_log = logging.getLogger("bursar.money")


class Runner:
    """`run()` is the task. Everything else is called on its loop."""

    def __init__(
        self,
        store: Postgres,
        nodes: Nodes,
        budgets: Budgets,
        labels: Labels,
        on_events: Callable[[Answer], Awaitable[None]],
        hold_s: float,
    ) -> None:
        self._store = store
        self._nodes = nodes
        self._budgets = budgets
        self._labels = labels
        self._on_events = on_events
        self._hold_s = hold_s
        self._db: Connection | None = None
        self._timeline = ""  # of the database that all this is known of
        self._count = 0  # of this session's holds
        self._any_window = False
        self._taking: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: deque[Waiting] = deque()
        self._flying: list[Waiting] = []
        self._settles: deque[End | Shrink] = deque()
        self._sending: list[End | Shrink] = []
        self.session = 0  # 0 = none yet
        self.open: set[int] = set()  # holds of this node
        self.down = "starting"  # why money is closed; "" = open
        self.up = asyncio.Event()
        self.idle = asyncio.Event()  # every settle is confirmed
        self.idle.set()
        self.up_since = 0.0  # the loop's time; without a break since then
        self.acts = 0

    # ---- what is asked of it

    def ask(self, request: HoldRequest, token: str = "") -> Waiting:
        """`token` is the id of the one that pays, "" for a key itself. Raises Refusal while money is closed."""
        if self.down:
            raise self.unavailable()
        loop = asyncio.get_running_loop()
        waiting = Waiting(request, token, loop.create_future(), loop.time())
        self._waiting.append(waiting)
        self._wake.set()
        if self._timer is None:
            self._timer = loop.call_later(self._hold_s, self._look)
        return waiting

    def settle(self, *settles: End | Shrink) -> None:
        self._settles.extend(settles)
        if self._settles:
            self.idle.clear()
        self._wake.set()

    def wake(self) -> None:
        """Have an act also if there is nothing to send: it renews the lease."""
        self._wake.set()

    @property
    def unsettled(self) -> list[End | Shrink]:
        """What no answer has confirmed yet."""
        return [*self._sending, *self._settles]

    def unavailable(self) -> Refusal:
        return Refusal(
            "store_unavailable",
            "the money store does not answer, so nothing may be spent",
            "See whether PostgreSQL runs and answers; money opens again by itself.",
            1.0,
        )

    # ---- slow or broken

    def _look(self) -> None:
        """Has the oldest hold waited too long?"""
        self._timer = None
        oldest = self._flying[0] if self._flying else self._waiting[0] if self._waiting else None
        if oldest is None:
            return
        loop = asyncio.get_running_loop()
        if loop.time() < oldest.since + self._hold_s:
            self._timer = loop.call_at(oldest.since + self._hold_s, self._look)
        else:
            self._close_money("PostgreSQL did not answer in time")

    def _close_money(self, why: str) -> None:
        """Refuse all that wait, and give up by id what may be on its way."""
        if not self.down:
            _log.warning("money is closed: %s", why)
        self.down = why
        self.up.clear()
        refused = [*self._flying, *self._waiting]
        self.settle(*(void(waiting.hold_id, "ambiguous") for waiting in self._flying))
        self._flying = []
        self._waiting.clear()
        for waiting in refused:
            if not waiting.future.done():
                waiting.future.set_exception(self.unavailable())
        self._drop()

    def _drop(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            db.terminate()

    def failed(self, fault: BaseException) -> None:
        """The task has ended by a fault of our own. Nothing is lost: it can be begun again."""
        self._close_money(f"{type(fault).__name__} inside Bursar")

    def stop(self) -> None:
        """The task has ended: nothing is sent any more."""
        if self._taking is not None:
            self._taking.cancel()
        self.down = self.down or "stopped"  # no fault: nothing is said
        self._close_money(self.down)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # ---- the task

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self._be_ready()
                if self.down:
                    await self._probe()
                    continue
                await self._wake.wait()
                for _ in range(_TURNS):
                    await asyncio.sleep(0)
                self._wake.clear()
                await self._be_ready()  # the connection may have broken while nobody asked
                if not self.down:
                    await self._turn()
            except AWAY as fault:
                self._close_money(said(fault))
                await asyncio.sleep(RETRY_S)

    async def _be_ready(self) -> None:
        if self._db is None or self._db.is_closed():
            self._db = db = await self._store.dedicated()
            timeline = await self._nodes.timeline(db)
            if self._timeline not in ("", timeline):
                await self._begin_anew(db)
            self._timeline = timeline
        if not self.session:
            self.session = await self._nodes.begin()
            self._count = 0

    async def _begin_anew(self, db: Connection) -> None:
        """A standby has become the primary, and may lack the last of what the one before it had told.

        What is known by its number is asked for again. Of a session that is not there nothing is left to settle. Holds
        that are open there, and have ended for this node, lack an end that was confirmed: they are booked at their
        ceiling.
        """
        self._labels.forget()
        self._budgets.forget()
        standing = await self._nodes.standing(db)
        self.open = {hold_id for hold_id in self.open if hold_id >> COUNT_BITS in standing}
        self._settles = deque(it for it in self._settles if it[0] >> COUNT_BITS in standing)
        if self.session in standing:
            known = self.open.union(it[0] for it in self._settles)
            lost = await self._nodes.open_but(db, self.session, known)
        else:
            self.session, lost = 0, []
        self.settle(*map(unreconciled, lost))
        _log.warning("a standby has taken over: %d holds whose end it lacks are booked at their ceiling", len(lost))

    async def _probe(self) -> None:
        """An act without holds. Quick = money is open."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        await self._send(self._batch([]))
        if loop.time() - began > self._hold_s:
            await asyncio.sleep(RETRY_S)
        elif self.session:
            if self.down != "starting":
                _log.warning("money is open again")
            self.down = ""
            self.up_since = loop.time()
            self.up.set()
            self._wake.set()

    async def _turn(self) -> None:
        wanted = list(islice(self._waiting, MOST_HOLDS))  # they stay where their time is looked after
        if self._budgets.asked:
            if self._taking is None or self._taking.done():
                self._taking = asyncio.create_task(self._take_budgets())
            wanted = [waiting for waiting in wanted if not self._budgets.is_asked(waiting.request.budgets)]
            if not wanted and not self._settles:
                return
        missing = [waiting.request for waiting in wanted if self._labels.find(waiting.request) is None]
        if missing:
            await self._labels.make(missing)
        if self.down:
            raise TimeoutError  # while the labels were made
        for waiting in wanted:
            self._waiting.remove(waiting)  # mostly the first
        await self._send(self._batch(wanted))

    async def _take_budgets(self) -> None:
        """Beside the acts: only holds that stand on what is still to be taken wait for it."""
        try:
            while self._budgets.asked:
                await self._budgets.take([name for waiting in self._waiting for name in waiting.request.budgets])
                self._wake.set()
        except AWAY as fault:
            self._close_money(said(fault))
            self._wake.set()

    def _batch(self, holds: Sequence[Waiting]) -> Batch:
        """What goes out now. Ids rise in the order in which they are sent, whatever becomes of them."""
        batch = Batch(self.session, any_window=self._any_window)
        known = self._budgets.known
        for waiting in holds:
            if waiting.future.done():
                continue  # nobody waits for it
            budgets = [known.get(name) for name in waiting.request.budgets]
            label = self._labels.find(waiting.request)
            if None in budgets:
                unknown = waiting.request.budgets[budgets.index(None)]
                waiting.future.set_exception(unknown_budget(unknown))
                continue
            assert label is not None
            self._count += 1
            waiting.hold_id = first_id(self.session) + self._count
            batch.holds.append(waiting)
            batch.labels.append(label)
            batch.budgets.append([budget.no for budget in budgets if budget is not None])
        seen: set[int] = set()
        while self._settles and len(seen) < MOST_ENDS and self._settles[0][0] not in seen:
            settle = self._settles.popleft()
            seen.add(settle[0])
            self._sending.append(settle)
            if isinstance(settle, End):
                batch.ends.append(settle)
            else:
                batch.shrinks.append(settle)
        self._flying = list(batch.holds)
        return batch

    async def _send(self, batch: Batch) -> None:
        """Raises what is in AWAY; then the settles are to be sent again."""
        assert self._db is not None
        try:
            answer = await act(self._store, self._db, batch, self._hold_s * 2 if batch.holds else SETTLE_S)
        except BaseException:
            self._settles.extendleft(reversed(self._sending))
            self._sending = []
            raise
        self.acts += 1
        if answer.state != DONE:
            self._settles.extendleft(reversed(self._sending))
            if answer.state == OVER:
                self._lost_session()
        self._sending = []
        if not self._settles:
            self.idle.set()
        if self._settles or self._waiting:
            self._wake.set()
        flying, self._flying = self._flying, []
        if not flying and batch.holds:
            return  # they were given up while the answer came
        if answer.state == DONE:
            if answer.budgets:
                self._budgets.seen(answer.budgets, answer.room)
            await self._answer(batch, answer)
        else:
            self._again(flying)

    def _lost_session(self) -> None:
        """Others took this node for dead, and have booked what it had open."""
        _log.warning(
            "the lease of session %d ran out: its open holds were booked, what they cost is corrected", self.session
        )
        self.session = 0

    def _again(self, holds: Sequence[Waiting]) -> None:
        """Ask once more, before all others."""
        if holds:
            self._waiting.extendleft(reversed(holds))
            self._wake.set()

    async def _answer(self, batch: Batch, answer: Answer) -> None:
        known = self._budgets.known
        due: list[Waiting] = []
        refused: list[tuple[Waiting, str]] = []
        for waiting, status, told in zip(batch.holds, answer.status, answer.told, strict=True):
            if status == HELD:
                self._held(waiting, answer.t_ns, told)
            elif status == WINDOW_DUE:
                due.append(waiting)
            elif waiting.future.done():
                continue
            elif status == REFUSED:
                refused.append((waiting, told or ""))
            elif status == PAUSED:
                waiting.future.set_exception(_paused(told or "", waiting.request))
            else:
                waiting.future.set_exception(unknown_budget(told or ""))
        self._any_window = False
        again = list(due)
        if refused:
            await self._budgets.refresh((told for _, told in refused), answer.t_ns)
            again += [waiting for waiting, told in refused if not self._refuse(waiting, told)]
        if windows := [known[name].no for waiting in due for name in waiting.request.budgets]:
            self._any_window = not await self._budgets.open_windows(windows)
        self._again(again)
        if answer.events:
            await self._on_events(answer)

    def _held(self, waiting: Waiting, t_ns: int, told: str | None) -> None:
        if waiting.future.done():
            self.settle(void(waiting.hold_id, "cancelled"))
            return
        self.open.add(waiting.hold_id)
        by_no = self._budgets.by_no
        shadow = tuple(by_no[int(no)].budget.definition.id for no in told.split(",")) if told else ()
        waiting.future.set_result(Held(waiting.hold_id, t_ns, shadow))

    def _refuse(self, waiting: Waiting, told: str) -> bool:
        """False: a definition has changed meanwhile, it should be asked for again."""
        refusal = self._budgets.refusal(waiting.request, told)
        if refusal is not None and not waiting.future.done():
            waiting.future.set_exception(refusal)
        return refusal is not None


def _paused(told: str, request: HoldRequest) -> Refusal:
    """In the words of a node that has heard. `told` is "kind reason", of what the act found in the directory."""
    kind, _, reason = told.partition(" ")
    if kind == "token" or (request.credential and reason == "gone" and kind != "provider_key"):
        return token_revoked()
    if kind == "provider_key":
        return Refusal("no_provider_key", f"The provider key of this call is {reason}", "Ask whoever runs this broker")
    return Refusal("key_disabled", f"The {kind} is {reason}", "Ask the team's owner")

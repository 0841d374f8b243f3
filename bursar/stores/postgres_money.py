"""The money store of many nodes: holds, balances and ledger in PostgreSQL, decided there, gathered here.

What `core.ledger` is for one process, `bursar.ledger_act_2` (migrations/postgres/money) is for all nodes of a database;
one conformance suite compares them. Settles are taken at once and sent with the next act, again and again until an
answer confirms them: they are idempotent by the hold's id. A hold is durable when `hold` returns, or it never was.

    postgres_money_act      what one act says and what it is answered
    postgres_money_runner   gathers, sends, closes money when the store is slow or away
    postgres_money_budgets  definitions, windows, corrections: decided by core.ledger under a lock
    postgres_money_outbox   what owners are told, kept with the act until it is on record
    postgres_money_nodes    sessions and leases; who books what a dead node left open
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from bursar.core.directory import BudgetDef
from bursar.core.ledger import Balance, Held, HoldRequest, Ledger, LedgerEvent, Settlement
from bursar.core.ledger_asked import nonsense
from bursar.core.ledger_records import MAX_AMOUNT, BudgetStand
from bursar.stores.postgres import AWAY, Postgres, named_faults, said
from bursar.stores.postgres_money_act import Answer, post, unreconciled, void
from bursar.stores.postgres_money_budgets import Budgets, load_current
from bursar.stores.postgres_money_events import events_of
from bursar.stores.postgres_money_labels import Labels
from bursar.stores.postgres_money_nodes import Nodes
from bursar.stores.postgres_money_runner import HOLD_S, Runner
from bursar.stores.postgres_money_spool import Spool

LEASE_S = 15.0
_CLAIMED_AT_ONCE = 5_000
_MONTHS_AHEAD = 2
_FLUSH_S = 5.0  # for what is still to be sent when a node stops
_log = logging.getLogger("bursar.money")


class PostgresMoney:
    """`start()` it inside a running loop, `close()` it when done. The schema has to be there: `migrate(store, ...)` of
    the parts `directory` and `money`.

    `folder` is where settles are kept that could not be sent before the end.
    """

    def __init__(
        self,
        store: Postgres,
        node: str,
        *,
        folder: Path | None = None,
        lease_s: float = LEASE_S,
        hold_s: float = HOLD_S,
        on_event: Callable[[LedgerEvent], None] | None = None,
    ) -> None:
        self._store = store
        self._lease_s = lease_s
        self._on_event = on_event
        self._nodes = Nodes(store, node, lease_s)
        self._budgets = Budgets(store)
        self._labels = Labels(store)
        self._runner = Runner(store, self._nodes, self._budgets, self._labels, self._tell, hold_s)
        self._spool = Spool(folder)
        self._tasks: list[asyncio.Task[None]] = []
        self.ignored: dict[str, int] = {}  # settles that came after their hold's end, by kind

    async def start(self, seconds: float = 5.0) -> None:
        """Begin, and wait for the store that long. It may come later: until then money is closed.

        Raises OSError, ValueError for a spool that cannot be read.
        """
        self._runner.settle(*self._spool.read())
        self._tasks = [asyncio.create_task(self._keep())]
        self._run()
        try:
            async with asyncio.timeout(seconds):
                await self._runner.up.wait()
        except TimeoutError:
            _log.warning("money is closed: %s", self.down)

    def _run(self) -> None:
        task = asyncio.create_task(self._runner.run())
        task.add_done_callback(self._ran)
        self._tasks.append(task)

    def _ran(self, task: asyncio.Task[None]) -> None:
        """A fault of our own must not end what sends settles."""
        self._tasks.remove(task)
        if not task.cancelled() and (fault := task.exception()) is not None:
            _log.error("what sends money failed, and is begun again", exc_info=fault)
            self._runner.failed(fault)
            self._run()

    async def close(self) -> None:
        """Send what is to be sent, keep what cannot be, and end the session. Raises OSError if it cannot be kept."""
        runner = self._runner
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FLUSH_S):
                await runner.idle.wait()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        runner.stop()
        self._spool.write(runner.unsettled)
        try:
            if runner.session:
                async with asyncio.timeout(1):
                    await self._nodes.end(runner.session)
        except AWAY as fault:
            _log.warning("the session could not be ended, its lease will run out: %s", said(fault))

    # ---- holds

    async def hold(self, request: HoldRequest, token: str = "") -> Held:
        """Hold on all budgets or none; durable when it returns. Raises Refusal, within `hold_s`.

        What the directory says of the key, and of the `token` that pays, is looked at in the act itself.
        """
        ceiling, expected, budgets = request.ceiling_pico, request.expected_pico, request.budgets
        if not (0 <= ceiling <= MAX_AMOUNT and 0 <= expected <= MAX_AMOUNT) or len(set(budgets)) != len(budgets):
            raise nonsense(request)
        future = self._runner.ask(request, token).future
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self.void(future.result().hold_id, "cancelled")
            raise
        finally:
            del future  # the traceback of a refusal leads back to it: a call with its body would wait for the collector

    async def try_hold(self, request: HoldRequest) -> None:
        """Raises the Refusal that `hold` would; nothing is held, nothing is locked.

        Switched-off keys and teams and revoked tokens are not looked for: this node's directory knows them.
        """
        if self.down:
            raise self._runner.unavailable()
        with named_faults("store_unavailable", "The budgets were not read"):
            await self._budgets.try_hold(request)

    # ---- settles: idempotent by id, never refused, sent until they are confirmed

    def shrink(self, hold_id: int, ceiling_pico: int) -> None:
        """Lower a hold's ceiling on its hard budgets; never raises it."""
        if hold_id not in self._runner.open:
            self._ignore("shrink")
        elif ceiling_pico >= 0:
            self._runner.settle((hold_id, ceiling_pico))

    def post(self, hold_id: int, settlement: Settlement) -> None:
        """End a hold in its cost; what is above the hold is booked as overage. The second end of a hold is ignored."""
        if hold_id not in self._runner.open:
            self._ignore("post")
            return
        self._runner.settle(post(hold_id, settlement))
        self._runner.open.discard(hold_id)

    def void(self, hold_id: int, reason: str) -> None:
        """End a hold of which no byte was sent."""
        if hold_id not in self._runner.open:
            self._ignore("void")
            return
        self._runner.settle(void(hold_id, reason))
        self._runner.open.discard(hold_id)

    async def correct(self, hold_id: int, delta_pico: int, reason: str) -> None:
        """Book what was learned after a hold's end. Raises ValueError for one that is open or never was, Refusal."""
        with named_faults("store_unavailable", "The correction may have been booked or not"):
            await self._budgets.correct(hold_id, delta_pico, reason)

    def _ignore(self, what: str) -> None:
        self.ignored[what] = self.ignored.get(what, 0) + 1

    # ---- budgets

    def define(self, budget: BudgetDef) -> None:
        """Take a new or changed budget, before the next hold. Raises ValueError if it means nothing."""
        if self._budgets.ask(budget):
            self._runner.wake()

    def room(self, budgets: Sequence[str]) -> int | None:
        """Pico-USD left in the tightest of these hard budgets, as this node last heard; the hold decides."""
        return self._budgets.room(budgets)

    def stands(self, budgets: Sequence[str]) -> list[BudgetStand]:
        """As this node last heard."""
        return self._budgets.stands(budgets)

    async def balances(self) -> list[Balance]:
        """Of every budget in use, now. Raises Refusal."""
        with named_faults("store_unavailable", "The balances were not read"):
            async with self._store.connection() as db:
                now = await db.fetchval(self._store.sql("SELECT bursar.ledger_now()"))
                loaded = await load_current(self._store, db, now)
        ledger = Ledger()
        ledger.budgets = {budget.definition.id: budget for _, budget in loaded}
        return ledger.balances(now)

    @property
    def open_holds(self) -> int:
        return len(self._runner.open)

    @property
    def down(self) -> str:
        """Why money is closed; "" = open."""
        return self._runner.down

    async def settled(self) -> None:
        """Returns when every settle so far is confirmed."""
        await self._runner.idle.wait()

    # ---- what owners are told

    async def _tell(self, answer: Answer) -> None:
        """To whoever wants to hear it at once. That nothing is lost is the outbox's (`postgres_money_outbox`)."""
        if self._on_event is None:
            return
        for event in await events_of(answer.events, answer.t_ns, self._budgets, self._labels):
            self._on_event(event)

    # ---- keeping: the lease, and the dead

    async def _keep(self) -> None:
        """Three times a lease: renew it, and book what dead nodes left open. Whoever comes first does it."""
        while True:
            await asyncio.sleep(self._lease_s / 3)
            self._runner.wake()
            if self.down:
                continue
            try:
                await self.recover()
                async with self._store.connection() as db:
                    await db.execute(self._store.sql("SELECT bursar.ledger_months($1)"), _MONTHS_AHEAD)
            except AWAY as fault:
                _log.warning("could not look after other nodes: %s", said(fault))

    async def recover(self, *, at_once: bool = False) -> int:
        """Book what sessions whose lease has run out left open, as `unreconciled`; how many holds. Raises AWAY.

        Unless `at_once`, not before this node has been in touch for a whole lease itself: when the store was away, all
        leases look old.
        """
        runner, booked = self._runner, 0
        if not at_once and asyncio.get_running_loop().time() - runner.up_since < self._lease_s:
            return 0
        for dead in await self._nodes.claim(runner.session):
            while left := await self._nodes.left_open(dead, _CLAIMED_AT_ONCE):
                _log.warning("session %d is gone: %d of its holds are booked at their ceiling", dead, len(left))
                runner.settle(*map(unreconciled, left))
                booked += len(left)
                await self.settled()
        return booked

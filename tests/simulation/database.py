"""A database that decides as `bursar.ledger_act_2` does, by the reference itself, behind a network that does anything.

The conformance suite holds the SQL to the reference; here the reference stands in for it, so that thousands of
histories with lost, late and doubly ordered messages can be played in seconds. A message that was sent may be carried
out long after its sender has given it up, as a real server does with what is in its socket.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

from bursar.core.directory import BudgetDef
from bursar.core.errors import Refusal
from bursar.core.ledger import HoldRequest, Ledger, Settlement
from bursar.core.ledger_records import CorrectRecord, HoldRecord, Record
from bursar.core.secret import Secret
from bursar.stores.postgres import Address
from bursar.stores.postgres_money_act import (
    COUNT_BITS,
    DONE,
    GIVEN_UP,
    HELD,
    OVER,
    POST,
    REFUSED,
    WINDOW_DUE,
    Answer,
    Batch,
    End,
)
from bursar.stores.postgres_money_budgets import Budgets, Known

EPOCH_NS = 1_764_000_000 * 10**9


class Session:
    def __init__(self, node: str, seen: int, lease_ns: int) -> None:
        self.node = node
        self.seen = seen
        self.lease_ns = lease_ns
        self.last = 0
        self.over = False
        self.ended_by = 0
        self.recovered = False


class Database:
    """The truth. `records` is what an append-only ledger would have, in its order."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.ledger = Ledger()
        self.records: list[Record] = []
        self.numbers: dict[str, int] = {}
        self.sessions: dict[int, Session] = {}
        self.late: dict[int, tuple[int, HoldRecord]] = {}
        self.made: dict[int, HoldRecord] = {}  # every hold there ever was

    def now(self) -> int:
        return EPOCH_NS + int(self._loop.time() * 1e9)

    def _book(self, record: Record) -> None:
        self.ledger.apply(record)
        self.records.append(record)

    # ---- definitions and windows

    def define(self, definition: BudgetDef) -> None:
        record = self.ledger.define(definition, self.now())
        if record is not None:
            self._book(record)
        self.numbers.setdefault(definition.id, len(self.numbers) + 1)

    def open_windows(self, names: Iterable[str]) -> None:
        for record in self.ledger.due(names, self.now()):
            self._book(record)

    # ---- sessions

    def begin(self, node: str, lease_ns: int) -> int:
        number = len(self.sessions) + 1
        self.sessions[number] = Session(node, self.now(), lease_ns)
        return number

    def end(self, number: int) -> None:
        session = self.sessions[number]
        if not session.over:
            session.over, session.ended_by = True, number

    def claim(self, by: int) -> list[int]:
        for number, session in self.sessions.items():
            if session.recovered or number == by:
                continue
            claimer = self.sessions.get(session.ended_by)
            orphan = session.over and claimer is not None and (claimer.over or self._silent(claimer))
            if orphan or (not session.over and self._silent(session)):
                session.over, session.ended_by = True, by
        return [n for n, s in self.sessions.items() if s.over and not s.recovered and s.ended_by == by]

    def _silent(self, session: Session) -> bool:
        return session.seen + session.lease_ns < self.now()

    def left_open(self, dead: int, most: int) -> list[int]:
        found = [hold for hold in self.ledger.open if hold >> COUNT_BITS == dead][:most]
        if not found:
            self.sessions[dead].recovered = True
        return found

    # ---- the act

    def act(self, batch: Batch, holds: list[tuple[int, HoldRequest]]) -> Answer:
        """As `bursar.ledger_act_2`: the session, then settles, then holds."""
        session = self.sessions[batch.session]
        if self.is_over(session):
            return Answer(OVER, 0, [], [], None, [], [])
        if holds and holds[0][0] <= session.last:
            return Answer(GIVEN_UP, 0, [], [], None, [], [])
        now = self.now()
        for hold_id, ceiling in batch.shrinks:
            shrunk = self.ledger.shrink(hold_id, ceiling, now)
            if shrunk is not None:
                self._book(shrunk)
        for end in batch.ends:
            self._end(end, session, now)
        status, told = [], []
        for hold_id, request in holds:
            answered, why = self._hold(hold_id, request, now, any_window=batch.any_window)
            status.append(answered)
            told.append(why)
            session.last = hold_id
        session.seen = now
        return Answer(DONE, now, status, told, None, [], [])

    def is_over(self, session: Session) -> bool:
        return session.over

    def bury(self, session: Session, hold_id: int) -> None:
        """The tombstone of a hold that was given up: whatever comes late finds its place taken."""
        if self.sessions.get(hold_id >> COUNT_BITS) is session and hold_id > session.last:
            session.last = hold_id

    def _end(self, end: End, session: Session, now: int) -> None:
        hold = self.ledger.open.get(end.id)
        if hold is not None:
            unknown = end.word == "unreconciled"
            cost = hold.ceiling if unknown else end.cost
            if end.kind == POST:
                record: Any = self.ledger.post(end.id, Settlement(cost, None, bool(end.exact), end.word), now)
                if unknown:
                    self.late[end.id] = cost, hold.record
            else:
                record = self.ledger.void(end.id, end.word, now)
            self._book(record)
        elif end.id in self.late and end.word != "unreconciled":
            booked, made = self.late.pop(end.id)
            delta = (end.cost if end.kind == POST else 0) - booked
            self._book(CorrectRecord(now, end.id, (delta, -delta), f"late: {end.word}", made.legs))
        elif end.kind != POST:
            self.bury(session, end.id)

    def _hold(self, hold_id: int, request: HoldRequest, now: int, *, any_window: bool) -> tuple[int, str | None]:
        if not any_window and self.ledger.due(request.budgets, now):
            return WINDOW_DUE, None
        try:
            decided, shadow = self.ledger.decide_hold(request, now)
        except Refusal:
            return REFUSED, ",".join(map(self._state, request.budgets))
        record = HoldRecord(now, hold_id, decided.legs, request)
        self._book(record)
        self.made[hold_id] = record
        return HELD, ",".join(str(self.numbers[name]) for name in shadow) or None

    def _state(self, name: str) -> str:
        budget = self.ledger.budgets[name]
        version = budget.definition.version
        return f"{self.numbers[name]}:{version}:{budget.posted}:{budget.held}:{int(budget.closed)}"


class Network:
    """Between one node and the database. The world switches its faults."""

    def __init__(self, loop: asyncio.AbstractEventLoop, chance: random.Random) -> None:
        self._loop = loop
        self._chance = chance
        self.cut = False  # a partition, or a database that is down
        self.loses = 0.0  # share of messages and of answers that are lost
        self.slow = 0.0  # seconds more, at most, that a message takes
        self.strays = 0.0  # share of messages that arrive when nobody thinks of them any more

    def delay(self) -> float:
        if self._chance.random() < self.strays:
            return self._chance.uniform(0.2, 5.0)
        return self._chance.uniform(0.0005, 0.003) + (self._chance.uniform(0, self.slow) if self.slow else 0.0)

    def send(self, act: Callable[[], Any], answer: "asyncio.Future[Any]") -> None:
        """Have `act` carried out there, perhaps, and its result brought back, perhaps."""
        if self.cut or self._chance.random() < self.loses:
            return

        def arrive() -> None:
            result = act()
            if not self.cut and self._chance.random() >= self.loses:
                self._loop.call_later(self.delay(), lambda: answer.done() or answer.set_result(result))

        self._loop.call_later(self.delay(), arrive)


class FakeConnection:
    """As much of asyncpg's as the store uses: one question at a time, broken by `terminate`."""

    def __init__(self, database: Database, network: Network) -> None:
        self.database = database
        self.network = network
        self._answer: asyncio.Future[Any] | None = None
        self._closed = False

    def is_closed(self) -> bool:
        return self._closed

    def terminate(self) -> None:
        self._closed = True
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionResetError("the connection was cut"))

    async def ask(self, act: Callable[[], Any], seconds: float = 5.0) -> Any:
        self._answer = asyncio.get_running_loop().create_future()
        self.network.send(act, self._answer)
        try:
            async with asyncio.timeout(seconds):
                return await self._answer
        except TimeoutError:
            self._closed = True
            raise

    async def execute(self, *_: Any) -> None:
        """Housekeeping, of which the model knows nothing: only that it takes a way there and back."""
        await self.ask(lambda: None)


class FakeStore:
    """`bursar.stores.postgres.Postgres`, as far as the money store uses it."""

    def __init__(self, database: Database, network: Network) -> None:
        self.database = database
        self.network = network
        self.address = Address(url=Secret("postgresql://nowhere"))

    def sql(self, text: str) -> str:
        return text

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[FakeConnection]:
        yield FakeConnection(self.database, self.network)

    async def dedicated(self) -> FakeConnection:
        connection = FakeConnection(self.database, self.network)
        await connection.ask(lambda: None)
        return connection


async def fake_act(_: Any, db: FakeConnection, batch: Batch, seconds: float) -> Answer:
    """Instead of `postgres_money_act.act`: the same message, decided by the model. It is fixed when it is sent."""
    sent = Batch(batch.session, any_window=batch.any_window)
    sent.shrinks, sent.ends, sent.holds = list(batch.shrinks), list(batch.ends), list(batch.holds)
    frozen = [(waiting.hold_id, waiting.request) for waiting in batch.holds]

    answer: Answer = await db.ask(lambda: db.database.act(sent, frozen), seconds)
    return answer


class FakeNodes:
    """`postgres_money_nodes.Nodes` over the model."""

    def __init__(self, store: FakeStore, node: str, lease_s: float) -> None:
        self._store = store
        self._node = node
        self._lease_ns = int(lease_s * 1e9)

    async def _ask(self, act: Callable[[], Any]) -> Any:
        async with self._store.connection() as db:
            return await db.ask(act)

    async def timeline(self, _: FakeConnection) -> str:
        return "1"

    async def begin(self) -> int:
        number: int = await self._ask(lambda: self._store.database.begin(self._node, self._lease_ns))
        return number

    async def end(self, session: int) -> None:
        await self._ask(lambda: self._store.database.end(session))

    async def claim(self, session: int) -> list[int]:
        found: list[int] = await self._ask(lambda: self._store.database.claim(session))
        return found

    async def left_open(self, dead: int, most: int) -> list[int]:
        found: list[int] = await self._ask(lambda: self._store.database.left_open(dead, most))
        return found


class FakeBudgets(Budgets):
    """The real reading of refusals and rooms; what it loads comes from the model."""

    def __init__(self, store: FakeStore) -> None:
        super().__init__(store)  # type: ignore[arg-type]  # only handed on to what is replaced here
        self._fake = store

    async def _fetch(self, act: Callable[[], Any]) -> None:
        database = self._fake.database

        def both() -> list[tuple[int, Any]]:
            act()
            return [(database.numbers[name], budget.image()) for name, budget in database.ledger.budgets.items()]

        async with self._fake.connection() as db:
            for number, image in await db.ask(both):
                budget = type(database.ledger.budgets[image.definition.id]).restore(image)
                self.known[image.definition.id] = self.by_no[number] = Known(number, budget)

    async def take(self, first: Iterable[str]) -> None:
        del first  # all of them at once
        asked = list(self._asked.values())
        await self._fetch(lambda: [self._fake.database.define(definition) for definition in asked])
        for definition in asked:
            if self._asked.get(definition.id) is definition:
                del self._asked[definition.id]

    async def open_windows(self, numbers: Iterable[int]) -> bool:
        names = [self.by_no[number].budget.definition.id for number in set(numbers)]
        await self._fetch(lambda: self._fake.database.open_windows(names))
        return True

    async def refresh(self, told: Iterable[str], t_ns: int) -> None:
        stale = {int(state.split(":")[0]) for text in told for state in text.split(",")}
        if any(self._is_stale(number, self.by_no[number].budget.definition.version, t_ns) for number in stale):
            await self._fetch(lambda: None)


class FakeLabels:
    def find(self, _: HoldRequest) -> int:
        return 1

    async def make(self, _: Iterable[HoldRequest]) -> None:
        raise AssertionError("every label is known")

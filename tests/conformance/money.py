"""One history of money, played on the pure reference, on the journal and on PostgreSQL: what each of them answers.

Steps name holds by the order in which they were held, so that they mean the same on every side. All sides share one
clock, which only the history moves.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, ClassVar, Protocol

import msgspec
from hypothesis import strategies as st

from bursar.core.directory import BudgetDef, WindowDef
from bursar.core.errors import Refusal
from bursar.core.ledger import Balance, Held, HoldRequest, Ledger, Settlement
from bursar.core.ledger_records import CorrectRecord, Record
from bursar.core.secret import Secret
from bursar.core.units import NS_PER_S
from bursar.stores.journal import Journal
from bursar.stores.postgres import Address, Postgres
from bursar.stores.postgres_money import PostgresMoney
from bursar.stores.postgres_schema import migrate
from tests.stores.journal_kit import NOON, asking, settled
from tests.stores.postgres_money_kit import until

WINDOWS = {
    "life": WindowDef(kind="lifetime"),
    "day": WindowDef(period="day", zone="Europe/Berlin"),
    "week": WindowDef(period="week", zone="America/New_York", week_start=6),
    "roll": WindowDef(kind="rolling", seconds=3600),
}
BUDGETS: dict[str, dict[str, Any]] = {
    "life": {"window": WINDOWS["life"]},
    "day": {"window": WINDOWS["day"]},
    "roll": {"window": WINDOWS["roll"]},
    "soft": {"window": WINDOWS["life"], "hard": False},
    "shadow": {"window": WINDOWS["life"], "mode": "shadow"},
    "off": {"window": WINDOWS["life"], "mode": "off"},
}
LIMIT = 500

AMOUNTS = st.integers(0, 300)
PLACES = st.integers(0, 3)
NAMES = st.sets(st.sampled_from(sorted(BUDGETS)), max_size=4).map(lambda it: tuple(sorted(it)))
STEPS = st.one_of(
    st.tuples(st.just("hold"), AMOUNTS, AMOUNTS, NAMES),
    st.tuples(st.just("hold"), AMOUNTS, AMOUNTS, NAMES),
    st.tuples(st.just("hold"), st.integers(0, 900), st.integers(0, 900), NAMES),
    st.tuples(st.just("post"), PLACES, st.integers(0, 500)),
    st.tuples(st.just("post"), PLACES, AMOUNTS),
    st.tuples(st.just("void"), PLACES),
    st.tuples(st.just("shrink"), PLACES, AMOUNTS),
    st.tuples(st.just("correct"), PLACES, st.integers(-300, 600)),
    st.tuples(st.just("again"), PLACES, AMOUNTS),
    st.tuples(st.just("limit"), st.sampled_from(sorted(BUDGETS)), st.integers(0, 3000)),
    st.tuples(st.just("window"), st.sampled_from(("life", "day", "roll")), st.sampled_from(sorted(WINDOWS))),
    st.tuples(st.just("wait"), st.sampled_from((60, 600, 3600, 5 * 3600, 30 * 3600, -1800))),
)
HISTORIES = st.lists(STEPS, min_size=12, max_size=35)


class Hands:
    """The one clock."""

    def __init__(self) -> None:
        self.wall = NOON

    def now(self) -> int:
        return self.wall

    def monotonic(self) -> float:
        return 0.0


def _told(refusal: Refusal) -> tuple[Any, ...]:
    return refusal.word, refusal.message, refusal.hint, refusal.retry_after, refusal.facts


class Side(Protocol):
    async def try_hold(self, request: HoldRequest) -> None: ...
    async def hold(self, request: HoldRequest, token: str = "") -> Held: ...
    async def post(self, hold_id: int, settlement: Settlement) -> None: ...
    async def void(self, hold_id: int) -> None: ...
    async def shrink(self, hold_id: int, ceiling: int) -> None: ...
    async def correct(self, hold_id: int, delta: int) -> None: ...
    async def define(self, budget: BudgetDef) -> None: ...
    async def balances(self) -> list[Balance]: ...
    async def tick(self) -> None:
        """The clock was moved."""
        ...


class Reference:
    """`core.ledger` as it stands, every record through its written form."""

    def __init__(self, clock: Hands) -> None:
        self._clock = clock
        self._ledger = Ledger()
        self._decode = msgspec.msgpack.Decoder(Record).decode
        self._legs: dict[int, Any] = {}

    def _apply(self, record: Record | None) -> None:
        if record is not None:
            self._ledger.apply(self._decode(msgspec.msgpack.encode(record)))

    async def try_hold(self, request: HoldRequest) -> None:
        self._ledger.try_hold(request, self._clock.wall)

    async def hold(self, request: HoldRequest, token: str = "") -> Held:
        del token  # whether it stands is for the gateway to know
        for record in self._ledger.due(request.budgets, self._clock.wall):
            self._apply(record)
        record, shadow = self._ledger.decide_hold(request, self._clock.wall)
        self._apply(record)
        self._legs[record.id] = record.legs
        return Held(record.id, record.t, shadow)

    async def post(self, hold_id: int, settlement: Settlement) -> None:
        self._apply(self._ledger.post(hold_id, settlement, self._clock.wall))

    async def void(self, hold_id: int) -> None:
        self._apply(self._ledger.void(hold_id, "unsent", self._clock.wall))

    async def shrink(self, hold_id: int, ceiling: int) -> None:
        self._apply(self._ledger.shrink(hold_id, ceiling, self._clock.wall))

    async def correct(self, hold_id: int, delta: int) -> None:
        self._apply(CorrectRecord(self._clock.wall, hold_id, (delta, -delta), "test", self._legs[hold_id]))

    async def define(self, budget: BudgetDef) -> None:
        self._apply(self._ledger.define(budget, self._clock.wall))

    async def balances(self) -> list[Balance]:
        return self._ledger.balances(self._clock.wall)

    async def tick(self) -> None:
        return None


class JournalSide:
    def __init__(self, folder: Path, clock: Hands) -> None:
        self.folder = folder
        self.journal = Journal.open(folder, clock, segment_bytes=40_000)

    async def try_hold(self, request: HoldRequest) -> None:
        await self.journal.try_hold(request)

    async def hold(self, request: HoldRequest, token: str = "") -> Held:
        return await self.journal.hold(request, token)

    async def post(self, hold_id: int, settlement: Settlement) -> None:
        self.journal.post(hold_id, settlement)

    async def void(self, hold_id: int) -> None:
        self.journal.void(hold_id, "unsent")

    async def shrink(self, hold_id: int, ceiling: int) -> None:
        self.journal.shrink(hold_id, ceiling)

    async def correct(self, hold_id: int, delta: int) -> None:
        await self.journal.correct(hold_id, delta, "test")

    async def define(self, budget: BudgetDef) -> None:
        self.journal.define(budget)

    async def balances(self) -> list[Balance]:
        return self.journal.balances()

    async def tick(self) -> None:
        return None


class PostgresSide:
    """One node. The database's clock is a table that the history writes."""

    def __init__(self, store: Postgres, money: PostgresMoney, clock: Hands) -> None:
        self.store = store
        self.money = money
        self._clock = clock

    @classmethod
    async def open(cls, url: str, clock: Hands) -> "PostgresSide":
        store = Postgres(Address(url=Secret(url)))
        await migrate(store, "directory")
        await migrate(store, "money")
        async with store.connection() as db:
            await db.execute("CREATE TABLE bursar.test_clock (t bigint); INSERT INTO bursar.test_clock VALUES (0)")
            await db.execute("""CREATE OR REPLACE FUNCTION bursar.ledger_now() RETURNS bigint LANGUAGE sql VOLATILE
                AS 'SELECT t FROM bursar.test_clock'""")
        side = cls(store, PostgresMoney(store, "node", lease_s=3600), clock)
        await side.tick()
        await side.money.start()
        assert not side.money.down
        return side

    async def try_hold(self, request: HoldRequest) -> None:
        await self.money.try_hold(request)

    async def hold(self, request: HoldRequest, token: str = "") -> Held:
        return await self.money.hold(request, token)

    async def post(self, hold_id: int, settlement: Settlement) -> None:
        self.money.post(hold_id, settlement)
        await self.money.settled()

    async def void(self, hold_id: int) -> None:
        self.money.void(hold_id, "unsent")
        await self.money.settled()

    async def shrink(self, hold_id: int, ceiling: int) -> None:
        self.money.shrink(hold_id, ceiling)
        await self.money.settled()

    async def correct(self, hold_id: int, delta: int) -> None:
        await self.money.correct(hold_id, delta, "test")

    async def define(self, budget: BudgetDef) -> None:
        self.money.define(budget)
        await until(lambda: not self.money._budgets.asked)

    async def balances(self) -> list[Balance]:
        return await self.money.balances()

    async def tick(self) -> None:
        async with self.store.connection() as db:
            await db.execute("UPDATE bursar.test_clock SET t = $1", self._clock.wall)

    async def close(self) -> None:
        await self.money.close()
        await self.store.close()


class Play:
    """One history on all sides at once. After each step all have answered the same, and hold the same balances."""

    def __init__(self, run: int, clock: Hands, sides: list[Side]) -> None:
        self._run = run
        self._clock = clock
        self._sides = sides
        self._defined = {name: self._budget(name, 1, LIMIT, **facts) for name, facts in BUDGETS.items()}
        self._held: list[list[int]] = []  # of each hold, its id on each side
        self._open: list[int] = []
        self._ended: list[int] = []
        self.words: set[str] = set()

    def _budget(self, name: str, version: int, limit: int, **facts: Any) -> BudgetDef:
        values = {"id": f"{name}-{self._run}", "version": version, "limit_pico": limit, "name": name} | facts
        return BudgetDef(subject_kind="team", subject="t", **values)

    async def all(self, history: list[tuple[Any, ...]]) -> None:
        for budget in self._defined.values():
            await self._each(lambda side, _, budget=budget: side.define(budget))
        for step in history:
            self._clock.wall += 1_000_000
            await self._each(lambda side, _: side.tick())
            await self._steps[step[0]](self, *step[1:])
            await self._same_balances(step)

    async def _each(self, act: Callable[[Side, int], Awaitable[Any]]) -> list[Any]:
        return [await act(side, place) for place, side in enumerate(self._sides)]

    async def _same_balances(self, step: tuple[Any, ...]) -> None:
        ours = f"-{self._run}"
        seen = [
            {balance.budget_id: balance for balance in balances if balance.budget_id.endswith(ours)}
            for balances in await self._each(lambda side, _: side.balances())
        ]
        for other in seen[1:]:
            assert other == seen[0], f"after {step}"

    async def _hold(self, ceiling: int, expected: int, names: tuple[str, ...]) -> None:
        budgets = [f"{name}-{self._run}" for name in names]
        request = msgspec.structs.replace(asking(ceiling, expected=expected), budgets=tuple(budgets))

        async def answer(side: Side, _: int) -> tuple[Any, ...]:
            tried = await self._said(side.try_hold(request))
            try:
                held = await side.hold(request)
            except Refusal as refusal:
                return *_told(refusal), tried == _told(refusal)
            return "held", held.hold_id, held.t_ns, held.shadow, tried is None

        answers = await self._each(answer)
        self.words.add(answers[0][0])
        assert all(other[-1] for other in answers), "what is tried first is told the same"
        if answers[0][0] != "held":
            assert all(other == answers[0] for other in answers), answers
            return
        assert all(other[0] == "held" and other[2:] == answers[0][2:] for other in answers), answers
        self._open.append(len(self._held))
        self._held.append([other[1] for other in answers])

    @staticmethod
    async def _said(trial: Awaitable[None]) -> tuple[Any, ...] | None:
        try:
            await trial
        except Refusal as refusal:
            return _told(refusal)
        return None

    async def _post(self, place: int, cost: int) -> None:
        if self._open:
            ids = self._end(place)
            await self._each(lambda side, at: side.post(ids[at], settled(cost)))

    async def _void(self, place: int) -> None:
        if self._open:
            ids = self._end(place)
            await self._each(lambda side, at: side.void(ids[at]))

    def _end(self, place: int) -> list[int]:
        hold = self._open.pop(place % len(self._open))
        self._ended.append(hold)
        return self._held[hold]

    async def _shrink(self, place: int, ceiling: int) -> None:
        if self._open:
            ids = self._held[self._open[place % len(self._open)]]
            await self._each(lambda side, at: side.shrink(ids[at], ceiling))

    async def _correct(self, place: int, delta: int) -> None:
        if self._ended:
            ids = self._held[self._ended[place % len(self._ended)]]
            await self._each(lambda side, at: side.correct(ids[at], delta))

    async def _again(self, place: int, cost: int) -> None:
        if self._ended:
            ids = self._held[self._ended[place % len(self._ended)]]
            await self._each(lambda side, at: side.post(ids[at], settled(cost)))
            await self._each(lambda side, at: side.void(ids[at]))

    async def _limit(self, name: str, limit: int) -> None:
        await self._redefine(name, limit_pico=limit)

    async def _window(self, name: str, window: str) -> None:
        await self._redefine(name, window=WINDOWS[window])

    async def _redefine(self, name: str, **changes: Any) -> None:
        before = self._defined[name]
        after = self._defined[name] = msgspec.structs.replace(before, version=before.version + 1, **changes)
        await self._each(lambda side, _: side.define(after))

    async def _wait(self, seconds: int) -> None:
        self._clock.wall += seconds * NS_PER_S
        await self._each(lambda side, _: side.tick())

    _steps: ClassVar[dict[str, Callable[..., Awaitable[None]]]] = {
        "hold": _hold,
        "post": _post,
        "void": _void,
        "shrink": _shrink,
        "correct": _correct,
        "again": _again,
        "limit": _limit,
        "window": _window,
        "wait": _wait,
    }

"""Budgets as this node knows them, and the rarer acts on them: definitions, windows, corrections.

What is rare is decided by `core.ledger` itself: a budget's row is locked, its state loaded, the record decided and
applied, the state written back with the record, in one transaction. A definition older than the stored one is passed
over: another node has heard of a newer directory.
"""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import msgspec

from bursar.core.directory import BudgetDef
from bursar.core.errors import Refusal
from bursar.core.ledger import HoldRequest, Ledger
from bursar.core.ledger_budget import TOKEN_BUDGET, TOKEN_KEPT_NS, Budget
from bursar.core.ledger_records import (
    BudgetImage,
    BudgetStand,
    CorrectRecord,
    DefineRecord,
    Leg,
    Record,
    RowImage,
    define_record,
    definition_of,
)
from bursar.core.units import NS_PER_S
from bursar.stores.postgres import Connection, Postgres
from bursar.stores.postgres_money_write import write_back, write_told

_CHUNK = 500
_decode_define = msgspec.json.Decoder(DefineRecord).decode

_COLUMNS = """g.no, g.floor, g.last_number, g.number, g.start_ns, g.end_ns, g.posted::text, g.held::text,
    g.overage::text, g.closed, d.id, d.body
    FROM bursar.ledger_budget g JOIN bursar.ledger_definition d ON d.budget = g.no"""
_BY_ID = f"SELECT {_COLUMNS} WHERE d.id = ANY($1) ORDER BY g.no"
_BY_NO = f"SELECT {_COLUMNS} WHERE g.no = ANY($1) ORDER BY g.no"
# Without those of tokens that a journal would have forgotten: nothing removes them here (docs/decisions/0011).
_CURRENT = f"""SELECT {_COLUMNS} WHERE CASE WHEN d.id ~ '^{TOKEN_BUDGET}[0-9]{{1,18}}(:|$)'
    THEN split_part(d.id, ':', 2)::numeric * {NS_PER_S} + {TOKEN_KEPT_NS} > $1 ELSE true END ORDER BY g.no"""
_WINDOWS = """SELECT budget, number, start_ns, end_ns, posted::text, held::text, overage::text, closed, retired, counted
    FROM bursar.ledger_window WHERE budget = ANY($1) ORDER BY budget, number"""
_LOCK_DEFINITIONS = "SELECT pg_advisory_xact_lock(hashtextextended('bursar.ledger_definition', 0))"
_NOW = "SELECT bursar.ledger_now()"
_HOLD = "SELECT legs FROM bursar.ledger WHERE kind = 4 AND hold_id = $1"
_IS_OPEN = "SELECT EXISTS (SELECT FROM bursar.ledger_hold WHERE id = $1)"


class Known:
    """One budget in the database. `room` is what the last answer said: it may be older than what others have held."""

    __slots__ = ("budget", "no", "room")

    def __init__(self, no: int, budget: Budget) -> None:
        self.no = no
        self.budget = budget
        self.room = max(0, budget.limit - budget.posted - budget.held) if not budget.closed else 0


class Budgets:
    """All budgets that this node was told of. Everything that awaits raises what is in postgres.AWAY."""

    def __init__(self, store: Postgres) -> None:
        self._store = store
        self._asked: dict[str, BudgetDef] = {}  # to be taken
        self.known: dict[str, Known] = {}
        self.by_no: dict[int, Known] = {}

    # ---- definitions

    def ask(self, definition: BudgetDef) -> bool:
        """Note a definition to be taken; False = it is known. Raises ValueError if it means nothing."""
        Ledger().define(definition, 0)
        known = self.known.get(definition.id)
        if known is not None and _is_same(definition, known.budget.definition):
            self._asked.pop(definition.id, None)
            return False
        self._asked[definition.id] = definition
        return True

    def forget(self) -> None:
        """Their numbers may mean others now: all that are known are to be taken again."""
        known = [definition_of(one.budget.definition) for one in self.known.values()]
        self._asked = {definition.id: definition for definition in known} | self._asked
        self.known.clear()
        self.by_no.clear()

    @property
    def asked(self) -> bool:
        return bool(self._asked)

    def is_asked(self, names: Iterable[str]) -> bool:
        """Is a definition of any of these still to be taken?"""
        return any(name in self._asked for name in names)

    async def take(self, first: Iterable[str]) -> None:
        """Bring a piece of what was asked into the database, or learn that it is there; `first` what is waited for."""
        asked = self._asked
        if asked:
            wanted = {name: asked[name] for name in first if name in asked}
            chunk = list(islice((wanted | asked).values(), _CHUNK))
            async with self._store.connection() as db:
                self._learn(await _load(self._store, db, _BY_ID, [it.id for it in chunk]))
            missing = [it for it in chunk if not self._has(it)]
            if missing:
                await self._define(missing)
            for definition in chunk:
                if self._asked.get(definition.id) is definition:
                    del self._asked[definition.id]

    def _has(self, definition: BudgetDef) -> bool:
        known = self.known.get(definition.id)
        if known is None:
            return False
        there = known.budget.definition
        return there.version > definition.version or _is_same(definition, there)

    async def _define(self, definitions: Sequence[BudgetDef]) -> None:
        """Under one lock: of several nodes that bring the same new budget, one makes it."""
        store = self._store
        async with store.transaction() as db:
            await db.execute(store.sql(_LOCK_DEFINITIONS))
            loaded = await _load(store, db, f"{_BY_ID} FOR UPDATE OF g", [it.id for it in definitions])
            images = {budget.definition.id: budget.image() for _, budget in loaded}
            ledger, records = Ledger(), list[Record]()
            ledger.budgets = {budget.definition.id: budget for _, budget in loaded}
            now = await db.fetchval(store.sql(_NOW))
            for definition in definitions:
                there = ledger.budgets.get(definition.id)
                if there is not None and there.definition.version > definition.version:
                    continue
                record = ledger.define(definition, now)
                if record is not None:
                    ledger.apply(record)
                    records.append(record)
            numbers = {budget.definition.id: no for no, budget in loaded}
            numbers = await write_back(store, db, ledger, records, images, numbers)
        self._learn((numbers[name], budget) for name, budget in ledger.budgets.items())

    def _learn(self, loaded: Iterable[tuple[int, Budget]]) -> None:
        for no, budget in loaded:
            self.known[budget.definition.id] = self.by_no[no] = Known(no, budget)

    # ---- windows

    async def open_windows(self, numbers: Iterable[int]) -> bool:
        """Open those that are due by the database's clock; False = none was: the current ones serve."""
        store = self._store
        async with store.transaction() as db:
            loaded = await _load(store, db, f"{_BY_NO} FOR UPDATE OF g", sorted(set(numbers)))
            images = {budget.definition.id: budget.image() for _, budget in loaded}
            ledger = Ledger()
            ledger.budgets = {budget.definition.id: budget for _, budget in loaded}
            now = await db.fetchval(store.sql(_NOW))
            records: list[Record] = list(ledger.due(ledger.budgets, now))
            for record in records:
                ledger.apply(record)
            await write_back(store, db, ledger, records, images, {b.definition.id: no for no, b in loaded})
        fresh = all(budget.start <= now < budget.end for budget in ledger.budgets.values() if budget.tracked)
        self._learn(loaded)
        return fresh

    # ---- corrections

    async def correct(self, hold_id: int, delta: int, reason: str) -> None:
        """Book what was learned after a hold's end, on the windows that admitted it, with what owners are told.

        Raises ValueError for a hold that is open or never was; after a fault it may be booked or not.
        """
        store = self._store
        async with store.transaction() as db:
            legs = await db.fetchval(store.sql(_HOLD), hold_id)
            if legs is None:
                raise ValueError(f"there never was a hold {hold_id}")
            loaded = await _load(store, db, f"{_BY_NO} FOR UPDATE OF g", sorted(set(legs[::4])))
            if await db.fetchval(store.sql(_IS_OPEN), hold_id):
                raise ValueError(f"hold {hold_id} has not ended: settle it instead")
            names = {no: budget.definition.id for no, budget in loaded}
            images = {budget.definition.id: budget.image() for _, budget in loaded}
            ledger = Ledger()
            ledger.budgets = {budget.definition.id: budget for _, budget in loaded}
            now = await db.fetchval(store.sql(_NOW))
            record = CorrectRecord(now, hold_id, (delta, -delta), reason, named_legs(legs, names))
            ledger.apply(record)
            numbers = {name: no for no, name in names.items()}
            await write_back(store, db, ledger, [record], images, numbers)
            await write_told(store, db, ledger.events, record, numbers)
        self._learn(loaded)

    async def try_hold(self, request: HoldRequest) -> None:
        """Raises the Refusal that a hold would, by what the database has now."""
        async with self._store.connection() as db:
            now = await db.fetchval(self._store.sql(_NOW))
            loaded = await _load(self._store, db, _BY_ID, list(request.budgets))
        ledger = Ledger()
        ledger.budgets = {budget.definition.id: budget for _, budget in loaded}
        ledger.try_hold(request, now)

    # ---- what they say

    async def refresh(self, told: Iterable[str], t_ns: int) -> None:
        """Before `refusal`: load what an act's refusals are to be explained with and is not known well enough."""
        stale = {no for text in told for no, version, *_ in _states(text) if self._is_stale(no, version, t_ns)}
        if stale:
            async with self._store.connection() as db:
                self._learn(await _load(self._store, db, _BY_NO, sorted(stale)))

    def refusal(self, request: HoldRequest, told: str) -> Refusal | None:
        """In the words of `core.ledger`, from what the act saw.

        None: a definition has changed since, and the hold should be asked for again.
        """
        ledger = Ledger()
        for no, version, posted, held, closed in _states(told):
            known = self.by_no[no]
            if known.budget.definition.version != version:
                return None
            budget = ledger.budgets[known.budget.definition.id] = known.budget
            budget.posted, budget.held, budget.closed = posted, held, bool(closed)
        return ledger.refusal(request)

    async def know_all_of(self, told: Iterable[str]) -> None:
        """As they are now, all budgets that events of acts name."""
        facts = [msgspec.json.decode(text) for text in told]
        numbers = sorted({one["budget"] for one in facts if "budget" in one})
        async with self._store.connection() as db:
            self._learn(await _load(self._store, db, _BY_NO, numbers))

    def _is_stale(self, no: int, version: int, t_ns: int) -> bool:
        known = self.by_no.get(no)
        if known is None or known.budget.definition.version != version:
            return True
        return known.budget.definition.window.kind == "rolling" or not known.budget.start <= t_ns < known.budget.end

    def room(self, budgets: Iterable[str]) -> int | None:
        left = None
        for name in budgets:
            known = self.known.get(name)
            if known is None:
                continue
            budget = known.budget
            if budget.hard and budget.enforced and budget.tracked:
                left = known.room if left is None else min(left, known.room)
        return left

    def stands(self, budgets: Iterable[str]) -> list[BudgetStand]:
        """Of those that are counted: limits as they are, what is used as the last answer said."""
        known = [it for name in budgets if (it := self.known.get(name)) is not None and it.budget.tracked]
        return [
            msgspec.structs.replace(it.budget.stand(), used_pico=max(0, it.budget.limit - it.room), held_pico=None)
            for it in known
        ]

    def seen(self, numbers: Sequence[int], rooms: Sequence[int]) -> None:
        """What an act's answer said."""
        by_no = self.by_no
        for no, room in zip(numbers, rooms, strict=True):
            known = by_no.get(no)
            if known is not None:
                known.room = room


def _states(told: str) -> list[tuple[int, ...]]:
    """ "no:version:posted:held:closed", one a budget."""
    return [tuple(map(int, state.split(":"))) for state in told.split(",")]


def _is_same(definition: BudgetDef, record: DefineRecord) -> bool:
    return define_record(definition, record.t) == record


def named_legs(legs: Sequence[int], names: dict[int, str]) -> tuple[Leg, ...]:
    """Four numbers a leg, as the ledger keeps them -> legs."""
    return tuple((names[legs[i]], legs[i + 1], legs[i + 2], bool(legs[i + 3])) for i in range(0, len(legs), 4))


async def load_current(store: Postgres, db: Connection, now: int) -> list[tuple[int, Budget]]:
    """Every budget with its number, but those of tokens that are long over (`core.ledger_budget.forgotten_at`)."""
    return await _load(store, db, _CURRENT, now)


async def _load(store: Postgres, db: Connection, sql: str, *arguments: object) -> list[tuple[int, Budget]]:
    rows = await db.fetch(store.sql(sql), *arguments)
    windows: dict[int, list[RowImage]] = {}
    for row in await db.fetch(store.sql(_WINDOWS), [row["no"] for row in rows]):
        windows.setdefault(row["budget"], []).append(RowImage(*row[1:]))
    return [(row["no"], _budget(row, windows.get(row["no"], []))) for row in rows]


def _budget(row: Any, windows: list[RowImage]) -> Budget:
    rows = list(windows)
    if row["number"]:
        sums = row["posted"], row["held"], row["overage"]
        rows.append(RowImage(row["number"], row["start_ns"], row["end_ns"], *sums, row["closed"], False, True))
    image = BudgetImage(_decode_define(row["body"]), row["floor"], row["last_number"], row["number"], tuple(rows))
    return Budget.restore(image)

"""What the records of a journal add up to, and whether each of them may follow those before it.

The second half of `verify_ledger`: the values are plain MessagePack arrays, decoded without the writer's types. The
three files import each other only, so that no fault of the ledger can vouch for itself.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from bursar.control.verify_ledger_windows import on_boundaries

_DAY = 86_400 * 10**9


class BudgetTotal(msgspec.Struct):
    """One budget over the whole journal (`spent`, `overage`, `adjusted`) and in its current window (the rest)."""

    id: str
    limit: int = 0
    posted: int = 0
    held: int = 0
    closed: bool = False
    spent: int = 0
    overage: int = 0
    adjusted: int = 0
    lowered: int = 0  # how often its limit was lowered


class SpendTotal(msgspec.Struct):
    """Attempts of one team with one model that have ended in a cost."""

    team: str
    model: str
    attempts: int = 0
    cost: int = 0
    overage: int = 0


class Counts(msgspec.Struct):
    """How many records of each kind were replayed."""

    holds: int = 0
    posted: int = 0
    voided: int = 0
    corrections: int = 0
    unreconciled: int = 0


class Wrong(Exception):
    """A record that must not follow those before it, and why."""


class _Row:
    """One window of one budget."""

    __slots__ = ("closed", "counted", "end", "held", "overage", "posted", "retired", "start")

    def __init__(self, start: int, end: int) -> None:
        self.start, self.end = start, end
        self.posted = self.held = self.overage = 0
        self.closed = self.retired = self.counted = False

    def image(self, number: int) -> list[Any]:
        sums = (_text(self.posted), _text(self.held), _text(self.overage))
        return [number, self.start, self.end, *sums, self.closed, self.retired, self.counted]


class _Budget:
    """A budget as its records tell it."""

    __slots__ = (
        "closed",
        "current",
        "define",
        "enforced",
        "floor",
        "hard",
        "held",
        "last",
        "limit",
        "posted",
        "row",
        "rows",
        "total",
        "tracked",
        "version",
        "window",
    )

    def __init__(self, define: list[Any]) -> None:
        self.rows: dict[int, _Row] = {}
        self.current = self.floor = self.last = self.posted = self.held = 0
        self.row: _Row | None = None
        self.closed = False
        self.total = BudgetTotal(define[2])
        self.take(define)

    def take(self, define: list[Any]) -> None:
        _, _, _, self.version, limit, self.hard, mode, deleted, self.window, *_ = self.define = define
        self.limit = int(limit)
        self.enforced = mode == "enforce"
        self.tracked = mode != "off" and not deleted

    def add_up(self) -> None:
        counted = [row for row in self.rows.values() if row.counted]
        self.posted = sum(row.posted for row in counted)
        self.held = sum(row.held for row in counted)
        self.closed = any(row.closed for row in counted)

    def image(self) -> list[Any]:
        rows = [row.image(number) for number, row in self.rows.items()]
        return [self.define, self.floor, self.last, self.current, rows]


class Replay:
    """The state that the records so far add up to."""

    def __init__(self) -> None:
        self.counts = Counts()
        self.budgets: dict[str, _Budget] = {}
        self.open: dict[int, list[Any]] = {}  # id -> [ceiling, legs as (budget, row, hard), record]
        self.next_id = 1
        self.spend: dict[tuple[str, str], SpendTotal] = {}
        self.trusting = False  # take the next snapshot on trust
        self.handlers: tuple[Callable[[list[Any]], None], ...] = (
            self._unknown,
            self.snapshot,
            self.define,
            self.open_window,
            self.hold,
            self.shrink,
            self.post,
            self.void,
            self.correct,
        )

    def snapshot(self, values: list[Any]) -> None:
        _, t, next_id, images, holds = values
        if self.trusting:
            self._trust(images, holds)
            self.trusting = False
        mine = {budget.define[2]: budget.image() for budget in self.budgets.values()}
        theirs = {image[0][2]: image for image in images}
        for budget_id in mine.keys() - theirs.keys():
            if _is_forgotten(self.budgets[budget_id], t, self.open):
                del mine[budget_id], self.budgets[budget_id]
        for budget_id in mine.keys() | theirs.keys():
            if mine.get(budget_id) != theirs.get(budget_id):
                raise Wrong(f"the snapshot of budget {budget_id!r} is not what the records add up to")
        if {hold[2]: [ceiling, hold] for ceiling, hold in holds} != {i: [h[0], h[2]] for i, h in self.open.items()}:
            raise Wrong("the open holds of the snapshot are not those of the records")
        if next_id != self.next_id:
            raise Wrong("the snapshot's next hold id does not follow")

    def _trust(self, images: list[Any], holds: list[Any]) -> None:
        """Begin in the middle: the state is the snapshot's word."""
        for define, floor, last, current, rows in images:
            budget = self.budgets[define[2]] = _Budget(define)
            budget.floor, budget.last, budget.current = floor, last, current
            for number, start, end, posted, held, overage, closed, retired, counted in rows:
                row = budget.rows[number] = _Row(start, end)
                row.posted, row.held, row.overage = int(posted), int(held), int(overage)
                row.closed, row.retired, row.counted = closed, retired, counted
            budget.row = budget.rows.get(current)
            budget.add_up()
        for ceiling, hold in holds:
            legs = [(b := self.budgets[leg[0]], b.rows.get(leg[2]) or _Row(0, 0), leg[3]) for leg in hold[3]]
            self.open[hold[2]] = [ceiling, legs, hold]

    # ---- definitions and windows

    def define(self, values: list[Any]) -> None:
        t, budget_id, limit, window = values[1], values[2], int(values[4]), values[8]
        budget = self.budgets.get(budget_id)
        if limit < 0:
            raise Wrong("a limit below zero")
        if budget is None:
            self.budgets[budget_id] = _Budget(values)
            return
        if limit < budget.limit:
            budget.total.lowered += 1
        for row in budget.rows.values():
            row.closed = row.closed and limit <= budget.limit
            if window != budget.window:
                if not row.retired and row.start < t < row.end:
                    row.end = t
                row.retired = True
        budget.closed = budget.closed and limit <= budget.limit
        if window != budget.window:
            budget.current = budget.floor = 0
        budget.take(values)

    def open_window(self, values: list[Any]) -> None:
        _, t, budget_id, version, number, start, end = values
        budget = self.budgets[budget_id]
        if version != budget.version or not start <= t < end:
            raise Wrong("a window of another definition or another time")
        row = budget.rows.get(number)
        if row is None:
            self._new_window(budget, number, start, end)
            row = budget.rows[number] = _Row(start, end)
            budget.last = number
        elif row.retired or (row.start, row.end) != (start, end):
            raise Wrong("a window that is over was opened again")
        budget.row, budget.current = row, number
        window = budget.window
        kind, length = window["kind"], window["seconds"] * 10**9
        if kind != "lifetime":
            kept = 2 * (_DAY if kind == "calendar" else length)
            for old, other in list(budget.rows.items()):
                if other is not row and other.end + kept <= t:
                    budget.floor = max(budget.floor, other.end)
                    other.counted = False
                    del budget.rows[old]
        for other in budget.rows.values():
            overlaps = other.start < end and other.end > start
            other.counted = overlaps if kind == "calendar" else kind == "lifetime" or other.end + length > t
        budget.add_up()

    def _new_window(self, budget: _Budget, number: int, start: int, end: int) -> None:
        """A window opens once, beside the others, on the boundaries that its definition gives."""
        if number != budget.last + 1:
            raise Wrong("the number of a window does not follow")
        if any(row.start < end and row.end > start and not row.retired for row in budget.rows.values()):
            raise Wrong("a window overlaps another one: money could be spent twice")
        if budget.window["kind"] == "calendar" and start < budget.floor:
            raise Wrong("a window opens among those that are over")
        if not on_boundaries(budget.window, start, end):
            raise Wrong("a window does not lie on the boundaries of its definition")

    # ---- holds

    def was_made(self, hold_id: int) -> bool:
        return hold_id < self.next_id

    def make(self, hold_id: int) -> None:
        """Ids rise: that is how one that comes twice is known."""
        if self.was_made(hold_id):
            raise Wrong(f"hold id {hold_id} was used before")
        self.next_id = hold_id + 1

    def hold(self, values: list[Any]) -> None:
        _, t, hold_id, stated, request = values
        ceiling, expected, asked = request[12], request[13], request[16]
        self.make(hold_id)
        if ceiling < 0 or expected < 0:
            raise Wrong("a hold below zero")
        budgets, legs = self.budgets, []
        if [leg[0] for leg in stated] != [name for name in asked if budgets[name].tracked]:
            raise Wrong("the hold does not stand on the budgets it asked for")
        for budget_id, version, number, hard in stated:
            budget = budgets[budget_id]
            row = budget.row
            if row is None or version != budget.version or number != budget.current or hard != budget.hard:
                raise Wrong(f"the hold stands in another window or definition of budget {budget_id!r}")
            if t >= row.end:
                raise Wrong(f"the window of budget {budget_id!r} was over")
            amount = ceiling if hard else expected
            row.held += amount
            budget.held += amount
            if amount and budget.enforced and (budget.closed or budget.posted + budget.held > budget.limit):
                raise Wrong(f"budget {budget_id!r} was passed: {_sum(budget)}")
            legs.append((budget, row, hard))
        if len(stated) > 1 and len({leg[0] for leg in stated}) != len(stated):
            raise Wrong("the hold stands on one budget twice")
        self.open[hold_id] = [ceiling, legs, values]
        self.counts.holds += 1

    def shrink(self, values: list[Any]) -> None:
        _, _, hold_id, ceiling, released = values
        hold = self._opened(hold_id)
        if not 0 <= ceiling < hold[0] or released != hold[0] - ceiling:
            raise Wrong("the hold is not shrunk by what is released")
        hold[0] = ceiling
        self._release(hold[1], released, 0)

    def post(self, values: list[Any]) -> None:
        _, _, hold_id, cost, (held, posted, released, overage), soft, _, outcome, _ = values
        hold = self._opened(hold_id)
        del self.open[hold_id]
        request = hold[2][4]
        if held != hold[0] or held != posted + released or cost != posted + overage:
            raise Wrong("the entries of the hard legs do not sum to zero")
        if posted < 0 or released < 0 or overage < 0 or (overage and released):
            raise Wrong("an entry of the hard legs is impossible")
        if soft[0] != request[13] or soft[0] != soft[1] + soft[2] or soft[1] != cost:
            raise Wrong("the entries of the soft legs do not sum to zero")
        for budget, row, hard in hold[1]:
            amount = held if hard else soft[0]
            row.held -= amount
            row.posted += cost
            budget.total.spent += cost
            if row.counted:
                budget.held -= amount
                budget.posted += cost
            if hard and overage:
                row.overage += overage
                row.closed = True
                budget.closed = budget.closed or row.counted
                budget.total.overage += overage
        self.counts.posted += 1
        self.counts.unreconciled += outcome == "unreconciled"
        spend = self.spend.get((request[3], request[7]))
        if spend is None:
            spend = self.spend[request[3], request[7]] = SpendTotal(request[3], request[7])
        spend.attempts += 1
        spend.cost += cost
        spend.overage += overage

    def void(self, values: list[Any]) -> None:
        _, _, hold_id, (hard, soft), _ = values
        hold = self._opened(hold_id)
        if hard != hold[0] or soft != hold[2][4][13]:
            raise Wrong("the void does not release what was held")
        del self.open[hold_id]
        self._release(hold[1], hard, soft)
        self.counts.voided += 1

    def correct(self, values: list[Any]) -> None:
        _, _, hold_id, (delta, counter), _, legs = values
        if delta + counter:
            raise Wrong("the correcting pair does not sum to zero")
        if not self.was_made(hold_id) or hold_id in self.open:
            raise Wrong(f"hold {hold_id} has not ended, so it cannot be corrected")
        for budget_id, _, number, hard in legs:
            if budget_id not in self.budgets and _end_of_token(budget_id) is not None:
                continue  # forgotten since
            budget = self.budgets[budget_id]
            budget.total.adjusted += delta
            row = budget.rows.get(number)
            if row is None:
                continue
            row.posted += delta
            if row.counted:
                budget.posted += delta
            if hard and delta > 0 and budget.posted + budget.held > budget.limit:
                row.closed = True
                budget.closed = budget.closed or row.counted
        self.counts.corrections += 1

    def _opened(self, hold_id: int) -> list[Any]:
        hold = self.open.get(hold_id)
        if hold is None:
            raise Wrong(f"hold {hold_id} " + ("has ended before" if self.was_made(hold_id) else "was never made"))
        return hold

    @staticmethod
    def _release(legs: list[tuple[_Budget, _Row, bool]], of_hard: int, of_soft: int) -> None:
        for budget, row, hard in legs:
            amount = of_hard if hard else of_soft
            row.held -= amount
            if row.counted:
                budget.held -= amount

    def budget_totals(self) -> list[BudgetTotal]:
        for budget in self.budgets.values():
            total = budget.total
            total.limit, total.posted, total.held = budget.limit, budget.posted, budget.held
            total.closed = budget.closed
        return [budget.total for _, budget in sorted(self.budgets.items())]

    @staticmethod
    def _unknown(_: list[Any]) -> None:
        raise Wrong("a record of no known kind")


def _end_of_token(budget_id: str) -> int | None:
    end = budget_id[6:].partition(":")[0] if budget_id.startswith("token:") else ""
    return int(end) * 10**9 if end.isdecimal() else None


def _is_forgotten(budget: _Budget, t: int, opened: dict[int, list[Any]]) -> bool:
    """The budget of a token (``token:<end>:<jti>``) goes a day after that end, once nothing is held on it."""
    end = _end_of_token(budget.total.id)
    return end is not None and end + _DAY <= t and all(leg[0] is not budget for h in opened.values() for leg in h[1])


def _text(amount: int) -> int | str:
    return amount if abs(amount) < 2**63 else str(amount)


def _sum(budget: _Budget) -> str:
    closed = ", closed" if budget.closed else ""
    return f"posted {budget.posted} + held {budget.held} against {budget.limit}{closed}"

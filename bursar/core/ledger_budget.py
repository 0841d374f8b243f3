"""One budget's state: its definition, its windows, and what counts against its limit now."""

from datetime import UTC, datetime

from bursar.core.errors import Refusal
from bursar.core.ledger_records import (
    Balance,
    BudgetImage,
    BudgetStand,
    DefineRecord,
    Leg,
    RowImage,
    WindowRecord,
    money,
)
from bursar.core.units import NS_PER_S, pico_to_usd
from bursar.core.windows import counts_until, span_of

KEPT_NS = 2 * 86_400 * NS_PER_S  # how long an ended calendar window is kept for a clock that is set back
TOKEN_BUDGET = "token:"  # noqa: S105 - how ids of tokens' budgets begin
"""Budgets of tokens are called ``token:<end, seconds since the epoch>:<jti>``; no operator's, for an id has no colon.
The ledger forgets one a day after its token's end; the records of its holds stay."""
TOKEN_KEPT_NS = 86_400 * NS_PER_S
_SEVERITY = ("held_by_requests_in_flight", "budget_exhausted", "can_never_fit")


def forgotten_at(budget_id: str) -> int | None:
    """When a budget may be forgotten, ns; None = never: it is no token's."""
    if not budget_id.startswith(TOKEN_BUDGET):
        return None
    end = budget_id[len(TOKEN_BUDGET) :].partition(":")[0]
    return int(end) * NS_PER_S + TOKEN_KEPT_NS if end.isdecimal() else None


def unknown_budget(budget_id: str) -> Refusal:
    """It binds a call, and this store has not heard of it: nobody can say whose it is."""
    message = f"budget {budget_id!r} is not in the ledger yet"
    return Refusal("store_unavailable", message, retry_after=1.0, counter=("budgets", f"/{budget_id}"))


class Row:
    """One window of one budget. `posted` includes `overage` and adjustments."""

    __slots__ = ("closed", "counted", "end", "held", "number", "overage", "posted", "retired", "start")

    def __init__(self, number: int, start: int, end: int) -> None:
        self.number = number
        self.start = start
        self.end = end
        self.posted = 0
        self.held = 0
        self.overage = 0
        self.closed = False  # an overage closed it
        self.retired = False  # opened under an earlier window definition
        self.counted = False  # part of its budget's totals

    def image(self) -> RowImage:
        return RowImage(
            self.number,
            self.start,
            self.end,
            money(self.posted),
            money(self.held),
            money(self.overage),
            self.closed,
            self.retired,
            self.counted,
        )


class Budget:
    """`posted` and `held` are sums over the counted rows: the current window of a calendar budget, the living
    buckets of a rolling one, and windows of an earlier definition that overlap these.
    """

    __slots__ = (
        "closed",
        "definition",
        "end",
        "enforced",
        "floor",
        "hard",
        "held",
        "last_number",
        "leg",
        "limit",
        "marks",
        "next_mark",
        "posted",
        "row",
        "rows",
        "start",
        "tracked",
    )

    def __init__(self, definition: DefineRecord) -> None:
        self.rows: dict[int, Row] = {}
        self.row: Row | None = None
        self.start = self.end = 0  # of the current window; 0, 0 = none yet
        self.floor = 0  # windows that begin earlier may have been forgotten and never open again
        self.last_number = 0
        self.posted = self.held = 0
        self.closed = False
        self.take(definition)

    @property
    def subject(self) -> str:
        """Whose it is, as "kind/name"."""
        return f"{self.definition.subject_kind}/{self.definition.subject}"

    # ---- definition

    def take(self, definition: DefineRecord) -> None:
        """Apply a definition: flags, limit and thresholds."""
        self.definition = definition
        self.limit = int(definition.limit)
        self.hard = definition.hard
        self.enforced = definition.mode == "enforce"
        self.tracked = definition.mode != "off" and not definition.deleted
        self.marks = tuple(sorted((-(-self.limit * percent // 100), percent) for percent in definition.thresholds))
        self._refresh()

    def redefine(self, definition: DefineRecord) -> None:
        """A raised limit reopens; another window retires the rows, which count on where they overlap the new one."""
        if int(definition.limit) > self.limit:
            self.closed = False
            for row in self.rows.values():
                row.closed = False
        if definition.window != self.definition.window:
            for row in self.rows.values():
                if not row.retired and row.start < definition.t < row.end:
                    row.end = definition.t
                row.retired = True
            self.start = self.end = self.floor = 0
        self.take(definition)

    # ---- windows

    def window_due(self, now: int) -> WindowRecord | None:
        """The record that makes the window of `now` current, or None: the current one serves (also a clock that
        was set back to before what is still known).
        """
        window = self.definition.window
        span = span_of(window, now)
        if span.start_ns < self.floor and window.kind == "calendar":
            return None
        number = self.last_number + 1
        for row in self.rows.values():
            if row.start == span.start_ns and row.end == span.end_ns and not row.retired:
                number = row.number
        return WindowRecord(now, self.definition.id, self.definition.version, number, span.start_ns, span.end_ns)

    def open_window(self, record: WindowRecord) -> None:
        row = self.rows.get(record.number)
        if row is None:
            row = self.rows[record.number] = Row(record.number, record.start, record.end)
            self.last_number = max(self.last_number, record.number)
        self.row = row
        self.start, self.end = row.start, row.end
        self._forget(record.t)
        for other in self.rows.values():
            other.counted = self.counts(other, record.t)
        self.add_up()

    def counts(self, row: Row, now: int) -> bool:
        """Does a row count against the window that is current at `now`?"""
        window = self.definition.window
        if window.kind == "calendar":
            return row.start < self.end and row.end > self.start
        return counts_until(window, row.end) > now or window.kind == "lifetime"

    def _forget(self, now: int) -> None:
        """Drop rows that can count no more. Open holds keep their row; it just stands in no total."""
        window = self.definition.window
        if window.kind == "lifetime":
            return
        kept = KEPT_NS if window.kind == "calendar" else 2 * window.seconds * NS_PER_S
        for row in [row for row in self.rows.values() if row.end + kept <= now and row is not self.row]:
            row.counted = False
            self.floor = max(self.floor, row.end)
            del self.rows[row.number]

    def add_up(self) -> None:
        counted = [row for row in self.rows.values() if row.counted]
        self.posted = sum(row.posted for row in counted)
        self.held = sum(row.held for row in counted)
        self.closed = any(row.closed for row in counted)
        self._refresh()

    def _refresh(self) -> None:
        number = self.row.number if self.row is not None else 0
        self.leg: Leg = (self.definition.id, self.definition.version, number, self.hard)
        ahead = [mark for mark, _ in self.marks if mark > self.posted]
        self.next_mark: int | None = ahead[0] if ahead else None

    def crossed(self) -> int:
        """Percent of the highest threshold reached since it was last asked; moves on to the next one."""
        reached = [percent for mark, percent in self.marks if mark <= self.posted]
        ahead = [mark for mark, _ in self.marks if mark > self.posted]
        self.next_mark = ahead[0] if ahead else None
        return reached[-1]

    # ---- what it says

    def refusal(self, amount: int) -> tuple[int, str] | None:
        """(severity, word) if `amount` does not fit, else None. Zero always fits: a free model needs no money."""
        if not amount or (not self.closed and self.posted + self.held + amount <= self.limit):
            return None
        severity = 2 if amount > self.limit else 1 if self.closed or self.posted + amount > self.limit else 0
        return severity, _SEVERITY[severity]

    def explain(self, word: str, amount: int) -> Refusal:
        """The refusal with its numbers (pico-USD as decimal strings) and, if there is one, the window's end."""
        name = self.definition.name or self.definition.id
        facts = self._facts(name, amount)
        counter = "budgets", self.subject
        asked = f"this call can cost {pico_to_usd(amount)} USD"
        if word == "can_never_fit":
            message = f"{asked}, more than the whole budget {name!r} of {pico_to_usd(self.limit)} USD"
            return Refusal(
                word, message, "Lower max_tokens, or ask the owner for a higher limit.", None, facts, counter
            )
        if word == "held_by_requests_in_flight":
            left = pico_to_usd(max(0, self.limit - self.posted - self.held))
            message = f"budget {name!r} has {left} USD left beside what calls in flight hold; {asked}"
            return Refusal(word, message, "Retry when calls in flight have ended.", 1.0, facts, counter)
        left = pico_to_usd(max(0, self.limit - self.posted))
        state = "is closed by an overage" if self.closed else f"has {left} USD left"
        ends = self.frees_at(amount)
        hint = "Ask the owner for a higher limit."
        if ends is not None:
            facts["window_ends"] = f"{datetime.fromtimestamp(ends // NS_PER_S, UTC):%Y-%m-%dT%H:%M:%SZ}"
            hint = f"Wait until {facts['window_ends']}, or ask the owner for a higher limit."
        return Refusal(word, f"budget {name!r} {state}; {asked}", hint, None, facts, counter)

    def _facts(self, name: str, amount: int) -> dict[str, str | int]:
        return {
            "budget": self.definition.id,
            "budget_name": name,
            "hard": "yes" if self.hard else "no",
            "limit_pico": str(self.limit),
            "posted_pico": str(self.posted),
            "held_pico": str(self.held),
            "asked_pico": str(amount),
        }

    def frees_at(self, amount: int) -> int | None:
        """When the passing of time alone makes room for `amount`, ns; None = never."""
        window = self.definition.window
        if window.kind == "lifetime":
            return None
        if window.kind == "calendar":
            return self.end
        rows = sorted((row for row in self.rows.values() if row.counted), key=lambda row: row.end)
        left = self.posted
        for gone, row in enumerate(rows, 1):
            left -= row.posted
            if left + amount <= self.limit and not any(later.closed for later in rows[gone:]):
                return counts_until(window, row.end)
        return None

    def balance(self, now: int) -> Balance:
        """The numbers as of `now`, also if no hold has moved the window on yet."""
        rows = list(self.rows.values())
        start, end = self.start, self.end
        if not start <= now < end and (due := self.window_due(now)) is not None:
            start, end = due.start, due.end
            kind = self.definition.window.kind
            rows = [r for r in rows if (r.start < end and r.end > start if kind == "calendar" else self.counts(r, now))]
        else:
            rows = [row for row in rows if row.counted]
        posted = sum(row.posted for row in rows)
        return Balance(
            budget_id=self.definition.id,
            name=self.definition.name,
            hard=self.hard,
            window_start_ns=start,
            window_end_ns=end,
            limit_pico=self.limit,
            posted_pico=posted,
            held_pico=sum(row.held for row in rows),
            overage_pico=sum(row.overage for row in rows),
            closed=any(row.closed for row in rows) or posted > self.limit,
        )

    def stand(self) -> BudgetStand:
        """As of the window that is open."""
        known = self.definition
        return BudgetStand(
            budget_id=known.id,
            subject=self.subject,
            mode=known.mode,
            hard=self.hard,
            limit_pico=self.limit,
            used_pico=self.posted + self.held,
            held_pico=self.held,
            closed=self.closed,
            ends_ns=None if known.window.kind == "lifetime" else self.end,
        )

    # ---- images

    def image(self) -> BudgetImage:
        current = self.row.number if self.row is not None and self.end else 0
        rows = tuple(row.image() for row in self.rows.values())
        return BudgetImage(self.definition, self.floor, self.last_number, current, rows)

    @classmethod
    def restore(cls, image: BudgetImage) -> "Budget":
        budget = cls(image.definition)
        budget.floor, budget.last_number = image.floor, image.last_number
        for it in image.rows:
            row = budget.rows[it.number] = Row(it.number, it.start, it.end)
            row.posted, row.held, row.overage = int(it.posted), int(it.held), int(it.overage)
            row.closed, row.retired, row.counted = it.closed, it.retired, it.counted
        budget.row = budget.rows.get(image.current)
        if budget.row is not None:
            budget.start, budget.end = budget.row.start, budget.row.end
        budget.add_up()
        return budget

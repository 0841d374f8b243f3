"""`bursar ledger verify` where the ledger lies in PostgreSQL: an independent reader of its rows.

It shares no code with what wrote them: the rows are read in their order, by a cursor, in one snapshot, and replayed by
the rules of `verify_ledger_replay`. Proven is what `verify_ledger` proves, and that the balances, windows and open
holds the store works with are what the rows add up to. A hold's id begins with the life of the node that made it, and
rises within that life; one that was given up while it may still have been on its way is voided, and cannot come after.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from bursar.control.verify_ledger_replay import BudgetTotal, Counts, Replay, SpendTotal, Wrong

_SESSION_BITS = 39
_TELL_EVERY = 20_000  # rows
_OPEN_SHOWN = 1000

_ROWS = """SELECT l.seq, l.t_ns, l.kind, l.hold_id, l.amount, l.held, l.expected, l.overage, l.exact, l.word, l.legs,
    l.asked, l.body, a.names ->> 'team_id' AS team, a.names ->> 'model' AS model
    FROM {schema}.ledger l LEFT JOIN {schema}.ledger_label a ON a.id = l.label AND l.kind = 4 ORDER BY l.seq"""
_NAMES = "SELECT budget, id FROM {schema}.ledger_definition"
_BUDGETS = """SELECT d.id, d.body, g.version, g."limit"::text AS most, g.floor, g.last_number, g.number, g.start_ns,
    g.end_ns, g.posted::text, g.held::text, g.overage::text, g.closed, g.other_posted::text, g.other_held::text,
    g.other_closed, g.no FROM {schema}.ledger_budget g JOIN {schema}.ledger_definition d ON d.budget = g.no"""
_WINDOWS = """SELECT budget, number, start_ns, end_ns, posted::text, held::text, overage::text, closed, retired, counted
    FROM {schema}.ledger_window"""
_OPEN = "SELECT id, ceiling FROM {schema}.ledger_hold"


class RowProblem(msgspec.Struct, frozen=True):
    """Where the proof ends. `seq` 0 = in what the store keeps beside the ledger."""

    seq: int
    why: str


class RowsReport(msgspec.Struct):
    """What was proven."""

    rows: int = 0
    last_seq: int = 0
    counts: Counts = msgspec.field(default_factory=Counts)
    given_up: int = 0  # holds whose commit was in doubt and that never came
    open_ids: list[int] = []  # at most 1000
    open_holds: int = 0
    budgets: list[BudgetTotal] = []
    spend: list[SpendTotal] = []
    problem: RowProblem | None = None

    @property
    def ok(self) -> bool:
        return self.problem is None


async def verify_rows(db: Any, schema: str = "bursar", progress: Callable[[int], None] | None = None) -> RowsReport:
    """`db` is a connection of asyncpg that nobody else uses. Raises what it raises."""
    report, replay = RowsReport(), _RowsReplay()
    async with db.transaction(isolation="repeatable_read", readonly=True):
        names = {row["budget"]: row["id"] for row in await db.fetch(_NAMES.format(schema=schema))}
        async for row in db.cursor(_ROWS.format(schema=schema), prefetch=1000):
            report.rows += 1
            if row["seq"] <= report.last_seq:
                report.problem = RowProblem(row["seq"], "two rows have this place in the order")
                break
            report.last_seq = row["seq"]
            report.problem = _take(replay, row, names)
            if report.problem is not None:
                break
            if progress is not None and report.rows % _TELL_EVERY == 0:
                progress(report.rows)
        if report.problem is None:
            why = await _compare(db, schema, replay)
            report.problem = RowProblem(0, why) if why else None
    report.counts, report.given_up = replay.counts, replay.given_up
    report.open_holds, report.open_ids = len(replay.open), sorted(replay.open)[:_OPEN_SHOWN]
    report.budgets = replay.budget_totals()
    report.spend = [spend for _, spend in sorted(replay.spend.items())]
    return report


def _take(replay: "_RowsReplay", row: Any, names: dict[int, str]) -> RowProblem | None:
    try:
        values = _values(row, names)
        replay.handlers[values[0]](values)
    except Wrong as wrong:
        return RowProblem(row["seq"], str(wrong))
    except (msgspec.MsgspecError, KeyError, IndexError, TypeError, ValueError) as error:
        return RowProblem(row["seq"], f"the row makes no sense: {error!r}")
    return None


class _RowsReplay(Replay):
    """Ids rise within each life of a node."""

    def __init__(self) -> None:
        super().__init__()
        self.given_up = 0
        self._next: dict[int, int] = {}

    def was_made(self, hold_id: int) -> bool:
        return hold_id < self._next.get(hold_id >> _SESSION_BITS, 0)

    def make(self, hold_id: int) -> None:
        if self.was_made(hold_id):
            raise Wrong(f"hold id {hold_id} was used before, or given up")
        self._next[hold_id >> _SESSION_BITS] = hold_id + 1

    def void(self, values: list[Any]) -> None:
        """Also of a hold that was never made, and from then on never can be."""
        hold_id, released = values[2], values[3]
        if hold_id in self.open or self.was_made(hold_id) or released != (0, 0):
            super().void(values)
            return
        self.make(hold_id)
        self.given_up += 1


def _values(row: Any, names: dict[int, str]) -> list[Any]:
    """A row as the journal would have written it."""
    kind, t, hold_id = row["kind"], row["t_ns"], row["hold_id"]
    if kind in (2, 3):
        body: list[Any] = msgspec.json.decode(row["body"])
        if body[:2] != [kind, t]:
            raise Wrong("the record is of another kind or time than its row")
        return body
    if kind == 4:
        legs = _legs(row["legs"], names)
        asked = [leg[0] for leg in legs] if row["asked"] is None else [names[no] for no in row["asked"]]
        request = [None, None, None, row["team"], None, None, None, row["model"], *[None] * 4]
        return [4, t, hold_id, legs, [*request, row["amount"], row["expected"], None, None, asked]]
    if kind == 5:
        return [5, t, hold_id, row["amount"], row["held"]]
    if kind == 6:
        cost, held, expected, overage = row["amount"], row["held"], row["expected"], row["overage"]
        hard = (held, cost - overage, held - cost + overage, overage)
        return [6, t, hold_id, cost, hard, (expected, cost, expected - cost), row["exact"], row["word"], None]
    if kind == 7:
        return [7, t, hold_id, (row["held"], row["expected"]), row["word"]]
    if kind == 8:
        return [8, t, hold_id, (row["amount"], -row["amount"]), row["word"], _legs(row["legs"], names)]
    raise Wrong("a row of no known kind")


def _legs(numbers: list[int], names: dict[int, str]) -> list[tuple[str, int, int, bool]]:
    if len(numbers) % 4:
        raise Wrong("a leg is cut off")
    return [(names[numbers[i]], numbers[i + 1], numbers[i + 2], numbers[i + 3] == 1) for i in range(0, len(numbers), 4)]


async def _compare(db: Any, schema: str, replay: Replay) -> str:
    """Is what the store works with what the rows add up to? "" = yes."""
    windows: dict[int, list[list[Any]]] = {}
    for row in await db.fetch(_WINDOWS.format(schema=schema)):
        windows.setdefault(row["budget"], []).append(_row_image(row))
    stored = set()
    for row in await db.fetch(_BUDGETS.format(schema=schema)):
        stored.add(row["id"])
        if why := _compare_budget(row, windows.pop(row["no"], []), replay.budgets.get(row["id"])):
            return why
    if windows or stored != replay.budgets.keys():
        return "there are budgets in the ledger that the store has lost, or the other way about"
    opened = {row["id"]: row["ceiling"] for row in await db.fetch(_OPEN.format(schema=schema))}
    if opened != {hold_id: hold[0] for hold_id, hold in replay.open.items()}:
        return "the open holds are not those of the ledger"
    return ""


def _compare_budget(row: Any, windows: list[list[Any]], budget: Any) -> str:
    name = row["id"]
    if budget is None:
        return f"budget {name!r} has no definition in the ledger"
    theirs, mine = _image(row, windows), budget.image()
    mine[4] = sorted(mine[4])
    if mine != theirs:
        return f"the balances of budget {name!r} are not what the ledger adds up to: {theirs} for {mine}"
    sums = int(row["posted"]) + int(row["other_posted"]), int(row["held"]) + int(row["other_held"])
    if sums != (budget.posted, budget.held) or (row["closed"] or row["other_closed"]) != budget.closed:
        return f"the totals of budget {name!r} are not those of its windows"
    if (row["version"], int(row["most"])) != (budget.version, budget.limit):
        return f"budget {name!r} works with another limit than its definition's"
    return ""


def _image(row: Any, windows: list[list[Any]]) -> list[Any]:
    rows = windows
    if row["number"]:
        sums = [_text(int(row[name])) for name in ("posted", "held", "overage")]
        rows = [*windows, [row["number"], row["start_ns"], row["end_ns"], *sums, row["closed"], False, True]]
    return [msgspec.json.decode(row["body"]), row["floor"], row["last_number"], row["number"], sorted(rows)]


def _row_image(row: Any) -> list[Any]:
    sums = [_text(int(row[name])) for name in ("posted", "held", "overage")]
    flags = [row["closed"], row["retired"], row["counted"]]
    return [row["number"], row["start_ns"], row["end_ns"], *sums, *flags]


def _text(amount: int) -> int | str:
    return amount if abs(amount) < 2**63 else str(amount)

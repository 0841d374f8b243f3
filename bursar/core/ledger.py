"""The ledger: holds and budgets as a state machine. Pure and synchronous; the reference for every money store.

    HELD -> POSTED | VOIDED, once.      For a hard budget, posted + held <= limit at every hold.

Deciding and applying are apart: `decide_hold`, `post`, `void`, ... look and return the record that would do it;
`apply` alone changes anything, and replaying the records rebuilds the same state. A hold stays in the window that
admitted it, also when it ends in a later one.
"""

from collections.abc import Callable, Iterable

from bursar.core.directory import BudgetDef
from bursar.core.errors import Refusal
from bursar.core.ledger_asked import Asked, Tied, nonsense
from bursar.core.ledger_budget import Budget, Row, forgotten_at
from bursar.core.ledger_records import (
    MAX_AMOUNT,
    Balance,
    BudgetStand,
    CorrectRecord,
    DefineRecord,
    EventKind,
    Held,
    HoldRecord,
    HoldRequest,
    LedgerEvent,
    PostRecord,
    Record,
    Settlement,
    ShrinkRecord,
    SnapshotRecord,
    VoidRecord,
    WindowRecord,
    counts_of,
    define_record,
)
from bursar.core.windows import span_of

__all__ = ["Balance", "Held", "HoldRequest", "Ledger", "LedgerEvent", "OpenHold", "Settlement"]


class OpenHold:
    """A hold that has not ended: what it was made of, its present ceiling, and the windows it stands in."""

    __slots__ = ("ceiling", "legs", "record")

    def __init__(self, record: HoldRecord, ceiling: int, legs: Tied) -> None:
        self.record = record
        self.ceiling = ceiling
        self.legs = legs


class Ledger:
    """All budgets and open holds. `events` collects what owners are told; `ignored` counts what came too late."""

    def __init__(self) -> None:
        self.budgets = {}
        self.open: dict[int, OpenHold] = {}
        self.next_id = 1
        self.events: list[LedgerEvent] = []
        self.ignored: dict[str, int] = {}
        self._appliers: dict[type, Callable[..., None]] = {
            DefineRecord: self._define,
            WindowRecord: self._window,
            HoldRecord: self.apply_hold,
            ShrinkRecord: self._shrink,
            PostRecord: self.apply_post,
            VoidRecord: self._void,
            CorrectRecord: self._correct,
            SnapshotRecord: self._restore,
        }

    @property
    def budgets(self) -> dict[str, Budget]:
        """By id."""
        return self._budgets

    @budgets.setter
    def budgets(self, budgets: dict[str, Budget]) -> None:
        self._budgets = budgets
        self._asked = Asked(budgets)

    # ---- decisions: look, change nothing

    def define(self, definition: BudgetDef, now: int) -> DefineRecord | None:
        """The record of a new or changed definition. Raises ValueError for one that means nothing."""
        if definition.limit_pico < 0:
            raise ValueError(f"budget {definition.id!r} has a negative limit")
        span_of(definition.window, now)
        record = define_record(definition, now)
        known = self.budgets.get(definition.id)
        if known is not None and define_record(definition, known.definition.t) == known.definition:
            return None
        return record

    def are_open(self, budgets: tuple[str, ...], now: int) -> bool:
        """Whether it is known without another look that nothing is due of these."""
        known = self._asked.sets.get(budgets)
        return known is not None and known.start <= now < known.end

    def due(self, budgets: Iterable[str], now: int) -> list[WindowRecord]:
        """The windows that must be opened before a hold on these budgets is decided; mostly none."""
        records = []
        for budget_id in budgets:
            budget = self.budgets.get(budget_id)
            if budget is not None and not budget.start <= now < budget.end and budget.tracked:
                record = budget.window_due(now)
                if record is not None:
                    records.append(record)
        return records

    def try_hold(self, request: HoldRequest, now: int) -> None:
        """Raises the Refusal that a hold would. Windows that are due are opened, as for a hold, on copies."""
        trial, due = self, self.due(request.budgets, now)
        if due:
            trial = Ledger()
            known = (self.budgets.get(budget_id) for budget_id in request.budgets)
            trial.budgets |= {it.definition.id: Budget.restore(it.image()) for it in known if it is not None}
            for record in due:
                trial.apply(record)
        trial.decide_hold(request, now)

    def decide_hold(self, request: HoldRequest, now: int) -> tuple[HoldRecord, tuple[str, ...]]:
        """All budgets or none: the record, and the shadow budgets that would have refused. Raises Refusal."""
        ceiling, expected = request.ceiling_pico, request.expected_pico
        if not (0 <= ceiling <= MAX_AMOUNT and 0 <= expected <= MAX_AMOUNT):
            raise nonsense(request)
        asked = self._asked.find(request)
        shadow: tuple[str, ...] = ()
        for budget in asked.budgets:
            amount = ceiling if budget.hard else expected
            if amount and (budget.closed or budget.posted + budget.held + amount > budget.limit):
                if budget.enforced:
                    raise self.refusal(request)
                shadow += (budget.definition.id,)
        return HoldRecord(now, self.next_id, asked.legs, request), shadow

    def refusal(self, request: HoldRequest) -> Refusal:
        """The refusal of the budget that binds: the one that is hardest to get past."""
        binding: tuple[int, str] | None = None
        refuser: Budget | None = None
        for budget_id in request.budgets:
            budget = self.budgets.get(budget_id)
            if budget is None or not (budget.tracked and budget.enforced):
                continue
            verdict = budget.refusal(request.ceiling_pico if budget.hard else request.expected_pico)
            if verdict is not None and (binding is None or verdict > binding):
                binding, refuser = verdict, budget
        assert binding is not None
        assert refuser is not None
        return refuser.explain(binding[1], request.ceiling_pico if refuser.hard else request.expected_pico)

    def shrink(self, hold_id: int, ceiling: int, now: int) -> ShrinkRecord | None:
        """Lower a hold's ceiling; None if that would raise it or it has ended."""
        hold = self.open.get(hold_id)
        if hold is None:
            self._ignore("shrink")
            return None
        if not 0 <= ceiling < hold.ceiling:
            return None
        return ShrinkRecord(now, hold_id, ceiling, hold.ceiling - ceiling)

    def post(self, hold_id: int, settlement: Settlement, now: int) -> PostRecord | None:
        """End a hold in its cost; None if it has ended already. Raises ValueError for a negative cost.

        A cost beyond `MAX_AMOUNT` is a fault of usage or price: it is booked at that maximum, inexact.
        """
        hold = self.open.get(hold_id)
        if hold is None:
            self._ignore("post")
            return None
        cost, exact, usage = settlement.cost_pico, settlement.exact, settlement.usage
        if cost < 0:
            raise ValueError(f"hold {hold_id} cannot cost {cost} pico-USD")
        if cost > MAX_AMOUNT:
            cost, exact = MAX_AMOUNT, False
        held, expected = hold.ceiling, hold.record.request.expected_pico
        hard = (held, cost, held - cost, 0) if cost <= held else (held, held, 0, cost - held)
        row = None if usage is None else counts_of(usage)
        return PostRecord(now, hold_id, cost, hard, (expected, cost, expected - cost), exact, settlement.outcome, row)

    def void(self, hold_id: int, reason: str, now: int) -> VoidRecord | None:
        """End a hold of which nothing was sent; None if it has ended already."""
        hold = self.open.get(hold_id)
        if hold is None:
            self._ignore("void")
            return None
        return VoidRecord(now, hold_id, (hold.ceiling, hold.record.request.expected_pico), reason)

    def _ignore(self, what: str) -> None:
        self.ignored[what] = self.ignored.get(what, 0) + 1

    def unreconciled(self, now: int) -> list[PostRecord]:
        """After a restart: every open hold counts as dispatched and costs its ceiling until more is learned."""
        records = []
        for hold_id, hold in self.open.items():
            record = self.post(hold_id, Settlement(hold.ceiling, None, False, "unreconciled"), now)
            assert record is not None
            records.append(record)
        return records

    # ---- what it says

    def room(self, budgets: Iterable[str]) -> int | None:
        """Pico-USD left in the tightest hard budget that is enforced, never below zero; None = there is none."""
        left = None
        for budget_id in budgets:
            budget = self.budgets.get(budget_id)
            if budget is not None and budget.hard and budget.enforced and budget.tracked:
                room = 0 if budget.closed else max(0, budget.limit - budget.posted - budget.held)
                left = room if left is None else min(left, room)
        return left

    def stands(self, budgets: Iterable[str]) -> list[BudgetStand]:
        """Of those that are counted, as of the windows that are open."""
        known = (self.budgets.get(budget_id) for budget_id in budgets)
        return [budget.stand() for budget in known if budget is not None and budget.tracked]

    def balances(self, now: int) -> list[Balance]:
        """Of every budget in use, as of `now`."""
        return [budget.balance(now) for budget in self.budgets.values() if budget.tracked and not _is_over(budget, now)]

    def snapshot(self, now: int) -> SnapshotRecord:
        """The whole state as one record. Budgets of tokens that have long expired are left out of both."""
        self._forget_tokens(now)
        images = tuple(budget.image() for budget in self.budgets.values())
        return SnapshotRecord(now, self.next_id, images, tuple((h.ceiling, h.record) for h in self.open.values()))

    def keep_only(self, record: SnapshotRecord) -> None:
        """For a replica that knows the state already: forget what the snapshot does not tell any more."""
        told = {image.definition.id for image in record.budgets}
        for budget_id in [known for known in self.budgets if known not in told]:
            del self.budgets[budget_id]
        self._asked.forget()

    def _forget_tokens(self, now: int) -> None:
        over = [name for name in self.budgets if (end := forgotten_at(name)) is not None and end <= now]
        if over:
            held = {leg[0] for hold in self.open.values() for leg in hold.record.legs}
            for name in over:
                if name not in held:
                    del self.budgets[name]
            self._asked.forget()

    # ---- application: the only place where money moves

    def apply(self, record: Record) -> None:
        self._appliers[type(record)](record)

    def _restore(self, record: SnapshotRecord) -> None:
        """State from a snapshot. The rows already contain the open holds: only their legs are tied on."""
        self.budgets = {image.definition.id: Budget.restore(image) for image in record.budgets}
        self.open = {}
        for ceiling, hold in record.holds:
            self.open[hold.id] = OpenHold(hold, ceiling, self._asked.tie(hold.legs))
        self.next_id = record.next_id

    def _define(self, record: DefineRecord) -> None:
        budget = self.budgets.get(record.id)
        if budget is None:
            self.budgets[record.id] = Budget(record)
        else:
            budget.redefine(record)
        self._asked.forget()

    def _window(self, record: WindowRecord) -> None:
        self.budgets[record.budget].open_window(record)
        self._asked.forget()

    def apply_hold(self, record: HoldRecord) -> None:
        request = record.request
        ceiling, expected = request.ceiling_pico, request.expected_pico
        legs = self._asked.rows.get(record.legs) or self._asked.tie(record.legs)
        for budget, row, hard in legs:
            amount = ceiling if hard else expected
            row.held += amount
            if row.counted:
                budget.held += amount
        self.open[record.id] = OpenHold(record, ceiling, legs)
        self.next_id = record.id + 1

    def _shrink(self, record: ShrinkRecord) -> None:
        hold = self.open[record.id]
        hold.ceiling = record.ceiling
        for budget, row, hard in hold.legs:
            if hard:
                row.held -= record.released
                if row.counted:
                    budget.held -= record.released

    def apply_post(self, record: PostRecord) -> None:
        hold = self.open.pop(record.id)
        cost, overage = record.cost, record.hard[3]
        held_hard, held_soft = record.hard[0], record.soft[0]
        for budget, row, hard in hold.legs:
            held = held_hard if hard else held_soft
            row.held -= held
            row.posted += cost
            if row.counted:
                budget.held -= held
                budget.posted += cost
                if budget.next_mark is not None and budget.posted >= budget.next_mark:
                    self._tell_threshold(budget, record.t)
            if overage and hard:
                self._overage(budget, row, hold.record, record)
        if record.outcome == "unreconciled":
            self._tell("unreconciled", record.t, f"hold/{record.id}", None, hold.record, amount_pico=cost)

    def _void(self, record: VoidRecord) -> None:
        hold = self.open.pop(record.id)
        for budget, row, hard in hold.legs:
            held = record.released[0] if hard else record.released[1]
            row.held -= held
            if row.counted:
                budget.held -= held

    def _correct(self, record: CorrectRecord) -> None:
        """A window that is forgotten takes no correction: it can admit nothing any more."""
        delta = record.pair[0]
        for budget_id, _, number, hard in record.legs:
            budget = self.budgets.get(budget_id)
            row = None if budget is None else budget.rows.get(number)
            if budget is None or row is None:
                continue
            row.posted += delta
            if row.counted:
                budget.posted += delta
            if hard and delta > 0 and budget.posted + budget.held > budget.limit:
                row.closed = True
                budget.closed = budget.closed or row.counted
                self._tell("adjusted", record.t, f"{record.id}/{record.t}/{budget_id}", budget, None, amount_pico=delta)

    def _overage(self, budget: Budget, row: Row, hold: HoldRecord, post: PostRecord) -> None:
        """Booked in full, counts at once, closes the budget, and its owner is told."""
        row.overage += post.hard[3]
        if row.counted and not budget.closed:
            budget.closed = True
            self._tell_closed(budget, row, post.t, hold)
        row.closed = True
        self._tell("overage", post.t, f"{hold.id}/{budget.definition.id}", budget, hold, amount_pico=post.hard[3])

    # ---- events

    def tell_closed(self, t: int) -> None:
        """Say again which budgets an overage has closed: who should have heard may have died with the process."""
        for budget in self.budgets.values():
            for row in budget.rows.values():
                if row.counted and row.closed:
                    self._tell_closed(budget, row, t, None)

    def _tell_closed(self, budget: Budget, row: Row, t: int, hold: HoldRecord | None) -> None:
        self._tell("closed", t, f"{budget.definition.id}/{row.number}/{row.start}", budget, hold)

    def _tell_threshold(self, budget: Budget, t: int) -> None:
        percent = budget.crossed()
        dedupe = f"{budget.definition.id}/{budget.leg[2]}/{budget.limit}/{percent}"
        self._tell("threshold", t, dedupe, budget, None, percent=percent)

    def _tell(
        self, kind: EventKind, t: int, dedupe: str, budget: Budget | None, hold: HoldRecord | None, **numbers: int
    ) -> None:
        values: dict[str, str | int] = dict(numbers)
        if budget is not None:
            known = budget.definition
            values |= {"budget_id": known.id, "budget_name": known.name, "subject": known.subject}
            values |= {"subject_kind": known.subject_kind, "limit_pico": budget.limit}
            values |= {"posted_pico": budget.posted, "held_pico": budget.held}
        if hold is not None:
            request = hold.request
            values |= {"hold_id": hold.id, "request_id": request.request_id, "key_id": request.key_id}
            values |= {"team_id": request.team_id, "owner_id": request.owner_id}
        self.events.append(LedgerEvent(kind=kind, t_ns=t, dedupe=f"{kind}/{dedupe}", **values))  # type: ignore[arg-type]


def _is_over(budget: Budget, now: int) -> bool:
    end = forgotten_at(budget.definition.id)
    return end is not None and end <= now

"""The budgets that holds ask together, looked up once for as long as none of them is defined anew or opens a window.

Calls of one key ask the same ones again and again. What is remembered are places, never amounts: those are looked at
for each hold.
"""

from collections.abc import Mapping

from bursar.core.errors import Refusal
from bursar.core.ledger_budget import Budget, Row, unknown_budget
from bursar.core.ledger_records import HoldRequest, Leg

Tied = tuple[tuple[Budget, Row, bool], ...]
"""The legs of a hold, tied to what they count on: budget, window, hard."""
_MOST = 4_096  # remembered; users and models come from callers


class Together:
    """Budgets that are asked together, in their order; the instants (ns) between which all their windows are open."""

    __slots__ = ("budgets", "end", "legs", "start")

    def __init__(self, budgets: tuple[Budget, ...]) -> None:
        self.budgets = budgets
        self.legs: tuple[Leg, ...] = tuple(budget.leg for budget in budgets)
        self.start = max((budget.start for budget in budgets), default=0)
        self.end = min((budget.end for budget in budgets), default=1 << 63)


class Asked:
    """`sets` by the ids that were asked for, `rows` by the legs of records: each but a memo of what `budgets` says."""

    __slots__ = ("_budgets", "rows", "sets")

    def __init__(self, budgets: Mapping[str, Budget]) -> None:
        self._budgets = budgets
        self.sets: dict[tuple[str, ...], Together] = {}
        self.rows: dict[tuple[Leg, ...], Tied] = {}

    def forget(self) -> None:
        """Some budget, or some window, is another now."""
        self.sets.clear()
        self.rows.clear()

    def find(self, request: HoldRequest) -> Together:
        """Those of them that are counted. Raises Refusal(store_unavailable), ValueError."""
        return self.sets.get(request.budgets) or self._look_up(request)

    def _look_up(self, request: HoldRequest) -> Together:
        asked = request.budgets
        if len(set(asked)) != len(asked):
            raise nonsense(request)
        found = []
        for budget_id in asked:
            budget = self._budgets.get(budget_id)
            if budget is None:
                raise unknown_budget(budget_id)
            if budget.tracked:
                found.append(budget)
        if len(self.sets) >= _MOST:
            self.sets.clear()
        made = self.sets[asked] = Together(tuple(found))
        return made

    def tie(self, legs: tuple[Leg, ...]) -> Tied:
        """A window that is forgotten is stood for by one that counts nowhere. Raises KeyError."""
        tied: list[tuple[Budget, Row, bool]] = []
        for budget_id, _, number, hard in legs:
            budget = self._budgets[budget_id]
            tied.append((budget, budget.rows.get(number) or Row(number, 0, 0), hard))
        found = tuple(tied)
        if all(row.end for _, row, _ in found):
            if len(self.rows) >= _MOST:
                self.rows.clear()
            self.rows[legs] = found
        return found


def nonsense(request: HoldRequest) -> Exception:
    """Why a request with such amounts or budgets cannot be decided."""
    if len(set(request.budgets)) != len(request.budgets):
        return ValueError("a budget is named twice")
    if request.ceiling_pico < 0 or request.expected_pico < 0:
        return ValueError("a hold cannot be negative")
    return Refusal("can_never_fit", "this call can cost more than any one call may", "Lower max_tokens.")

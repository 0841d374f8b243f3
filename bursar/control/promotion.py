"""From shadow to enforced, and back: of a key, a team or a budget, one change of the directory with one undo.

A team or key brings the budgets on itself along. Promoting touches only what is in shadow, demoting only what is stated
and enforced: what is off stays off. A control is named as in a policy's `modes`, or `budgets`; one limit or budget as
``limits/ID`` and ``budgets/ID``.
"""

from collections.abc import Collection, Sequence
from typing import Literal, cast

from msgspec.structs import replace

from bursar.control.budgets import living
from bursar.control.directory import Book, Change, Directory
from bursar.control.policies import check_narrows
from bursar.core.controls import CONTROLS, Control, mode_of, mode_of_limit, states
from bursar.core.directory import BudgetDef, LimitDef, Mode, Policy, Team, VirtualKey
from bursar.core.errors import Refusal
from bursar.core.strict import suggest

Way = Literal["promote", "demote"]
Subject = Literal["key", "team", "budget"]
_FROM: dict[Way, Mode] = {"promote": "shadow", "demote": "enforce"}
_TO: dict[Way, Mode] = {"promote": "enforce", "demote": "shadow"}
BUDGETS = "budgets"


class Promotions:
    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    async def move(
        self, actor: str, way: Way, kind: Subject, subject: str, controls: Collection[str] = ()
    ) -> list[str]:
        """Move these controls, or all that can be -> what was moved. Nothing to move is no failure, and no change.

        Raises Refusal(unknown_id | invalid_input | policy_widens).
        """
        wanted = frozenset(controls)
        done: list[str] = []

        def decide(book: Book) -> Change:
            put: list[VirtualKey | Team | BudgetDef] = []
            limits: Sequence[LimitDef] = ()
            done.clear()
            if kind == "budget":
                budgets = [living(book, subject)]
            else:
                holder = book.get(VirtualKey, subject) if kind == "key" else book.get(Team, subject)
                budgets, limits = _budgets_on(book, kind, subject), holder.policy.limits
                policy = moved(holder.policy, way, wanted)
                if isinstance(holder, VirtualKey):
                    check_narrows(holder.team_id, book.get(Team, holder.team_id).policy, policy)
                put.append(replace(holder, policy=policy))
                done.extend(differing(holder.policy, policy))
            _check_names(wanted, limits, budgets)
            chosen = [budget for budget in budgets if _is_wanted(wanted, BUDGETS, budget.id)]
            put += [_moved_budget(budget, way) for budget in chosen]
            done.extend(f"{BUDGETS}/{budget.id}" for budget in chosen if budget.mode == _FROM[way])
            facts: dict[str, str | int] = {"moved": " ".join(done)}
            if kind == "budget":
                facts["subject"] = f"{budgets[0].subject_kind}/{budgets[0].subject}"
            return Change(action=f"{kind}.{way}", target=f"{kind}/{subject}", put=put, facts=facts)

        await self._directory.change(actor, decide)
        return done


def differing(before: Policy, after: Policy) -> list[str]:
    """The controls, and the limits, that are in another mode."""
    names = [name for name in CONTROLS if mode_of(before, cast(Control, name)) != mode_of(after, cast(Control, name))]
    pairs = zip(before.limits, after.limits, strict=True)
    return names + [f"limits/{a.id}" for a, b in pairs if mode_of_limit(before, a) != mode_of_limit(after, b)]


def moved(policy: Policy, way: Way, wanted: Collection[str] = ()) -> Policy:
    """The policy with these controls, or all, one step further or back."""
    modes = dict(policy.modes)
    for name in CONTROLS:
        control = cast(Control, name)
        movable = way == "promote" or states(policy, control) or control in wanted
        if (not wanted or control in wanted) and movable and mode_of(policy, control) == _FROM[way]:
            if way == "promote":
                modes.pop(control, None)
            else:
                modes[control] = _TO[way]
    after = replace(policy, modes=modes)
    return replace(after, limits=tuple(_moved_limit(policy, after, limit, way, wanted) for limit in policy.limits))


def _moved_limit(before: Policy, after: Policy, limit: LimitDef, way: Way, wanted: Collection[str]) -> LimitDef:
    """A limit says its mode itself only where its policy's limits are in another."""
    mode = mode_of_limit(before, limit)
    if _is_wanted(wanted, "limits", limit.id) and mode == _FROM[way]:
        mode = _TO[way]
    return replace(limit, mode=None if mode == mode_of(after, "limits") else mode)


def _moved_budget(budget: BudgetDef, way: Way) -> BudgetDef:
    if budget.mode != _FROM[way]:
        return budget
    return replace(budget, mode=_TO[way], version=budget.version + 1)


def _is_wanted(wanted: Collection[str], control: str, one: str) -> bool:
    return not wanted or control in wanted or f"{control}/{one}" in wanted


def _budgets_on(book: Book, kind: Subject, subject: str) -> list[BudgetDef]:
    found = [it for it in book.all(BudgetDef) if (it.subject_kind, it.subject) == (kind, subject)]
    return [budget for budget in found if not budget.deleted]


def _check_names(wanted: Collection[str], limits: Sequence[LimitDef], budgets: Sequence[BudgetDef]) -> None:
    """Raises Refusal(invalid_input)."""
    one = [f"limits/{limit.id}" for limit in limits] + [f"{BUDGETS}/{budget.id}" for budget in budgets]
    known = [*CONTROLS, BUDGETS, *one]
    for name in sorted(wanted):
        if name not in known:
            hint = suggest(name, known) or f"Controls are: {', '.join([*CONTROLS, BUDGETS])}"
            raise Refusal("invalid_input", f"{name[:64]!r} names no control here", hint, facts={"field": "controls"})

"""What leads back to an earlier version of the directory, as a plan. Pure.

Two things do not go back, because going back would open a door that somebody closed: what was switched off since stays
off, and a key that was given a new text keeps it. What was removed since returns, keys with the text they had.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from msgspec.structs import replace

from bursar.control.directory import Book
from bursar.control.hands_off import mark_id
from bursar.control.manifest_plan import Act, Plan, Step, is_gone
from bursar.control.manifest_shapes import SHAPES
from bursar.core.directory import BudgetDef, Edit, Entity, Kind, Managed, Team, TrustRule, VirtualKey


def rolled_back(book: Book, edits: Iterable[Edit]) -> Plan:
    """`edits`: everything that came after the version, newest first."""
    then: dict[tuple[Kind, str], Entity | None] = {}
    for edit in edits:
        then[edit.kind, edit.id] = edit.before  # the oldest has the last word
    left: Counter[str] = Counter(kind for kind, _ in then if kind not in SHAPES and kind != "managed")
    steps = []
    for (kind, name), entity in then.items():
        if kind in SHAPES:
            step = _step(book, kind, name, entity, then)
            if step is not None:
                steps.append(step)
    steps += _marks_alone(book, then, {mark_id(step.kind, step.id) for step in steps})
    order = list(SHAPES)
    steps.sort(key=lambda step: (order.index(step.kind), step.name))
    return Plan(version=book.version, steps=tuple(steps), unchanged=0, left=dict(left))


def _step(
    book: Book, kind: Kind, name: str, entity: Entity | None, then: dict[tuple[Kind, str], Entity | None]
) -> Step | None:
    before = book.at(kind, name)
    after = _as_it_was(before, entity)
    mark_before, mark = _marks(book, kind, name, then)
    if after == before and mark == mark_before:
        return None
    act: Act = "change"
    if is_gone(before):
        act = "create"
    elif is_gone(after):
        act = "remove"
    elif after == before:
        act = "mark"
    return Step(
        kind=kind,
        name=(mark_before or mark).name or name if (mark_before or mark) else name,  # type: ignore[union-attr]
        id=name,
        act=act,
        before=before,
        after=after,
        mark_before=mark_before,
        mark=None if is_gone(after) else mark,
    )


def _as_it_was(now: Entity | None, then: Entity | None) -> Entity | None:
    if isinstance(now, BudgetDef):  # a definition is never taken back, only followed; its id stays taken
        was = then if isinstance(then, BudgetDef) else replace(now, deleted=True)
        return now if replace(was, version=now.version) == now else replace(was, version=now.version + 1)
    if now is None or then is None:
        return then
    if isinstance(now, VirtualKey) and isinstance(then, VirtualKey):
        then = replace(then, secrets=now.secrets, observed=now.observed)
    if isinstance(now, VirtualKey | Team | TrustRule) and isinstance(then, VirtualKey | Team | TrustRule):
        return replace(then, disabled=then.disabled or now.disabled)
    return then


def _marks(
    book: Book, kind: Kind, name: str, then: dict[tuple[Kind, str], Entity | None]
) -> tuple[Managed | None, Managed | None]:
    own = mark_id(kind, name)
    before = book.find(Managed, own)
    after: Any = then.get(("managed", own), before)
    return before, after


def _marks_alone(book: Book, then: dict[tuple[Kind, str], Entity | None], done: set[str]) -> list[Step]:
    """Objects of which only the mark was set or taken since."""
    steps = []
    for place, entity in then.items():
        before = book.find(Managed, place[1]) if place[0] == "managed" else None
        kind, _, name = place[1].partition("/")
        if place[0] != "managed" or place[1] in done or entity == before or kind not in SHAPES:
            continue
        present = book.at(kind, name)
        if not is_gone(present):
            mark = entity if isinstance(entity, Managed) else None
            steps.append(
                Step(
                    kind=kind,
                    name=name,
                    id=name,
                    act="mark",
                    before=present,
                    after=present,
                    mark_before=before,
                    mark=mark,
                )
            )
    return steps

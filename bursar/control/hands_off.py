"""What git manages refuses other hands: one rule, asked at every change of the directory.

What a file does not say is not git's: a new secret of a key is none of its business. And switching off is never
refused: a leaked key is stopped first and written down afterwards.
"""

from collections.abc import Callable, Sequence

from msgspec.structs import replace

from bursar.core.directory import BudgetDef, Entity, Kind, Managed, Team, TrustRule, VirtualKey
from bursar.core.errors import Refusal
from bursar.core.written import instant

Look = Callable[[Kind, str], Entity | None]
"""Kind and id -> the present entity."""


def mark_id(kind: str, name: str) -> str:
    return f"{kind}/{name}"


def check_hands_off(look: Look, touched: Sequence[tuple[Kind, str, Entity | None]], why: str) -> dict[str, str | int]:
    """What the audit says of glass that is broken, for the reason `why`. Raises Refusal(managed_by_git) without one."""
    broken: list[Managed] = []
    for kind, name, after in touched:
        mark = look("managed", mark_id(kind, name))
        if isinstance(mark, Managed) and _differs(look(kind, name), after):
            broken.append(mark)
    if not broken:
        return {}
    if not why:
        raise refusal_of(broken[0])
    return {"break_glass": why, "managed_by": ", ".join(dict.fromkeys(mark.source for mark in broken))}


def refusal_of(mark: Managed) -> Refusal:
    """Where it has to be changed instead, and how it can be changed all the same."""
    file = f", in {mark.file}" if mark.file else ""
    last = f" (last applied by {mark.by}, {instant(mark.at)[:16]})" if mark.by else ""
    hint = (
        "Change it there and `bursar apply`; in an emergency repeat with --break-glass 'REASON'; "
        f"or: bursar managed release {mark.id}"
    )
    message = f"{mark.id} is kept in {mark.source}{file}{last}"
    return Refusal("managed_by_git", message, hint, facts={"source": mark.source})


def _differs(before: Entity | None, after: Entity | None) -> bool:
    return _said(before, after) != _said(after, after)


def _said(entity: Entity | None, after: Entity | None) -> Entity | None:
    """The entity as far as a file speaks of it, and but for a switch that `after` turns off."""
    if isinstance(entity, VirtualKey):
        entity = replace(entity, secrets=())
    if isinstance(entity, BudgetDef):
        return replace(entity, version=0)
    if isinstance(entity, VirtualKey | Team | TrustRule) and isinstance(after, VirtualKey | Team | TrustRule):
        return replace(entity, disabled=entity.disabled or after.disabled)
    return entity

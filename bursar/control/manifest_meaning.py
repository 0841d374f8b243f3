"""What a step of a plan means for those who call and those who pay, in a sentence. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any

from bursar.control.manifest_plan import Step, is_gone
from bursar.control.manifest_shapes import written
from bursar.control.manifest_yaml import flow
from bursar.core.directory import AccessGrant, BudgetDef, Deployment, Team, TrustRule, VirtualKey
from bursar.core.ledger_records import Balance
from bursar.core.units import pico_to_usd

_KIND = {True: "hard", False: "soft"}


def meaning(step: Step, balances: Mapping[str, Balance], now: int) -> tuple[str, ...]:
    return tuple(_said(step, balances, now))


def changed_fields(step: Step) -> Iterator[tuple[str, str, str]]:
    """What of a file's words changes: field, before, after; "" = nothing is said."""
    names = {step.id: step.name} if step.kind == "key" else {}
    before, after = (
        {} if is_gone(entity) or entity is None else dict(_fields(written(entity, names)))
        for entity in (step.before, step.after)
    )
    for name in dict.fromkeys([*before, *after]):
        if before.get(name) != after.get(name):
            yield name, before.get(name, ""), after.get(name, "")


def _fields(said: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    for name, value in said.items():
        if name == "limits":
            for limit in value:
                told = {field: held for field, held in limit.items() if field != "id"}
                yield f"{path}limits.{limit.get('id', '')}", flow(told)
        elif name == "policy":
            yield from _fields(value, "policy.")
        else:
            yield path + name, value if isinstance(value, str) else flow(value)


def _said(step: Step, balances: Mapping[str, Balance], now: int) -> Iterator[str]:
    before, after = step.before, step.after
    if step.mark is not None and step.mark_before is None and not is_gone(before):
        yield f"from now on kept in {step.mark.source}: other hands are refused"
    if step.mark is None and step.mark_before is not None and not is_gone(after):
        yield f"no longer kept in {step.mark_before.source}"
    if isinstance(before, BudgetDef) or isinstance(after, BudgetDef):
        yield from _money(_living(before), _living(after), balances.get(step.id))
    elif isinstance(before, VirtualKey) or isinstance(after, VirtualKey):
        yield from _key(_living(before), _living(after), now)
    elif isinstance(before, Team | TrustRule) and isinstance(after, Team | TrustRule):
        yield from _switch(before.disabled, after.disabled, "all its keys" if isinstance(after, Team) else "its tokens")
    elif isinstance(before, TrustRule) and after is None:
        yield "its tokens end at their next call"
    elif isinstance(before, AccessGrant) and after is None:
        yield "what it allowed is allowed no longer"
    elif isinstance(before, Deployment):
        stands = f"it stands for {after.model}" if isinstance(after, Deployment) else "who names it is refused"
        if after != before:
            yield f"from the next call on {stands}"


def _living(entity: object) -> object:
    return None if isinstance(entity, BudgetDef) and entity.deleted else entity


def _money(before: object, after: object, balance: Balance | None) -> Iterator[str]:
    if not isinstance(after, BudgetDef):
        if isinstance(before, BudgetDef):
            yield f"{before.subject_kind}/{before.subject}: nothing is refused by it any more"
        return
    if not isinstance(before, BudgetDef):
        kind = "refuses what could pass it" if after.hard else "refuses once it is spent"
        yield f"new {_KIND[after.hard]} budget of ${pico_to_usd(after.limit_pico)}: {kind}, from the next call on"
        return
    by = after.limit_pico - before.limit_pico
    if by:
        verb = "raised" if by > 0 else "lowered"
        yield f"{verb} by ${pico_to_usd(abs(by))}, from the next call on"
    if balance is not None and by < 0:
        used = balance.posted_pico + balance.held_pico
        spent = f"posted ${pico_to_usd(balance.posted_pico)} + held ${pico_to_usd(balance.held_pico)}"
        if used >= after.limit_pico:
            yield f"{spent} is not below the new limit: it closes at once"
        else:
            yield f"{spent}: ${pico_to_usd(after.limit_pico - used)} will be left"
    if before.hard != after.hard:
        yield "no longer a promise: calls run on estimates" if before.hard else "from now on never passed"
    if before.window != after.window:
        yield "another window: what was spent is counted anew in it"
    if before.mode != after.mode:
        yield f"{before.mode} -> {after.mode}" + ("" if after.mode == "enforce" else ": it refuses nothing")


def _key(before: object, after: object, now: int) -> Iterator[str]:
    if isinstance(after, VirtualKey) and before is None:
        again = "returns with the text it had" if after.secrets else "a new key: its text is made, and shown once"
        yield again
    if isinstance(before, VirtualKey) and after is None:
        yield "stops working at its next call"
    if isinstance(before, VirtualKey) and isinstance(after, VirtualKey):
        yield from _switch(before.disabled, after.disabled, "it")
    if isinstance(after, VirtualKey) and after.expires_at is not None and after.expires_at <= now:
        yield "has expired already"


def _switch(before: bool, after: bool, what: str) -> Iterator[str]:
    if before != after:
        yield f"switched {'off' if after else 'on'}: {what}, from the next call on"

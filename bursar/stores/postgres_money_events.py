"""What owners are told, from what an act reports. The words and the `dedupe` are those of `core.ledger`."""

from typing import Any

import msgspec

from bursar.core.ledger import LedgerEvent
from bursar.stores.postgres_money_budgets import Budgets
from bursar.stores.postgres_money_labels import Labels

_NUMBERS = {"amount": "amount_pico", "posted": "posted_pico", "held": "held_pico"}


async def events_of(told: list[str], t_ns: int, budgets: Budgets, labels: Labels) -> list[LedgerEvent]:
    """Raises what is in postgres.AWAY. Of a budget that this node was never told, nothing is said."""
    events = []
    for text in told:
        facts = msgspec.json.decode(text)
        values: dict[str, Any] = {ours: int(facts[theirs]) for theirs, ours in _NUMBERS.items() if theirs in facts}
        known = budgets.by_no.get(facts["budget"]) if "budget" in facts else None
        if known is None and "budget" in facts:
            continue
        if known is not None:
            define = known.budget.definition
            values |= {"budget_id": define.id, "budget_name": define.name, "subject": define.subject}
            values |= {"subject_kind": define.subject_kind, "limit_pico": known.budget.limit}
        if "label" in facts:
            names = await labels.names(facts["label"])
            values |= {name: names.get(name, "") for name in ("key_id", "team_id", "owner_id")}
            values |= {"hold_id": facts["hold"], "request_id": facts["request_id"]}
        if facts["kind"] == "closed":
            values.pop("amount_pico")
        if facts["kind"] == "threshold":
            assert known is not None
            values["percent"] = max((p for mark, p in known.budget.marks if mark == int(facts["mark"])), default=0)
        dedupe = f"{facts['kind']}/{_dedupe(facts, values, t_ns)}"
        events.append(LedgerEvent(kind=facts["kind"], t_ns=t_ns, dedupe=dedupe, **values))
    return events


def _dedupe(facts: dict[str, Any], values: dict[str, Any], t_ns: int) -> str:
    match facts["kind"]:
        case "closed":
            return f"{values['budget_id']}/{facts['window']}"
        case "threshold":
            return f"{values['budget_id']}/{facts['window']}/{values['limit_pico']}/{values['percent']}"
        case "overage":
            return f"{facts['hold']}/{values['budget_id']}"
        case "unreconciled":
            return f"hold/{facts['hold']}"
        case _:
            return f"{facts['hold']}/{t_ns}/{values['budget_id']}"

"""Questions about single requests to the projection: how its attempts ended, and which holds are open."""

import sqlite3
from collections.abc import Iterator

from bursar.core.holders import AttemptRow, Holder
from bursar.core.ledger import Ledger

_ATTEMPTS = """SELECT hold_id, attempt, t_ns, key_id, team_id, owner_id, user, provider, model, secret_id, price_id,
    credential, state, held, cost, overage, settled_ns, exact, outcome, input_tokens, output_tokens
    FROM attempts WHERE request_id = ? ORDER BY attempt"""
_CORRECTED = "SELECT delta FROM corrections WHERE hold_id = ?"


def attempts_of(db: sqlite3.Connection, request_id: str) -> list[AttemptRow]:
    """In their order."""
    return [_attempt(db, row) for row in db.execute(_ATTEMPTS, (request_id,)).fetchall()]


def _attempt(db: sqlite3.Connection, row: tuple[object, ...]) -> AttemptRow:
    names = AttemptRow.__struct_fields__
    columns = [name for name in names if name != "corrected_pico"]
    found = dict(zip(columns, row, strict=True))
    deltas = db.execute(_CORRECTED, (row[0],)).fetchall()
    found["corrected_pico"] = sum(int(delta) for (delta,) in deltas)
    found["exact"] = None if found["exact"] is None else bool(found["exact"])
    found["overage_pico"] = found["overage_pico"] or 0
    found["outcome"] = found["outcome"] or ""
    return AttemptRow(**found)  # type: ignore[arg-type]


def open_holds(ledger: Ledger, budget_id: str) -> Iterator[Holder]:
    """Of one budget; "" = all."""
    for hold in ledger.open.values():
        request = hold.record.request
        amount = hold.ceiling
        if budget_id:
            hard = next((hard for budget, _, hard in hold.legs if budget.definition.id == budget_id), None)
            if hard is None:
                continue
            amount = hold.ceiling if hard else request.expected_pico
        yield Holder(
            request_id=request.request_id,
            key_id=request.key_id,
            team_id=request.team_id,
            user=request.user,
            model=request.model,
            t_ns=hold.record.t,
            amount_pico=amount,
        )

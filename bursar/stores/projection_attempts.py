"""Attempts of the projected ledger in the order in which they were held, for replays."""

import sqlite3

from bursar.core.replay import Past

_AT = "SELECT hold_id, t_ns FROM attempt WHERE hold_id >= ? ORDER BY hold_id LIMIT 1"
_LAST = "SELECT coalesce(max(hold_id), 0) FROM attempt"
_PAGE = """SELECT hold_id, t_ns, coalesce(settled_ns, t_ns), request_id, attempt, key_id, team_id, user, provider,
        model, price_id, secret_id, held, coalesce(cost, 0), coalesce(input_tokens, 0), coalesce(output_tokens, 0)
    FROM attempts WHERE hold_id > ? AND t_ns >= ? AND t_ns < ? ORDER BY hold_id LIMIT ?"""


def read_attempts(
    db: sqlite3.Connection, since_ns: int, until_ns: int, after: int, limit: int
) -> list[tuple[int, Past]]:
    """(hold's id, attempt) of up to `limit` held in the span, behind hold `after`."""
    start = after or _before(db, since_ns)
    rows = db.execute(_PAGE, (start, since_ns, until_ns, limit)).fetchall()
    return [(row[0], _past(row)) for row in rows]


def _before(db: sqlite3.Connection, since_ns: int) -> int:
    """A hold behind which the span begins: ids rise with time, so that it is found by halving."""
    low, high = 0, int(db.execute(_LAST).fetchone()[0])
    while high - low > 1:
        middle = (low + high) // 2
        row = db.execute(_AT, (middle,)).fetchone()
        if row is not None and row[1] < since_ns:
            low = row[0]
        else:
            high = middle
    return max(0, low - 1)


def _past(row: tuple[object, ...]) -> Past:
    _, t_ns, ended, request_id, attempt, key_id, team_id, user, provider, model, price_id, secret_id, *numbers = row
    held, cost, inputs, outputs = numbers
    return Past(
        t_ns=t_ns,  # type: ignore[arg-type]  # as the schema says
        ended_ns=ended,  # type: ignore[arg-type]
        request_id=str(request_id),
        attempt=attempt,  # type: ignore[arg-type]
        key_id=str(key_id),
        team_id=str(team_id),
        user=str(user),
        provider=str(provider),
        model=str(model),
        price_id=str(price_id),
        secret_id=str(secret_id),
        held=held,  # type: ignore[arg-type]
        cost=cost,  # type: ignore[arg-type]
        input_tokens=inputs,  # type: ignore[arg-type]
        output_tokens=outputs,  # type: ignore[arg-type]
    )

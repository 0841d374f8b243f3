"""Attempts of the ledger in PostgreSQL in the order in which they were held, for replays."""

from collections.abc import Mapping
from typing import Any

import msgspec

from bursar.core.replay import Past
from bursar.stores.postgres import Connection, Postgres

_HOLDS = """SELECT h.seq, h.t_ns, h.hold_id, h.request_id, h.attempt, h.amount, h.expected, l.key_id, l.team_id,
        l.secret_id, l.names
    FROM bursar.ledger h JOIN bursar.ledger_label l ON l.id = h.label
    WHERE h.kind = 4 AND h.seq > $1 AND h.t_ns >= $2 AND h.t_ns < $3 ORDER BY h.seq LIMIT $4"""
# A post names when its hold was made: only those are read, and none from before.
_POSTS = """SELECT hold_id, t_ns, amount, input_tokens, output_tokens FROM bursar.ledger
    WHERE kind = 6 AND held_ns >= $1 AND held_ns <= $2 AND t_ns >= $1 AND hold_id = ANY($3)"""


async def read_attempts(
    store: Postgres, db: Connection, since_ns: int, until_ns: int, after: int, limit: int
) -> list[tuple[int, Past]]:
    """(number in the ledger, attempt) of up to `limit` held in the span, behind number `after`."""
    holds = await db.fetch(store.sql(_HOLDS), after, since_ns, until_ns, limit)
    if not holds:
        return []
    instants = [hold["t_ns"] for hold in holds]
    ids = [hold["hold_id"] for hold in holds]
    posts = await db.fetch(store.sql(_POSTS), min(instants), max(instants), ids)
    by_hold = {post["hold_id"]: post for post in posts}
    return [(hold["seq"], _past(hold, by_hold.get(hold["hold_id"]))) for hold in holds]


def _past(hold: Mapping[str, Any], post: Mapping[str, Any] | None) -> Past:
    names: dict[str, Any] = msgspec.json.decode(hold["names"])
    ended = {} if post is None else {"cost": post["amount"], "ended_ns": post["t_ns"]}
    usage = {} if post is None else {name: post[name] or 0 for name in ("input_tokens", "output_tokens")}
    return Past(
        t_ns=hold["t_ns"],
        request_id=hold["request_id"],
        attempt=hold["attempt"],
        key_id=hold["key_id"],
        team_id=hold["team_id"],
        user=names.get("user", ""),
        provider=names.get("provider", ""),
        model=names.get("model", ""),
        price_id=names.get("price_id", ""),
        secret_id=hold["secret_id"],
        held=hold["amount"],
        expected=hold["expected"] or 0,
        **{"ended_ns": hold["t_ns"], **ended, **usage},
    )

"""Questions to the ledger in PostgreSQL: what was used, and where each budget stands. It is asked, not projected.

An attempt counts at the instant at which it was held, with what was corrected of it later.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from bursar.core.errors import Refusal
from bursar.core.holders import AttemptRow, Holder
from bursar.core.ledger_records import JOINT, Balance, UsageBy, UsageRow
from bursar.core.replay import Past
from bursar.stores.postgres import Postgres, named_faults
from bursar.stores.postgres_money_budgets import load_current
from bursar.stores.postgres_money_history import read_attempts

_REPORT_S = 60.0
_HOUR_NS = 3_600 * 10**9
_GROUPS: dict[UsageBy, str] = {
    "key": "l.key_id",
    "team": "l.team_id",
    "owner": "l.owner_id",
    "user": "l.names ->> 'user'",
    "provider": "l.names ->> 'provider'",
    "model": "l.names ->> 'model'",
    "day": "to_char(to_timestamp(e.at_ns / 3600000000000 * 3600) AT TIME ZONE $5, 'YYYY-MM-DD')",
    "credential": "coalesce(nullif(l.names ->> 'credential', ''), 'key')",
    "purpose": "coalesce(nullif(l.names ->> 'purpose', ''), 'inference')",
}
_BY_TEAM = "l.team_id || '/' || "  # kinds of credentials alone are told for each team
# Posts, and the corrections of holds that have one. Nothing is settled before it was held: older months are left out.
_USAGE = """WITH e AS (
        SELECT label, held_ns AS at_ns, 1 AS attempts, (NOT exact)::integer AS inexact, input_tokens, output_tokens,
            cache_read, amount, overage
        FROM bursar.ledger WHERE kind = 6 AND held_ns >= $1 AND held_ns < $2 AND t_ns >= $1
        UNION ALL
        SELECT h.label, h.t_ns, 0, 0, 0, 0, 0, c.amount, 0
        FROM bursar.ledger c JOIN bursar.ledger h ON h.kind = 4 AND h.hold_id = c.hold_id
        WHERE c.kind = 8 AND c.t_ns >= $1 AND h.t_ns >= $1 AND h.t_ns < $2
    ), g AS (
        SELECT {group} AS name, sum(e.attempts) AS attempts, sum(e.inexact) AS inexact,
            sum(e.input_tokens) AS input_tokens, sum(e.output_tokens) AS output_tokens,
            sum(e.cache_read) AS cached_tokens, sum(e.amount) AS cost_pico, sum(e.overage) AS overage_pico
        FROM e JOIN bursar.ledger_label l ON l.id = e.label GROUP BY 1
    )
    SELECT * FROM g WHERE name COLLATE "C" > $3 OR ($3 = '' AND name = '') ORDER BY name COLLATE "C" LIMIT $4"""
_LAST_USES = """SELECT l.secret_id, max(e.t_ns) / 3600000000000 * 3600000000000 AS at_ns
    FROM bursar.ledger e JOIN bursar.ledger_label l ON l.id = e.label WHERE e.kind = 4 GROUP BY 1"""
_NOW = "SELECT bursar.ledger_now()"
_LOOK_S = 10.0
_LOOK_BACK_NS = 32 * 86_400 * 10**9
_HOLDS = """SELECT e.hold_id, e.attempt, e.t_ns, e.amount, l.names FROM bursar.ledger e
    JOIN bursar.ledger_label l ON l.id = e.label WHERE e.kind = 4 AND e.request_id = $1 AND e.t_ns >= $2
    ORDER BY e.attempt"""
_ENDS = """SELECT hold_id, kind, t_ns, amount, overage, exact, word, input_tokens, output_tokens, held
    FROM bursar.ledger WHERE kind IN (5, 6, 7, 8) AND hold_id = ANY($1::bigint[]) AND t_ns >= $2 ORDER BY seq"""
_NUMBER = "SELECT budget FROM bursar.ledger_definition WHERE id = $1"
_OPEN = """SELECT h.request_id, h.t_ns, h.ceiling, h.expected, h.legs, l.names FROM bursar.ledger_hold h
    JOIN bursar.ledger_label l ON l.id = h.label WHERE $1 = 0 OR $1::bigint = ANY(h.legs) ORDER BY h.t_ns LIMIT 20000"""


class LedgerPostgres:
    """Every call raises Refusal(ledger_unreadable) when the database does not answer."""

    def __init__(self, store: Postgres) -> None:
        self._store = store

    async def usage(
        self, by: Sequence[UsageBy], since_ns: int, until_ns: int, limit: int, after: str, zone: str = "UTC"
    ) -> list[UsageRow]:
        """At most `limit` groups later than `after` in the order of their names, which `JOINT` joins.

        The hours that begin before `until_ns` count, from the one around `since_ns` on. An hour belongs to the day in
        which it begins in `zone`.
        """
        groups = [f"({_GROUPS[one]})" for one in by]
        if list(by) == ["credential"]:
            groups = [_BY_TEAM + groups[0]]
        group = f" || chr({ord(JOINT)}) || ".join(groups)
        since, until = since_ns // _HOUR_NS * _HOUR_NS, -(-until_ns // _HOUR_NS) * _HOUR_NS
        sql = self._store.sql(_USAGE.format(group=group))
        with named_faults("ledger_unreadable", "The ledger was not read"):
            async with self._store.transaction() as db:
                await db.execute(f"SET LOCAL statement_timeout = {int(_REPORT_S * 1000)}")
                rows = await db.fetch(
                    sql, since, until, after, limit, *([zone] if "day" in by else []), timeout=_REPORT_S
                )
        return [_row(row) for row in rows]

    async def balances(self) -> list[Balance]:
        """Every living budget in its current window, as of now; those of tokens that are long over are none."""
        with named_faults("ledger_unreadable", "The balances were not read"):
            async with self._store.connection() as db:
                now = await db.fetchval(self._store.sql(_NOW))
                loaded = await load_current(self._store, db, now)
        return [budget.balance(now) for _, budget in loaded if budget.tracked]

    async def last_uses(self) -> dict[str, int]:
        """Instant (ns, to the hour) of the last call under each provider key, by its id."""
        with named_faults("ledger_unreadable", "The ledger was not read"):
            async with self._store.transaction() as db:
                await db.execute(f"SET LOCAL statement_timeout = {int(_REPORT_S * 1000)}")
                rows = await db.fetch(self._store.sql(_LAST_USES), timeout=_REPORT_S)
        return {row["secret_id"]: row["at_ns"] for row in rows}

    async def attempts(self, request_id: str) -> list[AttemptRow]:
        """Of one request, in their order. The ledger has no index by request: the last days are looked through."""
        with named_faults("ledger_unreadable", "The ledger was not looked through"):
            async with self._store.transaction() as db:
                await db.execute(f"SET LOCAL statement_timeout = {int(_LOOK_S * 1000)}")
                now = await db.fetchval(self._store.sql(_NOW))
                holds = await db.fetch(self._store.sql(_HOLDS), request_id, now - _LOOK_BACK_NS, timeout=_LOOK_S)
                ids = [row["hold_id"] for row in holds]
                oldest = min((row["t_ns"] for row in holds), default=now)
                later = await db.fetch(self._store.sql(_ENDS), ids, oldest, timeout=_LOOK_S) if ids else []
        return [_attempt(row, [end for end in later if end["hold_id"] == row["hold_id"]]) for row in holds]

    async def open_holds(self, budget_id: str) -> list[Holder]:
        """Of one budget; "" = all; at most some thousands."""
        with named_faults("ledger_unreadable", "The open holds were not read"):
            async with self._store.connection() as db:
                number = await db.fetchval(self._store.sql(_NUMBER), budget_id) if budget_id else 0
                rows = await db.fetch(self._store.sql(_OPEN), number) if number is not None else []
        held = ((row, _amount(row, number)) for row in rows)
        return [_holder(row, amount) for row, amount in held if amount is not None]

    async def history(self, since_ns: int, until_ns: int, after: int, limit: int) -> list[tuple[int, Past]]:
        """(number, attempt) of up to `limit` that were held in the span, in their order, behind number `after`."""
        with named_faults("ledger_unreadable", "The ledger was not read"):
            async with self._store.transaction() as db:
                await db.execute(f"SET LOCAL statement_timeout = {int(_REPORT_S * 1000)}")
                return await read_attempts(self._store, db, since_ns, until_ns, after, limit)

    async def catch_up(self) -> int:
        """It is never behind."""
        return 0

    async def follow(self, on_fault: Callable[[Refusal], None]) -> None:
        """There is nothing to keep up with."""
        del on_fault
        await asyncio.Event().wait()


def _row(row: Mapping[str, Any]) -> UsageRow:
    numbers = {name: int(number or 0) for name, number in row.items() if name != "name"}  # sums come as decimals
    return UsageRow(group=row["name"], **numbers)


def _attempt(hold: Mapping[str, Any], later: list[Mapping[str, Any]]) -> AttemptRow:
    """A hold with what came of it: shrunk (5), posted (6), voided (7), corrected (8)."""
    names = msgspec.json.decode(hold["names"], type=dict[str, str])
    end = next((row for row in later if row["kind"] in (6, 7)), None)
    posted = end if end is not None and end["kind"] == 6 else None
    shrunk = [row["amount"] for row in later if row["kind"] == 5]
    return AttemptRow(
        hold_id=hold["hold_id"],
        attempt=hold["attempt"],
        t_ns=hold["t_ns"],
        **{name: names.get(name, "") for name in _WHO},
        state="HELD" if end is None else "VOIDED" if posted is None else "POSTED",
        held_pico=shrunk[-1] if shrunk else hold["amount"],
        cost_pico=None if posted is None else posted["amount"],
        overage_pico=0 if posted is None else posted["overage"] or 0,
        corrected_pico=sum(row["amount"] for row in later if row["kind"] == 8),
        settled_ns=None if end is None else end["t_ns"],
        exact=None if posted is None else posted["exact"],
        outcome="" if end is None else end["word"] or "",
        input_tokens=None if posted is None else posted["input_tokens"],
        output_tokens=None if posted is None else posted["output_tokens"],
    )


_WHO = ("key_id", "team_id", "owner_id", "user", "provider", "model", "secret_id", "price_id", "credential")


def _amount(row: Mapping[str, Any], budget: int) -> int | None:
    """What a hold holds on a budget; None = nothing. Four numbers a leg: budget, version, window, hard."""
    if not budget:
        return int(row["ceiling"])
    legs = row["legs"]
    hard = next((legs[i + 3] for i in range(0, len(legs), 4) if legs[i] == budget), None)
    return None if hard is None else int(row["ceiling"] if hard else row["expected"])


def _holder(row: Mapping[str, Any], amount: int) -> Holder:
    names = msgspec.json.decode(row["names"], type=dict[str, str])
    who = {name: names.get(name, "") for name in ("key_id", "team_id", "user", "model")}
    return Holder(request_id=row["request_id"], t_ns=row["t_ns"], amount_pico=amount, **who)

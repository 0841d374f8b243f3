"""Questions to the ledger in PostgreSQL: what was used, and where each budget stands. It is asked, not projected.

An attempt counts at the instant at which it was held, with what was corrected of it later.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from bursar.core.errors import Refusal
from bursar.core.ledger_records import Balance, UsageBy, UsageRow
from bursar.stores.postgres import Postgres, named_faults
from bursar.stores.postgres_money_budgets import load_all

_REPORT_S = 60.0
_HOUR_NS = 3_600 * 10**9
_GROUPS: dict[UsageBy, str] = {
    "key": "l.key_id",
    "team": "l.team_id",
    "owner": "l.owner_id",
    "user": "l.names ->> 'user'",
    "provider": "l.names ->> 'provider'",
    "model": "l.names ->> 'model'",
    "day": "to_char(to_timestamp(e.at_ns / 1000000000) AT TIME ZONE 'UTC', 'YYYY-MM-DD')",
}
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


class LedgerPostgres:
    """Every call raises Refusal(ledger_unreadable) when the database does not answer."""

    def __init__(self, store: Postgres) -> None:
        self._store = store

    async def usage(self, by: UsageBy, since_ns: int, until_ns: int, limit: int, after: str) -> list[UsageRow]:
        """At most `limit` groups later than `after` in the order of their names.

        The hours that begin before `until_ns` count, from the one around `since_ns` on.
        """
        since, until = since_ns // _HOUR_NS * _HOUR_NS, -(-until_ns // _HOUR_NS) * _HOUR_NS
        sql = self._store.sql(_USAGE.format(group=_GROUPS[by]))
        with named_faults("ledger_unreadable", "The ledger was not read"):
            async with self._store.transaction() as db:
                await db.execute(f"SET LOCAL statement_timeout = {int(_REPORT_S * 1000)}")
                rows = await db.fetch(sql, since, until, after, limit, timeout=_REPORT_S)
        return [_row(row) for row in rows]

    async def balances(self) -> list[Balance]:
        """Every living budget in its current window, as of now."""
        with named_faults("ledger_unreadable", "The balances were not read"):
            async with self._store.connection() as db:
                now = await db.fetchval(self._store.sql(_NOW))
                loaded = await load_all(self._store, db)
        return [budget.balance(now) for _, budget in loaded if budget.tracked]

    async def last_uses(self) -> dict[str, int]:
        """Instant (ns, to the hour) of the last call under each provider key, by its id."""
        with named_faults("ledger_unreadable", "The ledger was not read"):
            async with self._store.transaction() as db:
                await db.execute(f"SET LOCAL statement_timeout = {int(_REPORT_S * 1000)}")
                rows = await db.fetch(self._store.sql(_LAST_USES), timeout=_REPORT_S)
        return {row["secret_id"]: row["at_ns"] for row in rows}

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

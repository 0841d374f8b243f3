"""What owners are to be told, as acts have left it in PostgreSQL: taken by one node at a time, told once.

    take      rows that nobody has, or that somebody took long ago and did not finish
    told      whether the audit has such a row already: its teller died between the record and `done`
    done      it is on record: the row goes

A row is written in the transaction of the act (`postgres_money_act.ACT`). Whoever takes it has `STALE_S` to finish,
several times as long as a record of the audit may take.
"""

from collections.abc import Sequence
from typing import NamedTuple

from bursar.core.ledger import LedgerEvent
from bursar.stores.postgres import Postgres, named_faults
from bursar.stores.postgres_money_budgets import Budgets
from bursar.stores.postgres_money_events import events_of
from bursar.stores.postgres_money_labels import Labels

STALE_S = 60.0
_CLOCKS_NS = 86_400 * 10**9  # a record has its node's clock, a row the database's: they are not further apart

_TAKE = """WITH mine AS (
        SELECT id, taken_ns FROM bursar.ledger_event
        WHERE taken_ns IS NULL OR taken_ns < bursar.ledger_now() - $2 ORDER BY id LIMIT $3 FOR UPDATE SKIP LOCKED
    ) UPDATE bursar.ledger_event e SET taken_by = $1, taken_ns = bursar.ledger_now() FROM mine WHERE e.id = mine.id
    RETURNING e.id, e.t_ns, e.told, mine.taken_ns IS NOT NULL AS before"""
_TOLD = """SELECT EXISTS (SELECT FROM bursar.audit_record WHERE action = $1 AND at_ns >= $2
    AND position(convert_to($3, 'UTF8') IN payload) > 0)"""
_DONE = "DELETE FROM bursar.ledger_event WHERE id = ANY($1)"


class News(NamedTuple):
    """One row. `again`: it was taken before, so that it may be on record."""

    id: int
    event: LedgerEvent
    again: bool


class Outbox:
    """Every call raises Refusal(store_unavailable) when the database does not answer."""

    def __init__(self, store: Postgres, node: str, stale_s: float = STALE_S) -> None:
        self._store = store
        self._node = node
        self._stale_ns = int(stale_s * 1e9)
        self._budgets = Budgets(store)
        self._labels = Labels(store)

    async def take(self, most: int = 100) -> list[News]:
        """In the order in which they came about."""
        with named_faults("store_unavailable", "What owners are to be told was not read"):
            async with self._store.connection() as db:
                rows = await db.fetch(self._store.sql(_TAKE), self._node, self._stale_ns, most)
            if rows:
                await self._budgets.know_all_of([row["told"] for row in rows])
            news = []
            for row in sorted(rows, key=lambda row: row["id"]):
                found = await events_of([row["told"]], row["t_ns"], self._budgets, self._labels)
                news += [News(row["id"], event, row["before"]) for event in found]
        return news

    async def told(self, action: str, news: News, mark: str) -> bool:
        """Whether a record of this action has the mark, a piece of its payload."""
        with named_faults("store_unavailable", "What owners were told was not read"):
            async with self._store.connection() as db:
                since = news.event.t_ns - _CLOCKS_NS
                return bool(await db.fetchval(self._store.sql(_TOLD), action, since, mark))

    async def done(self, news: Sequence[News]) -> None:
        with named_faults("store_unavailable", "What owners were told was not noted"):
            async with self._store.connection() as db:
                await db.execute(self._store.sql(_DONE), [one.id for one in news])

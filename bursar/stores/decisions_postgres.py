"""What was decided about single requests at any node of a fleet, in PostgreSQL: any node explains any of them."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from bursar.core.decisions import HOUR_NS, Batch, Decision, Dropped, ShadowSum, Wanted, decode, number
from bursar.stores.postgres import Connection, Postgres, named_faults

# A number taken for each gateway's life under a lock of its row: of two deliveries of one batch, one finds it taken.
_NOTE = """INSERT INTO bursar.decision_shipped AS s (session, number, hour) VALUES ($1, $2, $3)
    ON CONFLICT (session) DO UPDATE SET number = excluded.number, hour = excluded.hour
    WHERE s.number < excluded.number RETURNING number"""
_INSERT = """INSERT INTO bursar.decision (request_id, at_ns, node, key_id, team_id, word, ordinary, record)
    SELECT * FROM unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::boolean[],
        $8::bytea[]) ON CONFLICT (request_id) DO NOTHING"""
_SUM = """INSERT INTO bursar.decision_shadow_sum AS s
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
    ON CONFLICT (hour, team_id, key_id, control, rule, verdict, word) DO UPDATE SET calls = s.calls + excluded.calls,
        expected = s.expected + excluded.expected, ceiling = s.ceiling + excluded.ceiling,
        cost = s.cost + excluded.cost, saved = s.saved + excluded.saved"""
_DROP = """INSERT INTO bursar.decision_dropped AS d VALUES ($1, $2, $3, $4)
    ON CONFLICT (hour, key_id, why) DO UPDATE SET count = d.count + excluded.count"""
_FIND = "SELECT record, node FROM bursar.decision WHERE request_id = $1"
_OF_REQUESTS = "SELECT record FROM bursar.decision WHERE request_id = ANY($1)"
_PAGE = """SELECT seq, record, node FROM bursar.decision WHERE seq < $1 AND at_ns >= $2 AND at_ns < $3
    AND ($4 = '' OR team_id = $4) AND ($5 = '' OR key_id = $5) AND ($6 = '' OR word = $6)
    AND ($7::boolean IS NULL OR ordinary = $7) ORDER BY seq DESC LIMIT $8"""
_SUMS = """SELECT hour, team_id, key_id, control, rule, verdict, word, calls, expected, ceiling, cost, saved
    FROM bursar.decision_shadow_sum WHERE hour >= $1 AND hour < $2
    ORDER BY hour, team_id, key_id, control, rule, verdict"""
_DROPPED = """SELECT hour, key_id, why, count FROM bursar.decision_dropped WHERE hour >= $1
    ORDER BY hour, key_id, why"""
_OLD = "DELETE FROM bursar.decision WHERE seq IN (SELECT seq FROM bursar.decision WHERE at_ns < $1 LIMIT $2)"
# The newest `OFFSET` of a kind stay.
_MANY = """DELETE FROM bursar.decision WHERE seq IN (SELECT seq FROM bursar.decision WHERE ordinary = $1 AND seq <=
    coalesce((SELECT seq FROM bursar.decision WHERE ordinary = $1 ORDER BY seq DESC LIMIT 1 OFFSET $2), -1) LIMIT $3)"""
_ORDINARY = "SELECT count(*) FROM bursar.decision WHERE ordinary"
_HOURS = ("decision_shadow_sum", "decision_dropped", "decision_shipped")
_AT_ONCE = 5_000  # records taken away in one transaction


class DecisionsPostgres:
    """`bursar.control.decisions.DecisionStore`. Every call raises Refusal(decisions_unavailable)."""

    def __init__(self, store: Postgres) -> None:
        self._store = store

    async def keep(self, node: str, batch: Batch, decisions: Sequence[Decision]) -> bool:
        """Write a batch, all of it or nothing; False: it is here already. `decisions` are its records, decoded."""
        with named_faults("decisions_unavailable", "The decisions were not written"):
            async with self._store.transaction() as db:
                hour = batch.at_ns // HOUR_NS
                if await db.fetchval(self._store.sql(_NOTE), batch.session, batch.number, hour) is None:
                    return False
                await self._write(db, node, batch, decisions)
        return True

    async def _write(self, db: Connection, node: str, batch: Batch, decisions: Sequence[Decision]) -> None:
        if decisions:
            rows = [
                (d.request_id, d.at_ns, node, d.key_id, d.team_id, d.word, d.ordinary, record)
                for d, record in zip(decisions, batch.records, strict=True)
            ]
            await db.execute(self._store.sql(_INSERT), *(list(column) for column in zip(*rows, strict=True)))
        for it in sorted(batch.sums, key=_place):  # in one order on every node: no two wait for each other
            amounts = (it.expected_pico, it.ceiling_pico, it.cost_pico, it.saved_pico)
            await db.execute(self._store.sql(_SUM), *_place(it), it.calls, *(Decimal(number(a)) for a in amounts))
        for lost in sorted(batch.dropped, key=lambda lost: (lost.hour, lost.key_id, lost.why)):
            await db.execute(self._store.sql(_DROP), lost.hour, lost.key_id, lost.why, lost.count)

    async def find(self, request_id: str) -> tuple[Decision, str] | None:
        """(the decision, the node that made it)."""
        rows = await self._fetch(_FIND, request_id)
        return (decode(rows[0]["record"]), rows[0]["node"]) if rows else None

    async def of_requests(self, request_ids: Sequence[str]) -> list[Decision]:
        """Those of these requests that were recorded."""
        return [decode(row["record"]) for row in await self._fetch(_OF_REQUESTS, list(request_ids))]

    async def page(self, wanted: Wanted, before: int, limit: int) -> list[tuple[int, Decision, str]]:
        """(number, decision, node) of up to `limit` that came before number `before`, the newest first."""
        about = (wanted.team_id, wanted.key_id, wanted.word, wanted.ordinary)
        rows = await self._fetch(_PAGE, before, wanted.since_ns, wanted.until_ns, *about, limit)
        return [(row["seq"], decode(row["record"]), row["node"]) for row in rows]

    async def sums(self, since_hour: int, until_hour: int) -> list[ShadowSum]:
        """What rules in shadow would have done in these hours (since <= hour < until)."""
        return [_sum(row) for row in await self._fetch(_SUMS, since_hour, until_hour)]

    async def dropped(self, since_hour: int) -> list[Dropped]:
        """What was not kept since then."""
        rows = await self._fetch(_DROPPED, since_hour)
        return [Dropped(row["hour"], row["key_id"], row["why"], row["count"]) for row in rows]

    async def prune(self, before_ns: int, before_hour: int, most: int) -> int:
        """Take away what is older, and the oldest of too many; at most half are ordinary ones. The number taken."""
        total = 0
        while taken := await self._prune(before_ns, most):
            total += taken
        with named_faults("decisions_unavailable", "Old sums were not taken away"):
            async with self._store.connection() as db:
                for table in _HOURS:
                    await db.execute(self._store.sql(f"DELETE FROM bursar.{table} WHERE hour < $1"), before_hour)  # noqa: S608
        return total

    def close(self) -> None:
        """Nothing is held open: the connections are the store's."""

    async def _prune(self, before_ns: int, most: int) -> int:
        with named_faults("decisions_unavailable", "Old decisions were not taken away"):
            async with self._store.transaction() as db:
                taken = _count(await db.execute(self._store.sql(_OLD), before_ns, _AT_ONCE))
                taken += _count(await db.execute(self._store.sql(_MANY), True, most // 2, _AT_ONCE))
                ordinary = await db.fetchval(self._store.sql(_ORDINARY))
                taken += _count(await db.execute(self._store.sql(_MANY), False, most - ordinary, _AT_ONCE))
        return taken

    async def _fetch(self, sql: str, *values: object) -> list[Mapping[str, Any]]:
        with named_faults("decisions_unavailable", "The decisions were not read"):
            async with self._store.connection() as db:
                rows: list[Mapping[str, Any]] = await db.fetch(self._store.sql(sql), *values)
        return rows


def _place(it: ShadowSum) -> tuple[int, str, str, str, str, str, str]:
    return it.hour, it.team_id, it.key_id, it.control, it.rule, it.verdict, it.word


def _sum(row: Mapping[str, Any]) -> ShadowSum:
    amounts: dict[str, Any] = {f"{name}_pico": str(int(row[name])) for name in ("expected", "ceiling", "cost", "saved")}
    names = ("hour", "team_id", "key_id", "control", "rule", "verdict", "word", "calls")
    return ShadowSum(**{name: row[name] for name in names}, **amounts)


def _count(status: str) -> int:
    """Of the rows that a DELETE took: "DELETE 5"."""
    return int(status.rpartition(" ")[2])

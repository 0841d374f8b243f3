"""The audit's trail in PostgreSQL: one table, a chain for each node of the fleet.

A chain has one writer, its node; a second one finds its place taken and is refused. That chains are apart is what lets
nodes write without waiting for one another: docs/decisions/0005-audit-chain-a-node.md.
"""

from collections.abc import Sequence

from bursar.core.audit import GENESIS, AuditFailed, Run, Wanted, decode_record, frame, unframe
from bursar.core.errors import Refusal
from bursar.stores.postgres import Postgres, named_faults

Row = tuple[int, int, str, str, str, str, bytes, bytes]
"""seq, at_ns, actor, action, target, outcome, hash, payload."""

_INSERT = """INSERT INTO bursar.audit_record (chain, seq, at_ns, actor, action, target, outcome, hash, payload)
    SELECT $1, * FROM unnest($2::bigint[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bytea[],
        $9::bytea[])
    WHERE coalesce((SELECT max(seq) FROM bursar.audit_record WHERE chain = $1), 0) = ($2::bigint[])[1] - 1"""
_LAST = "SELECT seq, hash FROM bursar.audit_record WHERE chain = $1 ORDER BY seq DESC LIMIT 1"
_AFTER = "SELECT hash, payload FROM bursar.audit_record WHERE chain = $1 AND seq > $2 ORDER BY seq LIMIT $3"
_CHAINS = "SELECT DISTINCT chain FROM bursar.audit_record ORDER BY chain"
_GLANCE = """SELECT seq, at_ns, action, hash FROM bursar.audit_record WHERE chain = $1 AND seq > $2 AND seq < $3
    ORDER BY seq LIMIT $4"""
_PRUNED = "SELECT first, last, hash, pass FROM bursar.audit_pruned WHERE chain = $1 ORDER BY first"
_RUNS = """INSERT INTO bursar.audit_pruned (chain, first, last, hash, pass)
    SELECT $1, *, $5 FROM unnest($2::bigint[], $3::bigint[], $4::bytea[])"""
_GO = """DELETE FROM bursar.audit_record r USING unnest($2::bigint[], $3::bigint[]) AS run (first, last)
    WHERE r.chain = $1 AND r.seq BETWEEN run.first AND run.last"""
_LONGEST_S = 60
_SEARCH = """SELECT hash, payload FROM bursar.audit_record WHERE chain = $1 AND seq < $2 AND at_ns >= $3 AND at_ns < $4
    AND ($5 = '' OR actor LIKE $5) AND ($6 = '' OR action LIKE $6) AND ($7 = '' OR target LIKE $7)
    AND ($8 = '' OR outcome = $8) ORDER BY seq DESC LIMIT $9"""


class AuditPostgres:
    """`bursar.ports.AuditTrail`."""

    name = "PostgreSQL"
    required = True

    def __init__(self, store: Postgres, chain: str, timeout: float = 5.0) -> None:
        self.timeout = timeout
        self._store = store
        self._chain = chain

    async def write(self, records: Sequence[bytes]) -> None:
        """All lines or none. Raises AuditFailed; whether they then stand is for `position` to tell."""
        columns = zip(*(_row(line) for line in records), strict=True)
        try:
            with named_faults("audit_unavailable", "The audit was not written"):
                async with self._store.transaction() as db:
                    done = await db.execute(self._store.sql(_INSERT), self._chain, *map(list, columns))
        except Refusal as refusal:
            raise _failed(refusal) from None
        if done == "INSERT 0 0":  # another writer, or a standby has taken over that lacks the last records
            message = f"The chain {self._chain} does not end in PostgreSQL where this node left it"
            raise AuditFailed(message, "Repeat what needed the record", {"sink": "PostgreSQL"})

    async def position(self) -> tuple[int, bytes]:
        """(seq, hash) of the chain's last record; (0, GENESIS) before the first."""
        try:
            with named_faults("audit_unavailable", "The audit was not read"):
                async with self._store.connection() as db:
                    row = await db.fetchrow(self._store.sql(_LAST), self._chain)
        except Refusal as refusal:
            raise _failed(refusal) from None
        return (0, GENESIS) if row is None else (row["seq"], row["hash"])

    async def read(self, after: int, limit: int) -> list[bytes]:
        """Up to `limit` lines that follow the record `after`."""
        try:
            with named_faults("audit_unavailable", "The audit was not read"):
                async with self._store.connection() as db:
                    rows = await db.fetch(self._store.sql(_AFTER), self._chain, after, limit)
        except Refusal as refusal:
            raise _failed(refusal) from None
        return [frame(row["hash"], row["payload"]) for row in rows]

    async def glance(self, after: int, before: int, limit: int) -> list[tuple[int, int, str, bytes]]:
        """Up to `limit` records between two numbers as (seq, at_ns, action, hash), in order."""
        try:
            with named_faults("audit_unavailable", "The audit was not read"):
                async with self._store.connection() as db:
                    rows = await db.fetch(self._store.sql(_GLANCE), self._chain, after, before, limit)
        except Refusal as refusal:
            raise _failed(refusal) from None
        return [tuple(row) for row in rows]

    async def prune(self, runs: Sequence[Run], digest: bytes) -> None:
        """Take these records away, in one transaction, and put their runs in their place."""
        firsts, lasts = [run.first for run in runs], [run.last for run in runs]
        sql = self._store.sql
        try:
            with named_faults("audit_unavailable", "The audit was not pruned"):
                async with self._store.transaction() as db:
                    await db.execute(f"SET LOCAL statement_timeout = '{_LONGEST_S}s'")
                    await db.execute(sql(_RUNS), self._chain, firsts, lasts, [run.hash for run in runs], digest)
                    await db.execute(sql(_GO), self._chain, firsts, lasts, timeout=_LONGEST_S)
        except Refusal as refusal:
            raise _failed(refusal) from None

    async def pruned(self) -> list[tuple[Run, bytes]]:
        """Every run that was ever taken away from this chain, with its pass, in order."""
        try:
            with named_faults("audit_unavailable", "The audit was not read"):
                async with self._store.connection() as db:
                    rows = await db.fetch(self._store.sql(_PRUNED), self._chain)
        except Refusal as refusal:
            raise _failed(refusal) from None
        return [(Run(first, last, last_hash), digest) for first, last, last_hash, digest in rows]

    async def search(self, wanted: Wanted, before: int, limit: int) -> list[bytes]:
        """Up to `limit` lines of this node's records older than number `before` that match, the newest first."""
        texts = [_pattern(text) for text in (wanted.actor, wanted.action, wanted.target)]
        values = (wanted.since_ns, wanted.until_ns, *texts, wanted.outcome)
        try:
            with named_faults("audit_unavailable", "The audit was not read"):
                async with self._store.connection() as db:
                    rows = await db.fetch(self._store.sql(_SEARCH), self._chain, before, *values, limit)
        except Refusal as refusal:
            raise _failed(refusal) from None
        return [frame(row["hash"], row["payload"]) for row in rows]

    def close(self) -> None:
        """Nothing is held open: the connections are the store's."""


async def chains(store: Postgres) -> list[str]:
    """The names of all chains. Raises what is in postgres.AWAY."""
    async with store.connection() as db:
        return [row["chain"] for row in await db.fetch(store.sql(_CHAINS))]


def _row(line: bytes) -> Row:
    record_hash, payload = unframe(line)
    r = decode_record(payload)
    return r.seq, r.at_ns, r.actor, r.action, r.target, r.outcome, record_hash, payload


def _pattern(text: str) -> str:
    """A text of `Wanted` as LIKE takes it."""
    plain = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return plain.replace("*", "%")


def _failed(refusal: Refusal) -> AuditFailed:
    return AuditFailed(refusal.message, refusal.hint, {"sink": "PostgreSQL"})

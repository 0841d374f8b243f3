"""`bursar audit verify` where the audit lies in PostgreSQL: the independent reader, on the rows of every node's chain.

The rows come by a cursor, chain by chain, in one snapshot, together with the runs that retention took away. They are
held to the rules of `verify_audit`, which shares no code with what wrote them.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bursar.control.verify_audit import Broken, Report, Row, Run, Verifier

_TELL_EVERY = 20_000  # records

_CHAINS = """SELECT chain FROM {schema}.audit_record UNION SELECT chain FROM {schema}.audit_pruned ORDER BY chain"""
# A run stands in the place of its first record; `hash` is the column both have.
_ROWS = """SELECT seq, hash, payload, at_ns, actor, action, target, outcome, NULL::bigint AS last, NULL::bytea AS pass
    FROM {schema}.audit_record WHERE chain = $1
    UNION ALL SELECT first, hash, NULL, NULL, NULL, NULL, NULL, NULL, last, pass
    FROM {schema}.audit_pruned WHERE chain = $1 ORDER BY seq"""


async def verify_chains(
    db: Any,
    schema: str = "bursar",
    checkpoints: Mapping[str, Path] | None = None,
    public_key: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Report]:
    """What was found of each chain, by its name.

    `db` is a connection of asyncpg that nobody else uses; `checkpoints` are files in the second place, by chain: one
    that a file names and the database does not know is found to be missing. Raises what asyncpg raises, OSError.
    """
    checkpoints = checkpoints or {}
    async with db.transaction(isolation="repeatable_read", readonly=True):
        chains = {row["chain"] for row in await db.fetch(_CHAINS.format(schema=schema))} | set(checkpoints)
        found: dict[str, Report] = {}
        for chain in sorted(chains):
            done = sum(report.records for report in found.values())
            verifier = Verifier(public_key)
            rows = db.cursor(_ROWS.format(schema=schema), chain, prefetch=1000)
            found[chain] = await _verified(verifier, rows, checkpoints.get(chain), done, progress)
    return found


async def _verified(
    verifier: Verifier, rows: Any, checkpoints: Path | None, done: int, progress: Callable[[int], None] | None
) -> Report:
    try:
        verifier.begin(checkpoints)
        async for row in rows:
            done += 1
            verifier.take(_read(row))
            if progress is not None and done % _TELL_EVERY == 0:
                progress(done)
        verifier.end()
    except Broken as broken:
        return verifier.report(broken)
    return verifier.report()


def _read(row: Any) -> Row | Run:
    if row["last"] is not None:
        return Run(row["seq"], row["last"], row["hash"], row["pass"])
    columns = row["seq"], row["at_ns"], row["actor"], row["action"], row["target"], row["outcome"]
    return Row(row["hash"], row["payload"], columns, "")

"""Proof and moving of what lies in PostgreSQL, in a process of their own: the command line does without asyncpg.

Run as a module it is that process: one JSON document on standard input, the outcome as one on standard output,
progress on standard error.
"""

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from bursar.app.database import address_of
from bursar.app.folder import FolderFault, FolderLock, prepare
from bursar.app.places import checkpoints_path, node_name
from bursar.app.spec import NodeSpec
from bursar.app.store_moving import Move
from bursar.config import Config
from bursar.control.verify_audit_rows import verify_chains
from bursar.control.verify_ledger_rows import RowsReport, verify_rows
from bursar.core.errors import Refusal
from bursar.core.units import pico_to_usd
from bursar.stores.journal_segment import JournalDamaged
from bursar.stores.moving import CannotMove
from bursar.stores.postgres import AWAY, Postgres, said
from bursar.stores.postgres_schema import PARTS, migrate
from bursar.stores.schema import SchemaFault


class Job(msgspec.Struct, kw_only=True):
    kind: Literal["verify", "audit", "migrate"]
    config: Config
    data: str
    to: Literal["embedded", "postgres"] = "postgres"
    only_look: bool = False
    public_key: str = ""
    loud: bool = False


class Outcome(msgspec.Struct, kw_only=True):
    facts: dict[str, str | int] = {}
    problem: str = ""
    hint: str = ""


async def verify_job(job: Job, store: Postgres) -> Outcome:
    report = await _rows(store, _told("rows proven") if job.loud else None)
    facts = row_facts(report)
    if report.problem is None:
        return Outcome(facts=facts)
    where = f"row {report.problem.seq}: " if report.problem.seq else ""
    return Outcome(facts=facts, problem=where + report.problem.why, hint="what follows is not proven; change nothing")


async def audit_job(job: Job, store: Postgres) -> Outcome:
    """Every chain, by the independent reader; this node's own against its checkpoints as well."""
    own = checkpoints_path(job.config, Path(job.data))
    checkpoints = {node_name(job.config): own} if own.exists() and own.stat().st_size else {}
    db = await store.dedicated()
    try:
        told = _told("records proven") if job.loud else None
        found = await verify_chains(db, store.address.schema, checkpoints, job.public_key or None, told)
    finally:
        await db.close()
    facts: dict[str, str | int] = {
        "chains": ", ".join(found),
        "records": sum(report.records for report in found.values()),
        "pruned": sum(report.pruned for report in found.values()),
        "checkpoints": sum(report.checkpoints for report in found.values()),
        "public key": ", ".join(dict.fromkeys(key for report in found.values() for key in report.public_keys)),
    }
    for chain, report in found.items():
        facts[f"chain {chain}"] = f"{report.records} records, signed up to {report.signed}"
    broken = next(((chain, report) for chain, report in found.items() if report.fault), None)
    if broken is None:
        return Outcome(facts=facts)
    chain, report = broken
    where = f"chain of {chain}, record {report.broken}: " if report.broken else f"chain of {chain}: "
    hint = "compare with the copy in another sink, that node's audit.jsonl for one"
    return Outcome(facts=facts, problem=where + report.fault, hint=hint)


async def migrate_job(job: Job, store: Postgres) -> Outcome:
    """Proven before and after; both sides must say the same. What fails leaves the source as it was."""
    data = Path(job.data)
    if not (job.only_look and await _is_virgin(store)):
        for part in PARTS:
            await migrate(store, part)
    elif job.to == "embedded":
        raise CannotMove("there is no store in that database")
    prepare(data)
    folder = FolderLock(data)
    folder.take()
    try:
        move = Move(job.config, data, store, _counted if job.loud else None)
        carry = move.there if job.to == "postgres" else move.back
        return Outcome(facts=await carry(os.environ, only_look=job.only_look))
    finally:
        folder.release()


async def _is_virgin(store: Postgres) -> bool:
    """Whether there are no tables yet: then a look makes none."""
    async with store.connection() as db:
        found = await db.fetchval("SELECT to_regclass($1)", f"{store.address.schema}.schema_version")
    return found is None


async def _rows(store: Postgres, progress: Callable[[int], None] | None) -> RowsReport:
    db = await store.dedicated()
    try:
        return await verify_rows(db, store.address.schema, progress)
    finally:
        await db.close()


def row_facts(report: RowsReport) -> dict[str, str | int]:
    facts: dict[str, str | int] = {
        "rows": report.rows,
        "holds": report.counts.holds,
        "posted": report.counts.posted,
        "voided": report.counts.voided,
        "given up": report.given_up,
        "unreconciled": report.counts.unreconciled,
        "corrections": report.counts.corrections,
        "open": report.open_holds,
        "spent_usd": pico_to_usd(sum(spend.cost for spend in report.spend)),
    }
    for budget in report.budgets:
        posted, held, limit = (pico_to_usd(amount) for amount in (budget.posted, budget.held, budget.limit))
        facts[f"budget {budget.id}"] = f"{posted} posted + {held} held of {limit}"
    return facts


def _told(what: str) -> Callable[[int], None]:
    def tell(rows: int) -> None:
        sys.stderr.write(f"\r{rows:,} {what}")
        sys.stderr.flush()

    return tell


def _counted(what: str, rows: int) -> None:
    _told(f"rows moved: {what}   ")(rows)


_JOBS = {"verify": verify_job, "audit": audit_job, "migrate": migrate_job}


_HINTS: tuple[tuple[tuple[type[BaseException], ...], str], ...] = (
    ((BlockingIOError,), "stop it first"),
    ((JournalDamaged,), "keep the folder as it is; `bursar ledger verify` tells more"),
    ((CannotMove, SchemaFault, FolderFault, ValueError), "nothing was lost: what was there is as it was"),
    (AWAY, "run it again when PostgreSQL answers: it goes on where it was"),
)
"""What a job can fail with, the narrower first, and what to do then."""


async def run(job: Job) -> Outcome:
    spec = NodeSpec(config=job.config, data=job.data, node="cli")
    try:
        store = Postgres(address_of(spec, os.environ, job.kind))
    except Refusal as refusal:
        return Outcome(problem=refusal.message, hint=refusal.hint)
    try:
        return await _JOBS[job.kind](job, store)
    except Refusal as refusal:
        return Outcome(problem=refusal.message, hint=refusal.hint)
    except tuple(kind for kinds, _ in _HINTS for kind in kinds) as fault:
        hint = next(hint for kinds, hint in _HINTS if isinstance(fault, kinds))
        return Outcome(problem=_problem(fault), hint=hint)
    finally:
        await store.close()


def _problem(fault: BaseException) -> str:
    if isinstance(fault, BlockingIOError):
        return "a node is running on this data folder"
    return said(fault) if isinstance(fault, AWAY) else str(fault)


def main() -> int:
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    sys.stdout.buffer.write(msgspec.json.encode(asyncio.run(run(job))))
    return 0


if __name__ == "__main__":
    sys.exit(main())

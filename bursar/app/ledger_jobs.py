"""Proof and moving of a ledger in PostgreSQL, in a process of their own: the command line does without asyncpg.

Run as a module it is that process: one JSON document on standard input, the outcome as one on standard output,
progress on standard error.
"""

import asyncio
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from bursar.app.database import address_of
from bursar.app.folder import FolderFault, FolderLock, prepare
from bursar.app.spec import NodeSpec
from bursar.config import Config
from bursar.control.verify_ledger import Report, verify
from bursar.control.verify_ledger_rows import RowsReport, verify_rows
from bursar.core.errors import Refusal
from bursar.core.units import pico_to_usd
from bursar.stores.journal_segment import JournalDamaged, take_lock
from bursar.stores.postgres import AWAY, Postgres, said
from bursar.stores.postgres_money_export import Export
from bursar.stores.postgres_money_import import CannotMove, Import
from bursar.stores.postgres_schema import migrate
from bursar.stores.schema import SchemaFault


class Job(msgspec.Struct, kw_only=True):
    kind: Literal["verify", "migrate"]
    config: Config
    data: str
    to: Literal["embedded", "postgres"] = "postgres"
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


async def migrate_job(job: Job, store: Postgres) -> Outcome:
    """Proven before and after; both sides must say the same. What fails leaves the source as it was."""
    data = Path(job.data)
    tell = _told("rows moved") if job.loud else None
    for part in ("directory", "money"):
        await migrate(store, part)
    prepare(data)
    folder = FolderLock(data)
    folder.take()
    try:
        return await _moved(job, store, data, tell)
    finally:
        folder.release()


async def _moved(job: Job, store: Postgres, data: Path, tell: Callable[[int], None] | None) -> Outcome:
    if job.to == "postgres":
        lock = take_lock(data / "journal")
        try:
            source = totals(_proven(verify(data / "journal"), "the journal"))
            rows = await Import(store, data / "journal", tell).run()
        finally:
            os.close(lock)
        target = totals(_proven(await _rows(store, None), "the ledger in PostgreSQL"))
    else:
        source = totals(_proven(await _rows(store, None), "the ledger in PostgreSQL"))
        rows = await Export(store, data, tell).run()
        target = totals(_proven(verify(data / "journal"), "the journal"))
    if source != target:
        raise CannotMove("the two ledgers do not say the same; go on with the one that was there before")
    return Outcome(facts={"moved": rows, "holds": source[0]["holds"], "open": source[3], "budgets": len(source[1])})


async def _rows(store: Postgres, progress: Callable[[int], None] | None) -> RowsReport:
    db = await store.dedicated()
    try:
        return await verify_rows(db, store.address.schema, progress)
    finally:
        await db.close()


def _proven(report: Report | RowsReport, what: str) -> Report | RowsReport:
    if report.problem is not None:
        raise CannotMove(f"{what} is not proven: {report.problem.why}; see `bursar ledger verify`")
    return report


def totals(report: Report | RowsReport) -> tuple[Mapping[str, int], list[Any], list[Any], int]:
    """What must be the same on both sides, however the rows are kept."""
    budgets, spend = (msgspec.to_builtins(sums) for sums in (report.budgets, report.spend))
    return msgspec.to_builtins(report.counts), budgets, spend, report.open_holds


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


async def run(job: Job) -> Outcome:
    spec = NodeSpec(config=job.config, data=job.data, node="cli")
    try:
        store = Postgres(address_of(spec, os.environ, job.kind))
    except Refusal as refusal:
        return Outcome(problem=refusal.message, hint=refusal.hint)
    try:
        return await (verify_job if job.kind == "verify" else migrate_job)(job, store)
    except (CannotMove, SchemaFault, FolderFault, ValueError) as fault:
        return Outcome(problem=str(fault), hint="nothing was lost: the ledger that was there is as it was")
    except JournalDamaged as fault:
        return Outcome(problem=str(fault), hint="keep the folder as it is; `bursar ledger verify` tells more")
    except BlockingIOError:
        return Outcome(problem="a node is running on this data folder", hint="stop it first")
    except AWAY as fault:
        return Outcome(problem=said(fault), hint="run it again when PostgreSQL answers: it goes on where it was")
    finally:
        await store.close()


def main() -> int:
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    sys.stdout.buffer.write(msgspec.json.encode(asyncio.run(run(job))))
    return 0


if __name__ == "__main__":
    sys.exit(main())

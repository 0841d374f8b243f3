"""What the command line asks of a store, wherever it lies: to be proven, and to be moved."""

import importlib.util
import subprocess
import sys
from typing import Any, Literal

import msgspec

from bursar.app.settings import read_config
from bursar.config import Config
from bursar.control import verify_ledger
from bursar.core.units import pico_to_usd
from bursar.faces.cli_terminal import Place, Trouble, Verified


def prove_ledger(place: Place) -> Verified:
    """Replay the raw journal, or the rows in PostgreSQL, with progress on a terminal."""
    config = read_config(place.config, str(place.data))
    if config.store.kind == "postgres":
        return _job(config, kind="verify")
    try:
        report = verify_ledger.verify(place.data / "journal", _progress if sys.stderr.isatty() else None)
    except (OSError, ValueError) as fault:
        return Verified({}, f"the journal cannot be read: {fault}", "name the data folder with --data")
    facts: dict[str, str | int] = {
        "records": report.records,
        "segments": f"{report.first_segment} to {report.last_segment}",
        "holds": report.counts.holds,
        "posted": report.counts.posted,
        "voided": report.counts.voided,
        "unreconciled": report.counts.unreconciled,
        "open": report.open_holds,
        "spent_usd": pico_to_usd(sum(spend.cost for spend in report.spend)),
    }
    for budget in report.budgets:
        facts[f"budget {budget.id}"] = (
            f"{pico_to_usd(budget.posted)} posted + {pico_to_usd(budget.held)} held of {pico_to_usd(budget.limit)}"
        )
    problem = report.problem
    if problem is None:
        return Verified(facts)
    where = f"segment {problem.segment}, offset {problem.offset}, record {problem.record}"
    return Verified(facts, f"{where}: {problem.why}", "keep the folder as it is; the rest of the journal is not proven")


def move_store(place: Place, to: Literal["embedded", "postgres"], only_look: bool) -> Verified:
    """Between the data folder and the database that the configuration names. The node is down meanwhile."""
    config = read_config(place.config, str(place.data))
    if config.store.kind != "postgres":
        hint = "Write `store: {kind: postgres}` and give its URL; for the way back, leave it there until it is done"
        raise Trouble("the configuration names no PostgreSQL store", hint)
    return _job(config, kind="migrate", to=to, only_look=only_look)


def prove_rows_of_audit(config: Config, public_key: str | None) -> Verified:
    """The chains in PostgreSQL, offline: no node needs to run."""
    return _job(config, kind="audit", public_key=public_key or "")


def _job(config: Config, **more: Any) -> Verified:
    if importlib.util.find_spec("asyncpg") is None:
        raise Trouble("store.kind is postgres, and asyncpg is not installed", "pip install 'bursar[postgres]'")
    job = {"config": config, "data": config.data, "loud": sys.stderr.isatty(), **more}
    command = [sys.executable, "-m", "bursar.app.ledger_jobs"]
    done = subprocess.run(command, input=msgspec.json.encode(job), stdout=subprocess.PIPE, check=False)  # noqa: S603
    if done.returncode:
        return Verified({}, "the job ended before its time", "see above")
    outcome = msgspec.json.decode(done.stdout)
    return Verified(outcome["facts"], outcome["problem"], outcome["hint"])


def _progress(done: int, total: int, records: int) -> None:
    end = "\n" if done == total else ""
    sys.stderr.write(f"\r{done} of {total} segments, {records:,} records{end}")
    sys.stderr.flush()

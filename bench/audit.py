"""The audit's figures: how many events a second control appends, and what an export does to the data path meanwhile."""

import asyncio
import contextlib
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import uvloop

from bench.broker import ShippedBroker
from bench.load import Load, chat_body, wrk
from bench.rows import SMALL
from bench.targets import OUT
from bursar.control.audit import AuditLog
from bursar.control.audit_notary import Signer
from bursar.core.audit import Event
from bursar.core.secret import Secret
from bursar.stores.audit_db import AuditDb
from bursar.stores.audit_file import AuditFile

_CALLERS = 256
_BATCH = 100


class _Clock:
    now = staticmethod(time.time_ns)
    monotonic = staticmethod(time.monotonic)


def _open(folder: Path, *, required: bool) -> tuple[AuditLog, list[AuditDb | AuditFile]]:
    trail = AuditDb(folder / "audit.db", timeout=30)
    sinks = [AuditFile(folder / "audit.jsonl", required=required, timeout=30)]
    checkpoints = AuditFile(folder / "checkpoints.jsonl")
    log = AuditLog(trail, sinks, checkpoints, Signer(Secret(os.urandom(32).hex())), _Clock())
    return log, [trail, *sinks, checkpoints]


async def _append(folder: Path, seconds: float, *, required: bool, batch: int) -> float:
    """Events a second, durable in the trail (and in the file) before each caller goes on."""
    log, parts = _open(folder, required=required)
    event = Event(actor="node:a", action="secret.use", target="secret/sec_a", facts={"version": 1, "uses": 3})
    done = 0
    ends = time.perf_counter() + seconds

    async def caller() -> None:
        nonlocal done
        while time.perf_counter() < ends:
            await log.append_all([event] * batch)
            done += batch

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(_CALLERS)))
    spent = time.perf_counter() - began
    await log.close()
    for part in parts:
        part.close()
    return done / spent


def append_rates(seconds: float) -> dict[str, float]:
    """`single`: 256 callers with one event each; `batch`: with a hundred; `required`: the file sink waited for too."""
    found = {}
    for name, required, batch in (("single", False, 1), ("batch", False, _BATCH), ("required", True, _BATCH)):
        with tempfile.TemporaryDirectory() as folder:
            found[name] = uvloop.run(_append(Path(folder), seconds, required=required, batch=batch))
    return found


async def _fill(folder: Path, records: int) -> None:
    log, parts = _open(folder, required=False)
    event = Event(actor="node:a", action="secret.use", target="secret/sec_a", facts={"version": 1, "uses": 3})
    for _ in range(0, records, 1000):
        await log.append_all([event] * 1000)
    await log.close()
    for part in parts:
        part.close()


def _filled(folder: Path, records: int = 300_000) -> None:
    """An audit of some size in a data folder that no broker has used yet."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    uvloop.run(_fill(folder, records))


def f_export(upstream: str, folder: Path, rounds: int, seconds: float) -> dict[str, float]:
    """Latency at c = 1 of a broker with a large audit: by itself, and while all of it is exported over and over.

    The two take turns, so that a machine that drifts drifts under both.
    """
    _filled(folder / "data")
    broker = ShippedBroker(folder, upstream, {}).start()
    alone: list[Load] = []
    beside: list[Load] = []
    rates: list[float] = []
    try:
        target = broker.target()
        with _exporting(broker) as export:
            for _ in range(2 * rounds + 1):
                export.pause()
                alone.append(wrk(target, body=chat_body(SMALL), concurrency=1, seconds=seconds))
                before, began = export.taken(), time.perf_counter()
                export.go_on()
                beside.append(wrk(target, body=chat_body(SMALL), concurrency=1, seconds=seconds))
                rates.append((export.taken() - before) / (time.perf_counter() - began))
    finally:
        broker.stop()
    return {
        "alone_p50": statistics.median(x.p50 for x in alone),
        "alone_p99": statistics.median(x.p99 for x in alone),
        "export_p50": statistics.median(x.p50 for x in beside),
        "export_p99": statistics.median(x.p99 for x in beside),
        "export_bytes": statistics.median(rates),
    }


class _Export:
    """A reader in a process of its own, which stands back as well: in life it is on another machine. The export waits
    while it is stopped.
    """

    def __init__(self, broker: ShippedBroker) -> None:
        self._count = OUT / "exported.txt"
        self._count.write_text("0")
        url = f"{broker.admin_url}/v1/admin/audit/export"
        command = [sys.executable, "-c", _EXPORT, url, broker.admin["authorization"], str(self._count)]
        self.reader = subprocess.Popen(command)
        while not self.taken():
            time.sleep(0.05)

    def taken(self) -> int:
        return int(self._count.read_text() or 0)

    def pause(self) -> None:
        self.reader.send_signal(signal.SIGSTOP)
        time.sleep(0.5)  # the pipes between fill up

    def go_on(self) -> None:
        self.reader.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def _exporting(broker: ShippedBroker) -> Iterator[_Export]:
    export = _Export(broker)
    try:
        yield export
    finally:
        export.reader.kill()
        export.reader.wait()


_EXPORT = """
import os, sys, urllib.request
os.nice(19)
taken = 0
while True:
    request = urllib.request.Request(sys.argv[1], headers={"authorization": sys.argv[2]})
    with urllib.request.urlopen(request, timeout=60) as answer:
        while piece := answer.read1(65536):
            taken += len(piece)
            open(sys.argv[3], "w").write(str(taken))
"""

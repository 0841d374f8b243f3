"""Export and proof of the audit in a process of their own: control's loop only passes the pieces on.

`main` is that process: one JSON document on standard input, the result on standard output. It reads the
files read-only and stands back for everybody else (nice(2)).
"""

import asyncio
import csv
import io
import os
import sqlite3
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from bursar import __version__
from bursar.control.audit_desk import ExportForm, JobWanted
from bursar.control.verify_audit import verify_database
from bursar.core.audit import AuditFailed, Wanted, decode_record, frame
from bursar.core.audit_formats import cef, instant, ocsf
from bursar.stores.audit_query import every, every_line

_PIECE = 64 * 1024
_START = "import os; os.nice(19); from bursar.app.audit_jobs import main; raise SystemExit(main())"
"""Stands back before it loads anything: a call that comes in meanwhile must not wait for a report."""


class AuditJobs:
    """`bursar.control.audit_desk.Jobs`. At most two at once: more of them wait."""

    def __init__(self, data: Path, checkpoints: Path, node: str) -> None:
        self._data, self._checkpoints, self._node = str(data), str(checkpoints), node
        self._room = asyncio.Semaphore(2)

    async def export(self, wanted: Wanted, form: ExportForm) -> AsyncIterator[bytes]:
        async with self._running(self._job("export", wanted=wanted, form=form)) as process:
            assert process.stdout is not None
            while piece := await process.stdout.read(_PIECE):
                yield piece
            await _ended_well(process)

    async def verify(self, public_key: str) -> Mapping[str, Any]:
        async with self._running(self._job("verify", public_key=public_key)) as process:
            assert process.stdout is not None
            answer = await process.stdout.read(_PIECE)
            await _ended_well(process)
            return dict(msgspec.json.decode(answer))

    def _job(self, kind: str, **more: Any) -> bytes:
        known = {"kind": kind, "data": self._data, "checkpoints": self._checkpoints, "node": self._node}
        return msgspec.json.encode({**known, **more})

    @asynccontextmanager
    async def _running(self, job: bytes) -> AsyncIterator[asyncio.subprocess.Process]:
        """The process, told what to do; gone when the reader is, whatever ended the reading."""
        async with self._room:
            pipe = asyncio.subprocess.PIPE
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", _START, stdin=pipe, stdout=pipe, limit=_PIECE
            )
            try:
                assert process.stdin is not None
                process.stdin.write(job)
                process.stdin.close()
                yield process
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()


async def _ended_well(process: asyncio.subprocess.Process) -> None:
    if await process.wait() != 0:
        raise AuditFailed("The audit could not be read to its end", "See the log of control")


# ---- inside the process


def main() -> int:
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=JobWanted)
    try:
        if job.kind == "export":
            _export(job, sys.stdout.buffer)
        else:
            sys.stdout.buffer.write(msgspec.json.encode(_verify(job)))
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        os._exit(1)  # whoever read has left; nothing is there to be flushed to
    except (OSError, sqlite3.Error) as error:
        sys.stderr.write(f"bursar: the audit cannot be read: {error}\n")
        return 1
    return 0


def _verify(job: JobWanted) -> dict[str, Any]:
    checkpoints = Path(job.checkpoints)
    known = checkpoints if checkpoints.exists() else None
    return verify_database(Path(job.data) / "audit.db", known, job.public_key or None)._asdict()


def _export(job: JobWanted, out: BinaryIO) -> None:
    path = Path(job.data) / "audit.db"
    if job.form == "jsonl" and job.wanted == Wanted():
        out.writelines(line + b"\n" for line in every_line(path))
        return
    rows = every(path, job.wanted)
    if job.form == "csv":
        _export_csv(rows, out)
        return
    for record_hash, payload in rows:
        out.write(_line(job, record_hash, payload) + b"\n")


def _line(job: JobWanted, record_hash: bytes, payload: bytes) -> bytes:
    if job.form == "jsonl":
        return frame(record_hash, payload)
    record = decode_record(payload)
    if job.form == "cef":
        return cef(record, record_hash, job.node, __version__).encode()
    return msgspec.json.encode(ocsf(record, record_hash, job.node, __version__))


def _export_csv(rows: Iterator[tuple[bytes, bytes]], out: BinaryIO) -> None:
    """RFC 4180, with the names of the columns. A cell that a spreadsheet would take for a formula gets a quote."""
    text = io.TextIOWrapper(out, encoding="utf-8", newline="", write_through=False)
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(("sequence", "at", "actor", "action", "target", "outcome", "facts", "hash"))
    for record_hash, payload in rows:
        r = decode_record(payload)
        cells = (r.actor, r.action, r.target, r.outcome, msgspec.json.encode(r.facts).decode())
        writer.writerow((r.seq, instant(r.at_ns), *map(_harmless, cells), record_hash.hex()))
    text.flush()
    text.detach()


def _harmless(cell: str) -> str:
    return f"'{cell}" if cell[:1] in tuple("=+-@\t\r") else cell


if __name__ == "__main__":
    sys.exit(main())

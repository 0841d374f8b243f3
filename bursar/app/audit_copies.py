"""Export and proof of an audit that lies in PostgreSQL: each chain is copied into a file, and the file is worked on.

The copy has the shape of `audit.db`, so that the independent reader of `bursar.control.verify_audit` and the exports
are the same for one node and for many. It lies in a private temporary folder and is gone with it.
"""

import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from bursar.app.audit_jobs import AuditJobs
from bursar.control.audit_desk import ExportForm
from bursar.core.audit import AuditFailed, Wanted, decode_record, unframe
from bursar.core.errors import Refusal
from bursar.stores.audit_db import AuditDb
from bursar.stores.audit_postgres import AuditPostgres, chains
from bursar.stores.postgres import Postgres, named_faults

_LINES_AT_ONCE = 2_000
_NONE = Path("/nonexistent")


class AuditCopies:
    """`bursar.control.audit_desk.Jobs` for a fleet. `checkpoints` are those of this node's own chain."""

    def __init__(self, store: Postgres, checkpoints: Path, node: str) -> None:
        self._store = store
        self._checkpoints = checkpoints
        self._node = node

    async def export(self, wanted: Wanted, form: ExportForm) -> AsyncIterator[bytes]:
        """The records of every node, node by node, the oldest first."""
        for chain in await self._chains():
            async with _copied(self._store, chain) as folder:
                async for piece in AuditJobs(folder, _NONE, chain).export(wanted, form):
                    yield piece

    async def verify(self, public_key: str) -> Mapping[str, Any]:
        """All chains; the numbers are sums, and the first fault is told with the chain in which it lies."""
        whole: dict[str, Any] = {"public_keys": [], "broken": None, "fault": ""}
        for chain in await self._chains():
            found = await self.verify_one(chain, public_key)
            for name in found.keys() - whole.keys():
                whole[name] = 0
            for name in found.keys() - {"public_keys", "broken", "fault"}:
                whole[name] += found[name]
            whole["public_keys"] = list(dict.fromkeys([*whole["public_keys"], *found["public_keys"]]))
            if found["fault"] and not whole["fault"]:
                whole |= {"broken": found["broken"], "fault": f"chain of {chain}: {found['fault']}"}
        return whole

    async def verify_one(self, chain: str, public_key: str) -> Mapping[str, Any]:
        async with _copied(self._store, chain) as folder:
            checkpoints = self._checkpoints if chain == self._node else _NONE
            return await AuditJobs(folder, checkpoints, chain).verify(public_key)

    async def _chains(self) -> list[str]:
        try:
            with named_faults("audit_unavailable", "The audit was not read"):
                return await chains(self._store)
        except Refusal as refusal:
            raise AuditFailed(refusal.message, refusal.hint) from None


@asynccontextmanager
async def _copied(store: Postgres, chain: str) -> AsyncIterator[Path]:
    """A folder with the chain as `audit.db`, as it stands now."""
    trail = AuditPostgres(store, chain)
    with tempfile.TemporaryDirectory(prefix="bursar-audit-") as folder:
        copy = AuditDb(Path(folder) / "audit.db", timeout=60.0, durability="process")
        try:
            seq = await _copy_records(trail, copy, 0)
            for run, digest in await trail.pruned():
                await copy.prune([run], digest)
            await _copy_records(trail, copy, seq)  # the signed word for a run that was taken away meanwhile
        finally:
            copy.close()
        yield Path(folder)


async def _copy_records(trail: AuditPostgres, copy: AuditDb, seq: int) -> int:
    """Those after number `seq`, as many as there are -> the last one's number."""
    while lines := await trail.read(seq, _LINES_AT_ONCE):
        await copy.write(lines)
        seq = decode_record(unframe(lines[-1])[1]).seq
    return seq

"""Takes records away when their class of acts has been kept for long enough; what is left still proves.

In the place of records taken away stands a run: its numbers and the hash of its last record, so that the chain goes on.
A pass is small, and audited before it happens: the record `audit.prune` holds a signed statement over every run of it.
Nothing is taken that a sink has yet to be given (within the spool), nothing that the proof itself needs.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from bursar.control.audit import AuditLog
from bursar.control.audit_notary import Signer
from bursar.core.audit import PRUNE_ACTION, AuditFailed, Run, class_of, pass_digest
from bursar.ports import Clock

DAY_S = 86_400.0
_AT_ONCE = 5_000  # records of one pass: the trail writes nothing else meanwhile
_log = logging.getLogger("bursar.audit")


class PrunableTrail(Protocol):
    async def glance(self, after: int, before: int, limit: int) -> list[tuple[int, int, str, bytes]]: ...

    async def prune(self, runs: Sequence[Run], digest: bytes) -> None: ...

    async def pruned(self) -> list[tuple[Run, bytes]]: ...


class PrunableFile(Protocol):
    async def prune(self, runs: Sequence[tuple[Run, bytes]]) -> None: ...


class Retention:
    """`keep`: class of acts -> ns; a class that is not named is kept for ever. `spool`: see `AuditLog.delivered`."""

    def __init__(
        self,
        trail: PrunableTrail,
        files: Sequence[PrunableFile],
        audit: AuditLog,
        signer: Signer,
        clock: Clock,
        keep: Mapping[str, int],
        spool: int,
    ) -> None:
        self._trail = trail
        self._files = files
        self._audit = audit
        self._signer = signer
        self._clock = clock
        self._keep = keep
        self._spool = spool

    async def every_day(self, day_s: float = DAY_S) -> None:
        """Now and then daily, for ever. What fails is tried again the next day."""
        while self._keep:
            try:
                taken = await self.prune()
                _log.info("retention took %d audit records away", taken)
            except AuditFailed as fault:
                _log.error("retention stopped: %s", fault.message)
            await asyncio.sleep(day_s)

    async def prune(self) -> int:
        """Take away what is old enough -> how many records. Raises AuditFailed; what is done stays done."""
        after = taken = 0
        limit = await self._audit.delivered(self._spool)
        while rows := await self._trail.glance(after, limit, _AT_ONCE):
            after = rows[-1][0]
            doomed = [(seq, record_hash) for seq, at_ns, action, record_hash in rows if self._is_over(at_ns, action)]
            if doomed:
                await self._take(_runs(doomed), len(doomed))
                taken += len(doomed)
            await asyncio.sleep(0)
        if taken:
            runs = await self._trail.pruned()
            for file in self._files:
                await file.prune(runs)
        return taken

    def _is_over(self, at_ns: int, action: str) -> bool:
        kept = self._keep.get(class_of(action) or "")
        return kept is not None and at_ns < self._clock.now() - kept

    async def _take(self, runs: list[Run], records: int) -> None:
        digest = pass_digest(runs)
        statement = msgspec.json.encode(
            {
                "pass": digest.hex(),
                "runs": len(runs),
                "records": records,
                "first": runs[0].first,
                "last": runs[-1].last,
                "at_ns": self._clock.now(),
                "public_key": self._signer.public_key,
            }
        )
        facts = {"statement": statement.decode(), "signature": self._signer.sign_pruning(statement).hex()}
        await self._audit.append("control", PRUNE_ACTION, "audit", {**facts, "records": records})
        await self._trail.prune(runs, digest)


def _runs(doomed: Sequence[tuple[int, bytes]]) -> list[Run]:
    """(seq, hash) in order -> those that stand one after the other, together."""
    runs: list[Run] = []
    for seq, record_hash in doomed:
        if runs and runs[-1].last == seq - 1:
            runs[-1] = Run(runs[-1].first, seq, record_hash)
        else:
            runs.append(Run(seq, seq, record_hash))
    return runs

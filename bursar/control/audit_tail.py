"""The newest records of the audit, for people to look at. Proving the chain is `bursar audit verify`."""

from bursar.core.audit import Record, decode_record, unframe
from bursar.ports import AuditTrail


class AuditTail:
    def __init__(self, trail: AuditTrail) -> None:
        self._trail = trail

    async def read(self, limit: int, before: int = 0) -> list[Record]:
        """Up to `limit` records older than number `before` (0 = from the newest), the newest first."""
        last, _ = await self._trail.position()
        end = min(before, last + 1) if before else last + 1
        start = max(0, end - 1 - limit)
        lines = await self._trail.read(start, end - 1 - start) if end - 1 > start else []
        return [decode_record(unframe(line)[1]) for line in reversed(lines)]

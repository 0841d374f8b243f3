"""Reading the audit, for people: search, export, proof. Each is a record itself, written before it is answered."""

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Literal, Protocol

import msgspec

from bursar.control.directory import Audit
from bursar.core.audit import Record, Wanted, decode_record, unframe
from bursar.ports import AuditTrail

ExportForm = Literal["jsonl", "csv", "ocsf", "cef"]


class Jobs(Protocol):
    """Work too long for this process's loop, done in processes of its own."""

    def export(self, wanted: Wanted, form: ExportForm) -> AsyncIterator[bytes]:
        """The records in this form, the oldest first. Raises Refusal(audit_unavailable) before the first piece."""
        ...

    async def verify(self, public_key: str) -> Mapping[str, Any]:
        """What `bursar.control.verify_audit` found, as plain data. Raises Refusal(audit_unavailable)."""
        ...


class AuditDesk:
    """`open_names` turns a record's pseudonyms back into names, where they may still be known."""

    def __init__(
        self,
        trail: AuditTrail,
        audit: Audit,
        jobs: Jobs,
        open_names: Callable[[Record], Record] = lambda record: record,
    ) -> None:
        self._trail = trail
        self._audit = audit
        self._jobs = jobs
        self._open_names = open_names

    async def search(self, actor: str, wanted: Wanted, limit: int, before: int = 0) -> list[Record]:
        """Up to `limit` records older than number `before` (0 = from the newest), the newest first."""
        last, _ = await self._trail.position()  # of before this reading: who looks is not looking for himself
        await self._audit.append(actor, "audit.search", "audit", wanted.facts())
        lines = await self._trail.search(wanted, min(before, last + 1) if before else last + 1, limit)
        return [self._open_names(decode_record(unframe(line)[1])) for line in lines]

    async def export(self, actor: str, wanted: Wanted, form: ExportForm) -> AsyncIterator[bytes]:
        await self._audit.append(actor, "audit.export", "audit", {**wanted.facts(), "form": form})
        return self._jobs.export(wanted, form)

    async def verify(self, actor: str, public_key: str) -> Mapping[str, Any]:
        await self._audit.append(actor, "audit.verify", "audit", {})
        return await self._jobs.verify(public_key)


class JobWanted(msgspec.Struct, frozen=True, kw_only=True):
    """What a job's process is told on its standard input."""

    kind: Literal["export", "verify"]
    data: str  # the data folder
    checkpoints: str
    node: str
    wanted: Wanted = Wanted()
    form: ExportForm = "jsonl"
    public_key: str = ""

"""Reading the audit, for people: search, export, proof. Each is a record itself, written before it is answered."""

from collections.abc import AsyncIterator, Mapping
from typing import Any, Literal, Protocol

import msgspec

from bursar.control.audit_people import People
from bursar.control.directory import Audit
from bursar.core.audit import Record, Wanted, decode_record, unframe
from bursar.core.errors import Refusal
from bursar.ports import AuditTrail

_NOBODY = "person:unknown"
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
    def __init__(self, trail: AuditTrail, audit: Audit, jobs: Jobs, people: People) -> None:
        self._trail = trail
        self._audit = audit
        self._jobs = jobs
        self._people = people

    async def search(self, actor: str, wanted: Wanted, limit: int, before: int = 0) -> list[Record]:
        """Up to `limit` records older than number `before` (0 = from the newest), the newest first.

        A person is found by his name and shown with it, unless he was erased.
        """
        last, _ = await self._trail.position()  # of before this reading: who looks is not looking for himself
        wanted = self._as_written(wanted)
        await self._audit.append(actor, "audit.search", "audit", wanted.facts())
        lines = await self._trail.search(wanted, min(before, last + 1) if before else last + 1, limit)
        return [self._people.open(decode_record(unframe(line)[1])) for line in lines]

    async def erase(self, actor: str, name: str) -> str:
        """Shred the key of a person -> his pseudonym. Raises Refusal(unknown_id) when the audit knows nobody so."""
        pseudonym = self._people.pseudonym(name)
        if pseudonym is None:
            raise Refusal("unknown_id", "The audit knows nobody by this name", "See: bursar audit search --actor NAME")
        await self._audit.append(actor, "audit.erase", f"audit/{pseudonym}", {})
        self._people.erase(pseudonym)
        return pseudonym

    async def export(self, actor: str, wanted: Wanted, form: ExportForm) -> AsyncIterator[bytes]:
        """Names stay pseudonyms: what has left the house cannot be erased."""
        wanted = self._as_written(wanted)
        await self._audit.append(actor, "audit.export", "audit", {**wanted.facts(), "form": form})
        return self._jobs.export(wanted, form)

    async def verify(self, actor: str, public_key: str) -> Mapping[str, Any]:
        await self._audit.append(actor, "audit.verify", "audit", {})
        return await self._jobs.verify(public_key)

    def _as_written(self, wanted: Wanted) -> Wanted:
        """With the pseudonyms of those whom the audit knows; to ask for somebody must not make him known."""
        texts = {
            name: _NOBODY if (text := self._people.as_written(getattr(wanted, name))) is None else text
            for name in ("actor", "target")
        }
        return msgspec.structs.replace(wanted, **texts)


class JobWanted(msgspec.Struct, frozen=True, kw_only=True):
    """What a job's process is told on its standard input."""

    kind: Literal["export", "verify"]
    data: str  # the data folder
    checkpoints: str
    node: str
    wanted: Wanted = Wanted()
    form: ExportForm = "jsonl"
    public_key: str = ""

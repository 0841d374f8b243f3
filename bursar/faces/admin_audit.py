"""The audit over the admin API: looking, taking away, proving. Every one of these is a record in it."""

from typing import Any, Literal

import msgspec

from bursar.control.audit_desk import ExportForm
from bursar.core.audit import Wanted
from bursar.core.units import NS_PER_S
from bursar.faces.admin_calls import AdminCall, items
from bursar.faces.admin_route import Route
from bursar.faces.admin_shapes import Instant, Limit, Shape, instant


class AuditFilter(Shape, frozen=True, kw_only=True):
    """Texts match exactly, or with `*` for anything."""

    since: Instant | None = None
    last_s: int | None = None  # instead of `since`: so many seconds before now
    until: Instant | None = None
    actor: str = ""
    action: str = ""
    target: str = ""
    outcome: Literal["", "allowed", "refused", "failed"] = ""


class AuditQuery(AuditFilter, frozen=True, kw_only=True):
    limit: Limit = 50
    before: int = 0  # sequence number; 0 = from the newest


class AuditExport(AuditFilter, frozen=True, kw_only=True):
    form: ExportForm = "jsonl"


class AuditProof(Shape, frozen=True, kw_only=True):
    public_key: str = ""  # the signing key as noted elsewhere, in hex


class AuditView(Shape, frozen=True, kw_only=True):
    sequence: int
    at: str
    actor: str
    action: str
    target: str
    outcome: str  # allowed | refused | failed
    facts: dict[str, Any]


class AuditErasure(Shape, frozen=True, kw_only=True):
    name: str  # of the person, as the audit was told it; or the pseudonym


class AuditErased(Shape, frozen=True, kw_only=True):
    pseudonym: str  # as whom the records go on to know the person


class AuditProven(Shape, frozen=True, kw_only=True):
    """`fault` is "" when all is well; `broken` is then null, else the first bad record (0: the checkpoints' file)."""

    records: int
    pruned: int
    checkpoints: int
    signed: int  # the last record that a checkpoint covers
    public_keys: tuple[str, ...]
    broken: int | None
    fault: str


def _wanted(call: AdminCall, given: AuditFilter) -> Wanted:
    now = call.services.directory.now()
    since = given.since or 0 if given.last_s is None else now - given.last_s * NS_PER_S
    until = {} if given.until is None else {"until_ns": given.until}
    return Wanted(
        since_ns=since, actor=given.actor, action=given.action, target=given.target, outcome=given.outcome, **until
    )


async def search_audit(call: AdminCall) -> object:
    query: AuditQuery = call.query
    wanted = _wanted(call, query)
    records = await call.services.audit.search(call.actor, wanted, query.limit, query.before)
    lines = [
        AuditView(
            sequence=record.seq,
            at=instant(record.at_ns),
            actor=record.actor,
            action=record.action,
            target=record.target,
            outcome=record.outcome,
            facts=record.facts,
        )
        for record in records
    ]
    full = len(records) == query.limit and records[-1].seq > 1
    return items(lines, str(records[-1].seq) if full else None)


async def export_audit(call: AdminCall) -> object:
    query: AuditExport = call.query
    return await call.services.audit.export(call.actor, _wanted(call, query), query.form)


async def verify_audit(call: AdminCall) -> object:
    given: AuditProof = call.query
    return msgspec.convert(await call.services.audit.verify(call.actor, given.public_key), AuditProven)


async def erase_person(call: AdminCall) -> object:
    given: AuditErasure = call.body
    return AuditErased(pseudonym=await call.services.audit.erase(call.actor, given.name))


_AWAY = ("audit_unavailable",)

ROUTES = (
    Route(
        "GET",
        "/audit",
        "Search the audit, the newest first",
        search_audit,
        AuditView,
        "read_audit",
        query=AuditQuery,
        page=True,
        refusals=_AWAY,
    ),
    Route(
        "GET",
        "/audit/export",
        "All records that match, the oldest first",
        export_audit,
        asks="read_audit",
        query=AuditExport,
        streams=True,
        refusals=_AWAY,
    ),
    Route(
        "GET",
        "/audit/verify",
        "Prove the chain and its checkpoints",
        verify_audit,
        AuditProven,
        "read_audit",
        query=AuditProof,
        refusals=_AWAY,
    ),
    Route(
        "POST",
        "/audit/erase",
        "Erase a person from the audit: his key is shredded, every hash stays",
        erase_person,
        AuditErased,
        body=AuditErasure,
        refusals=("unknown_id", *_AWAY),
    ),
)

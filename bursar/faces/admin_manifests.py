"""The directory as files, over the admin API: plan, apply what was planned, export, roll back, release."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any

import msgspec

from bursar.control.manifest_meaning import changed_fields, meaning
from bursar.control.manifest_plan import Given, Plan, Step
from bursar.control.manifests import Applied
from bursar.core.directory import Managed
from bursar.core.errors import Refusal
from bursar.core.ledger_records import Balance
from bursar.faces.admin_calls import AdminCall, items, page_of
from bursar.faces.admin_history import DifferenceView
from bursar.faces.admin_route import Route
from bursar.faces.admin_shapes import Page, Shape, instant

MOST_BODY = 128 << 20
"""Bytes of a plan's files: 200,000 keys are about 30 MB."""

_MOST_ASKED = 20  # drifted objects whose last hand is told
_PIECE = 500


class PlanAsk(Shape, frozen=True, kw_only=True):
    """`documents`: section (owners, teams, keys, budgets, trust, grants, deployments) -> name -> what a file says."""

    documents: dict[str, dict[str, Any]]
    sources: tuple[str, ...] = ()
    files: dict[str, str] = msgspec.field(default_factory=dict)  # "team/search" -> the file in which it stands
    prune: bool = False
    take_over: bool = False


class ApplyAsk(Shape, frozen=True, kw_only=True):
    """As for the plan; with the digest and the version that it answered."""

    documents: dict[str, dict[str, Any]]
    sources: tuple[str, ...] = ()
    files: dict[str, str] = msgspec.field(default_factory=dict)
    prune: bool = False
    plan: str
    version: int
    break_glass: Annotated[str, msgspec.Meta(max_length=200)] = ""


class RollbackPlanAsk(Shape, frozen=True, kw_only=True):
    to: int


class RollbackAsk(Shape, frozen=True, kw_only=True):
    to: int
    plan: str
    version: int


class StepView(Shape, frozen=True, kw_only=True):
    """`means`: what it does to those who call and who pay. `drift`: by whom it was changed past the files."""

    kind: str
    name: str
    id: str  # empty = not made yet
    act: str  # create | change | remove | mark
    managed_by: str
    differences: tuple[DifferenceView, ...]
    means: tuple[str, ...]
    drift: str


class PlanView(Shape, frozen=True, kw_only=True):
    """`orphans` stand in no file of their source, and stay without `prune`; `left` is what a rollback leaves alone."""

    version: int
    plan: str
    counts: dict[str, int]
    unchanged: int
    steps: tuple[StepView, ...]
    orphans: tuple[str, ...]
    left: dict[str, int]


class MintedView(Shape, frozen=True, kw_only=True):
    name: str
    id: str
    team: str
    text: str

    def __repr__(self) -> str:
        return f"MintedView({self.id}, ***)"


class AppliedView(Shape, frozen=True, kw_only=True):
    """`keys` are told this once."""

    version: int
    counts: dict[str, int]
    keys: tuple[MintedView, ...]


class ManagedView(Shape, frozen=True, kw_only=True):
    id: str
    managed_by: str
    name: str
    file: str
    by: str
    at: str


class ReleaseAsk(Shape, frozen=True, kw_only=True):
    objects: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=1000)]


class ExportQuery(Shape, frozen=True, kw_only=True):
    managed_by: str = ""


def _counts(plan: Plan) -> dict[str, int]:
    return {act: sum(step.act == act for step in plan.steps) for act in ("create", "change", "remove", "mark")}


async def _plan_view(call: AdminCall, plan: Plan) -> PlanView:
    balances = await _balances(call, plan)
    now, asked, views = call.services.directory.now(), 0, []
    for step in plan.steps:
        drift = ""
        if step.drifted:
            asked += 1
            edit = await call.services.manifests.last_edit(step) if asked <= _MOST_ASKED else None
            drift = f"{edit.actor}, {edit.action}, version {edit.version}" if edit else "another hand"
        views.append(_step_view(step, meaning(step, balances, now), drift))
    return PlanView(
        version=plan.version,
        plan=plan.digest,
        counts=_counts(plan),
        unchanged=plan.unchanged,
        steps=tuple(views),
        orphans=plan.orphans,
        left=plan.left,
    )


async def _balances(call: AdminCall, plan: Plan) -> Mapping[str, Balance]:
    """Of the budgets that change; none where the ledger cannot be read: then a plan says less."""
    if not any(step.kind == "budget" and step.before is not None for step in plan.steps):
        return {}
    try:
        return {balance.budget_id: balance for balance in await call.services.usage.balances()}
    except Refusal as refusal:
        if refusal.word != "ledger_unreadable":
            raise
        return {}


def _step_view(step: Step, means: tuple[str, ...], drift: str) -> StepView:
    return StepView(
        kind=step.kind,
        name=step.name,
        id=step.id,
        act=step.act,
        managed_by=step.mark.source if step.mark else "",
        differences=tuple(DifferenceView(field=name, before=was, after=is_) for name, was, is_ in changed_fields(step)),
        means=means,
        drift=drift,
    )


def _given(ask: PlanAsk | ApplyAsk) -> Given:
    return Given(documents=ask.documents, sources=ask.sources, files=ask.files, prune=ask.prune)


async def plan_files(call: AdminCall) -> object:
    ask: PlanAsk = call.body
    return await _plan_view(call, await call.services.manifests.plan(_given(ask), take_over=ask.take_over))


async def apply_files(call: AdminCall) -> object:
    ask: ApplyAsk = call.body
    done = await call.services.manifests.apply(
        call.actor, _given(ask), ask.plan, ask.version, break_glass=ask.break_glass
    )
    return _applied(done)


def _applied(done: Applied) -> AppliedView:
    keys = tuple(
        MintedView(name=one.name, id=one.key.id, team=one.key.team_id, text=one.text.reveal()) for one in done.minted
    )
    return AppliedView(version=done.version, counts=_counts(done.plan), keys=keys)


async def plan_rollback(call: AdminCall) -> object:
    ask: RollbackPlanAsk = call.body
    return await _plan_view(call, await call.services.manifests.plan_rollback(ask.to))


async def roll_back(call: AdminCall) -> object:
    ask: RollbackAsk = call.body
    return _applied(await call.services.manifests.rollback(call.actor, ask.to, ask.plan, ask.version))


async def export_files(call: AdminCall) -> object:
    """A line of JSON an object: {"section": ..., "name": ..., "said": {...}}."""
    query: ExportQuery = call.query
    found = call.services.manifests.export(query.managed_by)

    async def lines() -> AsyncIterator[bytes]:
        piece: list[bytes] = []
        for one in found:
            piece.append(msgspec.json.encode(one))
            if len(piece) == _PIECE:
                yield b"\n".join(piece) + b"\n"
                piece.clear()
                await asyncio.sleep(0)
        if piece:
            yield b"\n".join(piece) + b"\n"

    return lines()


async def list_managed(call: AdminCall) -> object:
    rows, following = page_of(call.services.manifests.managed(), call.query, lambda mark: mark.id)
    return items([_managed(mark) for mark in rows], following)


def _managed(mark: Managed) -> ManagedView:
    return ManagedView(
        id=mark.id,
        managed_by=mark.source,
        name=mark.name,
        file=mark.file,
        by=mark.by,
        at=instant(mark.at),
    )


async def release_managed(call: AdminCall) -> object:
    ask: ReleaseAsk = call.body
    released = await call.services.manifests.release(call.actor, ask.objects)
    return items([_managed(mark) for mark in released], None)


_STALE = ("plan_stale", "too_many_changes", "managed_by_git")
ROUTES = (
    Route(
        "POST",
        "/plans",
        "What files would change",
        plan_files,
        PlanView,
        "read",
        body=PlanAsk,
        most=MOST_BODY,
    ),
    Route(
        "POST",
        "/applies",
        "Carry out a plan that was shown: all of it, or nothing",
        apply_files,
        AppliedView,
        body=ApplyAsk,
        most=MOST_BODY,
        refusals=_STALE,
    ),
    Route(
        "POST",
        "/rollback-plans",
        "What would lead back to an earlier version",
        plan_rollback,
        PlanView,
        "read",
        body=RollbackPlanAsk,
        refusals=("unknown_id", "in_use"),
    ),
    Route(
        "POST",
        "/rollbacks",
        "Go back to an earlier version, as it was shown",
        roll_back,
        AppliedView,
        body=RollbackAsk,
        refusals=("unknown_id", "in_use", "plan_stale", "too_many_changes"),
    ),
    Route(
        "GET",
        "/manifests",
        "The directory as files have it, a line of JSON an object",
        export_files,
        query=ExportQuery,
        streams=True,
    ),
    Route("GET", "/managed", "List what is kept in files", list_managed, ManagedView, query=Page, page=True),
    Route(
        "POST",
        "/managed/release",
        "Let other hands change what was kept in files",
        release_managed,
        ManagedView,
        body=ReleaseAsk,
        page=True,
        previews=True,
        refusals=("unknown_id",),
    ),
)

"""Files to the directory and back: plan, apply exactly what was planned, export, roll back, release."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any, cast

import msgspec
from msgspec.structs import replace

from bursar.control.directory import Book, Change, Directory
from bursar.control.hands_off import mark_id
from bursar.control.history import check_stands
from bursar.control.manifest_plan import CheckTrust, Given, Plan, Planner, Step, is_gone, said_digest
from bursar.control.manifest_rollback import rolled_back
from bursar.control.manifest_shapes import SHAPES, written
from bursar.core.directory import KINDS, BudgetDef, Edit, Entity, KeySecret, Kind, Managed, VirtualKey
from bursar.core.errors import Refusal
from bursar.core.secret import Secret
from bursar.core.tokens import digest, mint
from bursar.ports import Entropy

MOST_CHANGES = 20_000
"""In one apply: it is one transaction, one frame to each gateway, and one entry that `undo` takes back."""

_PIECE = 200  # objects that are looked at before others get their turn
_NEWEST = 2**62
_SHOWN = 20


class Minted(msgspec.Struct, frozen=True):
    """A key that was made, and its text, to be shown once."""

    name: str
    key: VirtualKey
    text: Secret


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    plan: Plan
    version: int
    minted: tuple[Minted, ...] = ()


class Written(msgspec.Struct, frozen=True):
    """One object as a file would have it."""

    section: str
    name: str
    said: dict[str, Any]


class Manifests:
    """`pepper` keys the digests of new keys; `check_trust` is what a trust rule has to pass."""

    def __init__(self, directory: Directory, entropy: Entropy, pepper: bytes, check_trust: CheckTrust) -> None:
        self._directory = directory
        self._entropy = entropy
        self._pepper = pepper
        self._check_trust = check_trust

    async def plan(self, given: Given, *, take_over: bool = False) -> Plan:
        """Raises Faults with everything that is wrong with the files."""
        planner = self._planner(given, take_over)
        for done, _ in enumerate(planner.work()):
            if done % _PIECE == _PIECE - 1:
                await asyncio.sleep(0)
        if self._directory.book.version != planner.version:  # changed between two pieces: at one go, then
            planner = self._planner(given, take_over)
            for _ in planner.work():
                pass
        return planner.plan()

    async def apply(self, actor: str, given: Given, shown: str, since: int, *, break_glass: str = "") -> Applied:
        """Carry out the plan whose digest was shown, at version `since`: all of it, or nothing.

        Raises Faults, and Refusal(plan_stale | too_many_changes), the audit's and the store's.
        """
        take_over = bool(break_glass)
        plan = await self.plan(given, take_over=take_over)
        if plan.digest != shown:
            raise await self._stale(since)
        facts: dict[str, str | int] = {"break_glass": break_glass} if break_glass else {}

        def replan(book: Book) -> Plan:
            if book.version == plan.version:
                return plan
            planner = self._planner(given, take_over)
            for _ in planner.work():
                pass
            return planner.plan()

        return await self._carry_out(actor, "apply", plan, replan, facts)

    async def plan_rollback(self, to: int) -> Plan:
        """What leads back to a version. Raises Refusal(unknown_id | in_use)."""
        book = self._directory.book
        if not 0 < to <= book.version:
            raise Refusal("unknown_id", f"The directory has no version {to}", "See: bursar history")
        plan = rolled_back(book, await self._edits_since(to))
        put = [step.after for step in plan.steps if step.after is not None]
        gone = [(step.kind, step.id) for step in plan.steps if step.after is None]
        check_stands(book, put, gone)
        return plan

    async def rollback(self, actor: str, to: int, shown: str, since: int) -> Applied:
        """Carry out what `plan_rollback` showed. Raises Refusal(plan_stale | ...)."""
        plan = await self.plan_rollback(to)
        if plan.digest != shown:
            raise await self._stale(since)

        def replan(book: Book) -> Plan:
            unchanged = all(book.at(step.kind, step.id) == step.before for step in plan.steps)
            return plan if unchanged else replace(plan, steps=())

        return await self._carry_out(actor, "rollback", plan, replan, {"to": to})

    async def release(self, actor: str, marks: Sequence[str]) -> list[Managed]:
        """Files manage these no longer. Raises Refusal(unknown_id)."""

        def decide(book: Book) -> Change:
            found = [book.get(Managed, mark) for mark in marks]
            facts: dict[str, str | int] = {"objects": _listed(list(marks)), "count": len(found)}
            gone: list[tuple[Kind, str]] = [("managed", mark.id) for mark in found]
            return Change(action="managed.release", target=f"managed/{marks[0]}", gone=gone, facts=facts)

        found = [self._directory.book.get(Managed, mark) for mark in marks]
        await self._directory.change(actor, decide)
        return found

    def managed(self) -> list[Managed]:
        return self._directory.book.all(Managed)

    def export(self, source: str = "") -> Iterator[Written]:
        """Everything that a file can say, or what one source manages; from one version of the book as it was."""
        book = self._directory.book
        marks = {mark.id: mark for mark in book.all(Managed)}
        names = {mark.id.removeprefix("key/"): mark.name for mark in marks.values() if mark.name}
        for kind, (section, _) in SHAPES.items():
            for entity in book.all(KINDS[kind].type):
                name = cast(Any, entity).id
                mark = marks.get(mark_id(kind, name))
                if is_gone(entity) or (source and (mark is None or mark.source != source)):
                    continue
                said = written(entity, names)
                yield Written(section, names.get(name, name), {**said, "managed_by": mark.source} if mark else said)

    async def last_edit(self, step: Step) -> Edit | None:
        """Who touched an object last."""
        found = await self._directory.history(_NEWEST, 1, (step.kind, step.id))
        return next((edit for edit in found if edit.id == step.id), None)

    # ---- carrying out

    async def _carry_out(
        self, actor: str, action: str, plan: Plan, replan: Any, facts: dict[str, str | int]
    ) -> Applied:
        if len(plan.steps) > MOST_CHANGES:
            message = f"The plan has {len(plan.steps)} changes; {MOST_CHANGES} are made at once"
            raise Refusal("too_many_changes", message, "Apply the files in several parts: owners and teams first")
        minted: list[Minted] = []

        def decide(book: Book) -> Change:
            if book.version != plan.version and replan(book).digest != plan.digest:
                raise _stale_refusal("while it was carried out")
            minted[:] = self._minted(book, plan)
            put, gone = self._entities(plan, actor, {one.name: one.key for one in minted})
            told = {act: sum(step.act == act for step in plan.steps) for act in ("create", "change", "remove")}
            objects = _listed([f"{step.kind}/{step.name}" for step in plan.steps])
            where = ", ".join(plan.sources) or "files"
            given = {**facts, **told, "objects": objects, "plan": plan.digest}
            return Change(action=action, target=f"directory/{where}", put=put, gone=gone, facts=given, by_git=True)

        await self._directory.change(actor, decide)
        return Applied(plan=plan, version=self._directory.book.version, minted=tuple(minted))

    def _minted(self, book: Book, plan: Plan) -> list[Minted]:
        made = []
        for step in plan.steps:
            if isinstance(step.after, VirtualKey) and step.before is None and not step.after.secrets:
                key_id, text = mint(self._entropy, public_id=step.id or None)
                while not step.id and book.find(VirtualKey, key_id) is not None:
                    key_id, text = mint(self._entropy)
                secret = KeySecret(digest=digest(text.reveal(), self._pepper))
                made.append(Minted(step.name, replace(step.after, id=key_id, secrets=(secret,)), text))
        return made

    def _entities(
        self, plan: Plan, actor: str, made: dict[str, VirtualKey]
    ) -> tuple[list[Entity], list[tuple[Kind, str]]]:
        put: list[Entity] = []
        gone: list[tuple[Kind, str]] = []
        for step in plan.steps:
            after = made.get(step.name, step.after) if step.kind == "key" else step.after
            if isinstance(after, BudgetDef) and after.subject_kind == "key" and after.subject in made:
                after = replace(after, subject=made[after.subject].id)
            if after is None:
                gone.append((step.kind, step.id))
            elif step.act != "mark":
                put.append(after)
            if step.mark is not None and after is not None:
                put.append(self._signed(step, after, actor))
            elif step.mark is None and step.mark_before is not None:
                gone.append(("managed", step.mark_before.id))
        return put, gone

    def _signed(self, step: Step, after: Entity, actor: str) -> Managed:
        """The mark, with who set it and when."""
        assert step.mark is not None
        if step.act == "mark" and step.mark == step.mark_before:
            return step.mark
        own = mark_id(step.kind, cast(Any, after).id)
        return replace(step.mark, id=own, by=actor, at=self._directory.now(), applied=said_digest(after))

    def _planner(self, given: Given, take_over: bool) -> Planner:
        directory = self._directory
        return Planner(directory.book, given, directory.now(), self._check_trust, take_over=take_over)

    async def _edits_since(self, version: int) -> list[Edit]:
        """Newest first."""
        found: list[Edit] = []
        before = _NEWEST
        while True:
            page = [edit for edit in await self._directory.history(before, 500) if edit.version > version]
            found += page
            if not page or page[-1].version == version + 1:
                return found
            before = page[-1].version

    async def _stale(self, since: int) -> Refusal:
        """What came between, by whom."""
        later = [edit for edit in await self._directory.history(_NEWEST, _SHOWN) if edit.version > since]
        if not later:
            return _stale_refusal("or the files did")
        told = [f"{e.kind}/{e.id} by {e.actor} ({e.action}, version {e.version})" for e in later[:3]]
        more = f" and {len(later) - 3} more" if len(later) > 3 else ""
        return _stale_refusal(f"{'; '.join(told)}{more}")


def _stale_refusal(what: str) -> Refusal:
    return Refusal(
        "plan_stale", f"The directory changed since the plan: {what}. Nothing was done", "Plan again: bursar plan"
    )


def _listed(names: list[str]) -> str:
    text = ", ".join(names[:_SHOWN])
    return f"{text} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else text

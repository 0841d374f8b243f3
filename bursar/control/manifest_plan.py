"""What has to change so that the directory is what files say. Pure: a book and manifests in, a plan or all faults out.

Nothing of it is carried out here. Objects that no file names stay as they are; only with `prune` those go that the same
source manages and names no longer.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, cast

import msgspec
from msgspec.structs import replace

from bursar.control.deployments import MOST as MOST_DEPLOYMENTS
from bursar.control.deployments import too_many
from bursar.control.directory import Book
from bursar.control.hands_off import mark_id, refusal_of
from bursar.control.manifest_ahead import Ahead, leaning_on
from bursar.control.manifest_read import Reading, entity_of
from bursar.control.manifest_shapes import SECTIONS, SHAPES, Manifest, written
from bursar.core.directory import BudgetDef, Deployment, Entity, Kind, Managed, Team, TrustRule, VirtualKey
from bursar.core.strict import Fault, Faults, read_what_fits, suggest

Act = Literal["create", "change", "remove", "mark"]
CheckTrust = Callable[[TrustRule, Team], TrustRule]
_SOURCE = re.compile(r"git(:[A-Za-z0-9][A-Za-z0-9._/@-]{0,99})?", re.ASCII)
_PUBLIC_ID = re.compile(r"[a-z2-7]{12}", re.ASCII)
_encode = msgspec.json.Encoder(order="sorted").encode


class Given(msgspec.Struct, frozen=True, kw_only=True):
    """What files say: section -> name -> plain data. `sources`: whose files they are, for `prune`."""

    documents: dict[str, dict[str, Any]]
    sources: tuple[str, ...] = ()
    files: dict[str, str] = {}  # "team/search" -> the file in which it stands
    prune: bool = False


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What happens to one object. `after` of a key that is not there yet has no secret, and no id unless one is given.

    `mark`: as it will stand on it; None = none. `drifted`: it was changed by another hand since the files were applied.
    """

    kind: Kind
    name: str  # as in the file
    id: str  # in the directory; "" = not made yet
    act: Act
    before: Entity | None
    after: Entity | None
    mark_before: Managed | None = None
    mark: Managed | None = None
    drifted: bool = False


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """`orphans`: objects of the same source that stand in no file, and stay without `prune`."""

    version: int
    steps: tuple[Step, ...]
    unchanged: int
    orphans: tuple[str, ...] = ()
    left: dict[str, int] = {}  # of a rollback: kinds that it leaves as they are -> how many such changes there were
    sources: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Over what will be done: a plan with the same one does the same."""
        names = {step.id: step.name for step in self.steps if step.kind == "key"}
        told = [
            (s.kind, s.name, s.act, _told(s.before, names), _told(s.after, names), s.mark.source if s.mark else "")
            for s in self.steps
        ]
        return hashlib.sha256(_encode(told)).hexdigest()[:32]


def _told(entity: Entity | None, names: Mapping[str, str]) -> object:
    return None if entity is None else [isinstance(entity, BudgetDef) and entity.deleted, written(entity, names)]


def said_digest(entity: Entity) -> str:
    """Of what a file says of an entity."""
    return hashlib.sha256(_encode(written(entity))).hexdigest()[:16]


class Planner:
    """One plan in the making. `work` does it in small pieces, so that others get their turn between them."""

    def __init__(self, book: Book, given: Given, now: int, check_trust: CheckTrust, *, take_over: bool = False) -> None:
        self._book, self._given, self._now = book, given, now
        self._check_trust, self._take_over = check_trust, take_over
        self._ahead = Ahead(book)
        self._steps: list[Step] = []
        self._faults: list[Fault] = []
        self._named: set[str] = set()  # kind/id of what files name
        self._unchanged = 0
        self._taken: dict[str, str] = {}  # id -> name: two names must not mean one key
        self._marks = {mark.id: mark for mark in book.all(Managed)}
        self._by_handle = {mark.name: mark.id.partition("/")[2] for mark in self._marks.values() if mark.name}
        self._handle_of = {key_id: name for name, key_id in self._by_handle.items()}
        self._keys = dict(self._by_handle)  # name in the files -> id
        self._orphans: tuple[str, ...] = ()
        self.version = book.version

    def work(self) -> Iterator[None]:
        """Raises Faults at its end, with everything that is wrong."""
        self._check_head()
        for kind, (section, shape) in SHAPES.items():
            for name, data in self._given.documents.get(section, {}).items():
                self._one(kind, shape, name, data)
                yield
        orphans = sorted(mark.id for mark in self._marks.values() if self._is_orphan(mark))
        if self._given.prune:
            for orphan in orphans:
                self._remove(orphan)
        self._check_leaning()
        self._check_number()
        if self._faults:
            raise Faults(self._faults)
        self._orphans = () if self._given.prune else tuple(orphans)

    def plan(self) -> Plan:
        order = list(SHAPES)
        steps = sorted(self._steps, key=lambda step: (order.index(step.kind), step.name))
        return Plan(
            version=self.version,
            steps=tuple(steps),
            unchanged=self._unchanged,
            orphans=self._orphans,
            sources=self._given.sources,
        )

    # ---- one object

    def _check_head(self) -> None:
        for section in self._given.documents:
            if section not in SECTIONS:
                self._fault(section, "unknown_key", "no objects are called so", suggest(section, SECTIONS))
        for source in self._given.sources:
            if not _SOURCE.fullmatch(source):
                self._fault("managed_by", "bad_value", f"{source[:64]!r} is no source", "Write git, or git:NAME")

    def _one(self, kind: Kind, shape: type[Manifest], name: str, data: Any) -> None:
        path = f"{SHAPES[kind][0]}.{name}"
        present = self._present(kind, name, data)
        mark = self._marks.get(mark_id(kind, present[0])) if present else None
        if present is not None and self._says_nothing_new(present[1], data, mark):
            self._unchanged += 1
            self._named.add(mark_id(kind, present[0]))
            return
        value, faults = read_what_fits(shape, data)
        self._faults += [replace(fault, path=f"{path}.{fault.path}" if fault.path else path) for fault in faults]
        if value is None:
            return
        reading = Reading(
            path=path,
            name=name,
            ahead=self._ahead,
            present=present[1] if present else None,
            keys=self._keys,
            now=self._now,
            check_trust=self._check_trust,
            faults=self._faults,
        )
        before_faults = len(self._faults)
        after = entity_of(kind, present[0] if present else self._new_id(kind, name), value, reading)
        if after is None or faults or len(self._faults) > before_faults:
            if after is not None:
                self._ahead.put(after, name)  # what leans on it is not at fault for that
            return
        self._settle(kind, name, present, mark, after, value)

    def _settle(
        self,
        kind: Kind,
        name: str,
        present: tuple[str, Entity | None] | None,
        mark: Managed | None,
        after: Entity,
        value: Manifest,
    ) -> None:
        entity_id, before = present or ("", None)
        wanted = self._mark_for(kind, entity_id, name, mark, after, value)
        differs = before is None or not same(before, after)
        foreign = mark is not None and value.managed_by != mark.source and (differs or value.managed_by is not None)
        if mark is not None and foreign and not self._take_over:
            refusal = refusal_of(mark)
            message = f"{refusal.message}; managed_by here says {value.managed_by or 'nothing'}"
            self._fault(f"{SHAPES[kind][0]}.{name}", refusal.word, message, refusal.hint)
            return
        self._ahead.put(after, name)
        if entity_id:
            self._named.add(mark_id(kind, entity_id))
        if not differs and wanted == mark:
            self._unchanged += 1
            return
        drifted = mark is not None and before is not None and mark.applied not in ("", said_digest(before))
        act: Act = "create" if is_gone(before) else "change" if differs else "mark"
        self._steps.append(
            Step(
                kind=kind,
                name=name,
                id=entity_id,
                act=act,
                before=before,
                after=after,
                mark_before=mark,
                mark=wanted and replace(wanted, file=self._given.files.get(mark_id(kind, name), wanted.file)),
                drifted=drifted,
            )
        )

    def _mark_for(
        self, kind: Kind, entity_id: str, name: str, mark: Managed | None, after: Entity, value: Manifest
    ) -> Managed | None:
        source = value.managed_by or (mark.source if mark else "")
        if not source:
            return None
        if value.managed_by and not _SOURCE.fullmatch(value.managed_by):
            path = f"{SHAPES[kind][0]}.{name}.managed_by"
            self._fault(path, "bad_value", f"{value.managed_by[:64]!r} is no source", "Write git, or git:NAME")
        told = name if kind == "key" and name != entity_id else ""
        wanted = replace(mark or Managed(id=mark_id(kind, entity_id), source=source), source=source, name=told)
        # Where the files follow what another hand did, there is nothing to do.
        return mark if wanted == mark else replace(wanted, applied=said_digest(after))

    def _present(self, kind: Kind, name: str, data: Any) -> tuple[str, Entity | None] | None:
        """Id and entity of what a name in a file stands for; None = a key that is not made yet and has no id."""
        if kind != "key":
            return name, self._book.at(kind, name)
        found = self._key_named(name, data)
        if found is None and _PUBLIC_ID.fullmatch(name):
            found = name
        if found is None:
            return None
        if self._taken.setdefault(found, name) != name:
            message = f"means the key {found}, as {self._taken[found]} does"
            self._fault(f"keys.{name}", "duplicate_key", message, "Keep one of them")
        self._keys[name] = found
        return found, self._book.find(VirtualKey, found)

    def _key_named(self, name: str, data: Any) -> str | None:
        """By its id, by the name under which files know it, or, where nobody manages it, by its name in its team."""
        if self._book.find(VirtualKey, name) is not None:
            return name
        team, shown = (data.get("team"), data.get("name")) if isinstance(data, dict) else (None, None)
        if (known := self._by_handle.get(name)) is not None:
            return known
        if not isinstance(team, str) or not isinstance(shown, str):
            return None
        fits = [key.id for key in self._book.keys_of(team) if key.name == shown.strip()]
        free = [key_id for key_id in fits if mark_id("key", key_id) not in self._marks and key_id not in self._taken]
        if len(free) > 1:
            message = f"there are {len(free)} keys {shown!r} in team {team!r}"
            self._fault(f"keys.{name}", "ambiguous", message, f"Name it by its id: {', '.join(free[:3])}")
        return free[0] if free else None

    def _new_id(self, kind: Kind, name: str) -> str:
        if kind == "key":
            self._keys[name] = ""
            return ""
        return name

    def _says_nothing_new(self, present: Entity | None, data: Any, mark: Managed | None) -> bool:
        """The quick way for the many that are as their file says: nothing of it has to be read."""
        if present is None or is_gone(present) or not isinstance(data, dict):
            return False
        said = written(present, self._handle_of)
        if "managed_by" in data:
            if mark is None or data["managed_by"] != mark.source:
                return False
            said["managed_by"] = mark.source
        return bool(said == data)

    # ---- what goes

    def _is_orphan(self, mark: Managed) -> bool:
        kind, _, entity_id = mark.id.partition("/")
        entity = self._book.at(cast(Kind, kind), entity_id)
        return mark.source in self._given.sources and mark.id not in self._named and not is_gone(entity)

    def _remove(self, orphan: str) -> None:
        kind, _, entity_id = orphan.partition("/")
        mark = self._marks[orphan]
        before = self._book.at(cast(Kind, kind), entity_id)
        assert before is not None
        after = replace(before, deleted=True, version=before.version + 1) if isinstance(before, BudgetDef) else None
        self._ahead.remove(cast(Kind, kind), entity_id)
        self._steps.append(
            Step(
                kind=cast(Kind, kind),
                name=mark.name or entity_id,
                id=entity_id,
                act="remove",
                before=before,
                after=after,
                mark_before=mark,
                drifted=mark.applied not in ("", said_digest(before)),
            )
        )

    def _check_leaning(self) -> None:
        """What goes must not be needed by what stays."""
        for step in self._steps:
            if step.act == "remove" and (needed := leaning_on(self._ahead, step.kind, step.id)):
                message = f"{step.kind}/{step.name} would go, and {needed} still needs it"
                path = f"{SHAPES[step.kind][0]}.{step.name}"
                self._fault(path, "in_use", message, "Remove that as well, or keep this")

    def _check_number(self) -> None:
        made = any(step.kind == "deployment" and step.act == "create" for step in self._steps)
        if made and sum(1 for _ in self._ahead.all(Deployment)) > MOST_DEPLOYMENTS:
            refusal = too_many()
            self._fault("deployments", refusal.word, refusal.message, refusal.hint)

    def _fault(self, path: str, word: str, message: str, hint: str = "") -> None:
        self._faults.append(Fault(path, word, message, hint))


def is_gone(entity: Entity | None) -> bool:
    return entity is None or (isinstance(entity, BudgetDef) and entity.deleted)


def same(before: Entity, after: Entity) -> bool:
    """Whether nothing would change but the number of a budget's version."""
    if isinstance(before, BudgetDef) and isinstance(after, BudgetDef):
        return before == replace(after, version=before.version)
    return before == after

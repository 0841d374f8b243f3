"""The directory in control: the present value of every tenant entity, and the one way to change it.

A change is decided by a pure function on the present book, written to the audit, committed to the store, applied and
announced to subscribers: in this order, one at a time. What the audit cannot record does not happen; what it recorded
and the store then refused is recorded as failed.

Several nodes may share the store. What another one changed is read by `catch_up`; a change that was decided on an older
version than the store's is decided anew, unless it touches what the other one touched: then somebody has to look.
"""

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Protocol, TypeVar, cast

import msgspec

from bursar.control.hands_off import check_hands_off, mark_id
from bursar.control.shelves import KeyShelf, Shelf
from bursar.control.unbroken import Unbroken
from bursar.core.audit import Outcome
from bursar.core.directory import (
    KINDS,
    Delta,
    Edit,
    Entity,
    Kind,
    Snapshot,
    VirtualKey,
    for_gateways,
    id_of,
    kind_of,
)
from bursar.core.errors import Refusal
from bursar.ports import Clock

E = TypeVar("E", bound=Entity)
Facts = Mapping[str, str | int]
_ATTEMPTS = 20  # at a change, while other nodes keep changing other things


class DirectoryStore(Protocol):
    """Where the directory lies (`bursar.stores.directory_db`, `directory_postgres`)."""

    async def snapshot(self) -> Snapshot: ...

    async def changes_since(self, version: int) -> list[Delta] | None:
        """Later changes in order, perhaps not all of them at once; none = that version is the present one.

        None: the store has no such version, or is too far ahead. Raises Refusal(directory_unavailable).
        """
        ...

    async def history(self, before: int, limit: int, subject: tuple[Kind, str] | None = None) -> list[Edit]:
        """What the `limit` versions below `before` did, newest first; with `subject` those that touched it."""
        ...

    async def commit(self, delta: Delta, actor: str, action: str, at_ns: int) -> None:
        """All of it or nothing. Raises Refusal(directory_changed | directory_unavailable)."""
        ...


class Audit(Protocol):
    """Where it is written down who did what. Returns when it is durable; raises Refusal(audit_unavailable)."""

    async def append(
        self, actor: str, action: str, target: str, facts: Facts, outcome: Outcome = "allowed"
    ) -> object: ...


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What a decision wants: entities to put, ids to remove, and what the audit says of it (never a secret)."""

    action: str  # "key.create", "budget.lower", ...
    target: str  # "key/abcdefgh2345"
    put: Sequence[Entity] = ()
    gone: Sequence[tuple[Kind, str]] = ()
    facts: Facts = {}
    by_git: bool = False  # it is what a file says, or takes back what one said


class Previewed(Exception):
    """Ends a use case that was asked only what it would change: nothing was changed."""

    def __init__(self, action: str, edits: Sequence[Edit]) -> None:
        super().__init__(action)
        self.action = action
        self.edits = edits


PREVIEW: ContextVar[bool] = ContextVar("preview", default=False)
"""Set for one call of the admin API: the change it leads to is decided and told (`Previewed`), not made."""

CARRIED_OUT: ContextVar[tuple[Edit, ...]] = ContextVar("carried_out", default=())
"""What the last change made from within one call did."""


BREAK_GLASS: ContextVar[str] = ContextVar("break_glass", default="")
"""Why, within one call, what git manages may be changed by hand all the same; "" = it may not."""


class Lookup(Protocol):
    """What a rule needs of a book, or of a book with changes laid over it."""

    def find(self, kind: type[E], entity_id: str) -> E | None: ...

    def get(self, kind: type[E], entity_id: str) -> E: ...


class Book:
    """The present directory by kind and id. Read it freely; only `Directory` writes."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.version = snapshot.version
        self._keys = KeyShelf(snapshot.keys)
        self._shelves: dict[Kind, Shelf] = {
            kind: Shelf({id_of(entity): entity for entity in getattr(snapshot, row.field)})
            for kind, row in KINDS.items()
            if kind != "key"
        }
        self._shelves["key"] = self._keys

    def find(self, kind: type[E], entity_id: str) -> E | None:
        return cast("E | None", self.at(_KIND[kind], entity_id))

    def get(self, kind: type[E], entity_id: str) -> E:
        """The entity, or Refusal(unknown_id)."""
        entity = self.find(kind, entity_id)
        if entity is None:
            name = _KIND[kind].replace("_", " ")
            raise Refusal("unknown_id", f"There is no {name} {entity_id[:64]!r}", f"See: {LIST_COMMAND[_KIND[kind]]}")
        return entity

    def all(self, kind: type[E]) -> list[E]:
        """Every entity of a kind, ordered by id."""
        return cast("list[E]", self._shelves[_KIND[kind]].ordered())

    def count(self, kind: type[E]) -> int:
        return len(self._shelves[_KIND[kind]].by_id)

    def keys_of(self, team_id: str) -> list[VirtualKey]:
        """A team's keys, ordered by id."""
        return cast("list[VirtualKey]", self._keys.of_team(team_id))

    def snapshot(self) -> Snapshot:
        rows = KINDS.items()
        return Snapshot(version=self.version, **{row.field: self._shelves[kind].ordered() for kind, row in rows})  # type: ignore[arg-type]

    def at(self, kind: Kind, entity_id: str) -> Entity | None:
        """As `find`, by the name of the kind."""
        return self._shelves[kind].by_id.get(entity_id)

    def differs(self, entity: Entity) -> bool:
        return self.at(kind_of(entity), id_of(entity)) != entity

    def apply(self, delta: Delta) -> None:
        for kind, entity_id in delta.gone:
            self._shelves[cast(Kind, kind)].remove(entity_id)
        for kind, row in KINDS.items():
            for entity in getattr(delta, row.field):
                self._shelves[kind].put(entity)
        self.version = delta.version


_KIND: dict[type, Kind] = {row.type: kind for kind, row in KINDS.items()}
LIST_COMMAND: dict[Kind, str] = {
    "owner": "bursar owners list",
    "team": "bursar teams list",
    "key": "bursar keys list",
    "budget": "bursar budgets list",
    "provider_key": "bursar secrets list",
    "price": "bursar prices show",
    "admin": "bursar admins list",
    "trust": "bursar trust list",
    "token_key": "bursar tokens keys",
    "token_mark": "bursar audit tail",
    "grant": "bursar secrets grants",
    "deployment": "bursar models list",
    "breaker": "bursar breakers list",
    "managed": "bursar managed list",
}


class Directory:
    """The book with its store, its audit and its subscribers.

    `digest` is for what the audit says of each change; keyed, so that nobody can try guesses at contacts against it.
    """

    def __init__(
        self,
        present: Snapshot,
        store: DirectoryStore,
        audit: Audit,
        clock: Clock,
        digest: Callable[[bytes], str] = lambda content: hashlib.sha256(content).hexdigest(),
    ) -> None:
        self._store = store
        self._digest = digest
        self._audit = audit
        self._clock = clock
        self._turn = asyncio.Lock()
        self._unbroken = Unbroken()
        self._subscribers: list[Callable[[Delta], None]] = []
        self._replaced: Callable[[], None] = lambda: None
        self.book = Book(present)

    def now(self) -> int:
        """Nanoseconds since the epoch."""
        return self._clock.now()

    def snapshot(self) -> Snapshot:
        """As a gateway may know it."""
        return for_gateways(self.book.snapshot())

    async def changes_since(self, version: int) -> list[Delta] | None:
        """Later changes as a gateway may know them; see `DirectoryStore`."""
        deltas = await self._store.changes_since(version)
        return None if deltas is None else [for_gateways(delta) for delta in deltas]

    def subscribe(self, callback: Callable[[Delta], None]) -> Callable[[], None]:
        """Have `callback` called with every later change, in order, at once after its commit -> how to stop it.

        It gets the change as a gateway may know it, and must not raise and not block: it stands between one change
        and the next.
        """
        self._subscribers.append(callback)
        return lambda: self._subscribers.remove(callback)

    def on_replaced(self, callback: Callable[[], None]) -> None:
        """Have `callback` called when the book was read anew as a whole: deltas cannot tell the way to it."""
        self._replaced = callback

    async def catch_up(self) -> None:
        """Apply what other nodes have changed. Raises Refusal(directory_unavailable)."""
        async with self._turn:
            await self._catch_up()

    async def change(self, actor: str, decide: Callable[[Book], Change]) -> None:
        """Decide on the present book and carry it out. Raises what `decide` raises, or the audit's or store's Refusal.

        `decide` may be asked several times, while another node changes something else: it keeps nothing but its last.

        A caller that is cancelled leaves a change that has begun to run to its end: audit and directory agree.
        """
        if PREVIEW.get():
            change = self._guarded(decide(self.book))
            delta = self._delta(change)
            raise Previewed(change.action, () if delta is None else self._edits(delta, actor, change.action))
        CARRIED_OUT.set(await self._unbroken.run(self._carry_out(actor, decide)))

    async def history(self, before: int, limit: int, subject: tuple[Kind, str] | None = None) -> list[Edit]:
        """What the `limit` versions below `before` did, newest first; with `subject` those that touched it."""
        return await self._store.history(before, limit, subject)

    async def _carry_out(self, actor: str, decide: Callable[[Book], Change]) -> tuple[Edit, ...]:
        async with self._turn:
            for attempt in range(1, _ATTEMPTS + 1):
                change = self._guarded(decide(self.book))
                delta = self._delta(change)
                if delta is None:
                    return ()
                edits = self._edits(delta, actor, change.action)
                try:
                    await self._commit(actor, change, delta)
                except Refusal as refusal:
                    if refusal.word != "directory_changed":
                        raise
                    if await self._catch_up() & _touched(delta) or attempt == _ATTEMPTS:
                        raise
                else:
                    self._take(delta)
                    return edits
        raise AssertionError("the last attempt returns or raises")

    def _guarded(self, change: Change) -> Change:
        """The change, with what the audit says of glass that it breaks. Raises Refusal(managed_by_git)."""
        if change.by_git:
            return change
        touched: list[tuple[Kind, str, Entity | None]] = [(kind, name, None) for kind, name in change.gone]
        touched += [(kind_of(entity), id_of(entity), entity) for entity in change.put]
        broken = check_hands_off(self.book.at, touched, BREAK_GLASS.get())
        return msgspec.structs.replace(change, facts={**change.facts, **broken}) if broken else change

    async def _commit(self, actor: str, change: Change, delta: Delta) -> None:
        told: dict[str, str | int] = {"directory_version": delta.version, **self._digests(delta)}
        await self._audit.append(actor, change.action, change.target, {**change.facts, **told})
        try:
            await self._store.commit(delta, actor, change.action, self.now())
        except Refusal as refusal:
            await self._audit.append(actor, change.action, change.target, {"word": refusal.word}, "failed")
            raise

    def _digests(self, delta: Delta) -> dict[str, str]:
        """What the change touches, as it was and as it will be: over (kind, id, entity or nothing), in order."""
        put = [entity for row in KINDS.values() for entity in getattr(delta, row.field)]
        after = {(kind_of(entity), id_of(entity)): entity for entity in put}
        touched = sorted({*after, *((cast(Kind, kind), entity_id) for kind, entity_id in delta.gone)})
        before = [(kind, entity_id, self.book.at(kind, entity_id)) for kind, entity_id in touched]
        later = [(kind, entity_id, after.get((kind, entity_id))) for kind, entity_id in touched]
        encode = msgspec.json.Encoder(order="sorted").encode
        return {"digest_before": self._digest(encode(before)), "digest_after": self._digest(encode(later))}

    async def _catch_up(self) -> set[tuple[str, str]]:
        """-> (kind, id) of what was changed elsewhere."""
        touched: set[tuple[str, str]] = set()
        while deltas := await self._store.changes_since(self.book.version):
            for delta in deltas:
                touched |= _touched(delta)
                self._take(delta)
        if deltas is None:
            self.book = Book(await self._store.snapshot())
            self._replaced()
        return touched

    def _take(self, delta: Delta) -> None:
        self.book.apply(delta)
        told = for_gateways(delta)
        for tell in tuple(self._subscribers):
            tell(told)

    def _edits(self, delta: Delta, actor: str, action: str) -> tuple[Edit, ...]:
        """What a delta would do to the book, or does."""
        after: dict[tuple[Kind, str], Entity | None] = {(cast(Kind, kind), name): None for kind, name in delta.gone}
        for row in KINDS.values():
            after |= {(kind_of(entity), id_of(entity)): entity for entity in getattr(delta, row.field)}
        return tuple(
            Edit(
                version=delta.version,
                action=action,
                actor=actor,
                at_ns=self.now(),
                kind=kind,
                id=name,
                before=self.book.at(kind, name),
                after=entity,
            )
            for (kind, name), entity in after.items()
        )

    def _delta(self, change: Change) -> Delta | None:
        """The next version; None when nothing would differ, so that a repeated command leaves no trace."""
        put = [entity for entity in change.put if self.book.differs(entity)]
        if not put and not change.gone:
            return None
        # A mark goes with what it stood on.
        marks = [("managed", mark_id(kind, name)) for kind, name in change.gone]
        gone = [mark for mark in marks if mark not in change.gone and self.book.at("managed", mark[1])]
        delta = Delta(version=self.book.version + 1, gone=[*change.gone, *gone])
        for entity in put:
            getattr(delta, KINDS[kind_of(entity)].field).append(entity)
        return delta


def _touched(delta: Delta) -> set[tuple[str, str]]:
    put = {(kind, id_of(entity)) for kind, row in KINDS.items() for entity in getattr(delta, row.field)}
    return put | {(kind, entity_id) for kind, entity_id in delta.gone}

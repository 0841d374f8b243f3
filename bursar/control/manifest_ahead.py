"""A book with changes laid over it: what will be there once they are made. Pure."""

from collections.abc import Iterator
from typing import TypeVar, cast

from bursar.control.directory import LIST_COMMAND, Book
from bursar.core.deployments import parts_of
from bursar.core.directory import (
    KINDS,
    AccessGrant,
    BudgetDef,
    Deployment,
    Entity,
    Kind,
    Team,
    TrustRule,
    VirtualKey,
    id_of,
    kind_of,
)
from bursar.core.errors import Refusal

E = TypeVar("E", bound=Entity)
_KIND: dict[type, Kind] = {row.type: kind for kind, row in KINDS.items()}


class Ahead:
    """`bursar.control.directory.Lookup`. A key that is not made yet stands under the name it has in its file."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self._over: dict[tuple[Kind, str], Entity | None] = {}

    def put(self, entity: Entity, name: str = "") -> None:
        self._over[kind_of(entity), id_of(entity) or name] = entity

    def remove(self, kind: Kind, entity_id: str) -> None:
        self._over[kind, entity_id] = None

    def find(self, kind: type[E], entity_id: str) -> E | None:
        place = _KIND[kind], entity_id
        return cast("E | None", self._over[place] if place in self._over else self._book.find(kind, entity_id))

    def get(self, kind: type[E], entity_id: str) -> E:
        """Raises Refusal(unknown_id)."""
        found = self.find(kind, entity_id)
        if found is None:
            name = _KIND[kind].replace("_", " ")
            hint = f"Write it down as well, or see: {LIST_COMMAND[_KIND[kind]]}"
            raise Refusal("unknown_id", f"There is no {name} {entity_id[:64]!r}", hint)
        return found

    def all(self, kind: type[E]) -> Iterator[E]:
        own = _KIND[kind]
        over = {name: entity for (at, name), entity in self._over.items() if at == own}
        yield from (entity for entity in self._book.all(kind) if id_of(entity) not in over)
        yield from cast("Iterator[E]", (entity for entity in over.values() if entity is not None))

    def keys_of(self, team_id: str) -> Iterator[VirtualKey]:
        """Of a team, without a walk over all keys of the book."""
        over = {name: entity for (at, name), entity in self._over.items() if at == "key"}
        yield from (key for key in self._book.keys_of(team_id) if key.id not in over)
        yield from (key for key in over.values() if isinstance(key, VirtualKey) and key.team_id == team_id)


def leaning_on(ahead: Ahead, kind: Kind, name: str) -> str:
    """What would still need an object that is gone, as kind/id; "" = nothing."""
    leaning: Iterator[str] = iter(())
    if kind == "owner":
        leaning = (f"team/{team.id}" for team in ahead.all(Team) if team.owner_id == name)
    elif kind == "team":
        leaning = (f"key/{key.id}" for key in ahead.keys_of(name))
    found = next(leaning, "")
    if not found and kind == "team":
        found = next((f"trust/{rule.id}" for rule in ahead.all(TrustRule) if rule.team_id == name), "")
        grants = (f"grant/{grant.id}" for grant in ahead.all(AccessGrant) if grant.subject == f"team/{name}")
        found = found or next(grants, "")
        deployments = (f"deployment/{one.id}" for one in ahead.all(Deployment) if parts_of(one)[1] == name)
        found = found or next(deployments, "")
    if not found and kind in ("owner", "team", "key"):
        budgets = (b for b in ahead.all(BudgetDef) if (b.subject_kind, b.subject) == (kind, name) and not b.deleted)
        found = next((f"budget/{budget.id}" for budget in budgets), "")
    return found

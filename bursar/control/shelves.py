"""Entities of one kind as control holds them: by id, and in the order of ids without sorting at each look.

With hundreds of thousands of keys a change must not cost a walk over all of them.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence

from bursar.core.directory import Entity, VirtualKey, id_of


class Shelf:
    """Only `Book` writes."""

    def __init__(self, by_id: dict[str, Entity]) -> None:
        self.by_id = by_id
        self._ids = sorted(by_id)

    def put(self, entity: Entity) -> None:
        entity_id = id_of(entity)
        if entity_id not in self.by_id:
            insort(self._ids, entity_id)
        self.by_id[entity_id] = entity

    def remove(self, entity_id: str) -> None:
        if self.by_id.pop(entity_id, None) is not None:
            del self._ids[bisect_left(self._ids, entity_id)]

    def ordered(self) -> list[Entity]:
        by_id = self.by_id
        return [by_id[entity_id] for entity_id in self._ids]


class KeyShelf(Shelf):
    """Keys, found by their team as well."""

    def __init__(self, keys: Sequence[VirtualKey]) -> None:
        super().__init__({key.id: key for key in keys})
        self._of_team: dict[str, set[str]] = {}
        of_team = self._of_team
        for key in keys:  # plainly: there may be hundreds of thousands, and somebody waits for the start
            if key.team_id in of_team:
                of_team[key.team_id].add(key.id)
            else:
                of_team[key.team_id] = {key.id}

    def put(self, entity: Entity) -> None:
        self._take_from_team(id_of(entity))
        super().put(entity)
        self._team_of(entity).add(id_of(entity))

    def remove(self, entity_id: str) -> None:
        self._take_from_team(entity_id)
        super().remove(entity_id)

    def of_team(self, team_id: str) -> list[Entity]:
        """In the order of their ids."""
        return [self.by_id[key_id] for key_id in sorted(self._of_team.get(team_id, ()))]

    def _team_of(self, entity: Entity) -> set[str]:
        assert isinstance(entity, VirtualKey)
        return self._of_team.setdefault(entity.team_id, set())

    def _take_from_team(self, entity_id: str) -> None:
        before = self.by_id.get(entity_id)
        if before is not None:
            self._team_of(before).discard(entity_id)

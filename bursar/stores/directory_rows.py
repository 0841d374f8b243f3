"""What both directory stores keep of an entity: a row with its kind, its id and its body in JSON."""

import hashlib
import itertools
from collections.abc import Callable, Iterable, Mapping
from operator import itemgetter
from typing import Any

import msgspec

from bursar.core.directory import KINDS, Delta, Edit, Entity, Kind, Snapshot, id_of, kind_of

_DECODERS: dict[str, tuple[str, Callable[[bytes], Entity]]] = {
    kind: (row.field, msgspec.json.Decoder(row.type).decode) for kind, row in KINDS.items()
}
Row = tuple[str, str, bytes | None]  # kind, id, body; None = it is gone


def rows_of(delta: Delta) -> list[Row]:
    """What a change writes, removals first."""
    rows: list[Row] = [(kind, entity_id, None) for kind, entity_id in delta.gone]
    for kind_row in KINDS.values():
        rows += [(kind_of(one), id_of(one), msgspec.json.encode(one)) for one in getattr(delta, kind_row.field)]
    return rows


def put_in(news: Snapshot | Delta, kind: str, body: bytes) -> None:
    """Add the entity of a row. A kind that only a newer Bursar knows is left alone."""
    found = _DECODERS.get(kind)
    if found is not None:
        field, decode = found
        getattr(news, field).append(decode(body))


def snapshot_of(version: int, rows: Iterable[tuple[str, bytes]]) -> Snapshot:
    """All rows (kind, body) of a directory, those of one kind one after another. As `put_in`, for very many."""
    snapshot = Snapshot(version=version)
    for kind, run in itertools.groupby(rows, key=itemgetter(0)):
        found = _DECODERS.get(kind)
        if found is not None:
            field, decode = found
            getattr(snapshot, field).extend([decode(body) for _, body in run])
    return snapshot


def deltas_of(rows: Iterable[Mapping[str, Any]]) -> list[Delta]:
    """Rows of the history (version, kind, id, body) in order -> one Delta for each version."""
    deltas: list[Delta] = []
    for row in rows:
        if not deltas or deltas[-1].version != row["version"]:
            deltas.append(Delta(version=row["version"]))
        if row["body"] is None and row["kind"] in _DECODERS:
            deltas[-1].gone.append((row["kind"], row["id"]))
        elif row["body"] is not None:
            put_in(deltas[-1], row["kind"], row["body"])
    return deltas


def edits_of(rows: Iterable[Mapping[str, Any]]) -> list[Edit]:
    """Rows of the history (version, action, actor, at_ns, kind, id, before, body) as values, in their order."""
    return [
        Edit(
            version=row["version"],
            action=row["action"],
            actor=row["actor"],
            at_ns=row["at_ns"],
            kind=row["kind"],
            id=row["id"],
            before=_entity(row["kind"], row["before"]),
            after=_entity(row["kind"], row["body"]),
        )
        for row in rows
        if row["kind"] in KINDS
    ]


def _entity(kind: Kind, body: bytes | None) -> Entity | None:
    return None if body is None else msgspec.json.decode(body, type=KINDS[kind].type)


def digest(body: bytes | None) -> bytes | None:
    return None if body is None else hashlib.sha256(body).digest()

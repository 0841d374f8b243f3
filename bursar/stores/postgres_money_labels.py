"""Who and what of a hold, written to the database once: `ledger_label`. A node remembers those it uses."""

import hashlib
from collections.abc import Iterable
from operator import attrgetter

import msgspec
from msgspec.structs import fields

from bursar.core.ledger_records import HoldRequest
from bursar.stores.postgres import Postgres

_OWN = frozenset(
    {
        "request_id",
        "attempt",
        "directory_version",
        "ceiling_pico",
        "expected_pico",
        "input_ceiling",
        "output_ceiling",
        "budgets",
    }
)
"""Fields of a request that differ from hold to hold: columns of the ledger."""

NAMES = tuple(field.name for field in fields(HoldRequest) if field.name not in _OWN)
_key = attrgetter(*NAMES)
_MOST = 50_000  # remembered

_MAKE = """INSERT INTO bursar.ledger_label (digest, key_id, team_id, owner_id, secret_id, names)
    SELECT u.digest, u.names ->> 'key_id', u.names ->> 'team_id', u.names ->> 'owner_id', u.names ->> 'secret_id',
    u.names FROM unnest($1::bytea[], $2::jsonb[]) AS u(digest, names) ON CONFLICT (digest) DO NOTHING"""
_FIND = "SELECT id, digest FROM bursar.ledger_label WHERE digest = ANY($1)"
_NAMES_OF = "SELECT names FROM bursar.ledger_label WHERE id = $1"

LabelKey = tuple[object, ...]


class Labels:
    """Every call that awaits raises what is in postgres.AWAY."""

    def __init__(self, store: Postgres) -> None:
        self._store = store
        self._known: dict[LabelKey, int] = {}
        self._names: dict[int, dict[str, str]] = {}

    def forget(self) -> None:
        """Their numbers may mean others now."""
        self._known.clear()
        self._names.clear()

    def find(self, request: HoldRequest) -> int | None:
        return self._known.get(_key(request))

    async def make(self, requests: Iterable[HoldRequest]) -> None:
        """See that there is a label for each of these."""
        if len(self._known) >= _MOST:
            self._known.clear()
        keys = {_key(request) for request in requests}
        texts = {key: msgspec.json.encode(dict(zip(NAMES, map(_clean, key), strict=True))) for key in keys}
        digests = {key: hashlib.sha256(text).digest() for key, text in texts.items()}
        sql = self._store.sql
        async with self._store.connection() as db:
            # In one order: of two nodes that make the same two, neither waits for the other in a circle.
            wanted = {digests[key]: texts[key].decode() for key in sorted(keys, key=digests.__getitem__)}
            found = await db.fetch(sql(_FIND), list(wanted))
            if len(found) < len(wanted):
                await db.execute(sql(_MAKE), list(wanted), list(wanted.values()))
                found = await db.fetch(sql(_FIND), list(wanted))
        ids = {row["digest"]: row["id"] for row in found}
        self._known.update((key, ids[digest]) for key, digest in digests.items())

    async def names(self, label: int) -> dict[str, str]:
        """Remembered: a dead node's holds are many, and their labels few."""
        known = self._names.get(label)
        if known is None:
            if len(self._names) >= _MOST:
                self._names.clear()
            known = self._names[label] = await self._read(label)
        return known

    async def _read(self, label: int) -> dict[str, str]:
        async with self._store.connection() as db:
            found = await db.fetchval(self._store.sql(_NAMES_OF), label)
        return {} if found is None else msgspec.json.decode(found, type=dict[str, str])


def _clean(name: object) -> str:
    """PostgreSQL keeps no NUL and no half of a surrogate pair; a caller chooses some of these names."""
    return str(name).replace("\0", "\ufffd").encode("utf-8", "replace").decode()

"""One map of the provider keys: each with its team, who pays, who may use, read and rotate it, and what is wrong.

Computed from what the stores, the directory and the ledger say now; nothing is kept.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Protocol

import msgspec

from bursar.control.directory import Directory
from bursar.core.access import covers
from bursar.core.directory import AccessGrant, Act, Owner, Team, VirtualKey
from bursar.core.provider_keys import UNASSIGNED, SecretEntry
from bursar.core.routing import EMULATOR_ENVIRONMENT, address_parts
from bursar.core.units import NS_PER_S

EXPIRES_TAG = "expires"  # a day: 2027-01-31
SOON = timedelta(days=30)
_QUIET_NS = 7 * 86_400 * NS_PER_S  # so old must an entry be before it counts as never used


class Stores(Protocol):
    async def entries(self) -> list[SecretEntry]: ...

    async def twins(self) -> list[tuple[str, ...]]:
        """Addresses under which one value is stored, as far as that can be told."""
        ...


class Uses(Protocol):
    async def last_uses(self) -> Mapping[str, int]:
        """Instant (ns, to the hour) of the last call under each provider key, by its id."""
        ...


class MapLine(msgspec.Struct, frozen=True, kw_only=True):
    """One provider key.

    `flags`: unowned, owner_gone, no_team, duplicate, expired, expiring, over_scoped, never_used.
    """

    id: str
    address: str
    store: str
    disabled: bool
    team: str  # of its address, "*" = any
    owner: str
    used_by: tuple[str, ...]  # teams whose virtual keys it serves
    keys: int  # living virtual keys of these teams
    read_by: tuple[str, ...]  # roles and admins that may have its value in clear, "node" = the node's own token
    rotated_by: tuple[str, ...]  # the same, for a new version
    last_use_ns: int | None
    expires: str
    flags: tuple[str, ...]


class KeyMap:
    """`may_reveal`: whether this node lets a value out in clear at all."""

    def __init__(self, directory: Directory, stores: Stores, uses: Uses, *, may_reveal: bool = False) -> None:
        self._directory = directory
        self._stores = stores
        self._uses = uses
        self._may_reveal = may_reveal

    async def read(self) -> list[MapLine]:
        """Every provider key but the emulator's, by address. Raises the stores' refusals."""
        used = await self._uses.last_uses()
        double = {address for group in await self._stores.twins() for address in group}
        entries = [entry for entry in await self._stores.entries() if _is_real(entry)]
        return [self._line(entry, used.get(entry.id), entry.address in double) for entry in entries]

    def _line(self, entry: SecretEntry, last_use: int | None, double: bool) -> MapLine:
        book, team = self._directory.book, address_parts(entry.address)[4]
        lent = set(self._granted("use", entry))
        teams = [
            one.id for one in book.all(Team) if (team in ("*", one.id) or f"team/{one.id}" in lent) and not one.disabled
        ]
        keys = [key for key in book.all(VirtualKey) if key.team_id in teams and not key.disabled]
        owner = entry.tags.get("billing_owner", UNASSIGNED)
        expires = entry.tags.get(EXPIRES_TAG, "")
        wrong = {
            "unowned": entry.unowned,
            "owner_gone": not entry.unowned and book.find(Owner, owner) is None,
            "no_team": team != "*" and book.find(Team, team) is None,
            "duplicate": double,
            "over_scoped": _is_wide(entry),
            "never_used": last_use is None and self._directory.now() - entry.created_at > _QUIET_NS,
            **_ends(expires, self._directory.now()),
        }
        return MapLine(
            id=entry.id,
            address=entry.address,
            store=entry.store,
            disabled=entry.disabled,
            team=team,
            owner=owner,
            used_by=tuple(teams),
            keys=len(keys),
            read_by=("node", *self._granted("read", entry)) if self._may_reveal else (),
            rotated_by=("role/admin", *self._granted("rotate", entry)),
            last_use_ns=last_use,
            expires=expires,
            flags=tuple(flag for flag, is_so in wrong.items() if is_so),
        )

    def _granted(self, act: Act, entry: SecretEntry) -> list[str]:
        """Who was granted this on the entry: `team/...`, `role/...`, `admin/...`."""
        now = self._directory.now()
        grants = self._directory.book.all(AccessGrant)
        return sorted({one.subject for one in grants if covers(one, act, entry.address, entry.tags, now)})


def _is_real(entry: SecretEntry) -> bool:
    return address_parts(entry.address)[3] != EMULATOR_ENVIRONMENT


def _is_wide(entry: SecretEntry) -> bool:
    """Any team may use it for any model."""
    _, model, _, _, team = address_parts(entry.address)
    return team == "*" and model == "*" and entry.tags.get("allowed_models", "*") == "*"


def _ends(day: str, now: int) -> dict[str, bool]:
    """A tag that is no day says nothing that could be trusted: it counts as expiring."""
    if not day:
        return {}
    try:
        end = datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        return {"expiring": True}
    left = end - datetime.fromtimestamp(now / NS_PER_S, UTC)
    return {"expired": left <= timedelta(0), "expiring": timedelta(0) < left <= SOON}

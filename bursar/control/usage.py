"""What was used and what it cost, from the ledger's projection; and where each budget stands."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Protocol, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from bursar.control.directory import Directory
from bursar.core.access_tokens import trust_plan
from bursar.core.directory import Owner, Team, VirtualKey
from bursar.core.errors import Refusal
from bursar.core.ledger_records import JOINT, Balance, UsageBy, UsageRow
from bursar.core.replay import Past
from bursar.core.units import NS_PER_S

_KNOWN: tuple[UsageBy, ...] = get_args(UsageBy)
_RULE = trust_plan("")  # how the ledger calls the trust rule behind a token
DEFAULT_SPAN_NS = 30 * 86_400 * NS_PER_S


class LedgerReader(Protocol):
    """The ledger's projection. Reads may take long: an implementation keeps them off the loop."""

    async def usage(
        self, by: Sequence[UsageBy], since_ns: int, until_ns: int, limit: int, after: str, zone: str = "UTC"
    ) -> list[UsageRow]:
        """At most `limit` groups later than `after` in the order of their names, which `JOINT` joins."""
        ...

    async def balances(self) -> list[Balance]:
        """Every living budget in its current window, as far as the projection has come."""
        ...

    async def history(self, since_ns: int, until_ns: int, after: int, limit: int) -> list[tuple[int, Past]]:
        """(number, attempt) of up to `limit` that were held in the span, in their order, behind number `after`."""
        ...


class UsageReport(msgspec.Struct, frozen=True, kw_only=True):
    since_ns: int
    until_ns: int
    by: tuple[UsageBy, ...]
    rows: list[UsageRow]


class Usage:
    def __init__(self, directory: Directory, ledger: LedgerReader) -> None:
        self._directory = directory
        self._ledger = ledger

    async def report(
        self,
        by: tuple[UsageBy, ...],
        since_ns: int | None,
        until_ns: int | None,
        limit: int,
        after: str,
        zone: str = "UTC",
    ) -> UsageReport:
        """Usage from `since_ns` (default: 30 days before the end) up to `until_ns` (default: now), days in `zone`.

        Raises Refusal(invalid_input).
        """
        _check(by, zone)
        until = self._directory.now() if until_ns is None else until_ns
        since = until - DEFAULT_SPAN_NS if since_ns is None else since_ns
        if since >= until:
            raise Refusal("invalid_input", "The span ends before it begins", "Give an earlier --since")
        rows = await self._ledger.usage(by, since, until, limit, after, zone)
        return UsageReport(since_ns=since, until_ns=until, by=by, rows=rows)

    async def balances(self) -> list[Balance]:
        return await self._ledger.balances()

    def names_of(self, by: Sequence[UsageBy], group: str) -> tuple[str, ...]:
        """What people call each part of a group."""
        return tuple(self.name_of(one, part) for one, part in zip(by, group.split(JOINT), strict=True))

    def name_of(self, by: UsageBy, group: str) -> str:
        """What people call a group by one thing; "" where the id says it all or the entity is gone."""
        book = self._directory.book
        if by == "key" and group.startswith(_RULE):
            return f"trust rule {group.removeprefix(_RULE)}"
        if by == "key":
            found: VirtualKey | Team | Owner | None = book.find(VirtualKey, group)
        elif by == "team":
            found = book.find(Team, group)
        else:
            found = book.find(Owner, group) if by == "owner" else None
        return found.name if found else ""


def _check(by: Sequence[str], zone: str) -> None:
    """Raises Refusal(invalid_input)."""
    for one in by:
        if one not in _KNOWN:
            near = get_close_matches(one, _KNOWN, 1)
            hint = f"did you mean `{near[0]}`?" if near else f"One of {', '.join(_KNOWN)}"
            raise Refusal("invalid_input", f"Usage is not told by {one[:40]!r}", hint)
    if len(set(by)) != len(by):
        raise Refusal("invalid_input", "Something is named twice", f"By each of these once: {', '.join(_KNOWN)}")
    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise Refusal("invalid_input", f"{zone[:60]!r} is no time zone", "Write it as Europe/Berlin") from None

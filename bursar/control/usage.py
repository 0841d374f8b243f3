"""What was used and what it cost, from the ledger's projection; and where each budget stands."""

from typing import Protocol

import msgspec

from bursar.control.directory import Directory
from bursar.core.access_tokens import trust_plan
from bursar.core.directory import Owner, Team, VirtualKey
from bursar.core.errors import Refusal
from bursar.core.ledger_records import Balance, UsageBy, UsageRow
from bursar.core.units import NS_PER_S

_RULE = trust_plan("")  # how the ledger calls the trust rule behind a token
DEFAULT_SPAN_NS = 30 * 86_400 * NS_PER_S


class LedgerReader(Protocol):
    """The ledger's projection. Reads may take long: an implementation keeps them off the loop."""

    async def usage(self, by: UsageBy, since_ns: int, until_ns: int, limit: int, after: str) -> list[UsageRow]:
        """At most `limit` groups later than `after` in the order of their names."""
        ...

    async def balances(self) -> list[Balance]:
        """Every living budget in its current window, as far as the projection has come."""
        ...


class UsageReport(msgspec.Struct, frozen=True, kw_only=True):
    since_ns: int
    until_ns: int
    by: UsageBy
    rows: list[UsageRow]


class Usage:
    def __init__(self, directory: Directory, ledger: LedgerReader) -> None:
        self._directory = directory
        self._ledger = ledger

    async def report(
        self, by: UsageBy, since_ns: int | None, until_ns: int | None, limit: int, after: str
    ) -> UsageReport:
        """Usage from `since_ns` (default: 30 days before the end) up to `until_ns` (default: now)."""
        until = self._directory.now() if until_ns is None else until_ns
        since = until - DEFAULT_SPAN_NS if since_ns is None else since_ns
        if since >= until:
            raise Refusal("invalid_input", "The span ends before it begins", "Give an earlier --since")
        rows = await self._ledger.usage(by, since, until, limit, after)
        return UsageReport(since_ns=since, until_ns=until, by=by, rows=rows)

    async def balances(self) -> list[Balance]:
        return await self._ledger.balances()

    def name_of(self, by: UsageBy, group: str) -> str:
        """What people call the group; "" where the id says it all or the entity is gone."""
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

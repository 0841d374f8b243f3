"""What of a control process lies in stores, opened for it: by the data folder, or by a database that nodes share."""

from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from dataclasses import dataclass
from typing import Any, Protocol

from bursar.app.spec import NodeSpec
from bursar.app.vault import Vault
from bursar.control.audit_desk import Jobs
from bursar.control.audit_retention import PrunableTrail
from bursar.control.decisions import DecisionStore
from bursar.control.directory import Directory, DirectoryStore
from bursar.control.explain import RequestLedger
from bursar.control.fleet import Fleet
from bursar.control.key_map import Uses
from bursar.control.ledger_news import Outbox
from bursar.control.usage import LedgerReader
from bursar.core.directory import Snapshot
from bursar.core.errors import Refusal
from bursar.ports import AuditTrail, Clock, Entropy


class Closes(Protocol):
    def close(self) -> None: ...


class Ledger(LedgerReader, RequestLedger, Uses, Protocol):
    async def follow(self, on_fault: Callable[[Refusal], None]) -> None:
        """Keep the view up to date, for ever, where it needs that."""
        ...

    async def catch_up(self) -> int:
        """Bring it up to date now; the number of records."""
        ...


Follow = Callable[[Directory, Callable[[float], None]], Coroutine[None, None, None]]
"""Follows what other nodes change, for ever; tells each confirmation (bursar.control.follow)."""


@dataclass(frozen=True, slots=True)
class Stores:
    vault: Vault
    trail: AuditTrail
    prunable: PrunableTrail  # the trail, of which retention may take records away
    jobs: Jobs
    directory: DirectoryStore
    present: Snapshot  # of the directory
    ledger: Ledger
    decisions: DecisionStore
    news: Outbox[Any] | None  # what owners are to be told, where gateways do not tell it themselves
    fleet: Fleet
    follow: Follow | None  # None: nobody else changes anything
    close: Callable[[], Awaitable[None]]


OpenStores = Callable[[NodeSpec, MutableMapping[str, str], Clock, Entropy], Awaitable[Stores]]
"""Takes credentials out of the environment. Raises SealError, Refusal, SchemaFault."""

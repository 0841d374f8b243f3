"""What stands behind a gateway's holds: on one node its journal."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from bursar.app.spec import NodeSpec
from bursar.core.ledger import LedgerEvent
from bursar.gateway.node import Money
from bursar.ports import Clock
from bursar.stores.journal import Journal

OnEvent = Callable[[LedgerEvent], None]


class Backing(Protocol):
    """`start` is awaited before the first call, `close` after the last; budgets are defined before either."""

    @property
    def money(self) -> Money: ...

    async def start(self) -> None: ...

    async def close(self) -> None: ...


OpenBacking = Callable[[NodeSpec, Clock, OnEvent], Backing]
"""Called inside the running loop. Raises JournalDamaged, Refusal."""


class Embedded:
    """One node: the journal in its data folder."""

    def __init__(self, journal: Journal) -> None:
        self.money = journal

    async def start(self) -> None:
        """The journal is open already."""

    async def close(self) -> None:
        self.money.close()


def open_embedded(spec: NodeSpec, clock: Clock, on_event: OnEvent) -> Embedded:
    """Raises JournalDamaged."""
    return Embedded(Journal.open(Path(spec.data) / "journal", clock, spec.config.durability, on_event=on_event))

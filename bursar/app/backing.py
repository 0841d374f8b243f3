"""What stands behind a gateway's holds and the ids that it keeps: on one node its own files."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from bursar.app.spec import NodeSpec
from bursar.core.ledger import LedgerEvent
from bursar.gateway.node import Money
from bursar.ports import Clock, MadeIds
from bursar.stores.journal import Journal
from bursar.stores.made_ids_file import FILE, MadeIdsFile

OnEvent = Callable[[LedgerEvent], None]


class Backing(Protocol):
    """`start` is awaited before the first call, `close` after the last; budgets are defined before either."""

    @property
    def money(self) -> Money: ...

    @property
    def made_ids(self) -> MadeIds: ...

    async def start(self) -> None: ...

    async def close(self) -> None: ...


OpenBacking = Callable[[NodeSpec, Clock, OnEvent], Backing]
"""Called inside the running loop. Raises JournalDamaged, Refusal."""


class Embedded:
    """One node: the journal and the ids that providers made, in its data folder."""

    def __init__(self, journal: Journal, made_ids: MadeIdsFile) -> None:
        self.money = journal
        self.made_ids = made_ids

    async def start(self) -> None:
        """The journal is open already."""

    async def close(self) -> None:
        self.money.close()
        await self.made_ids.close()


def open_embedded(spec: NodeSpec, clock: Clock, on_event: OnEvent) -> Embedded:
    """Raises JournalDamaged."""
    folder, durability, ids = Path(spec.data), spec.config.durability, spec.config.ids
    made_ids = MadeIdsFile(
        folder / FILE, clock, most_of_team=ids.most_of_team, most=ids.most, power=durability == "power"
    )
    return Embedded(Journal.open(folder / "journal", clock, durability, on_event=on_event), made_ids)

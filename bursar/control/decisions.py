"""Decisions as control keeps them: what gateways ship goes into a store, and away again when it is old.

A batch is taken once, or lost: it is answered when it lies in the store, or could not be written. A store that fails
costs explanations and nothing else; what was lost is counted and told in status and metrics. Nothing waits in memory
here: a gateway ships the next batch when the last one was answered.
"""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import msgspec

from bursar.core.decisions import HOUR_NS, Batch, Decision, Dropped, ShadowSum, Wanted, decode
from bursar.core.errors import Refusal
from bursar.core.units import NS_PER_S
from bursar.ports import Clock

_PRUNE_S = 600.0
_log = logging.getLogger("bursar.decisions")


class DecisionStore(Protocol):
    """`explain.db`, or tables in PostgreSQL. Every call raises Refusal(decisions_unavailable)."""

    async def keep(self, node: str, batch: Batch, decisions: Sequence[Decision]) -> bool:
        """Write a batch, all of it or nothing; False: it is here already. `decisions` are its records, decoded."""
        ...

    async def find(self, request_id: str) -> tuple[Decision, str] | None:
        """(the decision, the node that made it)."""
        ...

    async def of_requests(self, request_ids: Sequence[str]) -> list[Decision]:
        """Those of these requests that were recorded."""
        ...

    async def page(self, wanted: Wanted, before: int, limit: int) -> list[tuple[int, Decision, str]]:
        """(number, decision, node) of up to `limit` that came before number `before`, the newest first."""
        ...

    async def sums(self, since_hour: int, until_hour: int) -> list[ShadowSum]:
        """What rules in shadow would have done in these hours (since <= hour < until)."""
        ...

    async def dropped(self, since_hour: int) -> list[Dropped]:
        """What was not kept since then."""
        ...

    async def prune(self, before_ns: int, before_hour: int, most: int) -> int:
        """Take away what is older, and the oldest of too many; at most half are ordinary ones. The number taken."""
        ...

    def close(self) -> None: ...


class Decisions:
    """`keep_s`: how long. `most`: how many records, whatever their age."""

    def __init__(self, store: DecisionStore, clock: Clock, *, keep_s: float, most: int) -> None:
        self._store = store
        self._clock = clock
        self.keep_s = keep_s
        self._most = most
        self.fault = ""  # why the store does not take any, "" = it does
        self.lost = 0  # records that it did not take

    async def take(self, node: str, batch: Batch) -> None:
        """Keep a gateway's batch. Never raises: what cannot be kept is counted."""
        try:
            decisions = [decode(record) for record in batch.records]
            await self._store.keep(node, batch, decisions)
        except Refusal as refusal:
            self._failed(refusal.message, len(batch.records))
        except msgspec.MsgspecError:
            self._failed("a gateway of another version sent what cannot be read", len(batch.records))
        else:
            self.fault = ""

    async def find(self, request_id: str) -> Decision | None:
        """Raises Refusal(decisions_unavailable)."""
        with _readable():
            found = await self._store.find(request_id)
        return None if found is None else msgspec.structs.replace(found[0], node=found[1])

    async def of_requests(self, request_ids: Sequence[str]) -> list[Decision]:
        """Those of these requests that were recorded. Raises Refusal(decisions_unavailable)."""
        with _readable():
            return await self._store.of_requests(request_ids)

    async def page(self, wanted: Wanted, before: int, limit: int) -> list[tuple[int, Decision]]:
        """(number, decision), the newest first. Raises Refusal(decisions_unavailable)."""
        with _readable():
            rows = await self._store.page(wanted, before, limit)
        return [(seq, msgspec.structs.replace(decision, node=node)) for seq, decision, node in rows]

    async def sums(self, since_ns: int, until_ns: int) -> list[ShadowSum]:
        """By whole hours: the one around `since_ns` counts, and those that begin before `until_ns`.

        Raises Refusal(decisions_unavailable).
        """
        return await self._store.sums(since_ns // HOUR_NS, -(-until_ns // HOUR_NS))

    async def dropped(self) -> list[Dropped]:
        """Of the time for which decisions are kept. Raises Refusal(decisions_unavailable)."""
        return await self._store.dropped(self._horizon() // HOUR_NS)

    async def prune(self) -> int:
        """Take away what is past its time. Raises Refusal(decisions_unavailable)."""
        horizon = self._horizon()
        return await self._store.prune(horizon, horizon // HOUR_NS, self._most)

    async def prune_for_ever(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self.prune()
            except Refusal as refusal:
                self._failed(refusal.message, 0)
            await asyncio.sleep(_PRUNE_S)

    def close(self) -> None:
        self._store.close()

    def _horizon(self) -> int:
        return self._clock.now() - int(self.keep_s * NS_PER_S)

    def _failed(self, why: str, records: int) -> None:
        if why != self.fault:
            _log.error("decisions are not kept, calls go on: %s", why)
        self.fault = why
        self.lost += records


@contextmanager
def _readable() -> Iterator[None]:
    """In a fleet, a node of the next version may write what this one cannot read."""
    try:
        yield
    except msgspec.MsgspecError:
        hint = "Ask a node of the newer version"
        raise Refusal("decisions_unavailable", "The decision was recorded by a newer Bursar", hint) from None

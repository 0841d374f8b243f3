"""This node among others: its heartbeat, how many they are, and what only one of them does at a time."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

from bursar.core.errors import Refusal
from bursar.core.fleet import LEASE_S, NodeSeen

BEAT_S = 2.0
_log = logging.getLogger("bursar.fleet")


class Registry(Protocol):
    """Where the nodes of a fleet are written down (`bursar.stores.fleet_postgres`).

    Each call raises Refusal(store_unavailable); `join` also node_name_taken.
    """

    async def join(self, patience_s: float = 0.0) -> None: ...

    async def beat(self, directory_version: int, gateways: int) -> bool: ...

    async def leave(self) -> None: ...

    async def nodes(self) -> list[NodeSeen]: ...

    async def take_turn(self, name: str, seconds: float) -> bool: ...

    def alone(self, name: str, most_s: float = 30.0) -> AbstractAsyncContextManager[None]: ...


class Fleet(Protocol):
    """What control needs of the fleet, be it one node or many."""

    live: int  # nodes that share the limits, this one among them
    warnings: list[str]

    async def join(self) -> None: ...

    async def keep(self, facts: Callable[[], tuple[int, int]]) -> None: ...

    async def leave(self) -> None: ...

    async def nodes(self) -> list[NodeSeen]: ...

    async def take_turn(self, name: str, seconds: float) -> bool: ...

    def alone(self, name: str) -> AbstractAsyncContextManager[None]: ...


class OneNode:
    """A fleet of one: always its turn."""

    live = 1

    def __init__(self) -> None:
        self.warnings: list[str] = []

    async def join(self) -> None:
        """There is nobody to join."""

    async def keep(self, facts: Callable[[], tuple[int, int]]) -> None:
        """There is nobody to tell."""

    async def leave(self) -> None:
        """There is nobody to leave."""

    async def nodes(self) -> list[NodeSeen]:
        return []

    async def take_turn(self, name: str, seconds: float) -> bool:
        del name, seconds
        return True

    @asynccontextmanager
    async def alone(self, name: str) -> AsyncIterator[None]:
        del name
        yield


class Membership:
    """A node of a fleet. `keep` runs as a task; `live` is as last heard, and stays while the store is away."""

    def __init__(self, registry: Registry, beat_s: float = BEAT_S) -> None:
        self._registry = registry
        self._beat_s = beat_s
        self._lost = False
        self.live = 1
        self.warnings: list[str] = []

    async def join(self) -> None:
        """Take the name; wait as long as a node that was killed a moment ago still seems to live."""
        await self._registry.join(LEASE_S + 2)
        await self._look()

    async def keep(self, facts: Callable[[], tuple[int, int]]) -> None:
        """Beat for ever. `facts`: the directory's version and the number of gateways, as of now."""
        away = False
        while True:
            try:
                await self._beat(*facts())
                away = False
            except Refusal as refusal:
                if not away:
                    _log.warning("%s", refusal.message)
                away = True
            await asyncio.sleep(self._beat_s)

    async def leave(self) -> None:
        with contextlib.suppress(Refusal):  # then the lease runs out
            await self._registry.leave()

    async def nodes(self) -> list[NodeSeen]:
        return await self._registry.nodes()

    async def take_turn(self, name: str, seconds: float) -> bool:
        return await self._registry.take_turn(name, seconds)

    def alone(self, name: str) -> AbstractAsyncContextManager[None]:
        return self._registry.alone(name)

    async def _beat(self, version: int, gateways: int) -> None:
        lost = not await self._registry.beat(version, gateways)
        if lost:
            await self._take_back()
        self._lost = lost
        await self._look()

    async def _take_back(self) -> None:
        """Another node has the name: it came while this one was silent for longer than its lease."""
        try:
            await self._registry.join()
        except Refusal as refusal:
            if refusal.word != "node_name_taken":
                raise
            if not self._lost:
                _log.error("%s; %s", refusal.message, refusal.hint)
            self.warnings = [f"{refusal.message}: {refusal.hint}"]
        else:
            self.warnings = []

    async def _look(self) -> None:
        self.live = max(1, sum(node.live for node in await self._registry.nodes()))

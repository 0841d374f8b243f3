"""Where this gateway keeps what it learns of upstreams, by configuration, and what is told of it."""

import importlib
from collections.abc import Callable
from typing import Protocol

from bursar import config
from bursar.app.rates import url_of
from bursar.config.breaker import Breaker, rule_of
from bursar.core.circuits import CircuitSeen, seen_of
from bursar.ports import Board, Clock
from bursar.stores.memory_board import MemoryBoard

Count = Callable[[str, tuple[str, ...]], None]
Happen = Callable[[str, str, dict[str, str | int]], None]


class Shared(Board, Protocol):
    """A board that several nodes see."""

    async def run(self) -> None: ...


class BoardDesk:
    """`doorway` is what the pipeline uses; None where breakers are off. Made inside the running loop."""

    def __init__(self, settings: Breaker, rates: config.Rates, clock: Clock, count: Count, happen: Happen) -> None:
        self._mode = settings.mode
        self._count = count
        self._happen = happen
        self._shared: Shared | None = None
        self._told = False  # that something is known
        self.doorway: Board | None = None
        if settings.mode == "off":
            return
        monotonic = clock.monotonic
        if rates.kind == "redis":
            self.doorway = self._shared = importlib.import_module("bursar.stores.redis_board").RedisBoard(
                url_of(rates),
                rule_of(settings),
                lambda: int(monotonic() * 1000),
                ca_file=rates.ca_file,
                prefix=rates.prefix,
                wait_s=rates.wait,
                on_change=self._changed,
            )
        else:
            self.doorway = MemoryBoard(rule_of(settings), lambda: int(monotonic() * 1000), self._changed)

    async def run(self) -> None:
        """Until cancelled."""
        if self._shared is not None:
            await self._shared.run()

    def gauges(self) -> dict[str, float]:
        board = self.doorway
        if board is None:
            return {}
        opened = sum(1 for circuit in board.known.values() if circuit.opened)
        return {"bursar_breakers_open": float(opened), "bursar_breakers_shared": float(board.shared)}

    def close(self, subject: str) -> None:
        """A person says that it may be used again."""
        if self.doorway is not None:
            self.doorway.close(subject)

    def seen(self, now_ns: int) -> list[CircuitSeen] | None:
        """How circuits stand, to be told; None: there is nothing new to tell, for nothing is known."""
        known = {} if self.doorway is None else self.doorway.known
        if self.doorway is None or not (known or self._told):
            return None
        self._told = bool(known)
        return seen_of(known, self.doorway.now(), now_ns)

    def _changed(self, subject: str, opened: bool) -> None:
        kind, name = subject.split(" ")[:2]
        state = "open" if opened else "closed"
        self._count("bursar_breaker_changes_total", (kind, name, state))
        self._happen(f"breaker_{state}", name, {"kind": kind, "mode": self._mode})

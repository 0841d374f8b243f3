"""Where this gateway counts rates, by configuration, and what is told of it."""

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from bursar import config
from bursar.core.secret import Secret
from bursar.gateway.node import Rates
from bursar.stores.memory_rates import MemoryRates
from bursar.stores.share_rates import ShareRates

_FIRST_ANSWER_S = 1.0  # a start does not wait longer for Redis


class CannotServe(Exception):
    """One clear line for the person who started it."""


class Shared(Rates, Protocol):
    """Rates that several nodes share."""

    @property
    def shared(self) -> bool: ...

    def live_nodes(self) -> int: ...

    async def run(self) -> None: ...

    async def begun(self, seconds: float) -> None: ...


class RatesDesk:
    """`doorway` is what the pipeline uses. Made inside the running loop. Raises CannotServe.

    `nodes` is how many there are as far as this gateway was told. `fleet`: there may be more at any time (`heard_of`).
    """

    def __init__(
        self,
        settings: config.Rates,
        session: str,
        alone: Callable[[str], None],
        happen: Callable[[str, str, dict[str, str | int]], None],
        *,
        fleet: bool = False,
    ) -> None:
        self.nodes = self._least = settings.nodes
        self._happen = happen
        self._told: bool | None = None
        self._redis: Shared | None = None
        self.doorway: Rates
        if settings.kind == "redis":
            self.doorway = self._redis = self._open_redis(settings, session, alone)
        elif settings.nodes > 1 or fleet:
            self.doorway = ShareRates(lambda: self.nodes)
        else:
            self.doorway = MemoryRates()

    @property
    def shared(self) -> bool:
        return self._redis.shared if self._redis is not None else self.nodes <= 1

    def live_nodes(self) -> int:
        return self._redis.live_nodes() if self._redis is not None else self.nodes

    def heard_of(self, nodes: int) -> None:
        """So many share the store by now."""
        self.nodes = max(self._least, nodes)
        if self._redis is None and (self._told is not None or not self.shared):
            self._changed(self.shared, "no store of rates is configured")

    async def run(self) -> None:
        """Until cancelled."""
        if self._redis is not None:
            await self._redis.run()
        elif not self.shared:
            self._changed(False, "no store of rates is configured")

    async def begun(self) -> None:
        """Redis answers, or has had its time to."""
        if self._redis is not None:
            await self._redis.begun(_FIRST_ANSWER_S)

    def _open_redis(self, settings: config.Rates, session: str, alone: Callable[[str], None]) -> Shared:
        try:
            redis = importlib.import_module("bursar.stores.redis_rates")
        except ModuleNotFoundError as missing:
            raise CannotServe(f"rates.kind: redis needs {missing.name}: pip install 'bursar[redis]'") from None
        try:
            opened: Shared = redis.RedisRates(
                redis.Settings(
                    url=url_of(settings),
                    session=session,
                    ca_file=settings.ca_file,
                    prefix=settings.prefix,
                    wait_s=settings.wait,
                ),
                lambda: self.nodes,
                redis.Watcher(self._changed, alone),
            )
        except ValueError as fault:
            raise CannotServe(f"the URL of rates {fault}") from None
        return opened

    def _changed(self, shared: bool, why: str) -> None:
        """Said once for each change, not for each attempt."""
        if shared == self._told:
            return
        self._told = shared
        if shared:
            self._happen("rates_shared", "rates", {})
        else:
            self._happen("rates_alone", "rates", {"why": why, "nodes": self.live_nodes()})


def url_of(settings: config.Rates) -> Secret:
    """Where Redis is. Raises CannotServe."""
    if settings.url:
        return Secret(settings.url)
    if settings.url_file:
        try:
            return Secret(Path(settings.url_file).read_text("utf-8").strip())
        except OSError as fault:
            raise CannotServe(f"rates.url_file cannot be read: {fault.strerror}") from None
    found = os.environ.get(settings.url_env)
    if not found:
        raise CannotServe(f"rates.kind: redis needs its URL in {settings.url_env}, or in rates.url or rates.url_file")
    return Secret(found)

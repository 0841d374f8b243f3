"""A caller who leaves mid-stream is never free: the upstream is read on to learn the usage, within bounds, or cut."""

import asyncio

from bursar.gateway.node import Drains
from bursar.gateway.relay import Relay
from bursar.ports import UpstreamResponse


class Leaving:
    """Watches one stream for its caller's leaving. `done` must be called on every way out."""

    def __init__(self, drains: Drains, response: UpstreamResponse, relay: Relay, *, drain: bool) -> None:
        self._drains = drains
        self._response = response
        self._relay = relay
        self._drain = drain
        self._draining = False
        self._timer: asyncio.TimerHandle | None = None

    def client_left(self) -> None:
        """Read on to the end if policy and bounds allow, else stop the provider now."""
        drains = self._drains
        if not self._drain or drains.running >= drains.most:
            self._relay.stop()
            return
        self._draining = True
        drains.running += 1
        self._relay.drain_at_most(drains.most_bytes)
        self._timer = asyncio.get_running_loop().call_later(drains.seconds, self._relay.stop)
        self._response.resume()  # it may have been paused for the very caller who left

    def done(self) -> None:
        if self._draining:
            self._draining = False
            self._drains.running -= 1
        if self._timer is not None:
            self._timer.cancel()

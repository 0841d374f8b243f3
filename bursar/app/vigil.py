"""How a child learns that it must stop or read its certificates anew: signals, or the end of its supervisor."""

import asyncio
import signal
import sys
from collections.abc import Callable


class Vigil:
    """Made inside a running loop. `stopped` returns at SIGTERM or when standard input ends."""

    def __init__(self, on_reload: Callable[[], None] = lambda: None) -> None:
        self._stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, on_reload)
        loop.add_reader(sys.stdin.fileno(), self._supervisor_gone)

    async def stopped(self) -> None:
        await self._stop.wait()

    def _supervisor_gone(self) -> None:
        if not sys.stdin.buffer.raw.read(4096):  # type: ignore[union-attr]  # a raw pipe: never buffered here
            asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
            self._stop.set()

"""The HTTP/1.1 server of the data port: listens, swaps certificates, drains. `connection` does the work."""

import asyncio
import socket
import ssl
import time
from collections.abc import Callable

from bursar.wire.connection import Connection
from bursar.wire.door import Door, Handler, Refuse, Rendered, ServerConfig
from bursar.wire.exchange import Exchange

__all__ = ["Exchange", "Handler", "Refuse", "Rendered", "Server", "ServerConfig"]

_BACKLOG = 1024
_SETTLE_SECONDS = 5.0  # what handlers get to settle after their connections were cut
_CANCEL_SECONDS = 0.5  # what they get after that, cancelled: a settlement is synchronous


class Server:
    """Serves `handler`. It is awaited in the connection's own task, is entered at the end of the head, and is not
    cancelled when the client leaves. `refuse` renders what is refused before a handler runs.
    """

    def __init__(
        self,
        config: ServerConfig,
        handler: Handler,
        refuse: Refuse,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._door = Door(config, handler, refuse, monotonic)
        self._sockets: list[socket.socket] = []
        self._listeners: list[asyncio.AbstractServer] = []

    @property
    def connections(self) -> int:
        return len(self._door.guests)

    @property
    def bytes_in_flight(self) -> int:
        """Request body bytes in memory."""
        return self._door.bytes_in_flight

    @property
    def refused(self) -> dict[str, int]:
        """Refusals of the door by word: those no handler has seen. Grows only."""
        return self._door.refused

    def sweep(self) -> None:
        """Act on the deadlines that have passed. Happens by itself every half second."""
        self._door.sweep()

    async def start(self, sockets: list[socket.socket], ssl_context: ssl.SSLContext | None = None) -> None:
        """Serve on bound sockets; they are the server's from now on."""
        self._sockets = sockets
        self._door.open()
        await self._listen(ssl_context)

    async def _listen(self, ssl_context: ssl.SSLContext | None) -> None:
        loop = asyncio.get_running_loop()
        timeout = self._door.config.head_timeout if ssl_context is not None else None
        for bound in self._sockets:
            self._listeners.append(
                await loop.create_server(
                    lambda: Connection(self._door),
                    # A copy: the listening socket itself must outlive a change of certificates.
                    sock=bound.dup(),
                    ssl=ssl_context,
                    ssl_handshake_timeout=timeout,
                    backlog=_BACKLOG,
                )
            )

    async def reload_tls(self, ssl_context: ssl.SSLContext) -> None:
        """New connections use `ssl_context`. None is refused meanwhile: they wait in the kernel's queue."""
        self._stop_listening()
        await self._listen(ssl_context)

    def _stop_listening(self) -> None:
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    async def drain(self, seconds: float) -> None:
        """Stop accepting, let open exchanges finish for so long, then cut them off.

        Handlers get a few seconds more to settle. Returns when nothing is open.
        """
        door = self._door
        self._stop_listening()
        for bound in self._sockets:
            bound.close()
        door.drain()
        if not await self._is_empty_within(seconds):
            door.cut()
            if not await self._is_empty_within(_SETTLE_SECONDS):
                for task in list(door.tasks):
                    task.cancel()
                await self._is_empty_within(_CANCEL_SECONDS)
        door.close()

    async def _is_empty_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._door.empty.wait(), seconds)
        except TimeoutError:
            return False
        return True

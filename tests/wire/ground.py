"""A real server on a real socket, with a clock that only tests move, and the plainest of clients."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import h11

from bursar.core.errors import Refusal
from bursar.wire.server import Exchange, Server, ServerConfig


class Hands:
    """The hands of a clock that only moves when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def refuse(refusal: Refusal) -> tuple[int, list[tuple[str, str]], bytes]:
    return refusal.rule.status, [("content-type", "text/plain")], refusal.word.encode()


def bound() -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    return sock


class Ground:
    def __init__(self, server: Server, port: int, hands: Hands) -> None:
        self.server = server
        self.port = port
        self.hands = hands

    async def pass_time(self, seconds: float) -> None:
        """Move the clock and let the door act on it."""
        self.hands.now += seconds
        self.server.sweep()
        await asyncio.sleep(0)

    async def connect(self, **options: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port, **options)

    async def talk(self, raw: bytes) -> bytes:
        """Send these bytes on a new connection; everything that comes back until the server closes."""
        reader, writer = await self.connect()
        writer.write(raw)
        try:
            return await asyncio.wait_for(reader.read(), 5)
        finally:
            writer.close()


@asynccontextmanager
async def serving(
    handler: Callable[[Exchange], Awaitable[None]], tls: ssl.SSLContext | None = None, **config: Any
) -> AsyncIterator[Ground]:
    hands = Hands()
    server = Server(ServerConfig(**config), handler, refuse, monotonic=hands)
    sock = bound()
    port = sock.getsockname()[1]
    await server.start([sock], tls)
    try:
        yield Ground(server, port, hands)
    finally:
        await server.drain(0)


def answers(raw: bytes, methods: str = "GET") -> list[tuple[int, dict[str, str], bytes]]:
    """All answers in these bytes, as another implementation reads them. Raises when one is not whole."""
    found = []
    for method in methods.split():
        reader = h11.Connection(h11.CLIENT)
        reader.send(h11.Request(method=method, target="/", headers=[("host", "h")]))
        reader.send(h11.EndOfMessage())
        reader.receive_data(raw)
        status, headers, body = 0, {}, b""
        while True:
            event = reader.next_event()
            if event is h11.NEED_DATA:
                reader.receive_data(b"")
            elif isinstance(event, h11.Response):
                status = event.status_code
                headers = {name.decode(): value.decode() for name, value in event.headers}
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                break
        found.append((status, headers, body))
        raw = reader.trailing_data[0]
    assert not raw, "bytes after the last answer"
    return found


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait for something that the loop is about to do."""
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it never came true")

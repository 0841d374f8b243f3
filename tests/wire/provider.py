"""A provider that answers with exactly the bytes it is told to, and keeps what it was sent."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from bursar.wire.client import Client, ClientConfig, Origin, Timeouts
from tests.wire.ground import Hands

Script = Callable[["Visit"], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Visit:
    """One connection as the provider sees it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.left = asyncio.Event()  # the client closed its side

    async def request(self) -> bytes:
        """The next request, whole; its body must have a content-length."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = 0
        for line in head.split(b"\r\n"):
            if line.startswith(b"content-length: "):
                length = int(line[16:])
        return head + await self.reader.readexactly(length)

    async def say(self, data: bytes, step: int = 0) -> None:
        """Send these bytes, in steps of so many if given."""
        for at in range(0, len(data), step or len(data)):
            self.writer.write(data[at : at + (step or len(data))])
            await self.writer.drain()
            if step:
                await asyncio.sleep(0)

    async def until_left(self) -> None:
        await self.reader.read()
        self.left.set()


class Provider:
    def __init__(self, client: Client, port: int, hands: Hands) -> None:
        self.client = client
        self.hands = hands
        self.origin = Origin("http", "127.0.0.1", port, allow_private=True)
        self.visits: list[Visit] = []
        self.requests: list[bytes] = []

    async def get(self, timeouts: Timeouts | None = None) -> Any:
        return await self.client.request(self.origin, "GET", "/x", (), b"", timeouts or Timeouts())

    async def pass_time(self, seconds: float) -> None:
        self.hands.now += seconds
        self.client.sweep()
        await asyncio.sleep(0)


@asynccontextmanager
async def providing(script: Script, tls: ssl.SSLContext | None = None, **config: Any) -> AsyncIterator[Provider]:
    """A client, and a provider that plays `script` on every connection."""
    hands = Hands()
    client = Client(ClientConfig(**config), monotonic=hands)
    tasks: set[asyncio.Task[None]] = set()

    async def visited(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        visit = Visit(reader, writer)
        provider.visits.append(visit)
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await script(visit)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):  # the client or the test ended
            visit.left.set()
        finally:
            writer.close()

    server = await asyncio.start_server(visited, "127.0.0.1", 0, ssl=tls)
    provider = Provider(client, server.sockets[0].getsockname()[1], hands)
    if tls is not None:
        provider.origin = Origin("https", "localhost", provider.origin.port, allow_private=True)
    try:
        yield provider
    finally:
        await client.close()
        server.close()
        for task in tasks:
            task.cancel()


async def always_ok(visit: Visit) -> None:
    while True:
        await visit.request()
        await visit.say(OK)

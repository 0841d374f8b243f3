"""What pgbouncer does in transaction mode, in few words: a server's connection is lent for one transaction.

It lends them in turn, so that two transactions of one client meet two servers' connections whenever they can: whoever
relies on the state of a connection fails here at once. PostgreSQL's protocol 3.0, without TLS and passwords.
"""

import asyncio
import contextlib
import struct
from collections import deque

_SSL_REQUEST = 80877103
_READY = b"Z\x00\x00\x00\x05I"


class Link:
    """One of the connections to the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def message(self) -> bytes:
        head = await self.reader.readexactly(5)
        return head + await self.reader.readexactly(struct.unpack_from("!I", head, 1)[0] - 4)


class Pooler:
    """`async with Pooler(port, database) as pooler`: connect to `pooler.url`."""

    def __init__(self, port: int, database: str, connections: int = 3) -> None:
        self._port = port
        self._database = database
        self._connections = connections
        self._idle: deque[Link] = deque()
        self._freed = asyncio.Condition()
        self._greeting = b""  # what the server tells at the start: its settings
        self._clients: set[asyncio.Task[None]] = set()
        self.lent = 0
        self.url = ""

    async def __aenter__(self) -> "Pooler":
        for _ in range(self._connections):
            self._idle.append(await self._connect())
        self._server = await asyncio.start_server(self._client, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"postgresql://bursar@127.0.0.1:{port}/{self._database}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._clients:
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        for link in self._idle:
            link.writer.close()

    async def _connect(self) -> Link:
        link = Link(*await asyncio.open_connection("127.0.0.1", self._port))
        body = struct.pack("!I", 196608) + f"user\0bursar\0database\0{self._database}\0\0".encode()
        link.writer.write(struct.pack("!I", len(body) + 4) + body)
        greeting = b""
        while (message := await link.message())[:1] != b"Z":
            greeting += message
        self._greeting = greeting
        return link

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        client = Link(reader, writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            (size, code) = struct.unpack("!II", await reader.readexactly(8))
            if code == _SSL_REQUEST:
                writer.write(b"N")
                (size, code) = struct.unpack("!II", await reader.readexactly(8))
            await reader.readexactly(size - 8)
            writer.write(self._greeting + _READY)
            await self._serve(client)
        writer.close()
        self._clients.discard(task)

    async def _serve(self, client: Link) -> None:
        """Lend a connection with the first message of a transaction, until the server says that it is in none."""
        asked = asyncio.create_task(client.message())
        while True:
            await asyncio.wait({asked})
            server = await self._lend()
            told = asyncio.create_task(server.message())
            state, expected = b"T", 0
            try:
                while state != b"I" or expected:
                    await asyncio.wait({asked, told}, return_when=asyncio.FIRST_COMPLETED)
                    if asked.done():
                        message = asked.result()
                        if message[:1] == b"X":
                            raise ConnectionError
                        server.writer.write(message)
                        expected += message[:1] in (b"Q", b"S")
                        asked = asyncio.create_task(client.message())
                    if told.done():
                        message = told.result()
                        client.writer.write(message)
                        if message[:1] == b"Z":
                            expected, state = expected - 1, message[5:6]
                        if message[:1] != b"Z" or state != b"I" or expected:
                            told = asyncio.create_task(server.message())
            except BaseException:
                asked.cancel()
                told.cancel()
                server.writer.close()
                server = await self._connect()
                raise
            finally:
                async with self._freed:
                    self._idle.append(server)
                    self._freed.notify()

    async def _lend(self) -> Link:
        async with self._freed:
            await self._freed.wait_for(lambda: bool(self._idle))
            self.lent += 1
            return self._idle.popleft()

"""Receivers of the audit for the tests: syslog over TCP or TLS, and HTTP. Real sockets; each can misbehave."""

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from typing import Literal

Mood = Literal["well", "mute", "deaf", "slow", "reset", "broken"]


class Receiver:
    """`mood`: well · mute (takes everything, answers nothing) · deaf (accepts, reads nothing) · slow (a second late) ·
    reset (cuts the connection) · broken (HTTP 500). `port` stays the same over `down` and `up`.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.mood: Mood = "well"
        self.port = 0
        self.connections = 0
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._gone = asyncio.Event()

    async def up(self) -> None:
        self._gone = asyncio.Event()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def down(self) -> None:
        assert self._server is not None
        self._server.close()
        self._gone.set()
        for writer in list(self._writers):
            writer.transport.abort()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._server.wait_closed(), 2)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            if self.mood == "reset":
                return
            if self.mood == "deaf":
                reader._transport.pause_reading()  # type: ignore[attr-defined]
                await self._gone.wait()
            await self.talk(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, ValueError):
            pass
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise NotImplementedError


class SyslogReceiver(Receiver):
    """Takes octet-counted frames (RFC 6587 §3.4.1); `messages` are those that came whole."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(tls)
        self.messages: list[bytes] = []

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            count = await reader.readuntil(b" ")
            message = await reader.readexactly(int(count))
            if self.mood == "reset":
                return
            self.messages.append(message)


class HttpReceiver(Receiver):
    """Takes POSTs; `letters` are (headers, body) of those that were answered with 200."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(tls)
        self.letters: list[tuple[dict[str, str], bytes]] = []
        self.seen = 0
        self.accept: Callable[[], bool] = lambda: True

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) if i else ("", line) for i, line in enumerate(head) if line)
            exact = {line.split(": ", 1)[0].lower(): line.split(": ", 1)[1] for line in head[1:] if line}
            body = await reader.readexactly(int(headers["content-length"]))
            self.seen += 1
            if self.mood == "mute":
                await self._gone.wait()
            if self.mood == "slow":
                await asyncio.sleep(1)
            if self.mood == "reset":
                return
            status = b"500 No" if self.mood == "broken" else b"200 OK"
            if status.startswith(b"200"):
                self.letters.append((exact, body))
            writer.write(b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\n\r\n")
            await writer.drain()

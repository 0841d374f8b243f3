"""A bare pass-through on httptools and uvloop: parse, forward, parse the answer, send it back. It decides nothing.

It is the floor for a proxy written in Python: what Bursar costs above it is what Bursar does. Run as
``python -m bench.passthrough PORT UPSTREAM_PORT [CERT KEY]``.
"""

import asyncio
import ssl
import sys
from typing import cast

import httptools
import uvloop

_KEPT_BACK = (b"host", b"connection", b"expect")


class Upstream(asyncio.Protocol):
    """One kept-alive connection to the upstream; lent to one client at a time."""

    def __init__(self, idle: "list[Upstream]") -> None:
        self.idle = idle
        self.client: Client | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:

        self.transport = cast(asyncio.Transport, transport)  # what uvloop gives is one in all but type
        self.parser = httptools.HttpResponseParser(self)

    def data_received(self, data: bytes) -> None:
        if self.client is not None:
            self.client.transport.write(data)
        self.parser.feed_data(data)

    def on_message_complete(self) -> None:
        self.client = None
        self.parser = httptools.HttpResponseParser(self)
        self.idle.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self in self.idle:
            self.idle.remove(self)
        if self.client is not None:
            self.client.transport.close()


class Client(asyncio.Protocol):
    def __init__(self, upstream_port: int, idle: list[Upstream], tasks: set[asyncio.Task[None]]) -> None:
        self.upstream_port = upstream_port
        self.idle = idle
        self.tasks = tasks
        self.upstream: Upstream | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:

        self.transport = cast(asyncio.Transport, transport)  # what uvloop gives is one in all but type
        self.parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.upstream is not None and self.upstream.client is self:
            self.upstream.transport.abort()

    def on_message_begin(self) -> None:
        self.head: list[bytes] = []
        self.body: list[bytes] = []
        self.url = b""

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() not in _KEPT_BACK:
            self.head.append(name + b": " + value)

    def on_body(self, body: bytes) -> None:
        self.body.append(body)

    def on_message_complete(self) -> None:
        line = self.parser.get_method() + b" " + self.url + b" HTTP/1.1\r\nhost: 127.0.0.1\r\n"
        request = line + b"\r\n".join(self.head) + b"\r\n\r\n" + b"".join(self.body)
        if self.idle:
            self.send(self.idle.pop(), request)
            return
        task = asyncio.get_running_loop().create_task(self.connect_and_send(request))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def connect_and_send(self, request: bytes) -> None:
        loop = asyncio.get_running_loop()
        _, upstream = await loop.create_connection(lambda: Upstream(self.idle), "127.0.0.1", self.upstream_port)
        self.send(upstream, request)

    def send(self, upstream: Upstream, request: bytes) -> None:
        if self.transport.is_closing():
            self.idle.append(upstream)
            return
        self.upstream = upstream
        upstream.client = self
        upstream.transport.write(request)


async def serve(port: int, upstream_port: int, cert: str = "", key: str = "") -> None:
    context = None
    if cert:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
    idle: list[Upstream] = []
    tasks: set[asyncio.Task[None]] = set()
    server = await asyncio.get_running_loop().create_server(
        lambda: Client(upstream_port, idle, tasks), "127.0.0.1", port, ssl=context, backlog=4096
    )
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:5]))

"""A TCP proxy that misbehaves on order, in front of any server: slow, deaf, mute, half-open, reset, narrow.

It runs in a thread of its own: it misbehaves towards tests with and without a loop, and towards other processes.

    with FaultProxy("127.0.0.1", port) as proxy:
        connect_to(proxy.port)
        proxy.delay(0.3)
        proxy.heal()

Faults add up until `heal`. They hold for connections that are open already, and for what is under way in them.
"""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from typing import Any

_PIECE = 65_536
_ASK, _ANSWER = 0, 1  # the two ways through a connection


class _Line:
    """One caller and his connection to the server."""

    def __init__(self, caller: asyncio.StreamWriter) -> None:
        self.caller = caller
        self.server: asyncio.StreamWriter | None = None
        self.dead = False  # half-open: the server's side is gone, the caller is not told

    def reset(self) -> None:
        for side in (self.caller, self.server):
            if side is not None:
                _reset(side)


class FaultProxy:
    """Methods may be called from any thread. `heal` ends every fault; what was reset or half-open stays so."""

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault proxy", daemon=True)
        self._changed = asyncio.Event()
        self._lines: set[_Line] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._calm()
        self.port = 0
        self.accepted = 0  # connections so far

    def _calm(self) -> None:
        self._delay_s = 0.0
        self._held = [False, False]
        self._refusing = False
        self._reset_at_answer = False
        self._bytes_per_s = 0.0

    def __enter__(self) -> "FaultProxy":
        self._thread.start()
        self._do(self._open())
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def connections(self) -> int:
        """Callers that are connected now."""
        return len(self._lines)

    # ---- faults

    def delay(self, seconds: float) -> None:
        """Everything comes so much later, both ways: a round trip takes twice as long. Order and throughput stay."""
        self._switch(lambda: setattr(self, "_delay_s", seconds))

    def drop(self) -> None:
        """A black hole: nothing passes, nobody is told. What was sent meanwhile arrives after `heal`, as TCP has it."""
        self._switch(lambda: setattr(self, "_held", [True, True]))

    def mute(self) -> None:
        """Requests reach the server; its answers do not come."""
        self._switch(lambda: setattr(self, "_held", [False, True]))

    def half_open(self) -> None:
        """The server forgets the connections that are open now; their callers are not told, and speak to nobody."""
        self._switch(self._forget)

    def reset(self) -> None:
        """RST on every connection that is open now. New ones pass."""
        self._switch(self._reset_all)

    def refuse(self) -> None:
        """RST on every connection, new ones too."""
        self._switch(lambda: (setattr(self, "_refusing", True), self._reset_all()))

    def reset_at_answer(self) -> None:
        """The next answer does not come: a RST does, on its connection. Once; the request has been carried out."""
        self._switch(lambda: setattr(self, "_reset_at_answer", True))

    def bandwidth(self, bytes_per_second: float) -> None:
        """As narrow as that, each way of each connection by itself."""
        self._switch(lambda: setattr(self, "_bytes_per_s", bytes_per_second))

    def heal(self) -> None:
        """No fault any more. What was held or delayed goes on at once."""
        self._switch(self._calm)

    # ---- inside the thread

    def _do(self, act: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(act, self._loop).result(30)

    def _switch(self, change: Callable[[], object]) -> None:
        """Change the weather, and wake everything that waits by the old one. When it returns, the new one holds."""

        async def switch() -> None:
            change()
            self._changed.set()
            self._changed = asyncio.Event()

        self._do(switch())

    async def _open(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        self._server.close()
        self._reset_all()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)  # let transports tell that they are lost

    def _forget(self) -> None:
        for line in self._lines:
            line.dead = True
            if line.server is not None:
                _reset(line.server)

    def _reset_all(self) -> None:
        for line in self._lines:
            line.reset()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        line = _Line(writer)
        self._lines.add(line)
        try:
            await self._carry(line, reader)
        except (OSError, asyncio.CancelledError):
            pass  # a side is gone: so is the other
        finally:
            line.reset() if line.dead else _close(line)
            self._lines.discard(line)
            self._tasks.discard(task)

    async def _carry(self, line: _Line, caller: asyncio.StreamReader) -> None:
        if self._refusing:
            line.reset()
            return
        await self._may_pass(_ASK)
        server, line.server = await asyncio.open_connection(*self._target)
        pumps = [
            asyncio.create_task(self._pump(line, _ASK, caller, line.server)),
            asyncio.create_task(self._pump(line, _ANSWER, server, line.caller)),
        ]
        try:
            await asyncio.gather(*pumps)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(self, line: _Line, way: int, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        """Pieces from one side to the other: read at once, passed on when they may."""
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(256)

        async def read() -> None:
            while True:
                try:
                    data = await source.read(_PIECE)
                except OSError:
                    data = b""
                await pieces.put((self._loop.time(), data))
                if not data:
                    return

        reading = asyncio.create_task(read())
        try:
            while await self._pass_one(line, way, *await pieces.get(), sink):
                pass
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _pass_one(self, line: _Line, way: int, came: float, data: bytes, sink: asyncio.StreamWriter) -> bool:
        """False when there is nothing more to come."""
        await self._is_due(came)
        await self._may_pass(way)
        if line.dead:
            if way == _ANSWER:
                await asyncio.Event().wait()  # the caller waits, for ever
            return bool(data)
        if not data:
            with contextlib.suppress(OSError):
                sink.write_eof()
            return False
        if way == _ANSWER and self._reset_at_answer:
            self._reset_at_answer = False
            line.reset()
            return False
        await self._write(sink, data)
        return True

    async def _write(self, sink: asyncio.StreamWriter, data: bytes) -> None:
        while data:
            part = len(data)
            if self._bytes_per_s:
                part = max(1, min(part, int(self._bytes_per_s / 20)))
                await asyncio.sleep(part / self._bytes_per_s)
            sink.write(data[:part])
            await sink.drain()
            data = data[part:]

    async def _is_due(self, came: float) -> None:
        while (left := came + self._delay_s - self._loop.time()) > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), left)

    async def _may_pass(self, way: int) -> None:
        while self._held[way]:
            await self._changed.wait()


def _reset(side: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN."""
    carrier = side.get_extra_info("socket")
    with contextlib.suppress(OSError):  # closed already
        carrier.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    side.transport.abort()


def _close(line: _Line) -> None:
    for side in (line.caller, line.server):
        if side is not None:
            side.close()

"""One connection to a provider, and the answer that is on its way in over it."""

import asyncio
import select
from collections.abc import Callable
from typing import Protocol, cast

from bursar.core.errors import UpstreamFault
from bursar.wire.chunked import ChunkDecoder
from bursar.wire.dial import Timeouts
from bursar.wire.head import CHUNKED, UNTIL_CLOSE, Malformed, parse_response
from bursar.wire.wheel import NEVER, Wheel

_MAX_HEAD = 65536
_MAX_INTERIM = 16  # 1xx answers before the real one
_MAX_AHEAD = 262144  # body bytes kept before anybody asks for them
_UNNOTICED = 0.5  # seconds: idle for longer, a connection is looked at before it is used


class Pool(Protocol):
    """Where a connection belongs while no answer is open on it."""

    wheel: Wheel
    monotonic: Callable[[], float]

    def take_back(self, link: "Link") -> None: ...

    def forget(self, link: "Link") -> None: ...


class Link(asyncio.Protocol):
    """One connection to a provider. Serves one exchange at a time; an idle one that hears anything is closed."""

    __slots__ = (
        "_pool",
        "deadline",
        "idle_since",
        "key",
        "loop",
        "now",
        "response",
        "slot",
        "transport",
        "write_paused",
    )

    def __init__(self, pool: Pool, key: object) -> None:
        self._pool = pool
        self.key = key
        self.transport: asyncio.Transport
        self.loop = asyncio.get_running_loop()
        self.now = pool.monotonic
        self.response: Response | None = None
        self.idle_since = 0.0
        self.write_paused = False
        self.deadline = NEVER
        self.slot = NEVER

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is one by duck-typing only

    def data_received(self, data: bytes) -> None:
        if self.response is None:
            self.drop()
        else:
            self.response.receive(data)

    def eof_received(self) -> None:
        if self.response is not None:
            self.response.ended(clean=True)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.response is not None:
            self.response.ended(clean=exc is None)
        self.deadline = NEVER
        self._pool.wheel.drop(self)
        self._pool.forget(self)

    def pause_writing(self) -> None:
        self.write_paused = True

    def resume_writing(self) -> None:
        self.write_paused = False
        if self.response is not None:
            self.response.written()

    def expire(self, now: float) -> None:
        if self.response is None:
            self.drop()
        else:
            self.response.expire(now)

    def is_fit(self, now: float) -> bool:
        """May a request be written to it? An end the loop has not noticed yet would cost the caller an attempt."""
        if self.transport.is_closing():
            return False
        if now - self.idle_since < _UNNOTICED:
            return True
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket").fileno(), select.POLLIN)
        return not poll.poll(0)

    def arm(self, deadline: float) -> None:
        self.deadline = deadline
        if deadline < self.slot:
            self._pool.wheel.file(self)

    def release(self, *, reusable: bool) -> None:
        """The answer is whole. Back to the pool, if nothing of either side is left over."""
        self.response = None
        self.deadline = NEVER
        if reusable and not self.transport.is_closing() and not self.transport.get_write_buffer_size():
            self._pool.take_back(self)
        else:
            self.drop()

    def drop(self) -> None:
        """Close at once."""
        self.response = None
        self.deadline = NEVER
        self.transport.abort()


class Response:
    """The answer to one request. Its connection goes back to the pool by itself once the body is whole.

    Cancelling a wait (`head`, `read`, `relay`) closes the connection: what is half read is never reused.
    """

    __slots__ = (
        *("_begun", "_buffer", "_buffered", "_chunks", "_fault", "_held", "_interim", "_keep_alive", "_left", "_limit"),
        *("_link", "_method", "_sink", "_stopped", "_total", "_waiter", "_whole", "headers", "status", "timeouts"),
    )

    def __init__(self, method: str, timeouts: Timeouts, total: float) -> None:
        self.status = 0  # 0 until the head has come
        self.headers: dict[str, str] = {}
        self._link: Link | None = None  # set while the exchange is under way
        self._method = method
        self.timeouts = timeouts
        self._total = total  # monotonic instant
        self._held = b""  # an unfinished head
        self._interim = 0
        self._left = 0  # body bytes to come, or UNTIL_CLOSE
        self._chunks: ChunkDecoder | None = None
        self._keep_alive = False
        self._begun = False  # some of the body has come
        self._buffer: list[bytes] = []
        self._buffered = 0
        self._limit: int | None = None  # of `read`; None = nobody reads yet
        self._sink: Callable[[bytes], None] | None = None
        self._stopped = False  # the transport does not read
        self._whole = False
        self._fault: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    # ---- what the caller uses ----------------------------------------------------------------------------------------

    async def head(self) -> "Response":
        """Itself, at the end of its head. Raises UpstreamFault."""
        try:
            while not self.status and self._fault is None:
                await self._woken()
        except asyncio.CancelledError:
            self.abort()
            raise
        if not self.status and self._fault is not None:
            raise self._let_go()
        return self

    async def read(self, limit: int) -> bytes:
        """The whole body. Raises UpstreamFault, also (body_too_large) when it has more than `limit` bytes."""
        if self._link is not None:
            self._limit = limit
            self._check_limit()
            self._flow(paused=False)
            await self._wait()
        if self._fault is not None:
            raise self._let_go()
        if not self._whole:
            raise UpstreamFault("reset", "the answer was abandoned", sent=True)
        return self._buffer[0] if len(self._buffer) == 1 else b"".join(self._buffer)

    async def relay(self, sink: Callable[[bytes], None]) -> None:
        """Call `sink` with each piece of the body, directly as it arrives; return at the body's end or after `abort`.

        Raises UpstreamFault when the body breaks off, and whatever `sink` raises; the connection is closed then.
        """
        self._sink = sink
        if self._buffered > _MAX_AHEAD:
            self._flow(paused=False)
        pieces, self._buffer, self._buffered = self._buffer, [], 0
        try:
            for piece in pieces:
                self._pass_on(piece)
        except BaseException:
            self.abort()
            raise
        if self._link is not None:
            await self._wait()
        self._sink = None  # it mostly leads back here
        if self._fault is not None:
            raise self._let_go()

    def _let_go(self) -> Exception:
        """The fault, which is not kept: its traceback leads back here, and to the whole call that waits for it."""
        fault, self._fault = self._fault, None
        assert fault is not None
        return fault

    def pause(self) -> None:
        """Stop reading from the provider."""
        self._flow(paused=True)

    def resume(self) -> None:
        """Go on reading."""
        self._flow(paused=False)

    def abort(self) -> None:
        """Close the connection at once. Nothing reaches the sink any more. Harmless when the body is whole."""
        self._sink = None
        link, self._link = self._link, None
        if link is not None:
            link.drop()
            self._wake()

    # ---- what the connection calls -----------------------------------------------------------------------------------

    def begin(self, link: Link, now: float) -> None:
        """Its request goes out over this connection now."""
        self._link = link
        link.response = self
        deadline = now + self.timeouts.first_byte
        link.deadline = deadline = deadline if deadline < self._total else self._total
        if deadline < link.slot:
            link.arm(deadline)

    def receive(self, data: bytes) -> None:
        try:
            if self.status:
                self._receive_body(data)
            else:
                data = self._receive_head(data)
                if self.status:
                    self._receive_body(data)
        except Malformed as fault:
            self._break("malformed", str(fault))
        except Exception as fault:  # noqa: BLE001 - the sink's own; carried to whoever awaits `relay`
            self._fail(fault)

    def written(self) -> None:
        """More of the request has gone out, as far as we can tell: the next deadline."""
        link = self._link
        if link is not None and not self.status:
            self._arm(self.timeouts.write if link.write_paused else self.timeouts.first_byte)

    def ended(self, *, clean: bool) -> None:
        """The provider has closed its side."""
        if clean and self.status and self._left == UNTIL_CLOSE:
            self._finish(b"")
        else:
            self._break("reset", "the provider closed the connection")

    def expire(self, now: float) -> None:
        if now >= self._total:
            self._break("timeout_total", "the answer took too long as a whole")
        elif self.status:
            self._break("timeout_between_bytes", "the answer stalled")
        elif self._link is not None and self._link.write_paused:
            self._break("timeout_write", "the provider did not take the request")
        else:
            self._break("timeout_first_byte", "the provider did not begin to answer")

    # ---- parts -------------------------------------------------------------------------------------------------------

    def _receive_head(self, data: bytes) -> bytes:
        """What follows the head; `status` stays 0 while that is unfinished."""
        data = self._held + data
        while True:
            end = data.find(b"\r\n\r\n")
            if end > _MAX_HEAD or (end < 0 and len(data) > _MAX_HEAD):
                self._break("head_too_large", "the answer's head is larger than 64 kB")
                return b""
            if end < 0:
                self._held = data
                return b""
            head = parse_response(data[:end], self._method)
            data = data[end + 4 :]
            if head.status >= 200:
                break
            self._interim += 1
            if head.status == 101 or self._interim > _MAX_INTERIM:
                raise Malformed("an interim answer that was not asked for")
        self._held = b""
        self.status = head.status
        self.headers = head.headers
        self._keep_alive = head.keep_alive
        self._left = head.length
        if head.length == CHUNKED:
            self._chunks = ChunkDecoder()
        self._begun = False
        self._wake()
        return data

    def _receive_body(self, data: bytes) -> None:
        link = self._link
        if link is None:
            return
        if self._chunks is not None:
            rest = self._chunks.feed(data, self._pass_on)
            if rest is not None:
                self._finish(rest)
        elif self._left == UNTIL_CLOSE:
            self._pass_on(data)
        else:
            left = self._left
            piece = data if len(data) <= left else data[:left]
            self._left = left = left - len(piece)
            self._pass_on(piece)
            if not left:
                self._finish(data[len(piece) :])
        if self._link is None or self._stopped:
            return
        if self._begun:
            deadline = link.now() + self.timeouts.between_bytes
            link.deadline = deadline if deadline < self._total else self._total  # for each event: min() costs a call
        else:
            self._begun = bool(data)
            self._arm(self.timeouts.between_bytes if data else self.timeouts.body)

    def _pass_on(self, piece: bytes) -> None:
        if self._sink is not None:
            self._sink(piece)
        elif self._link is not None and piece:
            self._buffer.append(piece)
            self._buffered += len(piece)
            if self._limit is not None:
                self._check_limit()
            elif self._buffered > _MAX_AHEAD:
                self._flow(paused=True)

    def _check_limit(self) -> None:
        if self._limit is not None and self._buffered + max(self._left, 0) > self._limit:
            self._break("body_too_large", f"the answer is larger than {self._limit} bytes")

    def _flow(self, *, paused: bool) -> None:
        """While the transport does not read, only the total time runs."""
        link = self._link
        if link is None or paused == self._stopped:
            return
        self._stopped = paused
        if paused:
            link.transport.pause_reading()
            link.deadline = self._total
        else:
            link.transport.resume_reading()
            self._arm(self.timeouts.between_bytes)

    def _arm(self, span: float) -> None:
        if self._link is not None:
            self._link.arm(min(self._link.now() + span, self._total))

    # ---- ends --------------------------------------------------------------------------------------------------------

    def _woken(self) -> "asyncio.Future[None]":
        """What the one who waits awaits; when he is cancelled, he aborts."""
        assert self._link is not None, "only an open exchange is waited for"
        self._waiter = waiter = self._link.loop.create_future()
        return waiter

    async def _wait(self) -> None:
        try:
            if self._link is not None:
                await self._woken()
        except asyncio.CancelledError:
            self.abort()
            raise

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _finish(self, rest: bytes) -> None:
        """The body is whole. Bytes after it that nobody asked for spoil the connection."""
        link, self._link = self._link, None
        if link is not None:
            self._whole = True
            link.release(reusable=self._keep_alive and not rest and not self._stopped)
            self._wake()

    def _break(self, kind: str, message: str) -> None:
        self._fail(UpstreamFault(kind, message, sent=True))

    def _fail(self, fault: Exception) -> None:
        if self._link is not None:
            self._fault = fault
            self.abort()

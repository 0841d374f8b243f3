"""The receiving half of one client connection: heads, bodies, deadlines, and one task that answers in order.

Bytes that come while an exchange is open are kept unread, up to a bound, and parsed only when it is over: nothing is
ever parsed ahead, so a pipelined request cannot be seen, charged or half-read before its turn.
"""

import asyncio
import logging
from typing import cast

from bursar.core.errors import ClientGone, Refusal
from bursar.wire.carry import Carry
from bursar.wire.door import Door
from bursar.wire.exchange import Exchange
from bursar.wire.head import HeadReader, Malformed, RequestHead
from bursar.wire.inflow import Inflow
from bursar.wire.line import Line
from bursar.wire.wheel import NEVER

log = logging.getLogger(__name__)

_MAX_AHEAD = 65536  # bytes kept of what the client sends before it is asked for (body, pipelined requests)
_DRAINABLE = 65536  # bytes of an unwanted body that are cheaper to read than a new connection is to make
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Connection(Line):
    """One client connection."""

    __slots__ = (
        "_blank",
        "_carry",
        "_exchange",
        "_expects",
        "_heads",
        "_held",
        "_inflow",
        "_task",
        "_waiter",
        "peer",
    )

    def __init__(self, door: Door) -> None:
        super().__init__(door)
        self._exchange: Exchange | None = None
        self._inflow: Inflow | None = None
        self._task: asyncio.Task[None] | None = None
        self._waiter: asyncio.Future[None] | None = None  # the task waits here between two exchanges
        self._carry = Carry()
        self._heads = HeadReader()
        self._blank = False  # an empty line came before the next request
        self._expects = False  # the client waits for 100 Continue
        self._held = 0  # body bytes counted for the open exchange that came with their head
        self.peer = ""

    # ---- from the event loop -----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one by duck-typing only
        peer = transport.get_extra_info("peername")
        self.peer = peer[0] if isinstance(peer, tuple) else ""
        guests = self._door.guests
        guests.add(self)
        limit = self._door.config.max_connections
        if len(guests) <= limit:
            self._arm(self._door.config.head_timeout)
        elif len(guests) <= limit + limit // 16 + 1:
            self._refuse(Refusal("overloaded", "Too many connections are open", "Retry later", retry_after=1.0))
        else:
            self.cut()

    def data_received(self, data: bytes) -> None:
        if self._closing:
            self._overhear(data)
            return
        if self._inflow is not None and not self._inflow.whole:
            rest = self._fill(self._inflow, data)
            if not rest:
                return
            data = rest
        if self._exchange is None and not self._carry and not self._write_paused:
            self._begin(data)
        else:
            self._put_by(data)

    def eof_received(self) -> None:
        """A client that closes its side has left: nothing else tells us so while a long answer is silent."""
        self._door.outbox.flush()
        if self._exchange is not None and not self._exchange.finished:
            self._leave()
            self._transport.abort()

    def connection_lost(self, _exc: Exception | None) -> None:
        self._closing = True
        self.deadline = NEVER
        self._door.forget(self)
        self._leave()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def pause_writing(self) -> None:
        self._write_paused = True
        self._mark = self._untaken()
        self._arm(self._door.config.write_stall_timeout)
        if self._exchange is not None and self._exchange.on_flow is not None:
            self._exchange.on_flow(True)

    def resume_writing(self) -> None:
        self._write_paused = False
        if self._closing:
            return
        self.deadline = NEVER
        if self._exchange is None:
            self._advance()
        elif self._exchange.on_flow is not None:
            self._exchange.on_flow(False)

    # ---- heads -------------------------------------------------------------------------------------------------------

    def _begin(self, data: bytes) -> None:
        """The first bytes of a request."""
        if data.startswith(b"\r\n") and not self._blank:  # RFC 9112 §2.2: one empty line before it is ignored
            self._blank = True
            data = data[2:]
            if not data:
                return
        end = data.find(b"\r\n\r\n")
        if end < 0:
            self._carry.add(data)
            self._arm(self._door.config.head_timeout)
            self._check_unfinished()
        elif end > self._door.config.max_head:
            self._refuse(_head_too_large(self._door.config.max_head))
        else:
            try:
                head = self._heads.read(data[:end])
            except Malformed as fault:
                self._refuse(Refusal("malformed_request", str(fault)))
            else:
                self._open(head, data, end + 4)

    def _put_by(self, data: bytes) -> None:
        self._carry.add(data)
        if self._exchange is not None or self._inflow is not None or self._write_paused:
            if len(self._carry) > _MAX_AHEAD:
                self._stop_reading()
        elif self._carry.has_head():
            self._begin(self._carry.take())
        else:
            self._check_unfinished()

    def _check_unfinished(self) -> None:
        """An unfinished head: what can never become a request is refused now, not at the deadline."""
        if len(self._carry) > self._door.config.max_head:
            self._refuse(_head_too_large(self._door.config.max_head))
        elif self._carry.is_hopeless():
            self._refuse(Refusal("malformed_request", "a control byte or a bare LF in the head"))

    def _open(self, head: RequestHead, data: bytes, at: int) -> None:
        """The head is whole: hand the exchange to the task, with its body if that came along."""
        door = self._door
        body: bytes | None = b""
        length = head.length
        end = at + length
        self._blank = False
        self.deadline = NEVER
        if length:
            if 0 < length <= door.max_body and end <= len(data) and door.has_room(length):
                body = data[at:end]
                door.bytes_in_flight += length
                self._held = length
            else:
                body = None
        self._exchange = Exchange(self, head, body, door.monotonic())
        if body is None:
            self._expects = head.expects
            self._inflow = Inflow(door, length)
            self._carry.add(self._fill(self._inflow, data[at:]))
        elif end < len(data):
            self._carry.add(data[end:])
        if self._waiter is not None:
            if not self._waiter.done():
                self._waiter.set_result(None)
        elif self._task is None:
            self._task = door.spawn(self._run())

    # ---- bodies ------------------------------------------------------------------------------------------------------

    def _fill(self, inflow: Inflow, data: bytes) -> bytes:
        """Feed the open body; what follows it comes back."""
        rest = inflow.feed(data)
        if rest is None:
            if inflow.fault is not None or (inflow.waiter is None and inflow.size > _MAX_AHEAD):
                self._stop_reading()
            return b""
        if self._exchange is None:  # the unwanted rest of a body is through
            self._inflow = None
            self._carry.add(rest)
            self._advance()
            return b""
        if not self._write_paused:
            self.deadline = NEVER
        return rest

    async def whole_body(self) -> bytes:
        """For the exchange: wait until the body is whole."""
        inflow = self._inflow
        if inflow is None:
            raise ClientGone
        if inflow.fault is None and not inflow.whole:
            if self._expects and not inflow.size:
                self._expects = False
                self.send(_CONTINUE)
            inflow.waiter = self._door.loop.create_future()
            self._mark = inflow.size
            self._arm(self._door.config.body_timeout)
            self._go_on_reading()
            await inflow.waiter
        if inflow.fault is not None:
            raise inflow.fault
        return inflow.joined()

    # ---- the answering task ------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        turns = 0
        while self._exchange is not None:
            try:
                await self._answer(self._exchange)
            finally:
                self._conclude(self._exchange)
            turns += 1
            if self._exchange is None:
                if self._closing:
                    return
                turns = 0
                self._waiter = self._door.loop.create_future()
                await self._waiter
                self._waiter = None
            elif turns >= self._door.config.max_pipelined:
                turns = 0
                await asyncio.sleep(0)

    async def _answer(self, exchange: Exchange) -> None:
        if exchange.gone:
            return
        refusal: Refusal | None = None
        try:
            await self._door.handler(exchange)
        except Refusal as decision:
            refusal = decision
        except ClientGone:
            pass
        except asyncio.CancelledError:
            exchange.abort()
            raise
        except Exception as fault:  # noqa: BLE001 - the door outlives any handler; content must not reach the log
            log.error("handler failed: %s", type(fault).__name__)
        if exchange.finished or exchange.gone:
            return
        if exchange.started:
            exchange.abort()
        else:
            refusal = refusal or Refusal("internal_error", "The request was not answered")
            exchange.respond(*self._door.render(refusal))

    def _conclude(self, exchange: Exchange) -> None:
        """The handler is through: give back what the exchange held, begin the next."""
        self._exchange = None
        exchange.on_gone = exchange.on_flow = None
        self._door.bytes_in_flight -= self._held
        self._held = 0
        inflow = self._inflow
        if inflow is None:
            pass
        elif inflow.whole or inflow.fault is not None or self._closing:
            inflow.release()
            self._inflow = None
        else:
            inflow.discard()
            self._mark = inflow.size
            self._arm(self._door.config.body_timeout)
            self._go_on_reading()
            return
        self._advance()

    def _advance(self) -> None:
        """Begin the next request if its bytes are here and the last answer is on its way; else be idle."""
        if self._closing or self._write_paused or self._exchange is not None or self._inflow is not None:
            return
        if self._door.draining:
            self._shut()
            return
        if not self._reading:
            self._go_on_reading()
        self._arm(self._door.config.idle_timeout)
        if self._carry:
            self._begin(self._carry.take())

    # ---- for the exchange --------------------------------------------------------------------------------------------

    def may_stay(self) -> bool:
        """Can the connection serve another request once this answer is given?"""
        inflow = self._inflow
        if inflow is None or inflow.whole:
            return not self._door.draining
        return not self._expects and inflow.fault is None and 0 <= inflow.left <= _DRAINABLE and not self._door.draining

    def answered(self, *, stay: bool) -> None:
        """The answer is written. The handler may go on settling; the client need not wait for that."""
        if not stay:
            self._shut()

    # ---- ends --------------------------------------------------------------------------------------------------------

    def drain(self) -> None:
        if self._exchange is None and self._inflow is None and not self._carry and not self._closing:
            self._shut()

    def cut(self) -> None:
        self._closing = True
        self._leave()
        self._transport.abort()

    def expire(self, now: float) -> None:
        """The running deadline has passed: what was it for?"""
        config = self._door.config
        inflow = self._inflow
        if self._write_paused or self._closing:
            if self._is_stuck(now):
                self.cut()
        elif inflow is not None and not inflow.whole and inflow.fault is None:
            if self._goes_on(inflow.size - self._mark, config.body_timeout, now):
                self._mark = inflow.size
            elif self._exchange is None:
                self.cut()
            else:
                inflow.fail(Refusal("request_timeout", "The body arrived too slowly"))
        elif self._exchange is not None:
            self.deadline = NEVER
        elif self._carry:
            self._refuse(Refusal("request_timeout", "The head arrived too slowly"))
        else:
            self._shut()

    def _refuse(self, refusal: Refusal) -> None:
        """A refusal no handler has seen: answer it and close."""
        self.send(self._door.farewell(refusal))
        self._carry.clear()
        self._linger()

    def _shut(self) -> None:
        self._carry.clear()
        if self._inflow is not None and not self._inflow.whole:
            self._linger()
        else:
            self._close()

    def _leave(self) -> None:
        """The client is gone: tell whoever works for it."""
        if self._inflow is not None:
            self._inflow.fail(ClientGone())
        if self._exchange is not None:
            self._exchange.lost()


def _head_too_large(limit: int) -> Refusal:
    return Refusal("head_too_large", f"The request head is larger than {limit} bytes")

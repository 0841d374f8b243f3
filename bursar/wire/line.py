"""One client's transport: flow, deadlines and the ways it ends. Knows nothing of requests."""

import asyncio
import contextlib
import fcntl
import socket
import struct
import termios
from array import array

from bursar.wire.door import Door
from bursar.wire.wheel import NEVER

_LINGER_SECONDS = 2.0  # how long we listen after a refusal, so that the close does not overtake the answer
_LINGER_BYTES = 4 * 1024 * 1024
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Line(asyncio.Protocol):
    """What `Connection` stands on. Once `_closing`, nothing that comes is understood any more."""

    __slots__ = (
        "_closing",
        "_door",
        "_lingered",
        "_mark",
        "_reading",
        "_transport",
        "_write_paused",
        "deadline",
        "slot",
    )

    def __init__(self, door: Door) -> None:
        self._door = door
        self._transport: asyncio.Transport
        self._reading = True
        self._write_paused = False
        self._closing = False
        self._lingered = 0
        self._mark = 0  # progress at the beginning of the running deadline
        self.deadline = NEVER
        self.slot = NEVER

    def send(self, data: bytes) -> None:
        """At once: a stream's next piece, or a part of something large."""
        if self._door.outbox.letters:
            self._door.outbox.flush()
        self._transport.write(data)

    def post(self, data: bytes) -> None:
        """A whole answer: with the others of this turn."""
        self._door.outbox.post(self._transport, data)

    def break_off(self, *, visibly: bool) -> None:
        """Close without a proper end; `visibly` by a reset, where a close would look like the end of the answer."""
        self._door.outbox.flush()
        self._closing = True
        if visibly:
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._transport.abort()

    def _close(self) -> None:
        """Close once what was written has gone out."""
        self._door.outbox.flush()
        self._end_within(self._door.config.write_stall_timeout)
        self._transport.close()

    def _linger(self) -> None:
        """Close, but listen for a moment: closing over unread bytes resets the connection and loses the answer."""
        self._door.outbox.flush()
        self._end_within(_LINGER_SECONDS)
        self._go_on_reading()
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:  # TLS: its shutdown reads on by itself until the peer agrees
            self._transport.close()

    def _end_within(self, seconds: float) -> None:
        self._closing = True
        self._mark = self._untaken()
        self._arm(seconds)

    def _overhear(self, data: bytes) -> None:
        """What still comes while closing."""
        self._lingered += len(data)
        if self._lingered > _LINGER_BYTES:
            self._transport.abort()

    def _is_stuck(self, now: float) -> bool:
        """The write deadline has passed: did the client take too little to be given another span?"""
        untaken = self._untaken()
        if not untaken or not self._goes_on(self._mark - untaken, self._door.config.write_stall_timeout, now):
            return True
        self._mark = untaken
        return False

    def _untaken(self) -> int:
        """Bytes written that the client's machine has not taken yet, here and in the kernel.

        The kernel refills by the megabyte: without its share, a slow but steady reader would look stuck.
        """
        queued = array("i", [0])
        with contextlib.suppress(OSError, ValueError):  # the socket is closed already
            fcntl.ioctl(self._transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, queued)
        return self._transport.get_write_buffer_size() + queued[0]

    def _goes_on(self, moved: int, span: float, now: float) -> bool:
        """Was enough moved in the span that has passed to be given another?"""
        if moved < self._door.config.min_body_rate * span:
            return False
        self.deadline = now + span
        return True

    def _arm(self, seconds: float) -> None:
        self.deadline = deadline = self._door.monotonic() + seconds
        if deadline < self.slot:
            self._door.wheel.file(self)

    def _stop_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._transport.pause_reading()

    def _go_on_reading(self) -> None:
        if not self._reading:
            self._reading = True
            self._transport.resume_reading()

    def expire(self, now: float) -> None:
        raise NotImplementedError

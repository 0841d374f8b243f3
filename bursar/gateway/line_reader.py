"""A long body read line by line, in memory that does not grow with it."""

import asyncio
from collections.abc import Awaitable, Callable

from bursar.core.errors import UpstreamFault
from bursar.ports import UpstreamResponse

_AHEAD = 262_144  # bytes that wait to be looked at
_LONGEST_LINE = 16 * 2**20
_AT_ONCE = 16_384  # bytes of lines that are looked at together: others wait for as long


async def read_lines(response: UpstreamResponse, most: int, look: Callable[[list[bytes]], Awaitable[None]]) -> None:
    """Hand over all lines of a body in their order, some at a time.

    Raises UpstreamFault, also (body_too_large) beyond `most` bytes, and what `look` raises.
    """
    ahead = _Ahead(response, most)
    reading = asyncio.ensure_future(response.relay(ahead.take))
    reading.add_done_callback(lambda _: ahead.come.set())
    try:
        while True:
            ahead.come.clear()
            over = reading.done()
            if over:
                reading.result()
            lines = ahead.lines(last=over)
            if lines:
                await look(lines)
            elif over:
                return
            else:
                await ahead.come.wait()
    finally:
        response.abort()
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


class _Ahead:
    """What has come and was not looked at yet."""

    def __init__(self, response: UpstreamResponse, most: int) -> None:
        self._response = response
        self._left = most
        self._held = bytearray()
        self._paused = False
        self._searched = 0  # no line ends before
        self.come = asyncio.Event()

    def take(self, piece: bytes) -> None:
        self._left -= len(piece)
        if self._left < 0:
            raise UpstreamFault("body_too_large", "the file is larger than is read", sent=True)
        self._held += piece
        if len(self._held) > _AHEAD and not self._paused:
            self._paused = True
            self._response.pause()
        self.come.set()

    def lines(self, *, last: bool) -> list[bytes]:
        """Whole lines, up to some kB of them; at the end also what follows the last line end."""
        held = self._held
        end = held.rfind(b"\n", 0, _AT_ONCE) + 1 or held.find(b"\n", self._searched) + 1
        if not end:
            self._searched = len(held)
            if len(held) > _LONGEST_LINE:
                raise UpstreamFault("body_too_large", "a line is longer than is read", sent=True)
            end = len(held) if last else 0
        found = bytes(held[:end])
        if end:
            del held[:end]
            self._searched = 0
        if self._paused and (not end or len(held) <= _AHEAD):  # a line may be longer than what usually waits
            self._paused = False
            self._response.resume()
        return found.removesuffix(b"\n").split(b"\n") if found else []

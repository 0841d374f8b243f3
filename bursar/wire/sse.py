"""Cuts a byte stream into whole server-sent events (WHATWG HTML §9.2), however it was chopped. No I/O.

Bytes are kept as they came: the events and `rest()` joined are the input. A blank line on its own is an event too.
"""

import re

MAX_EVENT = 8 * 1024 * 1024

_LINE_END = re.compile(rb"\r\n|\n|\r")
# The blank line that ends an event: a line end directly after another, or at the very start.
_BLANK = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r)")


class EventTooLarge(ValueError):
    """One event is larger than any real one: the stream is broken or hostile."""


class EventSplitter:
    """Whole events out of pieces of a stream. `max_event` is in bytes."""

    __slots__ = ("_from", "_held", "_max_event")

    def __init__(self, max_event: int = MAX_EVENT) -> None:
        self._max_event = max_event
        self._held = bytearray()
        self._from = 0  # no event ends before this position of what is held

    def feed(self, data: bytes) -> list[bytes]:
        """The events that are whole now, each with its terminating blank line. Raises EventTooLarge.

        A CR at the end of `data` may be half of a CRLF: its event waits for the next byte.
        """
        if self._held or len(data) > self._max_event or b"\r" in data or data.startswith(b"\n"):
            return self._feed_slowly(data)
        end = data.find(b"\n\n") + 2
        if end == len(data) > 2:  # one event, as most pieces are
            return [data]
        if end > 2 and data.endswith(b"\n\n") and b"\n\n\n" not in data:
            return [event + b"\n\n" for event in data[:-2].split(b"\n\n")]
        return self._feed_slowly(data)

    def _feed_slowly(self, data: bytes) -> list[bytes]:
        held = self._held
        held += data
        size = len(held)
        events: list[bytes] = []
        start = 0
        while start < size:
            end = self._event_end(start, size)
            if end < 0:
                break
            self._check(end - start)
            events.append(bytes(held[start:end]))
            start = end
        del held[:start]
        self._from = max(0, len(held) - 3)
        self._check(len(held))
        return events

    def _event_end(self, start: int, size: int) -> int:
        """Where the event that begins at `start` ends; -1 = not yet known."""
        held = self._held
        match = _LINE_END.match(held, start) or _BLANK.search(held, max(start, self._from))
        if match is None:
            return -1
        end = match.end()
        return -1 if end == size and held[end - 1] == 13 else end

    def _check(self, size: int) -> None:
        if size > self._max_event:
            raise EventTooLarge(f"an event of more than {self._max_event} bytes")

    def rest(self) -> bytes:
        """What is held of an event that never ended (or ended in a CR that nothing followed)."""
        return bytes(self._held)

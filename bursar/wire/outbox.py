"""Whole messages on their way out, sent together at the end of the event loop's turn.

A send to a process that sleeps wakes it, and that costs several times what the send itself does. While a busy turn
works through many requests, whoever gets one message at a time falls asleep before the next is ready; of messages sent
in a row only the first wakes him. In a turn of one request nothing waits.
"""

import asyncio

_MOST = 16  # messages that may wait for one another: bounds what the first of them loses


class Outbox:
    """Keeps the order of what is posted. Whoever writes to one of these transports by himself flushes first."""

    __slots__ = ("_letters",)

    def __init__(self) -> None:
        self._letters: list[tuple[asyncio.Transport, bytes]] = []

    def post(self, transport: asyncio.Transport, data: bytes) -> None:
        """Send it with the rest of this turn."""
        letters = self._letters
        letters.append((transport, data))
        if len(letters) == 1:
            asyncio.get_running_loop().call_soon(self.flush)
        elif len(letters) >= _MOST:
            self.flush()

    def flush(self) -> None:
        """Send what is posted. A transport that has been closed meanwhile is passed over."""
        if not self._letters:
            return
        letters, self._letters = self._letters, []
        for transport, data in letters:
            if not transport.is_closing():
                transport.write(data)

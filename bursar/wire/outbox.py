"""Whole messages on their way out, sent together at the end of the event loop's turn.

A send to a process that sleeps wakes it, and that costs several times what the send itself does. While a busy turn
works through many requests, whoever gets one message at a time falls asleep before the next is ready; of messages sent
in a row only the first wakes him. In a turn of one request nothing waits.
"""

import asyncio

_MOST = 16  # messages that may wait for one another: bounds what the first of them loses


class Outbox:
    """`letters` leave in the order in which they were posted. Who writes to one of these transports flushes first."""

    __slots__ = ("letters",)

    def __init__(self) -> None:
        self.letters: list[tuple[asyncio.Transport, bytes]] = []

    def post(self, transport: asyncio.Transport, data: bytes) -> None:
        """Send it with the rest of this turn."""
        letters = self.letters
        letters.append((transport, data))
        if len(letters) == 1:
            asyncio.get_running_loop().call_soon(self.flush)
        elif len(letters) >= _MOST:
            self.flush()

    def flush(self) -> None:
        """Send what is posted. A transport that has been closed meanwhile is passed over."""
        if not self.letters:
            return
        letters, self.letters = self.letters, []
        for transport, data in letters:
            if not transport.is_closing():
                transport.write(data)

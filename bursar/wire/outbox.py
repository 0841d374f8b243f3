"""Whole messages on their way out, sent together when the event loop has nothing new to add to them.

A send to a process that sleeps wakes it, and that costs several times what the send itself does. While a busy loop
works through many requests, whoever gets one message at a time falls asleep before the next is ready; of messages sent
in a row only the first wakes him. So they wait for one another, turn by turn, for as long as each turn brings more, up
to a number. Where there is but one request nothing waits.
"""

import asyncio

_MOST = 16  # messages that may wait for one another: bounds what the first of them loses


class Outbox:
    """`letters` leave in the order in which they were posted. Who writes to one of these transports flushes first."""

    __slots__ = ("_counted", "letters")

    def __init__(self) -> None:
        self.letters: list[tuple[asyncio.Transport, bytes]] = []
        self._counted = 0  # of them at the end of the last turn

    def post(self, transport: asyncio.Transport, data: bytes) -> None:
        """Send it with what else is to be sent now."""
        letters = self.letters
        letters.append((transport, data))
        if len(letters) == 1:
            self._counted = 1
            asyncio.get_running_loop().call_soon(self._turn)
        elif len(letters) >= _MOST:
            self.flush()

    def _turn(self) -> None:
        """The turn is over: did it bring more than the one before?"""
        count = len(self.letters)
        if count > self._counted:
            self._counted = count
            asyncio.get_running_loop().call_soon(self._turn)
        else:
            self.flush()

    def flush(self) -> None:
        """Send what is posted. A transport that has been closed meanwhile is passed over."""
        if not self.letters:
            return
        letters, self.letters = self.letters, []
        for transport, data in letters:
            if not transport.is_closing():
                transport.write(data)

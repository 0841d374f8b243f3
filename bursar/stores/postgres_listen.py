"""Hearing of a commit at once: LISTEN on a connection of its own, held for ever.

It only wakes: whoever waits asks the tables, and asks now and then unheard. So a notification that is lost, or cannot
be had (through a pooler in transaction mode), costs a moment and nothing else.
"""

import asyncio
import contextlib
import logging

from bursar.stores.postgres import AWAY, Postgres, said

_PROOF_S = 10.0  # between two proofs that the connection is alive
_FIRST_RETRY_S, _LAST_RETRY_S = 0.2, 5.0
_log = logging.getLogger("bursar.store")


class Listener:
    """`run` as a task; `wait` returns when something was heard or the time is over."""

    def __init__(self, store: Postgres, channel: str) -> None:
        self._store = store
        self._channel = channel
        self._heard = asyncio.Event()
        self.listening = False

    async def wait(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._heard.wait()
        self._heard.clear()

    async def run(self) -> None:
        if self._store.address.pooler:
            return
        retry = _FIRST_RETRY_S
        while True:
            try:
                await self._listen()
            except AWAY as fault:
                if self.listening:
                    _log.warning("notifications of changes are lost, changes are asked for: %s", said(fault))
                    retry = _FIRST_RETRY_S
                self.listening = False
            await asyncio.sleep(retry)
            retry = min(2 * retry, _LAST_RETRY_S)

    async def _listen(self) -> None:
        """Returns never; raises what is in AWAY when the connection is lost."""
        connection = await self._store.dedicated()
        try:
            await connection.add_listener(self._channel, lambda *_: self._heard.set())
            self.listening = True
            self._heard.set()  # what came before this is asked for
            while True:
                await asyncio.sleep(_PROOF_S)
                await connection.execute("SELECT 1")
        finally:
            connection.terminate()

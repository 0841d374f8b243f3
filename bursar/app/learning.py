"""What a gateway learns about tokens outlives it: read at the start, kept every ten seconds and at the end."""

import asyncio
import logging
from pathlib import Path

from bursar.core.estimate import Estimate
from bursar.stores.learned import load_priors, read_learned, write_learned

KEEP_S = 10.0
_FILE = "estimates.json"
_log = logging.getLogger("bursar.estimate")


class Learning:
    """`folder` is the node's data folder."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / _FILE
        self.estimate = Estimate(load_priors())
        self.estimate.restore(read_learned(self._path))
        self._kept = 0

    async def keep_for_ever(self) -> None:
        while True:
            await asyncio.sleep(KEEP_S)
            await self.keep()

    async def keep(self) -> None:
        """Write what is new, off the loop. What cannot be written is tried again: nothing depends on it."""
        count = self.estimate.learned
        if count == self._kept:
            return
        state = self.estimate.state()
        try:
            await asyncio.to_thread(write_learned, self._path, state)
        except OSError as fault:
            _log.warning("what was learned about tokens is not kept: %s", fault)
        else:
            self._kept = count

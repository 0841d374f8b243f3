"""A process that brings every value of a store under another key, and tells each step; to be killed on the way."""

import asyncio
import sys
from pathlib import Path

from bursar.app.clock import SystemClock, SystemEntropy
from bursar.secrets.embedded import EmbeddedStore
from bursar.secrets.wrap import keyfile


async def rewrap(folder: Path) -> None:
    old, new = (keyfile.load(folder / name, SystemEntropy()) for name in ("old.key", "new.key"))
    store = await EmbeddedStore.open(folder / "secrets.db", [new], SystemClock(), SystemEntropy(), [old])
    left = 1
    while left:
        left = (await store.rewrap(limit=1)).left
        sys.stdout.write(f"{left}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(rewrap(Path(sys.argv[1])))

"""What the emulator charges, on its own account: one JSON line per billed call, appended with one write."""

import hashlib
import os
from pathlib import Path
from typing import Literal

import msgspec


class Charge(msgspec.Struct, frozen=True, kw_only=True):
    """One billed call. Token counts are totals: input includes cached and written, output includes reasoning."""

    id: str
    t: int  # ns since the epoch
    model: str
    route: Literal["chat", "completions", "embeddings", "responses", "messages"]
    key: str  # digest of the credential that came with it
    input: int
    output: int
    cached: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    reasoning: int = 0
    searches: int = 0
    tier: str = ""
    end: Literal["done", "abandoned", "disconnected", "error"] = "done"


def digest(credential: str) -> str:
    """Names a credential without holding it: the first 16 hex digits of its SHA-256; "" for none."""
    return hashlib.sha256(credential.encode()).hexdigest()[:16] if credential else ""


class Bill:
    """The open file. `path` None = charges are counted but not kept (`--no-bill`)."""

    def __init__(self, path: Path | None) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._fd = -1 if path is None else os.open(path, flags, 0o600)
        self.charges = 0

    def add(self, charge: Charge) -> None:
        self.charges += 1
        if self._fd >= 0:
            os.write(self._fd, msgspec.json.encode(charge) + b"\n")


def read_bill(path: Path | str) -> list[Charge]:
    """All charges so far, oldest first; none when nothing was billed yet."""
    file = Path(path)
    if not file.exists():
        return []
    decoder = msgspec.json.Decoder(Charge)
    return [decoder.decode(line) for line in file.read_bytes().splitlines()]

"""What one emulator process keeps: its bill, its numbers, and what it saw of its callers."""

import time
from collections import Counter
from typing import Literal, NamedTuple

import msgspec

from bursar.providers.emulator.batches import Batches
from bursar.providers.emulator.bill import Bill, Charge, digest
from bursar.providers.emulator.counts import Counts
from bursar.providers.emulator.files import Files
from bursar.providers.emulator.kept import Kept
from bursar.providers.emulator.request import Request

_CREDENTIALS = (b"authorization", b"x-api-key", b"api-key")


class Arrival(NamedTuple):
    """One whole request as it came."""

    method: bytes
    url: bytes
    headers: list[tuple[bytes, bytes]]  # lower-case names
    body: bytes

    def header(self, name: bytes) -> bytes:
        return next((value for known, value in self.headers if known == name), b"")

    def credential(self) -> str:
        for name in _CREDENTIALS:
            if value := self.header(name):
                return value.decode("latin-1").removeprefix("Bearer ")
        return ""


class Desk:
    """Shared by all connections of a process. `latency` is in seconds, added to every answer."""

    def __init__(self, bill: Bill, *, seed: int = 0, latency: float = 0.0, require_key: str = "") -> None:
        self._bill = bill
        self._required = require_key
        self._digests: dict[str, str] = {}
        self._boot = time.time_ns()  # ids stay different after a restart
        self.seed = seed
        self.latency = latency
        self.calls = 0
        self.connections = 0
        self.credentials: Counter[str] = Counter()
        self.kept = Kept()
        self.files = Files()
        self.batches = Batches(self.files, lambda request, counts, output: self.charge(request, counts, output, "done"))
        self._last: Arrival | None = None

    def next_id(self) -> str:
        return f"{self._boot:016x}{self.calls:08x}"

    def note(self, arrival: Arrival) -> str:
        """Remember the caller; the digest of its credential."""
        self.calls += 1
        credential = arrival.credential()
        known = self._digests.get(credential)
        if known is None:
            known = self._digests[credential] = digest(credential)
        if arrival.method == b"POST":
            self.credentials[known] += 1
            self._last = arrival
        return known

    def key_of(self, arrival: Arrival) -> str:
        """The digest of a caller's credential."""
        return digest(arrival.credential())

    def wrong(self, arrival: Arrival) -> bool:
        return bool(self._required) and arrival.credential() != self._required

    def charge(
        self, request: Request, counts: Counts, output: int, end: Literal["done", "abandoned", "disconnected", "error"]
    ) -> None:
        """Put one call on the bill with what was generated of it."""
        assert request.route != "count_tokens", "counting is free"
        self._bill.add(
            Charge(
                id=request.id,
                t=time.time_ns(),
                model=request.body.model,
                route=request.route,
                key=request.key,
                input=counts.input,
                output=output,
                cached=counts.cached,
                cache_write_5m=counts.cache_write_5m,
                cache_write_1h=counts.cache_write_1h,
                reasoning=min(counts.reasoning, output),
                searches=counts.searches,
                tier=request.script.tier,
                end=end,
            )
        )

    def report(self) -> bytes:
        """GET /_emulator: digests of the credentials seen, counts, and the last request with credentials as digests."""
        last = self._last
        seen: dict[str, object] = {
            "calls": self.calls,
            "charges": self._bill.charges,
            "connections": self.connections,
            "credentials": dict(self.credentials),
            "last": None,
        }
        if last is not None:
            seen["last"] = {
                "url": last.url.decode("latin-1"),
                "headers": {name.decode("latin-1"): self._shown(name, value) for name, value in last.headers},
                "body": last.body.decode("utf-8", "replace"),
            }
        return msgspec.json.encode(seen)

    @staticmethod
    def _shown(name: bytes, value: bytes) -> str:
        text = value.decode("latin-1")
        return digest(text.removeprefix("Bearer ")) if name in _CREDENTIALS else text

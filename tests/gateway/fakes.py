"""Fakes for the two wires, control and the clock; the journal is the real one, watched.

They have the shape of the Protocols in `bursar.ports` and `bursar.gateway.node` (`test_fakes` compares them), and
behave as the wire's own classes do: an aborted relay returns, an answer is opened once, what a sink raises closes.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from bursar.core.errors import Refusal, UpstreamFault
from bursar.core.ledger import Settlement
from bursar.core.secret import Secret
from bursar.core.units import NS_PER_S
from bursar.gateway.node import Provider
from bursar.stores.journal import Journal

NOON = 1_795_435_200 * NS_PER_S  # 2026-11-23T12:00:00Z


class FakeClock:
    def __init__(self, now: int = NOON) -> None:
        self.wall = now
        self.since_start = 1000.0

    def now(self) -> int:
        return self.wall

    def monotonic(self) -> float:
        return self.since_start

    def advance(self, seconds: float) -> None:
        self.wall += int(seconds * NS_PER_S)
        self.since_start += seconds


class Dice:
    """Random bytes that repeat from run to run."""

    def __init__(self) -> None:
        self._drawn = 0

    def token_bytes(self, count: int) -> bytes:
        self._drawn += 1
        return self._drawn.to_bytes(count, "big")


class FakeExchange:
    """`bursar.ports.Exchange`, as strict as the wire's own about the order of an answer."""

    def __init__(
        self, method: str, path: str, headers: dict[str, str], body: bytes | Exception, received: float = 1000.0
    ) -> None:
        self.method = method
        self.path = path
        self.query = ""
        self.headers = headers
        self.memo: dict[str, object] = {}
        self.peer = "127.0.0.1"
        self.received = received
        self.gone = False
        self.started = False
        self.on_gone: Callable[[], None] | None = None
        self.on_flow: Callable[[bool], None] | None = None
        self.finished = False
        self.aborted = False
        self.body_asked = False
        self.status = 0
        self.lines: list[tuple[str, str]] = []
        self.sent = b""
        self.pieces: list[bytes] = []
        self.unsent_writes = 0
        self._body = body

    async def body(self) -> bytes:
        self.body_asked = True
        await asyncio.sleep(0)
        if isinstance(self._body, Exception):
            raise self._body
        return self._body

    def respond(self, status: int, headers: Sequence[tuple[str, str]] | bytes, body: bytes) -> None:
        self._open(status, headers)
        self.finished = True
        if not self.gone:
            self.sent = body

    def start(self, status: int, headers: Sequence[tuple[str, str]] | bytes) -> None:
        self._open(status, headers)

    def write(self, chunk: bytes) -> None:
        if self.gone:
            self.unsent_writes += 1
            return
        if not chunk:
            return
        if not self.started or self.finished:
            raise RuntimeError("the answer is not open")
        self.pieces.append(chunk)
        self.sent += chunk

    def finish(self) -> None:
        if not self.started or self.finished:
            raise RuntimeError("the answer is not open")
        self.finished = True

    def abort(self) -> None:
        if not self.finished:
            self.finished = self.aborted = True

    def leave(self) -> None:
        """The client is lost."""
        if not self.finished and not self.gone:
            self.gone = True
            if self.on_gone is not None:
                self.on_gone()

    def _open(self, status: int, headers: Sequence[tuple[str, str]] | bytes) -> None:
        if self.started:
            raise RuntimeError("the answer was started already")
        self.started = True
        self.status = status
        self.lines = split_lines(headers) if isinstance(headers, bytes) else list(headers)

    # -- how tests read the answer

    def header(self, name: str) -> str | None:
        """The one value of a header; a name given twice is a fault of ours."""
        values = [value for known, value in self.lines if known == name]
        assert len(values) < 2, f"{name} was sent {len(values)} times: {values}"
        return values[0] if values else None

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.sent)

    @property
    def word(self) -> str | None:
        return self.header("x-bursar-word")


def split_lines(block: bytes) -> list[tuple[str, str]]:
    assert not block or block.endswith(b"\r\n")
    return [tuple(line.split(": ", 1)) for line in block.decode("latin-1").split("\r\n")[:-1]]  # type: ignore[misc]


class FakeResponse:
    """`bursar.ports.UpstreamResponse` from a script: bytes arrive, faults break it off, callables happen meanwhile.

    `HANG` waits until it is aborted. `delivered` counts the pieces that were read.
    """

    def __init__(self, script: Sequence[Any], status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.status = status
        self.headers = headers or {}
        self.script = list(script)
        self.delivered = 0
        self.aborted = False
        self.paused = False
        self._sink: Callable[[bytes], None] | None = None
        self._wake = asyncio.Event()

    async def read(self, limit: int) -> bytes:
        whole = b""
        async for piece in self._items():
            whole += piece
            if len(whole) > limit:
                self.abort()
                raise UpstreamFault("body_too_large", sent=True)
        if self.aborted:
            raise UpstreamFault("reset", "the answer was abandoned", sent=True)
        return whole

    async def relay(self, sink: Callable[[bytes], None]) -> None:
        self._sink = sink
        async for piece in self._items():
            try:
                self._sink(piece)
            except BaseException:
                self.abort()
                raise
        self._sink = None

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False
        self._wake.set()

    def abort(self) -> None:
        self._sink = None
        self.aborted = True
        self._wake.set()

    async def _items(self) -> Any:
        try:
            for item in self.script:
                await asyncio.sleep(0)
                while (self.paused or item is HANG) and not self.aborted:
                    self._wake.clear()
                    await self._wake.wait()
                if self.aborted:
                    return
                if isinstance(item, Exception):
                    self.abort()
                    raise item
                if callable(item):
                    item()
                    if self.aborted:
                        return
                else:
                    self.delivered += 1
                    yield item
        except asyncio.CancelledError:
            self.abort()
            raise


HANG = object()


class Sent(msgspec.Struct):
    """One request as it went up."""

    provider: str
    route: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)


class ScriptedUpstream:
    """`bursar.gateway.node.Upstream`: answers with what was lined up, or with the fault that was."""

    def __init__(self) -> None:
        self.answers: list[Any] = []
        self.sent: list[Sent] = []
        self.before: Callable[[], None] = lambda: None

    def will(self, *answers: Any) -> None:
        self.answers += answers

    async def request(self, provider: Provider, route: str, headers: bytes, body: bytes) -> FakeResponse:
        self.before()
        self.sent.append(Sent(provider.name, route, dict(split_lines(headers)), body))
        answer = self.answers.pop(0)
        await asyncio.sleep(0)
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, FakeResponse)
        return answer

    async def ask(self, provider: Provider, method: str, target: str, headers: bytes, body: bytes) -> FakeResponse:
        return await self.request(provider, f"{method} {target}", headers, body)


class Grant(msgspec.Struct, frozen=True):
    value: Secret
    expires_at: int


class FakeReleases:
    """Control as the leases see it."""

    def __init__(self, clock: FakeClock, seconds: int = 900) -> None:
        self._clock = clock
        self.seconds = seconds
        self.asked: list[tuple[str, int]] = []
        self.refusal: Refusal | None = None

    async def release(self, secret_id: str, version: int) -> Grant:
        self.asked.append((secret_id, version))
        await asyncio.sleep(0)
        if self.refusal is not None:
            raise self.refusal
        return Grant(Secret(f"sk-{secret_id}-{version}"), self._clock.now() + self.seconds * NS_PER_S)


class WatchedJournal(Journal):
    """The real one; notes how each hold ended."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.posts: dict[int, Settlement] = {}
        self.voids: dict[int, str] = {}
        self.shrunk: dict[int, int] = {}

    def post(self, hold_id: int, settlement: Settlement) -> None:
        assert hold_id not in self.posts
        assert hold_id not in self.voids
        self.posts[hold_id] = settlement
        super().post(hold_id, settlement)

    def void(self, hold_id: int, reason: str) -> None:
        assert hold_id not in self.posts
        self.voids[hold_id] = reason
        super().void(hold_id, reason)

    def shrink(self, hold_id: int, ceiling_pico: int) -> None:
        self.shrunk[hold_id] = ceiling_pico
        super().shrink(hold_id, ceiling_pico)


async def turns(count: int = 5) -> None:
    """Let what is due on the loop happen."""
    for _ in range(count):
        await asyncio.sleep(0)

"""What all client connections of one server share: bounds, counters, the handler, deadlines."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Protocol

import msgspec

from bursar.core.errors import Refusal
from bursar.wire.exchange import Exchange
from bursar.wire.head import header_block, status_line
from bursar.wire.outbox import Outbox
from bursar.wire.wheel import Timed, Wheel

Handler = Callable[[Exchange], Awaitable[None]]
Rendered = tuple[int, list[tuple[str, str]], bytes]  # status, fields, body
Refuse = Callable[[Refusal], Rendered]

_TICK = 0.5  # seconds: how coarse deadlines are


class ServerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of the door. Times in seconds, sizes in bytes."""

    head_timeout: float = 10.0  # first byte of a head to its last; also a new connection that sends nothing
    body_timeout: float = 60.0  # whole body; goes on for as long as each such span brings min_body_rate
    min_body_rate: int = 1024  # bytes per second, both ways
    idle_timeout: float = 75.0  # between two requests
    write_stall_timeout: float = 60.0  # a full write buffer must shrink by min_body_rate in each such span
    max_head: int = 65536
    max_body: int = 32 * 1024 * 1024
    max_connections: int = 20000
    max_bytes_in_flight: int = 512 * 1024 * 1024  # request bodies in memory, process-wide
    max_pipelined: int = 16  # requests of one connection answered in a row before others get their turn


class Guest(Timed, Protocol):
    """A connection as the door sees it."""

    def drain(self) -> None:
        """Close if idle; an open exchange goes on and closes at its end."""
        ...

    def cut(self) -> None:
        """Close at once."""
        ...


class Door:
    """`refused` counts the refusals made here by word: those no handler has seen."""

    def __init__(self, config: ServerConfig, handler: Handler, refuse: Refuse, monotonic: Callable[[], float]) -> None:
        self.config = config
        self.handler = handler
        self.monotonic = monotonic
        self.wheel = Wheel(_TICK)
        self.outbox = Outbox()
        self.guests: set[Guest] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self.bytes_in_flight = 0
        self.max_bytes_in_flight = config.max_bytes_in_flight
        self.max_body = config.max_body
        self.refused: dict[str, int] = {}
        self.draining = False
        self.empty = asyncio.Event()  # set while draining, once no connection and no handler is open
        self.loop: asyncio.AbstractEventLoop
        self._refuse = refuse
        self._sweeper: asyncio.TimerHandle | None = None

    def open(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._turn()

    def drain(self) -> None:
        self.draining = True
        self._tell_if_empty()
        for guest in list(self.guests):
            guest.drain()

    def cut(self) -> None:
        for guest in list(self.guests):
            guest.cut()

    def close(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None

    def _turn(self) -> None:
        self._sweeper = self.loop.call_later(_TICK, self._turn)
        self.sweep()

    def sweep(self) -> None:
        """Act on the deadlines that have passed. Happens by itself every half second."""
        self.wheel.sweep(self.monotonic())

    def has_room(self, size: int) -> bool:
        return self.bytes_in_flight + size <= self.max_bytes_in_flight

    def render(self, refusal: Refusal) -> Rendered:
        """Count a refusal of the door and render it."""
        self.refused[refusal.word] = self.refused.get(refusal.word, 0) + 1
        return self._refuse(refusal)

    def farewell(self, refusal: Refusal) -> bytes:
        """The whole answer of a refusal after which the connection closes."""
        status, headers, body = self.render(refusal)
        block = header_block(headers)
        head = b"%b%bcontent-length: %d\r\nconnection: close\r\n\r\n" % (status_line(status), block, len(body))
        return head + body

    def forget(self, guest: Guest) -> None:
        """It is closed."""
        self.guests.discard(guest)
        self.wheel.drop(guest)
        self._tell_if_empty()

    def _forget_task(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        self._tell_if_empty()

    def _tell_if_empty(self) -> None:
        if self.draining and not self.guests and not self.tasks:
            self.empty.set()

    def spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """A task that is kept until it ends: settlement must not be collected with its connection."""
        task = self.loop.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._forget_task)
        return task

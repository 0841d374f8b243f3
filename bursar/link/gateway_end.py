"""The gateway's end of the link: keeps it open, hands on what control says, asks for provider keys."""

import asyncio
import contextlib
import itertools
from collections.abc import Callable
from pathlib import Path

import msgspec

from bursar.core.directory import Delta, Snapshot
from bursar.core.errors import Refusal
from bursar.core.secret import Secret
from bursar.link import messages as m
from bursar.link.frames import Channel, LinkBroken

_FIRST_RETRY = 0.01
_LONGEST_RETRY = 0.1  # who waits for the first directory waits for this too
_LEASE_WAIT = 5.0  # seconds a call may wait for control to release a provider key
_ANSWER_WAIT = 20.0  # seconds control may take for a request handed to it: it may have to ask another issuer


class Granted(msgspec.Struct, frozen=True):
    value: Secret
    expires_at: int  # ns


class GatewayEnd:
    """Reconnects for ever: the gateway keeps serving on its last snapshot and live leases while control is away."""

    def __init__(  # noqa: PLR0913 - one keyword a thing that control says
        self,
        path: Path,
        hello: m.Hello,
        *,
        on_welcome: Callable[[Snapshot, bytes], None],
        on_delta: Callable[[Delta], None],
        on_revoked: Callable[[str, int], None],
        holds: Callable[[], int] = lambda: 0,
        on_fresh: Callable[[float, int], None] = lambda _at, _nodes: None,
        on_recorded: Callable[[str], None] = lambda _flush: None,
        on_taken: Callable[[int], None] = lambda _number: None,
    ) -> None:
        """`holds`: the directory version of this gateway, 0 for none; from it on changes are enough."""
        self._path = path
        self._hello = hello
        self._on_welcome = on_welcome
        self._on_delta = on_delta
        self._on_revoked = on_revoked
        self._holds = holds
        self._on_fresh = on_fresh
        self._on_recorded = on_recorded
        self._on_taken = on_taken
        self._channel: Channel[m.ToGateway] | None = None
        self._asks: dict[int, asyncio.Future[Granted]] = {}
        self._handed: dict[int, asyncio.Future[m.HandedBack]] = {}
        self._numbers = itertools.count(1)
        self._pause = _FIRST_RETRY  # before the next attempt; short again after each welcome
        self.connected = asyncio.Event()
        self.connections = 0  # how often it came about

    async def run(self) -> None:
        """Hold the link until cancelled."""
        while True:
            with contextlib.suppress(LinkBroken, OSError):
                await self._session()
            await asyncio.sleep(self._pause)
            self._pause = min(self._pause * 2, _LONGEST_RETRY)

    def send(self, message: msgspec.Struct) -> bool:
        """True if the message was queued on a live link."""
        if self._channel is None:
            return False
        self._channel.send(message)
        return True

    def reconnect(self) -> None:
        """Something was missed: say Hello again, and be told the whole directory."""
        if self._channel is not None:
            self._channel.close()

    async def release(self, secret_id: str, version: int) -> Granted:
        """Ask control for a provider key. Raises Refusal in control's words, `secrets_unavailable` while it is away."""
        if self._channel is None:
            raise _control_away()
        ask = next(self._numbers)
        answer: asyncio.Future[Granted] = asyncio.get_running_loop().create_future()
        self._asks[ask] = answer
        try:
            self._channel.send(m.LeaseAsk(ask=ask, secret_id=secret_id, version=version))
            async with asyncio.timeout(_LEASE_WAIT):
                return await answer
        except TimeoutError:
            raise _control_away() from None
        finally:
            self._asks.pop(ask, None)

    async def hand_over(self, request: m.Handed) -> m.HandedBack:
        """Have control answer a request; its `ask` is set here. Raises Refusal(control_unavailable)."""
        if self._channel is None:
            raise _nobody_answers()
        ask = request.ask = next(self._numbers)
        answer: asyncio.Future[m.HandedBack] = asyncio.get_running_loop().create_future()
        self._handed[ask] = answer
        try:
            self._channel.send(request)
            async with asyncio.timeout(_ANSWER_WAIT):
                return await answer
        except TimeoutError:
            raise _nobody_answers() from None
        finally:
            self._handed.pop(ask, None)

    async def _session(self) -> None:
        reader, writer = await asyncio.open_unix_connection(str(self._path))
        channel: Channel[m.ToGateway] = Channel(reader, writer, m.ToGateway)  # type: ignore[arg-type]  # a union
        try:
            channel.send(msgspec.structs.replace(self._hello, version=self._holds()))
            while True:
                self._take(await channel.receive(), channel)
        finally:
            self._channel = None
            self.connected.clear()
            channel.close()
            self._fail_asks()

    def _take(self, message: m.ToGateway, channel: Channel[m.ToGateway]) -> None:
        match message:
            case m.Welcome():
                self._enter(message, channel)
            case m.Changed():
                self._on_delta(message.delta)
            case m.Fresh():
                self._on_fresh(message.at, message.nodes)
            case m.LeaseGranted():
                granted = Granted(Secret(message.value), message.expires_at)
                self._answer(message.ask, granted)
            case m.LeaseRefused():
                refusal = Refusal(message.word, message.message, message.hint, message.retry_after)
                self._answer(message.ask, refusal)
            case m.UsesRecorded():
                self._on_recorded(message.flush)
            case m.DecisionsTaken():
                self._on_taken(message.number)
            case m.HandedBack():
                self._hand_back(message)
            case m.LeaseRevoked():
                self._on_revoked(message.secret_id, message.version)

    def _enter(self, welcome: m.Welcome, channel: Channel[m.ToGateway]) -> None:
        if welcome.snapshot is not None:
            self._on_welcome(welcome.snapshot, welcome.pepper)
        self._channel = channel
        self._pause = _FIRST_RETRY
        self.connections += 1
        channel.send(m.Applied(version=self._holds() if welcome.snapshot is None else welcome.snapshot.version))
        self.connected.set()

    def _answer(self, ask: int, outcome: Granted | Refusal) -> None:
        waiting = self._asks.get(ask)
        if waiting is None or waiting.done():
            return
        if isinstance(outcome, Refusal):
            waiting.set_exception(outcome)
        else:
            waiting.set_result(outcome)

    def _hand_back(self, message: m.HandedBack) -> None:
        handed = self._handed.get(message.ask)
        if handed is not None and not handed.done():
            handed.set_result(message)

    def _fail_asks(self) -> None:
        for waiting in self._asks.values():
            if not waiting.done():
                waiting.set_exception(_control_away())
        for handed in self._handed.values():
            if not handed.done():
                handed.set_exception(_nobody_answers())


def _nobody_answers() -> Refusal:
    return Refusal(
        "control_unavailable",
        "The control process, which issues tokens, does not answer",
        "Try again in a moment; tokens that were issued go on working",
        retry_after=1,
    )


def _control_away() -> Refusal:
    return Refusal(
        "secrets_unavailable",
        "The control process, which releases provider keys, does not answer",
        "Try again in a moment; `bursar status` shows whether it is up",
        retry_after=1,
    )

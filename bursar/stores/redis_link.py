"""The way to Redis that never keeps a call waiting: an answer within a quarter of a second, or none.

Slow is worse than dead: after a few questions in a row without a timely answer the connection is given up, and until a
new one has answered a greeting in time nobody is let wait at all. What gives back is kept while the way is closed and
sent when it opens: it names what it gives back, so that a second time does nothing.
"""

import asyncio
import logging
import re
from collections import deque
from collections.abc import Callable, Sequence

from bursar.stores.redis_pipe import Asked, Pipe, Reply, ReplyError, disappoint, hand_over
from bursar.stores.redis_place import AWAY, Place, connect

_PATIENCE = 3  # questions in a row without a timely answer
_GREETING_S = 2.0  # to connect, find the master, load the scripts
_READ_FIRST_S = 0.005
_FIRST_REST_S = 0.1
_LONGEST_REST_S = 5.0
_MOST_KEPT = 10_000  # acts that give back
_CODE = re.compile(r": -([A-Z]{3,})\b")
_log = logging.getLogger("bursar.rates")


class RedisLink:
    """One connection at a time, kept up by `run`. `up` is looked at before anything is asked."""

    def __init__(
        self,
        place: Place,
        scripts: Sequence[str],
        *,
        wait_s: float = 0.25,
        on_change: Callable[[bool, str], None] = lambda _up, _why: None,
    ) -> None:
        self.up = False
        self.opened = asyncio.Event()  # set while up
        self.connections = 0  # so far
        self._place = place
        self._scripts = scripts
        self._wait_s = wait_s
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._pipe: Pipe | None = None
        self.closed = asyncio.Event()  # set while not
        self.closed.set()
        self._kept: deque[Asked] = deque(maxlen=_MOST_KEPT)
        self._late = 0
        self._watch: asyncio.TimerHandle | None = None
        self._answered = False  # since it came up

    def ask(self, frame: bytes) -> "asyncio.Future[Reply | None]":
        """While `up`. None where no answer came in time, or an error did; it may have been carried out all the same."""
        assert self._pipe is not None, "looked at `up` before"
        by = self._loop.time() + self._wait_s - _READ_FIRST_S
        answer: asyncio.Future[Reply | None] = self._loop.create_future()
        self._pipe.send(Asked(frame, answer, by))
        if self._watch is None:
            self._watch = self._loop.call_at(by, self._look)
        return answer

    def tell(self, frame: bytes) -> None:
        """Carried out now or when the way is open again; at most a second time. Nobody waits for it."""
        asked = Asked(frame, None, 0.0)
        if self.up and self._pipe is not None:
            self._pipe.send(asked)
        else:
            self._kept.append(asked)

    async def run(self) -> None:
        """Until cancelled."""
        rest = _FIRST_REST_S
        try:
            while True:
                self._answered = False
                try:
                    pipe = await self._greet()
                except AWAY as fault:
                    self._on_change(False, _told(fault))
                else:
                    self._open(pipe)
                    await self.closed.wait()
                rest = _FIRST_REST_S if self._answered else min(rest * 2, _LONGEST_REST_S)
                await asyncio.sleep(rest)
        finally:
            self._close("stopped")

    async def _greet(self) -> Pipe:
        """Connected, with the scripts loaded, and quick enough. Raises what is in AWAY."""
        pipe = await connect(self._place, lambda: Pipe(self._reply, self._on_lost), _GREETING_S)
        try:
            async with asyncio.timeout(_GREETING_S):
                await asyncio.gather(*(pipe.ask("SCRIPT", "LOAD", script) for script in self._scripts))
            async with asyncio.timeout(self._wait_s):
                await pipe.ask("PING")
            if pipe.lost:
                raise ConnectionError("connection lost")
        except BaseException:
            pipe.cut("not greeted in time")
            raise
        return pipe

    def _open(self, pipe: Pipe) -> None:
        self._pipe, self.up, self._late = pipe, True, 0
        self.closed.clear()
        self.connections += 1
        self.opened.set()
        while self._kept:
            pipe.send(self._kept.popleft())
        self._on_change(True, "")

    def _close(self, why: str) -> None:
        """Nobody is let wait from now on."""
        was_up, self.up = self.up, False
        self.opened.clear()
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            pipe.cut(why)
            self._disappoint(pipe.waiting)
        self.closed.set()
        if was_up:
            self._on_change(False, why)

    # ---- what a connection tells

    def _reply(self, asked: Asked, reply: Reply) -> None:
        if isinstance(reply, ReplyError):
            self._error(asked, reply)
            return
        answer = asked.answer
        if answer is not None and not answer.done():
            if asked.by:
                self._late = 0
                self._answered = True
            answer.set_result(reply)

    def _error(self, asked: Asked, error: ReplyError) -> None:
        """A server that lost its scripts gets them again; any other error ends the connection: the next may work."""
        pipe = self._pipe
        if pipe is None:  # a greeting
            hand_over(asked, error)
            return
        if str(error).startswith("NOSCRIPT") and not asked.repeats:
            for script in self._scripts:
                pipe.ask("SCRIPT", "LOAD", script).add_done_callback(_seen)
            pipe.send(Asked(asked.frame, asked.answer, asked.by, 1))
            return
        if asked.answer is not None and not asked.answer.done():
            asked.answer.set_result(None)
        self._close(_told(error))

    def _on_lost(self, pipe: Pipe, lost: Sequence[Asked], why: str) -> None:
        if pipe is not self._pipe:
            disappoint(pipe, lost, why)
            return
        self._disappoint(lost)
        self._close(why)

    def _disappoint(self, lost: Sequence[Asked]) -> None:
        for asked in lost:
            if asked.answer is None:
                self._kept.append(asked)
            elif not asked.answer.done():
                asked.answer.set_result(None)

    def _look(self) -> None:
        """Somebody's time is up, unless this loop was busy elsewhere and the answer lies ready to be read."""
        self._watch = self._loop.call_later(_READ_FIRST_S, self._judge)

    def _judge(self) -> None:
        """Nobody waits longer than he may."""
        self._watch = None
        now = self._loop.time()
        for asked in self._pipe.waiting if self._pipe is not None else ():
            answer = asked.answer
            if answer is None or answer.done() or not asked.by:
                continue
            if asked.by > now:
                self._watch = self._loop.call_at(asked.by, self._look)
                break
            answer.set_result(None)
            self._late += 1
        if self._late >= _PATIENCE:
            self._close("no answer in time")


def _seen(answer: "asyncio.Future[Reply]") -> None:
    if not answer.cancelled():
        answer.exception()


def _told(fault: BaseException) -> str:
    """Why, without what may be confidential: an error of Redis by its code, which a script's error wraps in another."""
    if isinstance(fault, ReplyError):
        wrapped = _CODE.search(str(fault))
        return f"Redis says {wrapped[1] if wrapped else str(fault).partition(' ')[0]}"
    if isinstance(fault, TimeoutError):
        return "no answer in time"
    return str(fault) or type(fault).__name__

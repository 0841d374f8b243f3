"""The board in Redis: what one node learns of an upstream, all know within a second. One script an act, by the server's
clock; the acts stand in `rates/*.lua` and mean what bursar.core.breaker says.

Nobody waits for it but the one call that asks whether it may try. Each node keeps a copy of how circuits stand, looks
only at that, and keeps a board of its own besides, by which it goes while Redis does not answer.
"""

import asyncio
import contextlib
from collections.abc import Callable
from hashlib import sha1
from importlib.resources import files
from typing import Any

from bursar.core.breaker import Circuit, Outcome, Rule
from bursar.core.secret import Secret
from bursar.stores.memory_board import MemoryBoard, nobody_told
from bursar.stores.redis_link import RedisLink
from bursar.stores.redis_pipe import command
from bursar.stores.redis_place import read_place

_LOOK_S = 1.0
_MOST = 1_000  # circuits that a node looks at: those that are kept longest
_ACTS = ("report", "try", "board", "close")


class BoardScripts:
    """The acts as scripts, and the names by which Redis knows them. Tests may give another clock than the server's."""

    def __init__(self, clock: str = "") -> None:
        before = (clock or _read("clock")) + _read("circuit")
        self.texts = tuple(before + _read(act) for act in _ACTS)
        names = [sha1(text.encode()).hexdigest() for text in self.texts]  # noqa: S324 - so does Redis name them
        self.names = dict(zip(_ACTS, names, strict=True))


class RedisBoard:
    """The doorway `bursar.ports.Board` on Redis. Made inside a running loop; `run` keeps it up."""

    def __init__(  # noqa: PLR0913 - where, what, when, who is told
        self,
        url: Secret,
        rule: Rule,
        now: Callable[[], int],
        *,
        ca_file: str = "",
        prefix: str = "bursar",
        wait_s: float = 0.25,
        on_change: Callable[[str, bool], None] = nobody_told,
        scripts: BoardScripts | None = None,
    ) -> None:
        self._scripts = scripts or BoardScripts()
        self.link = RedisLink(read_place(url, ca_file), self._scripts.texts, wait_s=wait_s)
        self.rule = rule
        self.now = now
        self._on_change = on_change
        self._own = MemoryBoard(rule, now, self._own_changed)
        self._seen: dict[str, Circuit] = {}
        self._list = f"{prefix}:{{breaker}}:all"
        self._name = f"{prefix}:{{breaker}}:of:"
        self._rule = (rule.in_a_row, rule.share, rule.least, rule.window_ms, rule.open_ms, rule.longest_ms)

    @property
    def shared(self) -> bool:
        return self.link.up

    @property
    def known(self) -> dict[str, Circuit]:
        return self._seen if self.link.up else self._own.known

    async def may_try(self, subject: str) -> bool:
        if self.link.up:
            answer = await self.link.ask(self._frame("try", subject, self.rule.try_ms, self.rule.window_ms))
            if answer is not None:
                self._stands(subject, answer[1:], told=False)
                return bool(answer[0])
        return await self._own.may_try(subject)

    def report(self, subject: str, outcome: Outcome, *, tried: bool = False, wait_ms: int | None = None) -> None:
        if outcome != "ok" or subject in self._own.known:
            self._own.report(subject, outcome, tried=tried, wait_ms=wait_ms)
        if self.link.up:
            wait = -1 if wait_ms is None else wait_ms
            frame = self._frame("report", subject, outcome, int(tried), wait, *self._rule)
            self.link.ask(frame).add_done_callback(lambda answer: self._reported(subject, answer))

    def close(self, subject: str) -> None:
        """Every node is told, and says so here: a second time does nothing."""
        self._own.close(subject)
        self._seen.pop(subject, None)
        if self.link.up:
            self.link.ask(self._frame("close", subject))

    async def run(self) -> None:
        """Keep the way open and look at the board every second. Until cancelled."""
        link = asyncio.create_task(self.link.run())
        try:
            while True:
                await self.link.opened.wait()
                await self.look()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.link.closed.wait(), _LOOK_S)
        finally:
            link.cancel()
            await asyncio.gather(link, return_exceptions=True)

    async def look(self) -> None:
        """Learn how all circuits stand; what is not on the board is forgotten."""
        if not self.link.up:
            return
        frame = command("EVALSHA", self._scripts.names["board"], 1, self._list, self._name, _MOST)
        answer = await self.link.ask(frame)
        if answer is not None:
            self._seen = {}
            for subject, *standing in answer:
                self._stands(subject.decode(), standing, told=False)

    # ---- inside

    def _frame(self, act: str, subject: str, *arguments: str | int) -> bytes:
        keys = self._list, self._name + subject
        return command("EVALSHA", self._scripts.names[act], 2, *keys, subject, *arguments)

    def _reported(self, subject: str, answer: "asyncio.Future[Any]") -> None:
        if not answer.cancelled() and answer.exception() is None and answer.result() is not None:
            self._stands(subject, answer.result(), told=True)

    def _stands(self, subject: str, standing: list[int], *, told: bool) -> None:
        """`told`: by what this node reported; so one node of all says that a circuit has opened or closed."""
        opened, until, trying, busy, failures, since, last = standing
        now = self.now()
        before = self._seen.get(subject)
        circuit = Circuit(
            failures=failures,
            last=now - last,
            opened=min(opened, 1),
            until=now + until,
            trying=now + trying,
            busy=now + busy,
            at=now - since if opened else 0,
        )
        self._seen[subject] = circuit
        if told and bool(before is not None and before.opened) != bool(opened):
            self._on_change(subject, bool(opened))

    def _own_changed(self, subject: str, opened: bool) -> None:
        if not self.link.up:
            self._on_change(subject, opened)


def _read(act: str) -> str:
    return (files("bursar.stores") / "rates" / f"{act}.lua").read_text("utf-8")

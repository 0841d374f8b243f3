"""One suite for every place where the board is kept: whatever happens, each decides as bursar.core.breaker.

Redis is compared under a clock that the tests set, as rates are (tests/stores/rates_suite.py); several nodes at once in
the order in which the server carried their acts out, which it notes.
"""

import asyncio
import json
from collections import Counter
from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bursar.core.breaker import OUTCOMES, Circuit, Outcome, Rule, is_over, may_try, report, state
from bursar.core.secret import Secret
from bursar.stores.memory_board import MemoryBoard
from bursar.stores.redis_board import BoardScripts, RedisBoard
from bursar.stores.redis_pipe import command
from tests.redis_server import RedisServer
from tests.stores.rates_suite import TOLD_CLOCK

RULE = Rule(in_a_row=2, least=6, window_ms=20_000, open_ms=4_000, longest_ms=20_000, try_ms=15_000)
SCRIPTS = BoardScripts(TOLD_CLOCK)
BEGAN_MS = 28_000_000_000
SUBJECTS = ("provider a", "key k")
OFTEN = st.sampled_from((*SUBJECTS[:1] * 3, *SUBJECTS[1:]))
MANY: dict[str, Any] = {
    "deadline": None,
    "max_examples": 100,
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
}


class Step(msgspec.Struct, frozen=True):
    kind: str
    subject: str
    outcome: Outcome = "ok"
    wait_ms: int | None = None
    ms: int = 0


STEPS = st.one_of(
    st.builds(Step, st.just("wait"), st.just(""), ms=st.sampled_from((0, 1, 700, 4_000, 4_001, 8_000, 21_000))),
    st.builds(Step, st.just("try"), OFTEN),
    st.builds(Step, st.just("close"), OFTEN),
    st.builds(
        Step,
        st.just("report"),
        OFTEN,
        st.sampled_from((*OUTCOMES, *OUTCOMES[1:2] * 6)),
        st.one_of(st.none(), st.integers(0, 30_000)),
    ),
)
HISTORIES = st.lists(STEPS, min_size=1, max_size=60)


class Reference:
    def __init__(self) -> None:
        self.circuits: dict[str, Circuit] = {}

    def report(self, subject: str, outcome: Outcome, now: int, *, tried: bool, wait_ms: int | None) -> None:
        circuit = self.circuits.setdefault(subject, Circuit())
        report(circuit, outcome, now, RULE, tried=tried, wait_ms=wait_ms)
        if is_over(circuit, now, RULE):
            del self.circuits[subject]

    def may_try(self, subject: str, now: int) -> bool:
        circuit = self.circuits.get(subject)
        return circuit is not None and may_try(circuit, now, RULE)

    def standing(self, subject: str, now: int) -> tuple[Any, ...]:
        return standing(self.circuits.get(subject), now)


def standing(circuit: Circuit | None, now: int) -> tuple[Any, ...]:
    """All that a call looks at, and what people are shown."""
    if circuit is None:
        return "closed", 0, 0, 0, 0, 0
    opened = circuit.opened > 0
    return (
        state(circuit, now),
        max(circuit.until - now, 0) if opened else 0,
        max(circuit.trying - now, 0) if opened else 0,
        max(circuit.busy - now, 0),
        circuit.failures,
        now - circuit.at if opened else 0,
    )


class Told:
    """Redis under a told clock, by which the nodes' own clocks go as well."""

    def __init__(self, server: RedisServer, nodes: int) -> None:
        self._server = server
        self._count = nodes
        self.now = BEGAN_MS
        self.boards: list[RedisBoard] = []

    async def __aenter__(self) -> "Told":
        with self._server.admin as admin:
            admin.flushall()
        url = Secret(self._server.url)
        self.boards = [RedisBoard(url, RULE, lambda: self.now, wait_s=60, scripts=SCRIPTS) for _ in range(self._count)]
        self._links = [asyncio.create_task(board.link.run()) for board in self.boards]
        for board in self.boards:
            await asyncio.wait_for(board.link.opened.wait(), 30)
        self.goes_on(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.all_done()
        for link in self._links:
            link.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)

    def goes_on(self, ms: int) -> None:
        self.now += ms
        for board in self.boards:
            board.link.tell(command("SET", "told:now", repr(self.now / 1000)))

    async def all_done(self) -> None:
        for board in self.boards:
            assert await board.link.ask(command("PING")) == b"PONG"

    async def acts(self) -> list[Any]:
        await self.all_done()
        with self._server.admin as admin:
            return [json.loads(act) for act in admin.lrange("told:acts", 0, -1)]


async def live(board: Any, history: list[Step], now: Any, goes_on: Any, settle: Any) -> None:
    """The same steps there and in the reference; after each it stands the same."""
    reference, tries = Reference(), set[str]()
    for step in history:
        if step.kind == "wait":
            goes_on(step.ms)
        elif step.kind == "try":
            granted = await board.may_try(step.subject)
            assert granted == reference.may_try(step.subject, now())
            if granted:
                tries.add(step.subject)
        elif step.kind == "close":
            board.close(step.subject)
            reference.circuits.pop(step.subject, None)
        else:
            tried = step.subject in tries
            tries.discard(step.subject)
            board.report(step.subject, step.outcome, tried=tried, wait_ms=step.wait_ms)
            reference.report(step.subject, step.outcome, now(), tried=tried, wait_ms=step.wait_ms)
        await settle()
        for subject in SUBJECTS:
            assert standing(board.known.get(subject), now()) == reference.standing(subject, now()), step


@settings(**MANY)
@given(history=HISTORIES)
def test_memory_decides_as_the_reference(history: list[Step]) -> None:
    time = [BEGAN_MS]

    def goes_on(ms: int) -> None:
        time[0] += ms

    async def settle() -> None:
        """Nothing is under way."""

    asyncio.run(live(MemoryBoard(RULE, lambda: time[0]), history, lambda: time[0], goes_on, settle))


@settings(**MANY)
@given(history=HISTORIES)
def test_redis_decides_as_the_reference(redis_server: RedisServer, history: list[Step]) -> None:
    async def run() -> None:
        async with Told(redis_server, 1) as told:
            (board,) = told.boards
            await live(board, history, lambda: told.now, told.goes_on, board.look)

    asyncio.run(run())


@settings(**{**MANY, "max_examples": 60})
@given(histories=st.lists(HISTORIES, min_size=2, max_size=3))
def test_nodes_at_once_decide_as_the_reference_in_the_servers_order(
    redis_server: RedisServer, histories: list[list[Step]]
) -> None:
    granted: Counter[str] = Counter()

    async def one(told: Told, board: RedisBoard, history: list[Step]) -> None:
        tries = set[str]()
        for step in history:
            if step.kind == "wait":
                told.goes_on(step.ms)
            elif step.kind == "try":
                if await board.may_try(step.subject):
                    granted[step.subject] += 1
                    tries.add(step.subject)
            elif step.kind == "close":
                board.close(step.subject)
            else:
                tried = step.subject in tries
                tries.discard(step.subject)
                board.report(step.subject, step.outcome, tried=tried, wait_ms=step.wait_ms)
                await asyncio.sleep(0)

    async def run() -> None:
        granted.clear()
        async with Told(redis_server, len(histories)) as told:
            await asyncio.gather(*map(one, [told] * len(histories), told.boards, histories))
            reference, theirs = Reference(), Counter[str]()
            for _, arguments, now_s in await told.acts():
                subject, now = arguments[0], round(now_s * 1000)
                if len(arguments) == 1:
                    reference.circuits.pop(subject, None)
                elif len(arguments) == 3:
                    theirs[subject] += reference.may_try(subject, now)
                else:
                    wait = int(arguments[3])
                    wait_ms = None if wait < 0 else wait
                    reference.report(subject, arguments[1], now, tried=arguments[2] == "1", wait_ms=wait_ms)
            assert +theirs == +granted
            told.goes_on(0)
            for board in told.boards:
                await board.look()
                for subject in SUBJECTS:
                    assert standing(board.known.get(subject), told.now) == reference.standing(subject, told.now)

    asyncio.run(run())

"""One suite for every place where rates are kept: whatever happens, each decides as bursar.core.limits.

Redis is compared under a clock that the tests set; that clock is put in front of the scripts here, and the scripts that
ship know none but the server's. Histories of several nodes at once are compared in the order in which the server
carried them out, which it notes.
"""

import asyncio
import json
from collections.abc import Callable
from typing import Any, ClassVar

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bursar.core.directory import LimitDef
from bursar.core.limits import Bound, Limited, Rates, Reservation, bind
from bursar.core.secret import Secret
from bursar.stores.memory_rates import MemoryRates
from bursar.stores.redis_forms import Scripts
from bursar.stores.redis_pipe import command
from bursar.stores.redis_rates import RedisRates, Settings
from bursar.stores.share_rates import ShareRates
from tests.redis_server import RedisServer

# Time is what the test says, and nothing lapses by the server's own clock. Every act is noted.
TOLD_CLOCK = """
local server = redis
local redis = {call = function(...)
    local name, key, value = ...
    if name == 'PEXPIRE' or name == 'EXPIRE' then
        return 1
    elseif name == 'SET' then
        return server.call(name, key, value)
    end
    return server.call(...)
end}
local now = tonumber(server.call('GET', 'told:now'))
server.call('RPUSH', 'told:acts', cjson.encode({KEYS, ARGV, now}))
"""
SCRIPTS = Scripts(TOLD_CLOCK, lease_s=1e9)  # no beats here: slots do not lapse
BEGAN = 28_000_000.0  # seconds since 2026: doubles are coarser there than near nought


def limit(name: str, unit: Any, amount: int, seconds: int = 60, **more: Any) -> Bound:
    return bind(LimitDef(id=name, unit=unit, amount=amount, per_seconds=seconds, **more), "key_1")


ARRIVAL = (
    limit("per-second", "requests", 5, 1),
    limit("per-minute", "requests", 20, 60, burst=7),
    limit("slots", "concurrency", 3),
)
CALL = (
    limit("tokens", "tokens", 1_000),
    limit("input", "input_tokens", 700, 60, burst=300),
    limit("output", "output_tokens", 200, 3600, burst=400),
    limit("by-model", "requests", 6, scope="model"),
    limit("model-slots", "concurrency", 2, scope="model"),
    limit("none", "tokens", 0),
)
RATES = tuple(bound for bound in (*ARRIVAL, *CALL) if bound.unit != "concurrency")


class Step(msgspec.Struct, frozen=True):
    kind: str
    which: int = 0  # among the live leases or the reservations, from the newest
    limits: tuple[Bound, ...] = ()
    tokens: tuple[int, int] = (0, 0)
    micros: int = 0


def some_of(bounds: tuple[Bound, ...]) -> Any:
    chosen = st.lists(st.sampled_from(bounds), unique_by=lambda bound: bound.key, max_size=len(bounds))
    return chosen.map(tuple)


TOKENS = st.tuples(st.integers(0, 1_500), st.integers(0, 500))
STEPS = st.one_of(
    st.builds(Step, st.just("wait"), micros=st.integers(0, 90_000_000)),
    st.builds(Step, st.just("admit"), limits=st.one_of(st.just(ARRIVAL), some_of(ARRIVAL))),
    st.builds(Step, st.just("hold"), st.integers(0, 3), st.one_of(st.just(CALL[:5]), some_of(CALL)), TOKENS),
    st.builds(Step, st.just("settle"), st.integers(0, 3), tokens=TOKENS),
    st.builds(Step, st.just("release"), st.integers(0, 3)),
    st.builds(Step, st.just("give_back"), st.integers(0, 3)),
)
HISTORIES = st.lists(STEPS, min_size=1, max_size=40)


class Told:
    """Redis under a told clock, with as many nodes as wanted."""

    def __init__(self, server: RedisServer, nodes: int) -> None:
        self._server = server
        self._count = nodes
        self.nodes: list[RedisRates] = []

    async def __aenter__(self) -> "Told":
        with self._server.admin as admin:
            admin.flushall()
        self.nodes = [
            RedisRates(
                Settings(url=Secret(self._server.url), session=f"n{number}", wait_s=60), lambda: 1, scripts=SCRIPTS
            )
            for number in range(self._count)
        ]
        self._links = [asyncio.create_task(node.link.run()) for node in self.nodes]  # no beats: nobody dies here
        for node in self.nodes:
            await asyncio.wait_for(node.link.opened.wait(), 30)
        self.clock(BEGAN)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.all_done()  # what is still under way would meddle with the next example
        for link in self._links:
            link.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)

    def clock(self, now: float) -> None:
        """For all that a node asks from now on."""
        for node in self.nodes:
            node.link.tell(command("SET", "told:now", repr(now)))

    async def all_done(self) -> None:
        for node in self.nodes:
            assert await node.link.ask(command("PING")) == b"PONG"

    async def acts(self) -> list[Any]:
        await self.all_done()
        with self._server.admin as admin:
            return [json.loads(act) for act in admin.lrange("told:acts", 0, -1)]


def once(limits: tuple[Bound, ...], lease: int, late: set[tuple[int, str]]) -> tuple[Bound, ...]:
    """A lease takes a request or a slot of each limit once, as the gateway does with its first attempt."""
    kept = tuple(b for b in limits if b.of_input or b.of_output or (lease, b.name) not in late)
    late.update((lease, b.name) for b in kept)
    return kept


def same(ours: Any, reference: Any) -> None:
    assert isinstance(ours, Limited) == isinstance(reference, Limited), (ours, reference)
    if isinstance(ours, Limited):
        assert (ours.bound.name, ours.word) == (reference.bound.name, reference.word)
        assert ours.retry_after == pytest.approx(reference.retry_after, abs=3e-6)


async def live_through(history: list[Step], rates: Any, tell: Callable[[float], None]) -> None:
    """The same steps there and in the reference; after each, the same answer and the same rest."""
    reference, now, number = Rates(), BEGAN, 0
    leases: list[int] = []
    held: list[tuple[Any, Any, int]] = []
    late: set[tuple[int, str]] = set()
    for step in history:
        touched: tuple[Bound, ...] = ()
        if step.kind == "wait":
            now = round(now + step.micros / 1e6, 6)
            tell(now)
        elif step.kind == "admit":
            number += 1
            touched = step.limits
            same(await rates.admit("o", touched, now, number), refused := reference.arrive(touched, now, number))
            if refused is None:
                leases.append(number)
        elif step.kind == "hold" and leases:
            lease = leases[-1 - step.which % len(leases)]
            touched = once(step.limits, lease, late)
            ours = await rates.hold("o", touched, *step.tokens, now, lease)
            theirs = reference.reserve(touched, *step.tokens, now, lease)
            same(ours, theirs)
            if not isinstance(theirs, Limited):
                held.append((ours, theirs, lease))
        elif step.kind == "settle" and held:
            ours, theirs, _ = held[-1 - step.which % len(held)]  # settled before: does nothing
            rates.settle(ours, *step.tokens, now)
            reference.settle(theirs, *step.tokens, now)
        elif leases and step.kind in ("release", "give_back"):
            lease = leases.pop(-1 - step.which % len(leases))
            getattr(rates, step.kind)(lease)
            getattr(reference, step.kind)(lease)
            held = [one for one in held if one[2] != lease]  # what is not settled by now stays as charged
        for bound in touched:
            if bound.unit != "concurrency":
                same_rest(rates, reference, bound, now)


def same_rest(rates: Any, reference: Rates, bound: Bound, now: float) -> None:
    ours, theirs = rates.tightest(((bound,),), now)[0], reference.tightest(((bound,),), now)[0]
    assert ours[1] == pytest.approx(theirs[1], abs=1)
    assert ours[2] == pytest.approx(theirs[2], abs=3e-6)


class RatesSuite:
    """Needs a fixture `redis_server`."""

    examples: ClassVar[dict[str, Any]] = {
        "deadline": None,
        "max_examples": 200,
        "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
    }

    @settings(**examples)
    @given(history=HISTORIES)
    def test_memory_decides_as_the_reference(self, history: list[Step]) -> None:
        asyncio.run(live_through(history, MemoryRates(), lambda _now: None))

    @settings(**examples)
    @given(history=HISTORIES)
    def test_the_share_of_one_node_decides_as_the_reference(self, history: list[Step]) -> None:
        asyncio.run(live_through(history, ShareRates(lambda: 1), lambda _now: None))

    @settings(**examples)
    @given(history=HISTORIES)
    def test_redis_decides_as_the_reference(self, redis_server: RedisServer, history: list[Step]) -> None:
        async def run() -> None:
            async with Told(redis_server, 1) as told:
                await live_through(history, told.nodes[0], told.clock)

        asyncio.run(run())

    @settings(**{**examples, "max_examples": 100})
    @given(histories=st.lists(HISTORIES, min_size=2, max_size=3), width=st.integers(1, 3))
    def test_nodes_at_once_decide_as_the_reference_in_the_servers_order(
        self, redis_server: RedisServer, histories: list[list[Step]], width: int
    ) -> None:
        async def run() -> None:
            async with Told(redis_server, len(histories)) as told:
                crowd = Crowd(told)
                await asyncio.gather(
                    *(
                        crowd.live(node, history[start::width], start)
                        for node, history in enumerate(histories)
                        for start in range(width)
                    )
                )
                crowd.check(await told.acts())
                await crowd.everybody_leaves()

        asyncio.run(run())

    def test_a_clock_set_back_gives_nothing_and_starves_nobody(self, redis_server: RedisServer) -> None:
        six = limit("six", "requests", 6, 60)

        async def run() -> None:
            async with Told(redis_server, 1) as told:
                (rates,) = told.nodes
                answers = [await rates.admit("o", (six,), 0.0, lease) for lease in range(1, 8)]
                assert [answer is None for answer in answers] == [True] * 6 + [False]
                told.clock(BEGAN - 3_600)
                refused = await rates.admit("o", (six,), 0.0, 8)
                assert refused is not None
                assert refused.retry_after == pytest.approx(10, abs=1e-3)
                rates.give_back(1)  # writes the bucket by the new clock
                assert await rates.admit("o", (six,), 0.0, 9) is None
                told.clock(BEGAN - 3_600 + 10)
                assert await rates.admit("o", (six,), 0.0, 10) is None
                assert await rates.admit("o", (six,), 0.0, 11) is not None

        asyncio.run(run())


class Crowd:
    """Several callers on several nodes at once. Each step is noted under the name that the server sees."""

    def __init__(self, told: Told) -> None:
        self.told = told
        self.now = BEGAN
        self.asked: dict[tuple[str, str], tuple[Step, int, Any]] = {}  # (act, record) -> step, lease, answer
        self.next = 0
        self.late: set[tuple[int, str]] = set()
        self.open: list[tuple[RedisRates, int, list[Any]]] = []

    async def live(self, node: int, steps: list[Step], caller: int) -> None:
        rates = self.told.nodes[node]
        leases: list[int] = []
        held: list[tuple[Any, str, int]] = []
        self.open.append((rates, caller, leases))
        for step in steps:
            await self._step(rates, f"n{node}", step, leases, held)

    async def _step(
        self, rates: RedisRates, session: str, step: Step, leases: list[int], held: list[tuple[Any, str, int]]
    ) -> None:
        if step.kind == "wait":
            self.now = round(self.now + step.micros / 1e7, 6)
            self.told.clock(self.now)
        elif step.kind == "admit" and step.limits:
            self.next += 1
            lease = self.next
            answer = await rates.admit("o", step.limits, 0.0, lease)
            self.asked["admit", f"{session}.{lease}"] = step, lease, answer
            if answer is None:
                leases.append(lease)
        elif step.kind == "hold" and leases:
            lease = leases[-1 - step.which % len(leases)]
            step = msgspec.structs.replace(step, limits=once(step.limits, lease, self.late))
            if not step.limits:
                return
            record = f"{session}.{rates._records + 1:x}"
            answer = await rates.hold("o", step.limits, *step.tokens, 0.0, lease)
            self.asked["hold", record] = step, lease, answer
            if isinstance(answer, Reservation):
                held.append((answer, record, lease))
        elif step.kind == "settle" and held:
            taken, record, _ = held.pop(-1 - step.which % len(held))
            self.asked["settle", record] = step, 0, None
            rates.settle(taken, *step.tokens, 0.0)
        elif leases and step.kind in ("release", "give_back"):
            lease = leases.pop(-1 - step.which % len(leases))
            self.asked["leave", f"{session}.{lease}"] = step, lease, None
            held[:] = [one for one in held if one[2] != lease]
            getattr(rates, step.kind)(lease)

    def check(self, acts: list[Any]) -> None:
        """Every act, in the server's order and at the server's time, in the reference."""
        reference = Rates()
        reserved: dict[str, Reservation] = {}
        compared = 0
        for keys, arguments, now in acts:
            record = keys[0].rpartition(":")[2]
            if keys[0].endswith("}:t:" + record) and len(keys) > 1 and "}:l:" in keys[1]:
                member = keys[1].rpartition(":")[2]
                step, lease, answer = self.asked["hold", record] if record else self.asked["admit", member]
                if record:
                    found: Any = reference.reserve(step.limits, *step.tokens, now, lease)
                    if isinstance(found, Reservation):
                        reserved[record] = found
                else:
                    found = reference.arrive(step.limits, now, lease)
                same(answer, found)
                compared += 1
            elif "}:t:" in keys[0]:
                step = self.asked["settle", record][0]
                reference.settle(reserved[record], *step.tokens, now)
            else:
                step, lease, _ = self.asked["leave", record]
                (reference.give_back if arguments[1] == "1" else reference.release)(lease)
        assert compared == sum(act in ("admit", "hold") for act, _ in self.asked)

    async def everybody_leaves(self) -> None:
        """No phantom afterwards: every slot can be taken, and in time every rate is full."""
        for rates, _, leases in self.open:
            for lease in leases:
                rates.release(lease)
        await self.told.all_done()
        rates = self.told.nodes[0]
        for bounds in (ARRIVAL, CALL[:5]):
            slots = next(bound for bound in bounds if bound.unit == "concurrency")
            for _ in range(slots.amount):
                self.next += 1
                assert await rates.admit("o", (slots,), 0.0, self.next) is None
        self.told.clock(self.now + 10_000_000)
        self.next += 1
        assert isinstance(await rates.hold("o", CALL[:4], 300, 100, 0.0, self.next), Reservation)

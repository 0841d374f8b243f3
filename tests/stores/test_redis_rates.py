"""Rates in a real Redis: shared by nodes, given back by id, slots leased to a node that lives; and what a wounded,
emptied or absent Redis costs.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from bursar.core.directory import LimitDef
from bursar.core.errors import Refusal
from bursar.core.limits import Bound, Limited, Reservation, bind
from bursar.core.secret import Secret
from bursar.stores import redis_forms as frames
from bursar.stores.redis_forms import LEASE_S, Scripts
from bursar.stores.redis_pipe import command
from bursar.stores.redis_rates import RedisRates, Settings, Taken, Watcher
from tests.faults.proxy import FaultProxy
from tests.redis_server import RedisServer


def limit(name: str, unit: Any, amount: int, seconds: int = 3600, **more: Any) -> Bound:
    return bind(LimitDef(id=name, unit=unit, amount=amount, per_seconds=seconds, **more), "key_1")


REQUESTS = limit("rph", "requests", 6)
SLOTS = limit("slots", "concurrency", 2)
TOKENS = limit("tph", "tokens", 1_000)
BY_MODEL = limit("model-slots", "concurrency", 1, scope="model")
CLOSED = limit("closed", "requests", 6, on_outage="closed")
CLOSED_TOKENS = limit("closed-tokens", "tokens", 6, on_outage="closed")


class Nodes:
    """Nodes of one cluster. Each has a session of its own and lives until it is killed."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.made: list[RedisRates] = []
        self._lives: dict[int, asyncio.Task[None]] = {}
        self.told: list[tuple[bool, str]] = []
        self.alone: list[str] = []

    async def start(self, *, up: bool = True, nodes: int = 1, lease_s: float = LEASE_S, **settings: Any) -> RedisRates:
        rates = RedisRates(
            Settings(url=Secret(settings.pop("url", self.url)), session=f"s{len(self.made)}", **settings),
            lambda: nodes,
            Watcher(lambda *how: self.told.append(how), self.alone.append),
            Scripts(lease_s=lease_s),
        )
        self.made.append(rates)
        self._lives[id(rates)] = asyncio.create_task(rates.run())
        if up:
            await asyncio.wait_for(rates.link.opened.wait(), 30)
        return rates

    async def kill(self, rates: RedisRates) -> None:
        """As kill -9: nothing is given back."""
        life = self._lives.pop(id(rates))
        life.cancel()
        await asyncio.gather(life, return_exceptions=True)

    async def close(self) -> None:
        for rates in list(self.made):
            if id(rates) in self._lives:
                await self.kill(rates)


@pytest.fixture
async def nodes(redis_server: RedisServer) -> AsyncIterator[Nodes]:
    with redis_server.admin as admin:
        admin.flushall()
    made = Nodes(redis_server.url)
    yield made
    await made.close()


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    """To be wounded."""
    server = RedisServer()
    try:
        yield server.start()
    finally:
        server.close()


@pytest.fixture
def proxy(redis_server: RedisServer) -> Iterator[FaultProxy]:
    with redis_server.admin as admin:
        admin.flushall()
    with FaultProxy("127.0.0.1", redis_server.port) as proxy:
        yield proxy


@pytest.fixture
async def behind(proxy: FaultProxy) -> AsyncIterator[Nodes]:
    """Nodes that reach Redis through the fault proxy."""
    made = Nodes(f"redis://127.0.0.1:{proxy.port}/0")
    yield made
    await made.close()


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - what is waited for happens elsewhere
            await asyncio.sleep(0.005)


async def done(rates: RedisRates) -> None:
    """All that was told so far has been carried out."""
    assert await rates.link.ask(command("PING")) == b"PONG"


def debt(rates: RedisRates, bound: Bound) -> float:
    """Units that are not there, as this node saw it last."""
    return bound.burst - rates.tightest(((bound,),), 0.0)[0][1]


def decided(coroutine: Any) -> Any:
    """What it returns without having waited for anything."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    coroutine.close()
    raise AssertionError("it waits")


# ---- shared, whole or not at all, given back -------------------------------------------------------------------------


async def test_two_nodes_share_one_limit(nodes: Nodes) -> None:
    """litellm 40291, 27736, 13202, 18518, 2730; apisix 12482: RPM and TPM were per pod, so limit × replicas."""
    first, second = await nodes.start(), await nodes.start()
    answers = [await (first, second)[n % 2].admit("o", (REQUESTS,), 0.0, n + 1) for n in range(8)]
    assert [answer is None for answer in answers] == [True] * 6 + [False] * 2
    held = [await rates.hold("o", (TOKENS,), 400, 0, 0.0, 99) for rates in (first, second, first)]
    assert [isinstance(one, Reservation) for one in held] == [True, True, False]


async def test_many_at_once_on_many_nodes_never_pass_a_limit(nodes: Nodes) -> None:
    """litellm 18730, PR 27001, 16011: concurrent requests passed TPM, and slots overshot."""
    cluster = [await nodes.start() for _ in range(4)]

    async def call(n: int) -> tuple[bool, bool]:
        rates = cluster[n % 4]
        admitted = await rates.admit("o", (SLOTS,), 0.0, n) is None
        taken = await rates.hold("o", (TOKENS,), 90, 10, 0.0, n)
        return admitted, isinstance(taken, Reservation)

    both = await asyncio.gather(*(call(n) for n in range(1, 101)))
    assert sum(admitted for admitted, _ in both) == 2
    assert sum(taken for _, taken in both) == 10


async def test_a_refused_act_takes_nothing(nodes: Nodes) -> None:
    """litellm 39309, envoyproxy/ratelimit: calls refused for their concurrency still ate RPM."""
    rates = await nodes.start()
    for lease in (1, 2):
        assert await rates.admit("o", (REQUESTS, SLOTS), 0.0, lease) is None
    for lease in range(3, 13):
        refused = await rates.admit("o", (REQUESTS, SLOTS), 0.0, lease)
        assert refused is not None
        assert refused.word == "concurrency_limited"
    assert debt(rates, REQUESTS) == 2
    assert isinstance(await rates.hold("o", (TOKENS, BY_MODEL), 100, 0, 0.0, 1), Reservation)
    assert isinstance(await rates.hold("o", (TOKENS, BY_MODEL), 100, 0, 0.0, 2), Limited)
    assert debt(rates, TOKENS) == 100


async def test_what_a_later_stage_refuses_is_given_back(nodes: Nodes) -> None:
    """Once and exactly: requests, slots, tokens."""
    rates = await nodes.start()
    assert await rates.admit("o", (REQUESTS, SLOTS), 0.0, 1) is None
    taken = await rates.hold("o", (TOKENS, BY_MODEL), 700, 0, 0.0, 1)
    for _ in range(2):
        rates.settle(taken, 0, 0, 0.0)
        rates.give_back(1)
    assert isinstance(await rates.hold("o", (TOKENS,), 1_000, 0, 0.0, 9), Reservation)
    for lease in range(2, 4):
        assert await rates.admit("o", (REQUESTS, SLOTS), 0.0, lease) is None
    assert debt(rates, REQUESTS) == 2
    assert debt(rates, TOKENS) == 1_000


async def test_a_give_back_twice_or_by_an_unknown_id_gives_nothing(nodes: Nodes) -> None:
    """Even on the wire, where a retry or a forged id may come: never more than was taken."""
    rates = await nodes.start()
    assert await rates.admit("o", (REQUESTS, SLOTS), 0.0, 1) is None
    taken = await rates.hold("o", (TOKENS,), 700, 0, 0.0, 1)
    assert isinstance(taken, Taken)
    assert taken.form is not None
    lease = rates._leases[1]
    settle = frames.settle_frame(taken.form, taken.record, (0, 0))
    leave = frames.leave_frame(lease.asked[0], lease.member, give_back=True)
    assert await rates.link.ask(frames.settle_frame(taken.form, b"s9.1", (0, 0))) == 0
    assert await rates.link.ask(frames.leave_frame(lease.asked[0], b"s9.1", give_back=True)) == 0
    assert [await rates.link.ask(frame) for frame in (settle, settle, leave, leave)] == [1, 0, 2, 0]
    await rates.admit("o", (REQUESTS,), 0.0, 2)
    await rates.hold("o", (TOKENS,), 0, 0, 0.0, 2)
    assert debt(rates, REQUESTS) == 1
    assert debt(rates, TOKENS) == 0


async def test_settling_moves_the_counter_by_what_was_used(nodes: Nodes) -> None:
    """envoyproxy/ai-gateway 1754, kserve 4595: the token counter never moved."""
    rates = await nodes.start()
    for used, expected in ((30, 30), (500, 530)):
        taken = await rates.hold("o", (TOKENS,), 100, 100, 0.0, 1)
        rates.settle(taken, used, 0, 0.0)
        await rates.hold("o", (TOKENS,), 0, 0, 0.0, 1)
        assert debt(rates, TOKENS) == expected


async def test_a_small_limit_is_usable(nodes: Nodes) -> None:
    """litellm PR 28805, 29193, 34728: what was reserved exceeded a small limit, which refused even the first call."""
    rates = await nodes.start()
    small = limit("small", "tokens", 50)
    taken = await rates.hold("o", (small,), 1_024, 0, 0.0, 1)
    assert isinstance(taken, Reservation)
    assert isinstance(await rates.hold("o", (small,), 1_024, 0, 0.0, 2), Limited)
    rates.settle(taken, 40, 0, 0.0)
    assert isinstance(await rates.hold("o", (small,), 10, 0, 0.0, 3), Reservation)


async def test_nobody_elses_limit_is_touched(nodes: Nodes) -> None:
    """Owners, and names that look alike, have counters of their own; limits across owners have one."""
    rates = await nodes.start()
    tag = bind(LimitDef(id="tag", unit="requests", amount=1, scope="tag"), "beta")
    odd = [bind(LimitDef(id=name, unit="requests", amount=1), who) for name, who in (("a", "b:c"), ("a:b", "c"))]
    for bound in odd:
        assert await rates.admit("o", (bound,), 0.0, len(rates._leases) + 1) is None
    assert await rates.admit("o", (tag,), 0.0, 11) is None
    assert await rates.admit("other", (tag,), 0.0, 12) is not None
    long = bind(LimitDef(id="u", unit="requests", amount=1, scope="user"), "user" * 5_000)
    assert await rates.admit("o", (long,), 0.0, 13) is None
    with_keys = await rates.link.ask(command("KEYS", "bursar:{*"))
    assert with_keys is not None
    assert max(map(len, with_keys)) < 200


async def test_nothing_is_left_in_redis_after_the_calls(nodes: Nodes, redis_server: RedisServer) -> None:
    """But buckets, which lapse when they are full."""
    rates = await nodes.start()
    for lease in range(1, 4):
        assert await rates.admit("o", (REQUESTS,), 0.0, lease) is None
        settled = await rates.hold("o", (TOKENS, BY_MODEL), 10, 0, 0.0, lease)
        await rates.hold("o", (TOKENS,), 10, 0, 0.0, lease)  # nobody will know what it used
        rates.settle(settled, 5, 0, 0.0)
        rates.release(lease)
    await done(rates)
    with redis_server.admin as admin:
        names = [key for key in admin.keys("bursar:*") if b":t:" in key or b":l:" in key or b"slots" in key]
        assert names == []
        assert all(0 < admin.ttl(key) <= 3_602 for key in admin.keys("bursar:{*"))


# ---- slots are leased to a node that lives ---------------------------------------------------------------------------


def test_a_dead_nodes_slots_lapse_within_thirty_seconds() -> None:
    assert LEASE_S <= 30


async def test_a_dead_nodes_slots_are_free_again_and_a_living_ones_are_not(nodes: Nodes) -> None:
    """litellm 20256, 17323, 27955, PR 28160: a slot was never released, and each new call made the leak last longer."""
    dead = await nodes.start(lease_s=0.8, beat_s=0.2)
    living = await nodes.start(lease_s=0.8, beat_s=0.2)
    assert await dead.admit("o", (SLOTS,), 0.0, 1) is None
    assert await living.admit("o", (SLOTS,), 0.0, 1) is None
    await nodes.kill(dead)
    seen: list[bool] = []

    async def one_more() -> bool:
        lease = len(seen) + 2
        seen.append(await living.admit("o", (SLOTS,), 0.0, lease) is None)
        return seen[-1]

    async with asyncio.timeout(30):
        while not await one_more():  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert len(seen) > 2  # it lapsed, it was not merely let in
    for _ in range(20):  # a living node's slots stay, for several leases on end
        await asyncio.sleep(0.1)
        assert not await one_more()


async def test_a_cancelled_call_leaves_no_slot_and_no_tokens(nodes: Nodes) -> None:
    """Cancelled while Redis is asked: the id gives back whatever became of it."""
    rates = await nodes.start()
    for lease in range(1, 6):
        asked = asyncio.ensure_future(rates.admit("o", (REQUESTS, SLOTS), 0.0, lease))
        await asyncio.sleep(0)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        rates.give_back(lease)  # as the pipeline's `leave` does on every way out
        held = asyncio.ensure_future(rates.hold("o", (TOKENS, BY_MODEL), 1_000, 0, 0.0, lease))
        await asyncio.sleep(0)
        held.cancel()
        with pytest.raises(asyncio.CancelledError):
            await held
        rates.give_back(lease)
    assert await rates.admit("o", (REQUESTS, SLOTS), 0.0, 10) is None
    assert isinstance(await rates.hold("o", (TOKENS, BY_MODEL), 1_000, 0, 0.0, 10), Reservation)
    assert debt(rates, REQUESTS) == 1
    assert list(rates._leases) == [10]


# ---- an emptied Redis ------------------------------------------------------------------------------------------------


async def test_a_flush_costs_one_window_and_no_more(nodes: Nodes, redis_server: RedisServer) -> None:
    """Slots are there again with the next beat; what is given back of the time before gives nothing."""
    rates = await nodes.start(beat_s=0.1)
    for lease in (1, 2):
        assert await rates.admit("o", (REQUESTS, SLOTS), 0.0, lease) is None
    taken = await rates.hold("o", (TOKENS,), 900, 0, 0.0, 1)
    with redis_server.admin as admin:
        admin.flushall()
        admin.script_flush()
        await until(lambda: any(admin.zcard(key) == 2 for key in admin.keys("*slots*")))
    assert isinstance(await rates.admit("o", (SLOTS,), 0.0, 3), Limited)
    rates.settle(taken, 0, 0, 0.0)
    rates.give_back(1)
    assert isinstance(await rates.hold("o", (TOKENS,), 1_000, 0, 0.0, 4), Reservation)
    assert isinstance(await rates.hold("o", (TOKENS,), 1, 0, 0.0, 5), Limited)
    assert await rates.admit("o", (SLOTS,), 0.0, 6) is None
    answers = [await rates.admit("o", (REQUESTS,), 0.0, lease) for lease in range(10, 18)]
    assert sum(answer is None for answer in answers) == 6
    assert nodes.alone == []


async def test_scripts_that_were_flushed_are_there_again(nodes: Nodes, redis_server: RedisServer) -> None:
    rates = await nodes.start()
    with redis_server.admin as admin:
        for _ in range(3):
            admin.script_flush()
            answers = await asyncio.gather(*(rates.admit("o", (REQUESTS,), 0.0, lease) for lease in range(1, 9)))
            assert sum(answer is None for answer in answers) == 6
            for lease in range(1, 9):
                rates.give_back(lease)
    await rates.admit("o", (REQUESTS,), 0.0, 20)
    assert debt(rates, REQUESTS) == 1
    assert nodes.alone == []


# ---- a Redis that is away, slow, or half there -----------------------------------------------------------------------


async def test_without_redis_each_node_takes_its_share_and_says_so(
    nodes: Nodes, caplog: pytest.LogCaptureFixture
) -> None:
    """litellm 27900, 35533: on a Redis error limits fell to per-pod, limit × replicas."""
    with FaultProxy("127.0.0.1", 1) as nothing:
        url = f"redis://user:s3cret-canary@127.0.0.1:{nothing.port}/0"
        with caplog.at_level(logging.DEBUG):
            cluster = [await nodes.start(url=url, nodes=3, up=False) for _ in range(3)]
            await until(lambda: len(nodes.told) >= 3)
    granted = [await rates.admit("o", (REQUESTS,), 0.0, lease) for rates in cluster for lease in range(1, 9)]
    assert sum(answer is None for answer in granted) == 6
    (name,) = {answer.bound.amount for answer in granted if answer is not None}
    assert name == 6  # told by the whole limit
    held = [await rates.hold("o", (TOKENS,), 300, 0, 0.0, 99) for rates in cluster for _ in range(3)]
    assert sum(isinstance(one, Reservation) for one in held) == 3
    assert set(nodes.alone) == {"down"}
    assert {up for up, _ in nodes.told} == {False}
    assert not any(rates.shared for rates in cluster)
    assert "s3cret-canary" not in caplog.text + repr(nodes.told) + repr(cluster[0].__dict__)


async def test_a_limit_smaller_than_the_cluster_still_lets_each_node_have_one(nodes: Nodes) -> None:
    rates = await nodes.start(url="redis://127.0.0.1:1/0", nodes=10, up=False)
    assert await rates.admit("o", (REQUESTS, SLOTS), 0.0, 1) is None
    refused = await rates.admit("o", (REQUESTS, SLOTS), 0.0, 2)
    assert refused is not None
    assert refused.retry_after == pytest.approx(6_000, rel=0.01)  # a tenth of the rate


async def test_the_share_follows_the_number_of_nodes_that_redis_saw_last(nodes: Nodes, own_server: RedisServer) -> None:
    cluster = [await nodes.start(url=own_server.url, beat_s=0.05) for _ in range(3)]
    await until(lambda: all(rates.live_nodes() == 3 for rates in cluster))
    own_server.kill()
    await until(lambda: not any(rates.shared for rates in cluster))
    granted = [await rates.admit("o", (REQUESTS,), 0.0, lease) for rates in cluster for lease in range(1, 9)]
    assert sum(answer is None for answer in granted) == 6


async def test_a_closed_limit_refuses_where_redis_is_away(nodes: Nodes) -> None:
    rates = await nodes.start(url="redis://127.0.0.1:1/0", up=False)
    with pytest.raises(Refusal) as refused:
        await rates.admit("o", (REQUESTS, CLOSED), 0.0, 1)
    assert (refused.value.word, refused.value.retry_after) == ("store_unavailable", 1.0)
    rates.give_back(1)
    with pytest.raises(Refusal):
        await rates.hold("o", (TOKENS, CLOSED_TOKENS), 1, 1, 0.0, 2)
    rates.give_back(2)
    assert rates._leases == {}
    assert debt(rates, REQUESTS) == debt(rates, TOKENS) == 0


FAULTS: dict[str, Callable[[FaultProxy], None]] = {
    "slow": lambda proxy: proxy.delay(5),
    "dropped": lambda proxy: proxy.drop(),
    "mute": lambda proxy: proxy.mute(),
    "half-open": lambda proxy: proxy.half_open(),
    "narrow": lambda proxy: proxy.bandwidth(20),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_slow_is_not_worse_than_dead(behind: Nodes, proxy: FaultProxy, fault: str) -> None:
    """litellm post redis_circuit_breaker: a slow one hurt more than a dead one.

    Nobody waits longer than a quarter of a second, and soon nobody waits at all. It heals, without a phantom.
    """
    rates = await behind.start()
    loop = asyncio.get_running_loop()
    FAULTS[fault](proxy)
    began = loop.time()
    answers = await asyncio.gather(*(rates.admit("o", (REQUESTS, SLOTS), 0.0, lease) for lease in range(1, 6)))
    assert loop.time() - began < 2  # much less than the fault takes; a busy machine may be late
    assert sum(answer is None for answer in answers) == 2  # this node's share
    assert set(behind.alone) == {"no_answer"}
    await until(lambda: not rates.shared)
    if fault in ("slow", "dropped", "mute"):
        for lease in range(10, 20):
            decided(rates.admit("o", (REQUESTS,), 0.0, lease))
    held = await rates.hold("o", (TOKENS,), 500, 0, 0.0, 1)
    proxy.heal()
    await until(lambda: rates.shared)
    for lease in range(1, 20):
        rates.give_back(lease)
    rates.settle(held, 0, 0, 0.0)
    await until(lambda: rates.shared)
    await done(rates)
    for lease in (31, 32):
        assert await rates.admit("o", (REQUESTS, SLOTS), 0.0, lease) is None
    assert isinstance(await rates.hold("o", (TOKENS,), 1_000, 0, 0.0, 32), Reservation)
    assert debt(rates, REQUESTS) == 2
    assert [up for up, _ in behind.told][:2] == [True, False]


async def test_an_answer_that_was_lost_leaves_no_phantom(behind: Nodes, proxy: FaultProxy) -> None:
    """Redis carried it out, the connection broke, the node decided alone: what Redis took is given back as well."""
    rates = await behind.start()
    proxy.reset_at_answer()
    assert await rates.admit("o", (REQUESTS, SLOTS), 0.0, 1) is None
    await until(lambda: rates.shared)
    proxy.reset_at_answer()
    held = await rates.hold("o", (TOKENS, BY_MODEL), 900, 0, 0.0, 1)
    assert behind.alone == ["no_answer", "no_answer"]
    rates.settle(held, 0, 0, 0.0)
    rates.give_back(1)
    await until(lambda: rates.shared)
    await done(rates)
    for lease in (2, 3):
        assert await rates.admit("o", (REQUESTS, SLOTS), 0.0, lease) is None
    assert isinstance(await rates.hold("o", (TOKENS, BY_MODEL), 1_000, 0, 0.0, 2), Reservation)
    assert debt(rates, REQUESTS) == 2


async def test_a_connection_that_is_reset_leaves_no_phantom(behind: Nodes, proxy: FaultProxy) -> None:
    """Again and again, with calls under way: what Redis took is given back, and it is shared again by itself."""
    rates = await behind.start()
    lease = 0
    for _ in range(5):
        asked = [asyncio.ensure_future(rates.admit("o", (REQUESTS, SLOTS), 0.0, lease := lease + 1)) for _ in range(4)]
        await asyncio.sleep(0)
        proxy.reset()
        held = await rates.hold("o", (TOKENS, BY_MODEL), 900, 0, 0.0, lease)
        await asyncio.gather(*asked)
        if isinstance(held, Reservation):
            rates.settle(held, 0, 0, 0.0)
        for given in range(lease + 1):
            rates.give_back(given)
        await until(lambda: rates.shared)
    await done(rates)
    for last in (101, 102):
        assert await rates.admit("o", (REQUESTS, SLOTS), 0.0, last) is None
    assert isinstance(await rates.hold("o", (TOKENS, BY_MODEL), 1_000, 0, 0.0, 101), Reservation)
    assert debt(rates, REQUESTS) == 2


async def test_while_every_connection_is_refused_each_takes_its_share(behind: Nodes, proxy: FaultProxy) -> None:
    rates = await behind.start(nodes=3)
    proxy.refuse()
    await until(lambda: not rates.shared)
    answers = [decided(rates.admit("o", (REQUESTS,), 0.0, lease)) for lease in range(1, 9)]  # nobody waits
    assert sum(answer is None for answer in answers) == 2
    proxy.heal()
    await until(lambda: rates.shared)


async def test_a_restart_in_the_middle(nodes: Nodes, own_server: RedisServer) -> None:
    """Calls that began before, during and after it all hold their slots."""
    three = limit("three", "concurrency", 3)
    rates = await nodes.start(url=own_server.url, beat_s=0.1)
    assert await rates.admit("o", (three,), 0.0, 1) is None
    own_server.kill()
    await until(lambda: not rates.shared)
    assert await rates.admit("o", (three,), 0.0, 2) is None
    own_server.start()
    await until(lambda: rates.shared)
    with own_server.admin as admin:
        await until(lambda: any(admin.zcard(key) == 2 for key in admin.keys("*three*")))
    assert await rates.admit("o", (three,), 0.0, 3) is None
    assert isinstance(await rates.admit("o", (three,), 0.0, 4), Limited)
    for lease in (1, 2, 3):
        rates.release(lease)
    await done(rates)
    with own_server.admin as admin:
        assert admin.keys("*three*") == []
    assert [up for up, _ in nodes.told] == [True, False, True]


async def test_one_that_takes_no_writes_is_as_good_as_none(nodes: Nodes, own_server: RedisServer) -> None:
    rates = await nodes.start(url=own_server.url)
    with own_server.admin as admin:
        admin.replicaof("127.0.0.1", 1)
        assert await rates.admit("o", (REQUESTS,), 0.0, 1) is None
        await until(lambda: len(nodes.told) >= 2)
        assert nodes.told[1] == (False, "Redis says READONLY")
        admin.replicaof("NO", "ONE")
    await until(lambda: rates.shared)


async def test_who_has_no_right_is_told_nothing_of_the_password(
    nodes: Nodes, own_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    with own_server.admin as admin:
        admin.acl_setuser("bursar", enabled=True, passwords=["+pass@word/canary"], keys="*", commands=["+@all"])
    good = f"redis://bursar:pass%40word%2Fcanary@127.0.0.1:{own_server.port}/3"
    rates = await nodes.start(url=good)
    assert await rates.admit("o", (REQUESTS,), 0.0, 1) is None
    assert rates.shared
    with caplog.at_level(logging.DEBUG):
        await nodes.start(url=good.replace("canary", "wrong-canary"), up=False)
        await until(lambda: (False, "Redis says WRONGPASS") in nodes.told)
    assert "canary" not in caplog.text + repr(nodes.told)


async def test_what_answers_but_is_not_redis(nodes: Nodes) -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        rates = await nodes.start(url=f"redis://127.0.0.1:{port}/0", up=False)
        await until(lambda: nodes.told)
        assert nodes.told[0] == (False, "what answers is not Redis")
        assert await rates.admit("o", (REQUESTS,), 0.0, 1) is None


# ---- Sentinel --------------------------------------------------------------------------------------------------------


@pytest.fixture
def sentinels() -> Iterator[tuple[RedisServer, RedisServer, RedisServer]]:
    """master, replica, sentinel"""
    master, replica = RedisServer(), RedisServer()
    sentinel = RedisServer(sentinel=True)
    try:
        master.start()
        replica.start()
        with replica.admin as admin:
            admin.replicaof("127.0.0.1", master.port)
        sentinel.start()
        with sentinel.admin as admin:
            admin.sentinel_monitor("rates", "127.0.0.1", master.port, 1)
            admin.sentinel_set("rates", "down-after-milliseconds", 300)
            admin.sentinel_set("rates", "failover-timeout", 3_000)
        yield master, replica, sentinel
    finally:
        for server in (sentinel, master, replica):
            server.close()


async def test_a_failover_by_sentinel_costs_one_window(
    nodes: Nodes, sentinels: tuple[RedisServer, RedisServer, RedisServer]
) -> None:
    master, replica, sentinel = sentinels
    url = f"redis+sentinel://127.0.0.1:1,127.0.0.1:{sentinel.port}/rates/0"
    rates = await nodes.start(url=url, beat_s=0.1)
    assert await rates.admit("o", (REQUESTS, SLOTS), 0.0, 1) is None
    with sentinel.admin as admin:
        await until(lambda: admin.sentinel_slaves("rates"))
    master.kill()
    await until(lambda: not rates.shared)
    assert await rates.admit("o", (REQUESTS, SLOTS), 0.0, 2) is None
    await until(lambda: rates.shared)
    with replica.admin as admin:
        assert admin.role()[0] == b"master"
        await until(lambda: any(admin.zcard(key) == 2 for key in admin.keys("*slots*")))
    assert isinstance(await rates.admit("o", (SLOTS,), 0.0, 3), Limited)

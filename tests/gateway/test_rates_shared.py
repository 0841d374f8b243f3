"""Two gateways of real parts over one Redis: what one takes the other lacks, whatever way a call ends."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from bursar.core.directory import LimitDef, Policy
from bursar.core.secret import Secret
from bursar.stores.redis_pipe import command
from bursar.stores.redis_rates import RedisRates, Settings
from tests.gateway.answers import broken, chat, completion, error, stream, unsent, usage, whole_stream
from tests.gateway.ground import Stand, budget
from tests.redis_server import RedisServer

MakeStand = Callable[..., Stand]
PER_HOUR = LimitDef(id="rph", unit="requests", amount=4, per_seconds=3600)
SLOT = LimitDef(id="slots", unit="concurrency", amount=1)
BY_MODEL = LimitDef(id="model-slots", unit="concurrency", amount=1, scope="model")
TOKENS = LimitDef(id="tph", unit="tokens", amount=10_000, per_seconds=3600)


@pytest.fixture
async def pair(make_stand: MakeStand, redis_server: RedisServer) -> AsyncIterator[Callable[..., list[Stand]]]:
    """Two gateways that know the same key."""
    with redis_server.admin as admin:
        admin.flushall()
    lives: list[asyncio.Task[None]] = []

    async def make(*limits: LimitDef, **more: Any) -> list[Stand]:
        policy = Policy(limits=limits, **more.pop("policy", {}))
        stands = [make_stand(policy=policy, **more) for _ in range(2)]
        second = stands[1]
        second.key_text, second.key = stands[0].key_text, stands[0].key
        second.node.tenants.replace(stands[0].snapshot)
        for number, stand in enumerate(stands):
            rates = RedisRates(Settings(url=Secret(redis_server.url), session=f"g{number}", wait_s=20), lambda: 2)
            lives.append(asyncio.create_task(rates.run()))
            stand.node.rates = rates
            await rates.begun(30)
            assert rates.shared
        return stands

    yield make  # type: ignore[misc]
    for life in lives:
        life.cancel()
    await asyncio.gather(*lives, return_exceptions=True)


def ok() -> Any:
    return completion("Hi", usage(10, 2))


async def at_rest(stands: list[Stand]) -> None:
    for stand in stands:
        rates = stand.node.rates
        assert isinstance(rates, RedisRates)
        assert rates._leases == {}
        assert await rates.link.ask(command("PING")) == b"PONG"  # what was given back has been


async def test_a_limit_is_one_for_both(pair: Any) -> None:
    """litellm 40291, 13202; agentgateway 1398: RPM per pod."""
    stands = await pair(PER_HOUR)
    words = [(await stands[n % 2].ask(ok())).word for n in range(4)]
    assert words == [None] * 4
    for stand in stands:
        exchange = await stand.ask()
        assert exchange.word == "rate_limited"
        assert exchange.header("retry-after") is not None


async def test_headers_tell_what_is_left_of_both(pair: Any) -> None:
    stands = await pair(PER_HOUR)
    left = [(await stands[n % 2].ask(ok())).header("x-ratelimit-remaining-requests") for n in range(3)]
    assert left == ["3", "2", "1"]


@pytest.mark.parametrize(
    "asked",
    [{"body": b"{"}, {"body": chat(model="forbidden")}, {"body": chat(brand_new=1)}, {"body": chat(max_tokens=10**8)}],
)
async def test_a_refused_call_eats_no_requests(pair: Any, asked: Any) -> None:
    """litellm 39309."""
    stands = await pair(PER_HOUR, SLOT, TOKENS, policy={"models": ("plain-1",)}, budgets=[budget(10**10)])
    for n in range(10):
        assert (await stands[n % 2].ask(**asked)).word not in (None, "rate_limited", "concurrency_limited")
        await at_rest(stands)
    assert [(await stands[n % 2].ask(ok(), body=chat(max_tokens=50))).status for n in range(4)] == [200] * 4


@pytest.mark.parametrize("answer", [ok, whole_stream, lambda: stream(broken()), broken, unsent, lambda: error(500)])
async def test_a_slot_is_free_for_the_other_whatever_happened(pair: Any, answer: Any) -> None:
    """litellm 20256, 17323, 27955, PR 28160: slots that were never released."""
    stands = await pair(SLOT, BY_MODEL)
    for n in range(4):
        assert (await stands[n % 2].ask(answer(), body=chat(stream=True))).word != "concurrency_limited"
        await at_rest(stands)


async def test_a_slot_that_one_holds_the_other_lacks(pair: Any) -> None:
    """litellm 16011: concurrency counted per worker."""
    stands = await pair(SLOT)
    words: list[str | None] = []

    async def meanwhile() -> None:
        words.append((await stands[1].ask()).word)

    running: list[asyncio.Task[None]] = []
    stands[0].upstream.before = lambda: running.append(asyncio.create_task(meanwhile()))
    exchange = stands[0].exchange()
    stands[0].upstream.will(ok())
    hold = stands[0].node.upstream.request

    async def slowly(*asked: Any) -> Any:
        response = await hold(*asked)
        await asyncio.wait(running)
        return response

    stands[0].node.upstream.request = slowly  # type: ignore[method-assign]
    await stands[0].pipeline.serve(exchange)
    assert exchange.status == 200
    assert words == ["concurrency_limited"]
    await at_rest(stands)
    assert (await stands[1].ask(ok())).status == 200


async def test_tokens_are_settled_for_both(pair: Any) -> None:
    """envoyproxy/ai-gateway 1754, litellm 18730."""
    stands = await pair(TOKENS)
    for n in range(4):
        exchange = await stands[n % 2].ask(completion("Hi", usage(1_500, 500)), body=chat(max_tokens=1_000))
        assert exchange.status == 200
        await at_rest(stands)
    left = (await stands[1].ask(ok(), body=chat(max_tokens=10))).header("x-ratelimit-remaining-tokens")
    assert left is not None
    assert (
        1_700 <= int(left) <= 2_010
    )  # less what is expected of the last one: by now it is known that few bytes are many tokens here


async def test_tokens_are_given_back_when_money_refuses(pair: Any) -> None:
    stands = await pair(TOKENS, PER_HOUR, BY_MODEL, budgets=[budget(5)])
    for n in range(10):
        assert (await stands[n % 2].ask()).word == "can_never_fit"
        await at_rest(stands)

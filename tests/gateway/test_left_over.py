"""A call that is over is gone from memory at once, however it ended, with its body and its connection's exchange.

What refuses a call holds the call in its traceback. Where something on that round is hidden from the garbage collector
(`gc=False`), nothing of it is ever freed again; where nothing is, bodies wait for the collector, which counts objects
and not bytes. So nothing may lead back.
"""

import asyncio
import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bursar.core.directory import LimitDef, Policy
from bursar.core.errors import ClientGone, Refusal
from tests.gateway.answers import broken, chat, completion, error, stream, unsent, usage
from tests.gateway.fakes import FakeExchange
from tests.gateway.ground import Stand, budget
from tests.gateway.test_cancelled import SCENES

MakeStand = Callable[..., Stand]
TIMES = 10


KEPT_BY_FAKES = {"after a fault", "body", "gone"}  # whoever raises an exception that he was given keeps it in a frame


@pytest.fixture
def uncollected() -> Iterator[None]:
    """No garbage is collected but where a test says so."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def left(*, collected: bool = False) -> int:
    if collected:
        gc.collect()
    return sum(isinstance(one, FakeExchange) for one in gc.get_objects())


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("scene", SCENES)
async def test_of_a_call_that_was_served(make_stand: MakeStand, scene: str) -> None:
    body, path, answers = SCENES[scene]
    stand = make_stand(budgets=[budget(10**15)])
    before = left()
    for _ in range(TIMES):
        exchange = stand.exchange(path, body)
        stand.upstream.answers = answers(exchange)
        await stand.pipeline.serve(exchange)
    del exchange
    stand.upstream.answers.clear()
    assert left(collected=scene in KEPT_BY_FAKES) == before


REFUSED: dict[str, dict[str, Any]] = {
    "route": {"path": "/nowhere"},
    "key": {"headers": {"authorization": "Bearer unknown"}},
    "json": {"body": b"{"},
    "body": {"body": lambda: Refusal("request_timeout", "Too slow")},  # one that is kept would keep the call
    "gone": {"body": ClientGone},
    "model": {"body": chat(model="no-such-model")},
    "policy": {"body": chat(max_tokens=10**7)},
    "rate": {"body": chat(model="plain-1", user="rate")},
    "money": {"body": chat(max_tokens=5)},
    "estimate": {"path": "/v1/estimate", "body": chat(model="no-such-model")},
}


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("kind", REFUSED)
async def test_of_a_call_that_was_refused(make_stand: MakeStand, kind: str) -> None:
    none = (LimitDef(id="tpm", unit="requests", amount=0),) if kind == "rate" else ()
    stand = make_stand(budgets=[budget(5)], policy=Policy(over_max_tokens="refuse", max_tokens_cap=100, limits=none))
    before = left()
    for _ in range(TIMES):
        asked = {name: value() if callable(value) else value for name, value in REFUSED[kind].items()}
        exchange = await stand.ask(**asked)
        assert kind == "estimate" or exchange.status != 200
    del exchange, asked
    assert left(collected=kind in KEPT_BY_FAKES) == before


@pytest.mark.parametrize(
    "answer", [lambda: error(400), lambda: error(500), broken, unsent, lambda: stream(broken()), lambda: completion("")]
)
async def test_of_a_call_that_failed(make_stand: MakeStand, answer: Callable[[], Any]) -> None:
    stand = make_stand()
    before = left(collected=True)
    for _ in range(TIMES):
        await stand.ask(answer(), body=chat(max_tokens=5, stream=True))
    assert left(collected=True) == before


async def test_of_a_call_that_was_cancelled(make_stand: MakeStand) -> None:
    stand = make_stand(budgets=[budget(10**15)])
    before = left(collected=True)
    for turns in range(TIMES):
        stand.upstream.answers = [completion("Hi", usage(10, 2))]
        call = asyncio.create_task(stand.pipeline.serve(stand.exchange(body=chat(max_tokens=5))))
        for _ in range(turns):
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait([call])
    del call
    assert left(collected=True) == before

"""A call that is over is gone from memory, however it ended, with its body and its connection's exchange.

What refuses a call holds the call in its traceback. Where something on that round is hidden from the garbage collector
(`gc=False`), nothing of it is ever freed again.
"""

import asyncio
import gc
from collections.abc import Callable
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


def left() -> int:
    gc.collect()
    return sum(isinstance(one, FakeExchange) for one in gc.get_objects())


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
    assert left() == before


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
    assert left() == before


@pytest.mark.parametrize(
    "answer", [lambda: error(400), lambda: error(500), broken, unsent, lambda: stream(broken()), lambda: completion("")]
)
async def test_of_a_call_that_failed(make_stand: MakeStand, answer: Callable[[], Any]) -> None:
    stand = make_stand()
    before = left()
    for _ in range(TIMES):
        await stand.ask(answer(), body=chat(max_tokens=5, stream=True))
    assert left() == before


async def test_of_a_call_that_was_cancelled(make_stand: MakeStand) -> None:
    stand = make_stand(budgets=[budget(10**15)])
    before = left()
    for turns in range(TIMES):
        stand.upstream.answers = [completion("Hi", usage(10, 2))]
        call = asyncio.create_task(stand.pipeline.serve(stand.exchange(body=chat(max_tokens=5))))
        for _ in range(turns):
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait([call])
    del call
    assert left() == before

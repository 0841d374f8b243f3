"""The token endpoints at the data port: handed to control as they are, bounded, unmetered, never waiting for ever."""

import asyncio
from collections.abc import Callable

import pytest

from bursar.core.errors import Refusal
from bursar.gateway.hand_over import MAX_BODY
from bursar.gateway.node import Answered, Handed
from tests.gateway.fakes import FakeExchange
from tests.gateway.ground import Stand

MakeStand = Callable[..., Stand]
FORM = {"content-type": "application/x-www-form-urlencoded", "content-length": "3", "x-other": "x"}


def post(headers: dict[str, str] | None = None, path: str = "/oauth/token") -> FakeExchange:
    return FakeExchange("POST", path, FORM | (headers or {}), b"a=b")


async def test_control_sees_what_it_needs_and_nothing_else(make_stand: MakeStand) -> None:
    stand, seen = make_stand(), []

    async def control(handed: Handed) -> Answered:
        seen.append(handed)
        return 418, [("x-answer", "1")], b"body"

    stand.node.control = control
    exchange = post({"authorization": "Bearer x"})
    await stand.pipeline.serve(exchange)
    (handed,) = seen
    assert (handed.path, handed.body, handed.peer) == ("/oauth/token", b"a=b", "127.0.0.1")
    assert set(handed.headers) == {"content-type", "authorization", "x-bursar-request-id"}
    assert (exchange.status, exchange.header("x-answer"), exchange.sent) == (418, "1", b"body")
    assert "Bearer" not in repr(handed)
    stand.at_rest()
    assert stand.node.handed == 0
    assert stand.ends == []


@pytest.mark.parametrize(
    ("headers", "word"),
    [
        ({"content-length": str(MAX_BODY + 1)}, "body_too_large"),
        ({"transfer-encoding": "chunked"}, "malformed_request"),
        ({}, "control_unavailable"),
    ],
)
async def test_what_cannot_be_handed_over_is_refused(make_stand: MakeStand, headers: dict[str, str], word: str) -> None:
    stand = make_stand()
    exchange = post(headers)
    await stand.pipeline.serve(exchange)
    assert exchange.word == word
    assert exchange.body_asked is (word == "control_unavailable")
    assert stand.node.handed == 0


async def test_slow_issuers_cannot_fill_a_node(make_stand: MakeStand) -> None:
    stand, gate = make_stand(), asyncio.Event()

    async def control(_: Handed) -> Answered:
        await gate.wait()
        raise Refusal("control_unavailable", "gone")

    stand.node.control = control
    exchanges = [post() for _ in range(70)]
    tasks = [asyncio.ensure_future(stand.pipeline.serve(exchange)) for exchange in exchanges]
    await asyncio.sleep(0.01)
    refused = [exchange for exchange in exchanges if exchange.word == "overloaded"]
    assert len(refused) == 6
    gate.set()
    await asyncio.gather(*tasks)
    assert stand.node.handed == 0


async def test_other_methods_are_told(make_stand: MakeStand) -> None:
    stand = make_stand()
    exchange = FakeExchange("GET", "/oauth/token", {}, b"")
    await stand.pipeline.serve(exchange)
    assert (exchange.word, exchange.header("allow")) == ("method_not_allowed", "POST")

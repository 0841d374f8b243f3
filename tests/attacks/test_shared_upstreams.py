"""What one tenant can do to the others who share a provider, its account and a broker."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from bursar.core.breaker import Rule
from bursar.core.directory import LimitDef, Policy
from bursar.core.ledger import HoldRequest
from bursar.stores.memory_board import MemoryBoard
from tests.gateway.answers import broken, chat, chunk, completion, stream, usage
from tests.gateway.fakes import HANG, turns
from tests.gateway.ground import PLENTY, Stand, budget

MakeStand = Callable[..., Stand]


@pytest.mark.parametrize("kind", ["body_too_large", "timeout_total"])
async def test_answers_as_large_as_they_were_asked_for_shut_nobody_out(make_stand: MakeStand, kind: str) -> None:
    """Two thousand vectors of three thousand numbers are more than is read of an answer: the provider is well."""
    stand = make_stand(budgets=[budget(PLENTY)])
    stand.node.board = MemoryBoard(Rule(), lambda: int(stand.clock.monotonic() * 1000))
    for _ in range(6):
        exchange = await stand.ask(broken(kind), body=chat())
        assert exchange.word in ("upstream_broken", "upstream_timeout")
    assert (await stand.ask(completion("Hi", usage(10, 2)), body=chat())).status == 200


async def test_a_long_stream_that_tries_keeps_nobody_out(make_stand: MakeStand) -> None:
    """Whoever has the one try could make it last: everybody else was refused for half a minute at a time."""
    stand = make_stand(budgets=[budget(PLENTY)])
    stand.node.board = MemoryBoard(Rule(), lambda: int(stand.clock.monotonic() * 1000))
    for _ in range(5):
        await stand.ask(broken("reset"), body=chat())
    assert (await stand.ask(body=chat())).word == "upstream_unavailable"
    stand.clock.advance(5)
    stand.upstream.will(stream(chunk("Hi"), HANG))
    long = stand.exchange(body=chat(stream=True, max_tokens=100))
    serving = asyncio.create_task(stand.pipeline.serve(long))
    await turns(20)
    stand.upstream.will(completion("Hi", usage(10, 2)))
    other = stand.exchange(body=chat())
    await stand.pipeline.serve(other)
    assert other.status == 200
    long.leave()
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


async def test_an_estimate_keeps_no_tokens_from_others_while_a_store_takes_its_time(make_stand: MakeStand) -> None:
    limit = LimitDef(id="all", unit="tokens", amount=10_000, per_seconds=60, scope="node")
    stand = make_stand(budgets=[budget(PLENTY)], policy=Policy(limits=(limit,)))
    seen: list[float] = []
    look = stand.journal.try_hold

    async def slow(request: HoldRequest) -> None:
        seen.append(stand.tokens_taken(limit, "node"))
        await look(request)

    stand.node.money.try_hold = slow  # type: ignore[method-assign]
    assert (await stand.ask(path="/v1/estimate", body=chat(max_tokens=5_000))).status == 200
    assert seen == [0.0]


async def test_a_hard_budget_of_a_provider_key_caps_the_output_too(make_stand: MakeStand) -> None:
    """What a price table calls a model's longest answer is no cap: a server may write on, and bill on."""
    stand = make_stand(budgets=[budget(PLENTY, kind="provider_key", subject="pk-openai")])
    written = 50_000
    await stand.ask(completion("Hi", usage(10, written)), body=chat())
    sent = json.loads(stand.upstream.sent[0].body)
    assert sent["max_tokens"] == 4_096, "the provider is told where to end"


@pytest.mark.parametrize(
    "part",
    [
        {"type": "input_file", "file_id": "file-theirs"},
        {"type": "file", "file_id": "file-theirs"},
        {"type": "image_file", "image_file": {"file_id": "file-theirs"}},
        {"type": "image_url", "image_url": {"file_id": "file-theirs"}},
        {"type": "input_image", "file_id": "file-theirs"},
    ],
)
async def test_another_teams_file_is_not_named_by_another_spelling(make_stand: MakeStand, part: dict[str, Any]) -> None:
    """Without a hard budget a field that nobody knows goes on: servers differ in what they take."""
    stand = make_stand()
    exchange = await stand.ask(body=chat(messages=[{"role": "user", "content": [part]}]))
    assert (exchange.status, exchange.json["error"]["code"]) == (404, "unknown_id")
    assert stand.upstream.sent == []

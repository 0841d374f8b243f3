"""A stream on its way: passed on as it came, cut at its allowance, paused for slow readers, drained in bounds."""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from bursar.core.directory import Policy
from tests.gateway.answers import (
    BLOCK_START,
    BLOCK_STOP,
    DONE,
    IN,
    MESSAGE_STOP,
    MOST_OUTPUT,
    OUT,
    chat,
    chunk,
    message,
    message_delta,
    message_start,
    stream,
    text_delta,
    usage_chunk,
    whole_stream,
)
from tests.gateway.fakes import HANG, FakeExchange, FakeResponse, turns
from tests.gateway.ground import PLENTY, Stand, budget, provider

MakeStand = Callable[..., Stand]
BODY = chat(max_tokens=4000, stream=True)
DRAIN = Policy(on_disconnect="drain")


def events(sent: bytes) -> list[Any]:
    found = [line.removeprefix(b"data: ") for line in sent.split(b"\n") if line.startswith(b"data: ")]
    return [event if event == b"[DONE]" else msgspec.json.decode(event) for event in found]


# ---- passed on -------------------------------------------------------------------------------------------------------


async def test_events_pass_as_they_came(make_stand: MakeStand) -> None:
    script = [b": ping\n\n", chunk("He"), b"event: odd\r\ndata: x\r\n\r\n", b"data: {not json\n\n", chunk("llo"), DONE]
    exchange = await make_stand().ask(stream(*script), body=BODY)
    assert exchange.sent == b"".join(script)
    assert exchange.pieces == script
    assert exchange.header("content-type") == "text/event-stream; charset=utf-8"
    assert exchange.finished


@pytest.mark.parametrize("size", [1, 7, 64])
async def test_however_they_were_chopped(make_stand: MakeStand, size: int) -> None:
    whole = b"".join([chunk("Größe 👋"), chunk(finish="stop"), DONE])
    pieces = [whole[at : at + size] for at in range(0, len(whole), size)]
    exchange = await make_stand().ask(stream(*pieces), body=BODY)
    assert exchange.sent == whole


async def test_a_rest_without_its_blank_line_is_passed_on(make_stand: MakeStand) -> None:
    exchange = await make_stand().ask(stream(chunk("Hi"), b"data: [DONE]"), body=BODY)
    assert exchange.sent == chunk("Hi") + b"data: [DONE]"


async def test_usage_is_asked_for_and_taken_out_again(make_stand: MakeStand) -> None:
    stand = make_stand()
    exchange = await stand.ask(stream(chunk("Hi"), usage_chunk(10, 2), DONE), body=BODY)
    assert stand.upstream.sent[0].json["stream_options"] == {"include_usage": True}
    assert exchange.sent == chunk("Hi") + DONE
    assert stand.post.exact


async def test_usage_that_was_asked_for_is_passed_on(make_stand: MakeStand) -> None:
    stand = make_stand()
    body = BODY | {"stream_options": {"include_usage": True}}
    exchange = await stand.ask(stream(chunk("Hi"), usage_chunk(10, 2), DONE), body=body)
    assert stand.upstream.sent[0].json == body
    assert exchange.sent == chunk("Hi") + usage_chunk(10, 2) + DONE


async def test_a_provider_that_does_not_know_the_option_is_not_asked(make_stand: MakeStand) -> None:
    stand = make_stand(providers=[provider("openai", quirks=frozenset({"no_stream_options"}))])
    await stand.ask(stream(chunk("Hi"), DONE), body=BODY)
    assert stand.upstream.sent[0].json == BODY
    assert not stand.post.exact


async def test_the_first_event_is_timed(make_stand: MakeStand) -> None:
    stand = make_stand()
    await stand.ask(stream(lambda: stand.clock.advance(2), chunk("Hi"), DONE), body=BODY)
    (cells,) = stand.node.counters._histograms["bursar_first_token_seconds"].values()
    assert cells[-1] == pytest.approx(2)


# ---- cut -------------------------------------------------------------------------------------------------------------


async def test_a_cut_stream_ends_as_the_openai_dialect_ends(make_stand: MakeStand) -> None:
    stand = make_stand()
    flood = [chunk("x" * 100)] * 20
    response = stream(*flood, HANG)
    exchange = await stand.ask(response, body=chat(max_tokens=1, stream=True))
    *passed, last, done = events(exchange.sent)
    assert done == b"[DONE]"
    assert [choice["finish_reason"] for choice in last["choices"]] == ["length"]
    assert last["bursar"]["code"] == "allowance_reached"
    assert "1 output tokens" in last["bursar"]["message"]
    assert 0 < len(passed) < len(flood)
    assert response.delivered == len(passed)  # cut at that very event
    assert exchange.finished
    assert not exchange.aborted


async def test_a_cut_stream_ends_as_the_anthropic_dialect_ends(make_stand: MakeStand) -> None:
    stand = make_stand()
    response = stream(message_start(5), BLOCK_START, *[text_delta("x" * 100)] * 20, HANG)
    exchange = await stand.ask(response, path="/v1/messages", body=message(max_tokens=1, stream=True))
    *_, stop, delta, end = events(exchange.sent)
    assert [event["type"] for event in (stop, delta, end)] == ["content_block_stop", "message_delta", "message_stop"]
    assert delta["delta"]["stop_reason"] == "max_tokens"
    assert delta["bursar"]["code"] == "allowance_reached"
    assert response.aborted


async def test_the_rest_of_a_piece_behind_the_cut_is_not_passed_on(make_stand: MakeStand) -> None:
    piece = b"".join([chunk("x" * 1000), chunk("secret"), DONE])
    exchange = await make_stand().ask(stream(piece, HANG), body=chat(max_tokens=1, stream=True))
    assert b"secret" not in exchange.sent
    assert exchange.sent.count(b"[DONE]") == 1


async def test_every_choice_has_the_allowance(make_stand: MakeStand) -> None:
    """n choices of 20 tokens: what all may write together is not cut for one."""
    exchange = await make_stand().ask(
        stream(*[chunk("x" * 100)] * 12, DONE), body=chat(max_tokens=20, n=8, stream=True)
    )
    assert exchange.sent.endswith(DONE)
    assert b"allowance_reached" not in exchange.sent


async def test_usage_above_the_allowance_is_paid_and_the_stream_ends_once(make_stand: MakeStand) -> None:
    stand = make_stand()
    script = [message_start(5), BLOCK_START, text_delta("Hi"), BLOCK_STOP, message_delta(5000) + MESSAGE_STOP]
    exchange = await stand.ask(stream(*script), path="/v1/messages", body=message(max_tokens=10, stream=True))
    assert exchange.finished
    assert exchange.sent.count(b'"message_stop"') == 1
    assert stand.post.cost_pico == 5 * IN + 5000 * OUT


async def test_usage_that_comes_after_the_end_cuts_nothing(make_stand: MakeStand) -> None:
    stand = make_stand()
    script = [chunk("Hi"), DONE, usage_chunk(10, 500)]
    exchange = await stand.ask(stream(*script), body=chat(max_tokens=5, stream=True))
    assert exchange.sent == chunk("Hi") + DONE
    assert stand.post.cost_pico == 10 * IN + 500 * OUT


async def test_what_nobody_capped_is_not_cut(make_stand: MakeStand) -> None:
    """The price table's idea of a model's longest answer may be out of date: it is no allowance."""
    stand = make_stand()
    script = [chunk("x" * 10_000)] * 12
    exchange = await stand.ask(stream(*script, usage_chunk(10, MOST_OUTPUT + 9), DONE), body=chat(stream=True))
    assert exchange.sent == b"".join(script) + DONE
    assert stand.post.outcome == "ok"


async def test_a_drained_stream_is_cut_too(make_stand: MakeStand) -> None:
    stand = make_stand(policy=DRAIN, budgets=[budget(PLENTY)])
    exchange = stand.exchange(body=chat(max_tokens=1, stream=True))
    response = stream(chunk("x"), exchange.leave, *[chunk("x" * 100)] * 20, HANG)
    stand.upstream.will(response)
    await stand.pipeline.serve(exchange)
    stand.at_rest()
    assert response.aborted
    assert exchange.unsent_writes == 0
    assert stand.post.outcome == "cut"


# ---- a slow reader ---------------------------------------------------------------------------------------------------


async def test_a_slow_reader_pauses_the_provider(make_stand: MakeStand) -> None:
    stand = make_stand()
    exchange = stand.exchange(body=BODY)
    flow = lambda stop: lambda: exchange.on_flow(stop)  # type: ignore[misc]  # noqa: E731
    response = stream(chunk("one"), flow(True), chunk("two"), chunk("three"), DONE)
    stand.upstream.will(response)
    task = asyncio.ensure_future(stand.pipeline.serve(exchange))
    await turns(50)
    assert response.paused
    assert exchange.pieces == [chunk("one")]
    assert exchange.on_flow is not None
    exchange.on_flow(False)
    await task
    assert exchange.sent == chunk("one") + chunk("two") + chunk("three") + DONE
    assert exchange.on_flow is None
    stand.at_rest()


async def test_one_who_leaves_while_paused_is_drained(make_stand: MakeStand) -> None:
    stand = make_stand(policy=DRAIN)
    exchange = stand.exchange(body=BODY)
    stand.upstream.will(
        stream(chunk("one"), lambda: exchange.on_flow(True), chunk("two"), usage_chunk(10, 2), DONE)  # type: ignore[misc]
    )
    task = asyncio.ensure_future(stand.pipeline.serve(exchange))
    await turns(50)
    exchange.leave()
    await task
    stand.at_rest()
    assert stand.post.exact


# ---- drains are bounded ----------------------------------------------------------------------------------------------


class Drained:
    """One stream whose caller leaves after its first event."""

    def __init__(self, stand: Stand, *after: Any) -> None:
        self.stand = stand
        self.exchange: FakeExchange = stand.exchange(body=BODY)
        self.response: FakeResponse = stream(chunk("Hello"), self.exchange.leave, *after)
        stand.upstream.answers.insert(0, self.response)
        self.task = asyncio.ensure_future(stand.pipeline.serve(self.exchange))


async def test_in_bytes(make_stand: MakeStand) -> None:
    stand = make_stand(policy=DRAIN)
    stand.node.drains.most_bytes = 500
    drained = Drained(stand, *[chunk("x" * 100)] * 20, HANG)
    await drained.task
    stand.at_rest()
    assert drained.response.aborted
    assert drained.response.delivered < 8
    assert stand.post.outcome == "client_gone"


async def test_in_time(make_stand: MakeStand) -> None:
    stand = make_stand(policy=DRAIN)
    stand.node.drains.seconds = 0.0
    drained = Drained(stand, HANG)
    await drained.task
    stand.at_rest()
    assert drained.response.aborted
    assert stand.post.outcome == "client_gone"


async def test_in_number(make_stand: MakeStand) -> None:
    stand = make_stand(policy=DRAIN)
    stand.node.drains.most = 2
    drained = []
    for _ in range(2):
        drained.append(Drained(stand, HANG))
        await turns(20)
    assert stand.node.drains.running == 2
    third = Drained(stand, HANG)
    await third.task
    assert third.response.aborted
    for one in drained:
        assert not one.response.aborted
        one.response.abort()
        await one.task
    stand.at_rest()


async def test_the_timer_of_a_drain_that_ended_is_off(make_stand: MakeStand) -> None:
    stand = make_stand(policy=DRAIN)
    stand.node.drains.seconds = 0.005
    drained = Drained(stand, usage_chunk(10, 2), DONE)
    await drained.task
    await asyncio.sleep(0.01)
    assert not drained.response.aborted
    assert stand.post.exact


async def test_one_who_left_during_the_dispatch_is_drained(make_stand: MakeStand) -> None:
    stand = make_stand(policy=DRAIN)
    exchange = stand.exchange(body=BODY)
    stand.upstream.before = exchange.leave
    stand.upstream.will(whole_stream((10, 2)))
    await stand.pipeline.serve(exchange)
    stand.at_rest()
    assert stand.post.exact
    assert exchange.pieces == []

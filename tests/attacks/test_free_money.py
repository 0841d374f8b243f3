"""A key with a hard budget, and every way found to be billed by the provider for more than Bursar books."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from bursar.core.directory import Policy
from tests.gateway.answers import DONE, IN, MODEL, OUT, SLACK, chat, chunk, input_pico, message, plain, stream, usage
from tests.gateway.fakes import FakeExchange, FakeResponse, turns
from tests.gateway.ground import OPENAI_KEY, PLENTY, Stand, budget, provider

MakeStand = Callable[..., Stand]
HARD = (budget(PLENTY),)
TEXT = "word " * 1_000


def sse(text: str) -> bytes:
    return chunk(text) + chunk(finish="stop") + DONE


@pytest.mark.parametrize(
    "answer",
    [
        FakeResponse([sse(TEXT)], 200, {"content-type": "application/x-ndjson"}),
        FakeResponse([b"<html>" + TEXT.encode()], 200, {"content-type": "text/html"}),
        FakeResponse([b'{"choices":[{"message":{"content":"' + TEXT.encode()], 200, {}),
    ],
)
async def test_an_answer_that_cannot_be_read_costs_what_was_there_to_see(make_stand: MakeStand, answer: Any) -> None:
    stand = make_stand(budgets=HARD)
    body = chat(max_tokens=8000)
    await stand.ask(answer, body=body)
    assert stand.post.exact is False
    assert stand.post.cost_pico >= input_pico(body) + (len(TEXT) + SLACK) * OUT


async def test_the_same_in_the_other_dialect(make_stand: MakeStand) -> None:
    stand = make_stand(budgets=HARD)
    await stand.ask(FakeResponse([TEXT.encode()], 200, {}), path="/v1/messages", body=message(max_tokens=8000))
    assert stand.post.cost_pico >= (len(TEXT) + SLACK) * OUT


async def test_the_kind_of_an_answer_is_read_in_any_case(make_stand: MakeStand) -> None:
    stand = make_stand(budgets=HARD)
    said = chunk("Hi") + chunk(finish="stop", usage=usage(7, 3)) + DONE
    answer = FakeResponse([said], 200, {"content-type": "Text/Event-Stream"})
    await stand.ask(answer, body=chat(max_tokens=8000, stream=True))
    assert (stand.post.exact, stand.post.cost_pico) == (True, 7 * IN + 3 * OUT)


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_answer_in_an_encoding_nobody_asked_for_keeps_its_hold(make_stand: MakeStand, streamed: bool) -> None:
    stand = make_stand(budgets=HARD)
    body = chat(max_tokens=8000, stream=streamed)
    headers = {"content-type": "text/event-stream", "content-encoding": "gzip"}
    answer = FakeResponse([b"\x1f\x8b\x08" + b"\0" * 20], 200, headers)
    exchange = await stand.ask(answer, body=body)
    assert exchange.word == "upstream_broken"
    assert stand.post.cost_pico >= 8000 * OUT
    assert answer.aborted


async def test_a_caller_who_holds_the_stream_up_and_leaves_pays_what_may_have_been_made(make_stand: MakeStand) -> None:
    """A whole answer fits unread into the buffers between the provider and here: what was seen bounds nothing."""
    stand = make_stand(budgets=HARD, policy=Policy(on_disconnect="abort"))
    exchange = stand.exchange(body=chat(max_tokens=8000, stream=True))

    def hold_up() -> None:
        assert exchange.on_flow is not None
        exchange.on_flow(True)

    answer = stream(chunk("Hi"), hold_up, *[chunk(TEXT)] * 6, DONE)
    stand.upstream.will(answer)
    serving = asyncio.create_task(stand.pipeline.serve(exchange))
    await turns(20)
    assert answer.paused
    exchange.leave()
    await serving
    assert stand.post.cost_pico >= 8000 * OUT


async def test_a_caller_who_reads_and_leaves_pays_what_he_saw(make_stand: MakeStand) -> None:
    stand = make_stand(budgets=HARD, policy=Policy(on_disconnect="abort"))
    body = chat(max_tokens=8000, stream=True)
    exchange = stand.exchange(body=body)
    stand.upstream.will(stream(chunk("Hi"), exchange.leave, chunk(TEXT), DONE))
    await stand.pipeline.serve(exchange)
    assert stand.post.cost_pico < 8000 * OUT


async def test_a_content_filter_that_bills_is_not_free(make_stand: MakeStand) -> None:
    """Azure: a prompt that its filter refuses has been read, and is billed."""
    stand = make_stand(budgets=HARD)
    body = chat(max_tokens=8000)
    refused = {"error": {"message": "no", "type": None, "param": "prompt", "code": "content_filter", "status": 400}}
    exchange = await stand.ask(plain(refused, 400), body=body)
    assert exchange.status == 400
    assert input_pico(body) <= stand.post.cost_pico < 8000 * OUT


async def test_any_other_refusal_of_a_provider_is(make_stand: MakeStand) -> None:
    stand = make_stand(budgets=HARD)
    await stand.ask(plain({"error": {"code": "context_length_exceeded", "status": 400}}, 400), body=chat())
    assert stand.ends == ["refused"]


@pytest.mark.parametrize("model", ["gpt-4o-search-preview", "gpt-5-search-api"])
async def test_a_model_that_searches_by_itself_is_not_bounded_by_its_tokens(make_stand: MakeStand, model: str) -> None:
    stand = make_stand(budgets=HARD)
    exchange = await stand.ask(body=chat(model=model, max_tokens=100))
    assert exchange.word == "unbounded_request"


UTF7 = "application/json; charset=utf-7"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
async def test_nobody_is_told_that_the_body_is_in_another_charset(make_stand: MakeStand, path: str) -> None:
    """A server that goes by the charset finds other keys in the text `+ACI-,+ACI-n+ACI-:99`."""
    stand = make_stand(budgets=HARD)
    await stand.ask(plain({}, 500), path=path, headers={"content-type": UTF7, "idempotency-key": "1"})
    headers = stand.upstream.sent[0].headers
    assert headers["content-type"] == "application/json"
    assert "idempotency-key" not in headers  # tenants share the provider's account: nor may they share answers


async def test_an_operator_s_header_replaces_a_fixed_one(make_stand: MakeStand) -> None:
    stand = make_stand(providers=[provider("openai", headers=(("content-type", "application/vnd.x+json"),))])
    await stand.ask(plain({}, 500))
    assert stand.upstream.sent[0].headers["content-type"] == "application/vnd.x+json"


async def test_a_server_that_shows_the_request_in_its_error_does_not_show_the_key(make_stand: MakeStand) -> None:
    stand = make_stand()
    shown = b'{"headers":{"Authorization":"Bearer sk-pk-openai-1"},"trace":"sk-pk-openai-1"}'
    exchange: FakeExchange = await stand.ask(FakeResponse([shown], 502, {}))
    assert exchange.status == 502
    assert b"sk-" not in exchange.sent
    assert exchange.sent.count(b"[provider key]") == 2
    assert OPENAI_KEY.id == "pk-openai"


async def test_a_ceiling_beyond_all_numbers_is_refused_in_words(make_stand: MakeStand) -> None:
    for budgets in ((), HARD):
        for fields in ({"max_tokens": 10**31}, {"max_tokens": 5, "n": 10**31}):
            exchange = await make_stand(budgets=budgets).ask(plain({}, 500), body=chat(model=MODEL, **fields))
            assert exchange.status in (400, 402, 403, 413, 422, 429, 500), exchange.word
            assert exchange.word != "internal_error"


async def test_an_encoded_refusal_is_one_all_the_same(make_stand: MakeStand) -> None:
    stand = make_stand(budgets=HARD)
    exchange = await stand.ask(FakeResponse([b"\x1f\x8b\x08"], 429, {"content-encoding": "gzip"}))
    assert (exchange.status, exchange.sent, stand.ends) == (429, b"", ["refused"])

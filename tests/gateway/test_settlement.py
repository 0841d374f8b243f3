"""What becomes of the hold, for every way in which an attempt can end (design.md §3).

The numbers are written out by hand from the round prices of `ground`, never taken from the code under test.
"""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from bursar.core.directory import Policy
from bursar.core.errors import Refusal
from bursar.core.estimate import Learned
from bursar.core.ledger import Settlement
from tests.gateway.answers import (
    DONE,
    IN,
    MODEL,
    OUT,
    SLACK,
    broken,
    ceiling_of,
    chat,
    chunk,
    completion,
    error,
    input_pico,
    message,
    plain,
    stream,
    unsent,
    usage,
    usage_chunk,
    whole_stream,
)
from tests.gateway.fakes import HANG, FakeResponse
from tests.gateway.ground import PLENTY, Stand, budget

MakeStand = Callable[..., Stand]
CAP = 4000
PLAIN = chat(max_tokens=CAP)
STREAMED = chat(max_tokens=CAP, stream=True)
EXPECTED_RATIO = 4  # bytes to a token, before anything was learned


def hard(make_stand: MakeStand, **policy: Any) -> Stand:
    return make_stand(budgets=[budget(PLENTY)], policy=Policy(**policy))


def soft(make_stand: MakeStand, **policy: Any) -> Stand:
    return make_stand(budgets=[budget(PLENTY, hard=False)], policy=Policy(**policy))


def inexact(body: dict[str, Any], visible: int) -> int:
    return input_pico(body) + (visible + SLACK) * OUT


def observed(body: dict[str, Any], visible: int) -> int:
    expected_input = len(msgspec.json.encode(body)) // EXPECTED_RATIO + 1
    return expected_input * IN + -(-visible // 3) * OUT


# ---- nothing was sent, or nothing was run: void ----------------------------------------------------------------------


@pytest.mark.parametrize("made", [hard, soft])
@pytest.mark.parametrize("body", [PLAIN, STREAMED])
@pytest.mark.parametrize(
    ("answer", "reason"),
    [(unsent(), "unsent"), (unsent("timeout_connect"), "unsent"), (error(400), "refused"), (error(429), "refused")],
)
async def test_void(make_stand: MakeStand, made: Any, body: Any, answer: Any, reason: str) -> None:
    stand = made(make_stand)
    await stand.ask(
        FakeResponse(answer.script, answer.status, answer.headers) if reason == "refused" else answer, body=body
    )
    assert stand.ends == [reason]
    assert stand.balance() == (0, 0)


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 405, 413, 415, 422, 429, 529])
async def test_a_definite_refusal_bills_nothing(make_stand: MakeStand, status: int) -> None:
    stand = hard(make_stand)
    await stand.ask(error(status), body=PLAIN)
    assert stand.ends == ["refused"]


async def test_a_provider_key_that_is_not_released_was_not_used(make_stand: MakeStand) -> None:
    stand = hard(make_stand)
    stand.releases.refusal = Refusal("audit_unavailable", "The audit is full", retry_after=3)
    exchange = await stand.ask(body=PLAIN)
    assert (exchange.status, exchange.word, exchange.header("retry-after")) == (503, "audit_unavailable", "3")
    assert stand.ends == ["unsent"]
    assert stand.upstream.sent == []


# ---- the provider's own usage: exact ---------------------------------------------------------------------------------


@pytest.mark.parametrize("made", [hard, soft])
@pytest.mark.parametrize(
    ("body", "answer"),
    [
        (PLAIN, lambda: completion("Hello", usage(10, 2))),
        (STREAMED, lambda: whole_stream((10, 2))),
        (STREAMED, lambda: completion("Hello", usage(10, 2))),  # a provider that does not stream
        (STREAMED, lambda: stream(chunk("Hi"), chunk(finish="stop"), usage_chunk(10, 2))),  # no end mark
        (STREAMED, lambda: stream(chunk("Hi"), usage_chunk(10, 2), DONE, broken())),  # ended; only framing is missing
    ],
)
async def test_exact(make_stand: MakeStand, made: Any, body: Any, answer: Any) -> None:
    stand = made(make_stand)
    exchange = await stand.ask(answer(), body=body)
    assert exchange.status == 200
    assert exchange.finished
    assert not exchange.aborted
    assert (stand.post.cost_pico, stand.post.exact, stand.post.outcome) == (10 * IN + 2 * OUT, True, "ok")
    assert stand.balance() == (10 * IN + 2 * OUT, 0)
    assert stand.count("bursar_cost_usd_total") == pytest.approx((10 * IN + 2 * OUT) / 1e12)


async def test_usage_above_the_hold_is_posted_in_full(make_stand: MakeStand) -> None:
    stand = hard(make_stand)
    body = chat(max_tokens=16)
    await stand.ask(completion("Hi", usage(10, 50_000)), body=body)
    assert stand.post.cost_pico == 10 * IN + 50_000 * OUT
    over = stand.post.cost_pico - ceiling_of(body, 16)
    assert stand.count("bursar_overage_usd_total", team="team-1") == pytest.approx(over / 1e12)


async def test_free_of_charge_is_believed_where_nothing_was_output(make_stand: MakeStand) -> None:
    stand = hard(make_stand)
    await stand.ask(plain({"input_tokens": 12}), path="/v1/messages/count_tokens", body=message())
    assert (stand.post.cost_pico, stand.post.exact) == (0, True)


# ---- an answer whose usage is missing or cannot be believed: inexact -------------------------------------------------


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (None, "missing"),
        (usage(0, 0), "zero_with_output"),
        (usage(-5, 2), "negative"),
        (usage(10, 10**12), "too_large"),
        ({"prompt_tokens": "many"}, "unreadable"),
        (usage(10, 2, prompt_tokens_details={"audio_tokens": 99}), "contradictory"),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
async def test_unbelievable_usage(make_stand: MakeStand, said: Any, why: str, streamed: bool) -> None:
    stand = hard(make_stand)
    text = "Hello"
    if streamed:
        last = [chunk(finish="stop")] + ([] if said is None else [chunk(usage=said, choices=[])])
        await stand.ask(stream(chunk(text), *last, DONE), body=STREAMED)
    else:
        await stand.ask(completion(text, said), body=PLAIN)
    body = STREAMED if streamed else PLAIN
    assert stand.post == Settlement(inexact(body, len(text)), None, False, "ok")
    assert stand.count("bursar_inexact_total", model=MODEL, reason=why) == 1


async def test_soft_budgets_pay_what_was_observed(make_stand: MakeStand) -> None:
    stand = soft(make_stand)
    await stand.ask(stream(chunk("Hello"), DONE), body=STREAMED)
    assert (stand.post.cost_pico, stand.post.exact) == (observed(STREAMED, 5), False)


async def test_an_inexact_cost_is_never_above_the_hold(make_stand: MakeStand) -> None:
    stand = hard(make_stand)
    body = chat(max_tokens=16, stream=True)
    await stand.ask(stream(chunk("Hello"), DONE), body=body)
    assert stand.post.cost_pico == ceiling_of(body, 16)


@pytest.mark.parametrize("made", [hard, soft])
async def test_hidden_reasoning_keeps_the_whole_hold(make_stand: MakeStand, made: Any) -> None:
    stand = made(make_stand)
    body = chat(max_tokens=CAP, stream=True, reasoning_effort="high")
    await stand.ask(stream(chunk("Hello"), DONE), body=body)
    assert not stand.post.exact
    assert stand.post.cost_pico == (ceiling_of(body, CAP) if made is hard else observed(body, 5))


# ---- broken off ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [PLAIN, STREAMED])
@pytest.mark.parametrize(
    "answer", [broken(), broken("timeout_first_byte"), broken("timeout_total"), broken("malformed")]
)
async def test_broken_before_the_first_byte(make_stand: MakeStand, body: Any, answer: Exception) -> None:
    """All of it may have been made: nothing that came says less."""
    stand = hard(make_stand)
    exchange = await stand.ask(answer, body=body)
    assert exchange.status in (502, 504)
    assert stand.post == Settlement(ceiling_of(body, CAP), None, False, "upstream_broken")


@pytest.mark.parametrize("status", [500, 502, 503, 504, 408, 409])
async def test_a_failure_that_may_bill_keeps_the_hold(make_stand: MakeStand, status: int) -> None:
    stand = hard(make_stand)
    exchange = await stand.ask(error(status), body=PLAIN)
    assert exchange.status == status  # the provider's own words
    assert exchange.json["error"]["type"] == "some_error"
    assert stand.post == Settlement(ceiling_of(PLAIN, CAP), None, False, "upstream_broken")


async def test_broken_in_the_middle_of_a_plain_answer(make_stand: MakeStand) -> None:
    stand = hard(make_stand)
    exchange = await stand.ask(FakeResponse([b'{"choices": [', broken()]), body=PLAIN)
    assert exchange.word == "upstream_broken"
    assert stand.post == Settlement(ceiling_of(PLAIN, CAP), None, False, "upstream_broken")


@pytest.mark.parametrize("made", [hard, soft])
async def test_broken_in_the_middle_of_a_stream(make_stand: MakeStand, made: Any) -> None:
    stand = made(make_stand)
    exchange = await stand.ask(stream(chunk("Hello"), broken()), body=STREAMED)
    assert exchange.aborted  # it breaks off for the caller too
    assert exchange.sent == chunk("Hello")
    cost = inexact(STREAMED, 5) if made is hard else observed(STREAMED, 5)
    assert stand.post == Settlement(cost, None, False, "upstream_broken")
    assert stand.count("bursar_requests_total", word="upstream_broken") == 1


async def test_a_giant_event_is_a_stream_that_broke(make_stand: MakeStand) -> None:
    stand = hard(make_stand)
    exchange = await stand.ask(stream(chunk("Hello"), b"data: " + b"x" * (9 * 2**20), DONE), body=STREAMED)
    assert exchange.aborted
    assert stand.post == Settlement(inexact(STREAMED, 5), None, False, "upstream_broken")
    assert stand.count("bursar_requests_total", word="upstream_broken") == 1


async def test_broken_after_the_final_usage(make_stand: MakeStand) -> None:
    stand = hard(make_stand)
    await stand.ask(stream(chunk("Hello"), chunk(finish="stop"), usage_chunk(10, 2), broken()), body=STREAMED)
    assert (stand.post.cost_pico, stand.post.exact) == (10 * IN + 2 * OUT, True)


# ---- the caller leaves -----------------------------------------------------------------------------------------------


async def leave_after(stand: Stand, *script: Any, body: Any = STREAMED) -> Any:
    """A stream during which the caller leaves where the script says "leave"."""
    exchange = stand.exchange(body=body)
    steps = [exchange.leave if step == "leave" else step for step in script]
    response = stream(*steps)
    stand.upstream.will(response)
    await stand.pipeline.serve(exchange)
    stand.at_rest()
    return response


async def test_drained_to_its_end_a_stream_is_exact(make_stand: MakeStand) -> None:
    stand = hard(make_stand, on_disconnect="drain")
    response = await leave_after(
        stand, chunk("He"), "leave", chunk("llo"), chunk(finish="stop"), usage_chunk(10, 2), DONE
    )
    assert response.delivered == 5
    assert (stand.post.cost_pico, stand.post.exact) == (10 * IN + 2 * OUT, True)


async def test_drained_usage_without_its_blank_line_counts(make_stand: MakeStand) -> None:
    stand = hard(make_stand, on_disconnect="drain")
    await leave_after(stand, chunk("He"), "leave", chunk(finish="stop"), usage_chunk(10, 2)[:-1])
    assert (stand.post.cost_pico, stand.post.exact) == (10 * IN + 2 * OUT, True)


@pytest.mark.parametrize("made", [hard, soft])
async def test_aborted_a_stream_is_inexact(make_stand: MakeStand, made: Any) -> None:
    stand = made(make_stand, on_disconnect="abort")
    response = await leave_after(stand, chunk("Hello"), "leave", chunk("more"), usage_chunk(10, 2), DONE)
    assert response.aborted
    assert response.delivered == 1
    cost = inexact(STREAMED, 5) if made is hard else observed(STREAMED, 5)
    assert stand.post == Settlement(cost, None, False, "client_gone")
    assert stand.count("bursar_requests_total", word="client_gone") == 1


async def test_a_drain_that_breaks_is_inexact(make_stand: MakeStand) -> None:
    stand = hard(make_stand, on_disconnect="drain")
    await leave_after(stand, chunk("Hello"), "leave", chunk("!"), broken())
    assert stand.post == Settlement(inexact(STREAMED, 6), None, False, "client_gone")


async def test_a_caller_who_left_before_the_stream_began_is_not_free(make_stand: MakeStand) -> None:
    stand = hard(make_stand, on_disconnect="abort")
    exchange = stand.exchange(body=STREAMED)
    stand.upstream.before = exchange.leave
    stand.upstream.will(whole_stream())
    await stand.pipeline.serve(exchange)
    stand.at_rest()
    assert stand.post == Settlement(inexact(STREAMED, 0), None, False, "client_gone")


async def test_a_caller_of_a_plain_answer_who_left_pays_exactly(make_stand: MakeStand) -> None:
    stand = hard(make_stand)
    exchange = stand.exchange(body=PLAIN)
    stand.upstream.before = exchange.leave
    stand.upstream.will(completion("Hi", usage(10, 2)))
    await stand.pipeline.serve(exchange)
    stand.at_rest()
    assert (stand.post.cost_pico, stand.post.exact) == (10 * IN + 2 * OUT, True)


async def test_nothing_is_sent_for_a_caller_who_left_before(make_stand: MakeStand) -> None:
    stand = hard(make_stand)
    exchange = stand.exchange(body=PLAIN)
    exchange.leave()
    await stand.pipeline.serve(exchange)
    stand.at_rest()
    assert stand.upstream.sent == []
    assert stand.ends == ["unsent"]
    assert stand.count("bursar_requests_total", word="client_gone") == 1


# ---- cut at the allowance --------------------------------------------------------------------------------------------


async def test_cut_without_usage_is_inexact(make_stand: MakeStand) -> None:
    stand = hard(make_stand)
    body = chat(max_tokens=1, stream=True)
    flood = "x" * 300
    response = stream(*[chunk(flood)] * 9, HANG)
    exchange = await stand.ask(response, body=body)
    assert response.aborted
    assert exchange.finished
    assert not exchange.aborted
    assert stand.post == Settlement(ceiling_of(body, 1), None, False, "cut")
    assert stand.count("bursar_truncated_total", team="team-1") == 1


async def test_cut_by_its_usage_is_posted_by_it(make_stand: MakeStand) -> None:
    """A server that tells the usage in every chunk: what it has told by then is owed in full."""
    stand = hard(make_stand)
    body = chat(max_tokens=3, stream=True)
    response = stream(chunk("Hi", usage=usage(10, 2)), chunk("Ho", usage=usage(10, 700)), HANG)
    await stand.ask(response, body=body)
    assert response.aborted
    assert (stand.post.cost_pico, stand.post.exact, stand.post.outcome) == (10 * IN + 700 * OUT, False, "cut")


# ---- usage that is told in every chunk is a floor until the end ------------------------------------------------------

SO_FAR = {"usage": usage(10, 2)}


@pytest.mark.parametrize(
    ("script", "policy"),
    [
        ([chunk("Hello", **SO_FAR), "leave", HANG], "abort"),
        ([chunk("Hello", **SO_FAR), broken()], "drain"),
        ([chunk("Hello", **SO_FAR), "leave", broken()], "drain"),
    ],
)
async def test_usage_told_on_the_way_is_not_the_last_word(make_stand: MakeStand, script: Any, policy: str) -> None:
    stand = hard(make_stand, on_disconnect=policy)
    await leave_after(stand, *script)
    assert (stand.post.cost_pico, stand.post.exact) == (inexact(STREAMED, 5), False)


@pytest.mark.parametrize("last", [[DONE], [], [broken()]])
async def test_usage_told_with_the_finish_is(make_stand: MakeStand, last: Any) -> None:
    stand = hard(make_stand)
    await leave_after(stand, chunk("Hello", usage=usage(10, 1)), chunk(finish="stop", **SO_FAR), *last)
    assert (stand.post.cost_pico, stand.post.exact) == (10 * IN + 2 * OUT, True)


async def test_a_whole_stream_is_believed_without_a_finish(make_stand: MakeStand) -> None:
    stand = hard(make_stand)
    await leave_after(stand, chunk("Hello", **SO_FAR), DONE)
    assert (stand.post.cost_pico, stand.post.exact) == (10 * IN + 2 * OUT, True)


# ---- what is learned -------------------------------------------------------------------------------------------------


async def test_only_whole_answers_teach_the_estimate(make_stand: MakeStand) -> None:
    stand = hard(make_stand)
    await stand.ask(broken(), body=PLAIN)
    await stand.ask(completion("Hi"), body=PLAIN)
    await stand.ask(stream(chunk("Hi"), chunk(finish="stop"), usage_chunk(10, 2), broken()), body=STREAMED)
    assert stand.node.estimate.state() == Learned()
    await stand.ask(completion("Hi", usage(10, 2)), body=PLAIN)
    assert [(row[0], row[2].seen) for row in stand.node.estimate.state().ratios] == [("plain-1", 1)]


async def test_counting_tokens_teaches_nothing(make_stand: MakeStand) -> None:
    """It costs nothing and outputs nothing: learned from, it would make every expected cost nothing as well."""
    stand = soft(make_stand)
    for _ in range(3):
        await stand.ask(plain({"input_tokens": 12}), path="/v1/messages/count_tokens", body=message())
    assert stand.node.estimate.state() == Learned()

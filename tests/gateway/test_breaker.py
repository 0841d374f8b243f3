"""An upstream that fails again and again is left alone: who is served meanwhile, who is told what, what opens none."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from bursar.core.breaker import Rule
from bursar.core.directory import BreakerMark, Delta, Mode
from bursar.stores.memory_board import MemoryBoard
from tests.gateway.answers import IN, OUT, broken, chat, completion, error, stream, unsent, usage
from tests.gateway.fakes import HANG, FakeExchange, FakeResponse, turns
from tests.gateway.ground import PLENTY, Stand, budget, price_table
from tests.gateway.test_candidates import TWO_PROVIDERS, two_keys

MakeStand = Callable[..., Stand]
BODY = chat(max_tokens=100)
COST = 10 * IN + 2 * OUT


def ok() -> FakeResponse:
    return completion("Hi", usage(10, 2))


def watched(stand: Stand, mode: Mode = "enforce") -> Stand:
    board = MemoryBoard(Rule(), lambda: int(stand.clock.monotonic() * 1000))
    stand.node.board, stand.node.breaker = board, mode
    return stand


def one(make_stand: MakeStand, mode: Mode = "enforce") -> Stand:
    return watched(make_stand(budgets=[budget(PLENTY)]), mode)


def two(make_stand: MakeStand) -> Stand:
    return watched(make_stand(budgets=[budget(PLENTY)], prices=price_table(), **TWO_PROVIDERS))


def used(stand: Stand) -> list[str]:
    return [sent.headers["authorization"].removeprefix("Bearer ") for sent in stand.upstream.sent]


async def fail(stand: Stand, times: int = 5, what: Callable[[], Any] = unsent) -> None:
    for _ in range(times):
        await stand.ask(what(), body=BODY)


@pytest.mark.parametrize(
    "failure", [unsent, broken, lambda: error(502), lambda: error(503), lambda: broken("timeout_first_byte")]
)
async def test_the_last_that_is_left_alone_is_refused_at_once_with_a_time_and_no_hold(
    make_stand: MakeStand, failure: Callable[[], Any]
) -> None:
    stand = one(make_stand)
    await fail(stand, what=failure)
    before, sent = stand.balance(), len(stand.upstream.sent)
    holds = len(stand.ends)
    exchange = await stand.ask(body=BODY)
    assert (exchange.status, exchange.word) == (503, "upstream_unavailable")
    assert exchange.header("retry-after") == "5"
    assert (stand.balance(), len(stand.ends), len(stand.upstream.sent)) == (before, holds, sent)


async def test_one_teams_odd_bodies_do_not_shut_a_provider_for_all(make_stand: MakeStand) -> None:
    stand = one(make_stand)
    await fail(stand, 16, lambda: error(500))
    assert (await stand.ask(ok(), body=BODY)).status == 200
    await fail(stand, 17, lambda: error(500))  # an outage of one team's own is noticed all the same, later
    assert (await stand.ask(body=BODY)).word == "upstream_unavailable"


async def test_errors_on_calls_of_several_teams_are_the_providers(make_stand: MakeStand) -> None:
    stand = one(make_stand)
    for turn in range(5):
        stand.node.blame = dict.fromkeys(stand.node.blame, (f"team {turn}", 1))  # another team's came last
        await fail(stand, 1, lambda: error(500))
    assert (await stand.ask(body=BODY)).word == "upstream_unavailable"


async def test_one_that_is_open_is_passed_over_while_another_is_there(make_stand: MakeStand) -> None:
    stand = two(make_stand)
    for _ in range(5):
        assert (await stand.ask(unsent(), ok(), body=BODY)).status == 200
    assert (await stand.ask(ok(), body=BODY)).status == 200
    assert used(stand)[-1] == "sk-pk-second-1"
    assert stand.count("bursar_breaker_skipped_total", provider="openai") == 1


async def test_one_call_tries_and_an_answer_closes_it(make_stand: MakeStand) -> None:
    stand = one(make_stand)
    await fail(stand)
    stand.clock.advance(5)
    assert (await stand.ask(unsent(), body=BODY)).word == "upstream_unreachable"  # the try: open for twice as long
    stand.clock.advance(5)
    assert (await stand.ask(body=BODY)).word == "upstream_unavailable"
    stand.clock.advance(5)
    stand.upstream.will(ok())
    crowd = [stand.exchange(body=BODY) for _ in range(3)]
    await asyncio.gather(*map(stand.pipeline.serve, crowd))
    assert [exchange.word for exchange in crowd] == [None, "upstream_unavailable", "upstream_unavailable"]
    assert (await stand.ask(ok(), body=BODY)).status == 200


async def test_a_try_that_takes_its_time_keeps_nobody_waiting(make_stand: MakeStand) -> None:
    """A long answer that is not streamed says nothing until its end: another call tries every `breaker.trial`."""
    stand = one(make_stand)
    await fail(stand)
    stand.clock.advance(5)
    silent, answered = asyncio.Event(), asyncio.Event()
    request = stand.upstream.request

    async def slowly(*asked: Any) -> FakeResponse:
        stand.upstream.request = request  # type: ignore[method-assign]
        silent.set()
        await answered.wait()
        return await request(*asked)

    stand.upstream.request = slowly  # type: ignore[method-assign]
    slow = stand.exchange(body=BODY)
    trying = asyncio.create_task(stand.pipeline.serve(slow))
    await asyncio.wait_for(silent.wait(), 30)
    assert (await asked_beside(stand)).word == "upstream_unavailable"
    stand.clock.advance(2.9)
    assert (await asked_beside(stand)).word == "upstream_unavailable"
    stand.clock.advance(0.1)
    assert (await asked_beside(stand, unsent())).word == "upstream_unreachable"  # the second try fails
    assert (await asked_beside(stand)).word == "upstream_unavailable"
    stand.clock.advance(10)
    assert (await asked_beside(stand, ok())).status == 200  # the third brings it back, while the first goes on
    assert (await asked_beside(stand, ok())).status == 200
    stand.upstream.will(ok())
    answered.set()
    await asyncio.wait_for(trying, 30)
    assert slow.status == 200
    stand.at_rest()


async def test_when_a_tries_answer_has_begun_others_may_go(make_stand: MakeStand) -> None:
    stand = one(make_stand)
    await fail(stand)
    stand.clock.advance(5)
    begun = FakeResponse([HANG], 200, {"content-type": "application/json"})
    stand.upstream.will(begun)
    slow = stand.exchange(body=BODY)
    trying = asyncio.create_task(stand.pipeline.serve(slow))
    await turns(50)
    assert (await asked_beside(stand, ok())).status == 200
    begun.abort()
    await asyncio.wait_for(trying, 30)
    assert slow.word == "upstream_broken"
    assert (await asked_beside(stand, ok())).status == 200, "one failure opens nothing that was closed since"


async def asked_beside(stand: Stand, *answers: Any) -> FakeExchange:
    """As `stand.ask`, while another call is under way."""
    stand.upstream.will(*answers)
    exchange = stand.exchange(body=BODY)
    await stand.pipeline.serve(exchange)
    return exchange


@pytest.mark.parametrize("status", [400, 404, 413, 422, 429, 529])
async def test_what_the_provider_says_of_one_callers_call_does_not_shut_out_everybody(
    make_stand: MakeStand, status: int
) -> None:
    stand = one(make_stand)
    await fail(stand, 30, lambda: error(status))
    assert (await stand.ask(ok(), body=BODY)).status == 200


async def test_a_busy_key_is_tried_after_the_others_until_its_time_and_never_shut_out(make_stand: MakeStand) -> None:
    stand = watched(two_keys(make_stand))
    busy = error(429)
    busy.headers |= {"retry-after": "20"}
    assert (await stand.ask(busy, ok(), body=BODY)).status == 200
    assert (await stand.ask(ok(), body=BODY)).status == 200
    assert (await stand.ask(unsent(), ok(), body=BODY)).status == 200
    assert used(stand)[2:] == ["sk-pk-b-1", "sk-pk-b-1", "sk-pk-a-1"]
    stand.clock.advance(20)
    await stand.ask(ok(), body=BODY)
    assert used(stand)[-1] == "sk-pk-a-1"


async def test_a_key_that_the_provider_refuses_again_and_again_is_passed_over(make_stand: MakeStand) -> None:
    stand = watched(two_keys(make_stand))
    for _ in range(5):
        assert (await stand.ask(error(401), ok(), body=BODY)).status == 200
    await stand.ask(ok(), body=BODY)
    assert used(stand)[-1] == "sk-pk-b-1"


async def test_callers_who_leave_open_nothing(make_stand: MakeStand) -> None:
    stand = one(make_stand)
    for _ in range(10):
        exchange = stand.exchange(body=BODY)
        stand.upstream.will(broken())
        stand.upstream.before = exchange.leave
        await stand.pipeline.serve(exchange)
    stand.upstream.before = lambda: None
    assert (await stand.ask(ok(), body=BODY)).status == 200


async def test_a_stream_that_breaks_counts_and_one_that_ends_does_not(make_stand: MakeStand) -> None:
    stand = one(make_stand)
    body = chat(max_tokens=100, stream=True)
    for _ in range(5):
        await stand.ask(stream(broken()), body=body)
    assert (await stand.ask(body=body)).word == "upstream_unavailable"


async def test_in_shadow_everybody_is_served_and_it_is_told_who_would_not_be(make_stand: MakeStand) -> None:
    stand = one(make_stand, "shadow")
    await fail(stand)
    assert (await stand.ask(ok(), body=BODY)).status == 200
    assert stand.count("bursar_shadow_total", control="breaker", word="upstream_unavailable") == 1
    stand.clock.advance(5)
    assert (await stand.ask(ok(), body=BODY)).status == 200  # the try
    assert (await stand.ask(ok(), body=BODY)).status == 200
    assert stand.count("bursar_shadow_total", control="breaker") == 1


async def test_a_call_that_was_to_try_and_was_refused_before_it_was_sent_lets_the_next_try(
    make_stand: MakeStand,
) -> None:
    stand = watched(make_stand(budgets=[budget(1)]))
    board = stand.node.board
    assert board is not None
    for _ in range(5):
        board.report("provider openai", "failed")
    stand.clock.advance(5)
    assert (await stand.ask(body=BODY)).word == "can_never_fit"
    assert await board.may_try("provider openai")


async def test_of_an_upstream_that_is_well_nothing_is_kept(make_stand: MakeStand) -> None:
    stand = one(make_stand)
    await stand.ask(ok(), body=BODY)
    assert stand.node.board is not None
    assert not stand.node.board.known
    assert stand.balance() == (COST, 0)


# ---- opened and closed by hand ---------------------------------------------------------------------------------------


def told(stand: Stand, name: str, *, opened: bool = True, **more: Any) -> None:
    """A person has said so, and this node has heard."""
    mark = BreakerMark(id=name, open=opened, at=stand.clock.now(), by="admin", **more)
    stand.node.tenants.change(Delta(version=stand.node.tenants.version + 1, breakers=[mark]))


@pytest.mark.parametrize("name", ["provider/openai", "key/pk-openai", "key/pk-openai/plain-1"])
@pytest.mark.parametrize("mode", ["enforce", "shadow", "off"])
async def test_what_a_person_opens_is_left_alone_in_any_mode(make_stand: MakeStand, name: str, mode: Mode) -> None:
    stand = one(make_stand, mode) if mode != "off" else make_stand(budgets=[budget(PLENTY)])
    told(stand, name)
    exchange = await stand.ask(body=BODY)
    assert (exchange.status, exchange.word, exchange.header("retry-after")) == (503, "upstream_unavailable", None)
    assert (stand.upstream.sent, stand.ends) == ([], [])
    told(stand, name, opened=False)
    assert (await stand.ask(ok(), body=BODY)).status == 200


async def test_it_is_over_at_its_time(make_stand: MakeStand) -> None:
    stand = one(make_stand)
    told(stand, "provider/openai", until=stand.clock.now() + 600 * 10**9)
    assert (await stand.ask(body=BODY)).header("retry-after") == "600"
    stand.clock.advance(600)
    assert (await stand.ask(ok(), body=BODY)).status == 200


async def test_another_way_is_taken_meanwhile_and_another_model_is_served(make_stand: MakeStand) -> None:
    stand = two(make_stand)
    told(stand, "provider/openai")
    assert (await stand.ask(ok(), body=BODY)).status == 200
    assert used(stand) == ["sk-pk-second-1"]
    assert stand.count("bursar_breaker_skipped_total", provider="openai") == 1
    other = one(make_stand)
    told(other, "key/pk-openai/gpt-4o")
    assert (await other.ask(ok(), body=BODY)).status == 200


async def test_what_a_person_closes_is_used_at_once_and_counts_anew(make_stand: MakeStand) -> None:
    stand = one(make_stand)
    board = stand.node.board
    assert board is not None
    stand.node.tenants.on_closed = board.close
    await fail(stand)
    assert (await stand.ask(body=BODY)).word == "upstream_unavailable"
    told(stand, "provider/openai", opened=False)
    await fail(stand, 4)
    assert (await stand.ask(ok(), body=BODY)).status == 200


async def test_what_was_closed_while_a_node_did_not_hear_is_closed_when_it_does(make_stand: MakeStand) -> None:
    stand = make_stand()
    heard: list[str] = []
    stand.node.tenants.on_closed = heard.append
    stand.snapshot.breakers[:] = [BreakerMark(id="key/a/b/c", open=False, at=1)]
    stand.node.tenants.replace(stand.snapshot)
    assert heard == ["key a b/c"]
    stand.node.tenants.replace(stand.snapshot)
    assert heard == ["key a b/c"], "once"

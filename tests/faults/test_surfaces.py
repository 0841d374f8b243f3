"""Embeddings, legacy completions and responses when the provider stalls, breaks off or lies, or the caller leaves."""

import asyncio
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any, NamedTuple

import pytest

from tests.e2e.broker import Broker
from tests.e2e.tenants import Tenants
from tests.faults.books import Attempt, Books, price_of, until
from tests.faults.caller import Answer, ask, script

ROUTES = {
    "embeddings": ("/v1/embeddings", {"model": "text-embedding-3-small"}, "input"),
    "completions": ("/v1/completions", {"model": "gpt-3.5-turbo-instruct", "max_tokens": 100}, "prompt"),
    "responses": ("/v1/responses", {"model": "gpt-4o-mini", "max_output_tokens": 100}, "input"),
}
LIES = ("negative", "huge", "missing", "zero", "text")
STALLS = ("head", "first_byte", "mid_stream", "before_usage")


class Case(NamedTuple):
    route: str
    said: dict[str, Any]
    stream: bool = False
    leave_after: int | None = None


class Done(NamedTuple):
    case: Case
    answer: Answer
    row: Attempt
    bill: int


@pytest.fixture(scope="module")
def play(impatient: Broker, tenants: Tenants, books: Books, numbers: Iterator[int]) -> Any:
    """Makes many calls at once, each with a key and a hard budget of its own; brings the accounts together."""

    def played(cases: list[Case]) -> list[Done]:
        keys = [tenants.key(budget={"limit_usd": "5"}) for _ in cases]
        asked = [next(numbers) for _ in cases]

        async def all_calls() -> list[Answer]:
            calls = []
            for case, key, number in zip(cases, keys, asked, strict=True):
                path, fields, field = ROUTES[case.route]
                body = {**fields, field: "x" * 1200 + script(input=number, **case.said)}
                if case.route != "embeddings":
                    body["stream"] = case.stream
                leave = case.leave_after
                calls.append(ask(impatient.data_port, key.text, body, path=path, leave_after=leave, seconds=20))
            return list(await asyncio.gather(*calls))

        done = []
        for case, key, number, answer in zip(cases, keys, asked, asyncio.run(all_calls()), strict=True):
            (charge,) = books.billed([number])
            (row,) = books.settled(key.id)
            done.append(Done(case, answer, row, price_of(charge)))
        assert books.proven().open_holds == 0
        return done

    return played


def ways() -> list[tuple[str, bool]]:
    return [("embeddings", False), *product(("completions", "responses"), (False, True))]


def covered(done: Done) -> None:
    assert not done.row.exact, done
    assert done.bill <= done.row.cost <= done.row.held, done
    assert (done.row.state, done.row.overage) == ("POSTED", 0), done


def test_stalls(play: Any) -> None:
    for done in play([Case(r, {"output": 40, "stall": s}, stream) for (r, stream), s in product(ways(), STALLS)]):
        covered(done)
        assert done.row.outcome == "upstream_broken"
        if done.case.stream and done.case.said["stall"] != "head":
            assert (done.answer.status, done.answer.whole) == (200, False), done
        else:
            assert (done.answer.status, done.answer.word) == (504, "upstream_timeout"), done


def test_breaks(play: Any) -> None:
    breaks: list[dict[str, Any]] = [{"disconnect": "before_head"}, {"disconnect": "mid_head"}]
    breaks += [{"disconnect": "mid_stream", "disconnect_at": at} for at in (0, 7)]
    for done in play([Case(r, {"output": 40, **said}, stream) for (r, stream), said in product(ways(), breaks)]):
        covered(done)
        if done.case.stream and done.case.said["disconnect"] == "mid_stream":
            assert (done.answer.status, done.answer.whole) == (200, False), done
        else:
            assert (done.answer.status, done.answer.word) == (502, "upstream_broken"), done


def test_lies_about_usage(play: Any) -> None:
    for done in play([Case(r, {"output": 40, "usage": lie}, stream) for (r, stream), lie in product(ways(), LIES)]):
        covered(done)
        assert done.answer.status == 200, done
        assert done.answer.whole


def test_an_error_that_is_billed_all_the_same(play: Any) -> None:
    for done in play([Case(r, {"output": 40, "status": 500, "bill_error": True}, s) for r, s in ways()]):
        covered(done)
        assert done.answer.status == 500


def test_a_caller_who_leaves_pays_what_was_made(play: Any) -> None:
    said = {"output": 60, "chunk_ms": 5, "abandoned": "full"}
    routes = ("completions", "responses")
    for done in play([Case(route, said, stream=True, leave_after=at) for route, at in product(routes, (1, 5, 20))]):
        assert done.answer.left
        assert done.bill <= done.row.cost <= done.row.held, done


def test_a_stream_past_its_allowance_is_cut_and_covered(play: Any) -> None:
    said = {"output": 3000, "ignore_max_tokens": True, "chunk_ms": 0.1, "chunks": 1000}
    for done in play([Case(route, said, stream=True) for route in ("completions", "responses")]):
        assert done.row.outcome == "cut"
        assert done.answer.events[-1]["bursar"]["code"] == "allowance_reached"


async def test_a_gateway_killed_in_the_middle_loses_no_money(make_broker: Callable[..., Broker]) -> None:
    broker = make_broker().start()
    key, books = Tenants(broker).key(budget={"limit_usd": "5"}), Books(broker.data)
    calls = []
    for number, (route, stream) in enumerate(ways(), 301):
        path, fields, field = ROUTES[route]
        text = "x" * 1200 + script(input=number, output=40, latency_ms=60_000, abandoned="full")
        body = {**fields, field: text, **({"stream": stream} if route != "embeddings" else {})}
        calls.append(asyncio.create_task(ask(broker.data_port, key.text, body, path=path)))
    held = lambda: [row for row in books.attempts(key.id) if row.state == "HELD"]  # noqa: E731
    await asyncio.to_thread(until, lambda: len(held()) == len(calls), 30, "every call to be held")
    # A hold can be read before it is durable, and is sent only then. An answer to a call held after them all says that
    # they have gone upstream.
    later = await ask(
        broker.data_port, Tenants(broker).key().text, {"model": "gpt-4o-mini", "input": "x"}, path="/v1/responses"
    )
    assert later.status == 200
    broker.wait_replaced("gateway", broker.kill("gateway"))
    assert all(answer.status == 0 for answer in await asyncio.gather(*calls))
    rows = await asyncio.to_thread(books.settled, key.id, len(calls))
    # What was held and not yet written upstream when the gateway died is billed by nobody.
    charges = await asyncio.to_thread(books.billed, [301 + n for n in range(len(calls))], 1)
    assert all((row.state, row.exact, row.cost) == ("POSTED", False, row.held) for row in rows)
    assert sum(row.cost for row in rows) >= sum(map(price_of, charges))
    assert books.proven().open_holds == 0

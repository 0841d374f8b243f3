"""Calls with an application's own provider key when the provider stalls, breaks off or lies, the caller leaves, or the
gateway dies: each charge has its row in the ledger, and under a budget that somebody asked for none is below it.
"""

import asyncio
import contextlib
import random
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from tests.core.key_samples import samples
from tests.e2e.broker import Broker, merged
from tests.e2e.tenants import Tenants
from tests.faults.books import Attempt, Books, covers, price_of, until
from tests.faults.caller import Answer, ask, asking, script
from tests.faults.conftest import IMPATIENT
from tests.providers.emulated import Emulated

STALLS = ("head", "first_byte", "mid_stream", "before_usage")
LIES = ("negative", "huge", "missing", "zero", "text")


class Application(NamedTuple):
    """Holds a provider key of its own; `id` is what Bursar calls it."""

    key: str
    id: str


class Case(NamedTuple):
    said: dict[str, Any]
    stream: bool = False
    leave_after: int | None = None


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulated]:
    running = Emulated(tmp_path_factory.mktemp("upstream"))
    yield running
    running.stop()


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory, upstream: Emulated) -> Iterator[Broker]:
    patience = {"head": "4s", "between_bytes": "4s"}  # who is asked first here must be answered, on a busy machine too
    real = {"openai": {"base_url": f"{upstream.url}/v1", "allow_private": True, "timeouts": patience}}
    config = merged(IMPATIENT, {"providers": real, "observe": {"enabled": True}})
    running = Broker(tmp_path_factory.mktemp("observing"), config=config)
    try:
        yield running.start()
    finally:
        running.close()


@pytest.fixture(scope="module")
def books(broker: Broker, upstream: Emulated) -> Books:
    made = Books(broker.data)
    made.bill_path = Path(upstream.bill_path)
    return made


@pytest.fixture(scope="module")
def made(numbers: Iterator[int]) -> random.Random:
    del numbers
    return random.Random(21)


def text_of(number: int, **said: Any) -> str:
    return "x" * 1200 + script(input=number, **said)


def call(broker: Broker, key: str, number: int, case: Case) -> Any:
    body = asking("openai", text_of(number, **case.said), stream=case.stream)
    return ask(broker.data_port, key, body, leave_after=case.leave_after, seconds=60)


def applications(
    broker: Broker, books: Books, made: random.Random, numbers: Iterator[int], count: int
) -> list[Application]:
    """Each has called once, and is known by its provider key: which id is whose the ledger tells."""
    keys = {next(numbers): samples(made)["openai-key"] for _ in range(count)}

    async def first_calls() -> list[Answer]:
        return list(await asyncio.gather(*(call(broker, key, n, Case({"output": 5})) for n, key in keys.items())))

    assert {answer.status for answer in asyncio.run(first_calls())} == {200}
    ids: dict[int, str] = {}

    def all_there() -> bool:
        ids.update((row.input_tokens, row.key_id) for row in books.attempts() if row.input_tokens in keys)
        return len(ids) == count

    until(all_there, told="the first calls in the ledger")
    wanted = set(ids.values())
    assert len(wanted) == count
    until(lambda: wanted <= known(broker), told="the observed keys in the directory")
    return [Application(key, ids[number]) for number, key in keys.items()]


def known(broker: Broker) -> set[str]:
    answer = broker.admin("GET", "/v1/admin/observed", params={"limit": 500})
    return {one["id"] for one in answer.json()["items"]}


def give_budgets(broker: Broker, apps: list[Application], limit: str) -> None:
    """Hard ones, by which the gateway goes when this returns."""
    tenants = Tenants(broker)
    for app in apps:
        tenants.budget("key", app.id, limit_usd=limit)

    def heard() -> bool:
        status = broker.admin("GET", "/v1/admin/status").json()
        return all(one["directory_version"] >= status["directory_version"] for one in status["gateways"])

    until(heard, told="the gateway to hear of the budgets")


class Done(NamedTuple):
    case: Case
    answer: Answer
    row: Attempt
    bill: int


def play(
    broker: Broker, books: Books, made: random.Random, numbers: Iterator[int], cases: list[Case], *, limit: str = "5"
) -> list[Done]:
    """Each case by an application of its own; `limit` "" = nobody asked for a budget."""
    apps = applications(broker, books, made, numbers, len(cases))
    if limit:
        give_budgets(broker, apps, limit)
    asked = [next(numbers) for _ in cases]

    async def all_calls() -> list[Answer]:
        calls = [call(broker, app.key, n, case) for app, n, case in zip(apps, asked, cases, strict=True)]
        return list(await asyncio.gather(*calls))

    done = []
    for case, app, number, answer in zip(cases, apps, asked, asyncio.run(all_calls()), strict=True):
        (charge,) = books.billed([number])
        row = books.settled(app.id, 2)[-1]
        done.append(Done(case, answer, row, price_of(charge)))
    assert books.proven().open_holds == 0
    return done


def test_stalls_breaks_and_lies_under_a_budget(
    broker: Broker, books: Books, made: random.Random, numbers: Iterator[int]
) -> None:
    cases = [Case({"output": 40, "stall": stall}, stream) for stall, stream in product(STALLS, (False, True))]
    cases += [Case({"output": 40, "disconnect": "mid_stream", "disconnect_at": 7}, stream) for stream in (False, True)]
    cases += [Case({"output": 40, "usage": lie}, stream) for lie, stream in product(LIES, (False, True))]
    for done in play(broker, books, made, numbers, cases):
        assert not done.row.exact, done
        assert done.bill <= done.row.cost <= done.row.held, done
        assert (done.row.state, done.row.overage) == ("POSTED", 0), done
        if "usage" in done.case.said:
            assert (done.answer.status, done.answer.whole) == (200, True), done


def test_without_a_budget_each_charge_has_its_row(
    broker: Broker, books: Books, made: random.Random, numbers: Iterator[int]
) -> None:
    """What is not exact is an estimate there: it is booked, and nothing is refused."""
    cases = [Case({"output": 40, "stall": stall}, True) for stall in STALLS]
    cases += [Case({"output": 40, "usage": lie}) for lie in LIES]
    for done in play(broker, books, made, numbers, cases, limit=""):
        assert done.row.state == "POSTED", done
        assert done.row.cost > 0, done
        assert not done.row.exact, done


def test_a_caller_who_leaves_pays_what_was_made(
    broker: Broker, books: Books, made: random.Random, numbers: Iterator[int]
) -> None:
    said = {"output": 60, "chunk_ms": 5, "abandoned": "full"}
    for done in play(broker, books, made, numbers, [Case(said, True, at) for at in (1, 5, 20)]):
        assert done.answer.left
        assert done.bill <= done.row.cost <= done.row.held, done


def test_a_gateway_that_dies_books_the_ceiling_and_knows_them_again(
    broker: Broker, books: Books, made: random.Random, numbers: Iterator[int]
) -> None:
    """kill -9 while they stream, some of them for the first time: afterwards they call on, under the same ids."""
    apps = applications(broker, books, made, numbers, 4)
    give_budgets(broker, apps, "5")
    strangers = [samples(made)["openai-key"] for _ in range(2)]
    asked = {next(numbers): key for key in (*(app.key for app in apps), *strangers)}
    case = Case({"output": 400, "chunk_ms": 20, "abandoned": "full"}, True)

    async def dying() -> None:
        calls = [asyncio.ensure_future(call(broker, key, n, case)) for n, key in asked.items()]
        await asyncio.to_thread(until, lambda: len([r for r in books.attempts() if r.state == "HELD"]) >= len(calls))
        await asyncio.to_thread(broker.wait_replaced, "gateway", broker.kill("gateway"))
        await asyncio.gather(*calls, return_exceptions=True)

    asyncio.run(dying())
    broker.wait_ready(30)
    until(lambda: not books.proven().open_holds, told="open holds to be booked")
    charges = books.charges(asked)
    rows = [row for row in books.attempts() if row.outcome == "unreconciled"]
    assert len(rows) >= len(charges)
    mine = {app.id for app in apps}
    assert {row.key_id for row in rows} >= mine
    covers([row for row in rows if row.key_id in mine], [c for c in charges if asked[c.input] not in strangers])
    again = [asyncio.run(call(broker, key, next(numbers), Case({"output": 5}))) for key in asked.values()]
    assert {answer.status for answer in again} == {200}
    strangers_ids = {row.key_id for row in rows} - mine
    until(lambda: strangers_ids <= known(broker), told="those that were new when it died")


def test_while_control_is_away_new_keys_are_served_and_known_later(
    broker: Broker, made: random.Random, numbers: Iterator[int]
) -> None:
    key, before = samples(made)["openai-key"], known(broker)
    old = broker.kill("control")
    plain = Case({"output": 5})
    answers = [asyncio.run(call(broker, key, next(numbers), plain)) for _ in range(3)]
    assert {answer.status for answer in answers} == {200}
    broker.wait_replaced("control", old, 30)

    def is_known() -> bool:
        assert asyncio.run(call(broker, key, next(numbers), plain)).status == 200
        answer = broker.admin("GET", "/v1/admin/observed", params={"limit": 500})
        return len({one["id"] for one in answer.json()["items"]} - before) == 1

    def answers_again() -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return broker.admin("GET", "/v1/admin/status").status_code == 200
        return False

    until(answers_again, told="the admin API")
    until(is_known, told="a key that came while control was away")

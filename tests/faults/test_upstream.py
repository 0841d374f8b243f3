"""A provider that stalls, breaks off, garbles its stream or lies about usage: the caller gets a clear end, the hold is
settled, and what is booked covers what is billed.
"""

import asyncio
import time
from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

import httpx
import pytest

from tests.e2e.broker import Broker
from tests.e2e.tenants import Tenants
from tests.faults.books import Attempt, Books, price_of, until
from tests.faults.caller import Answer, ask, asking, script

DIALECTS = ("openai", "anthropic")


class Done(NamedTuple):
    """One call after everything has ended: what its caller got, what is booked, what is billed."""

    name: str
    answer: Answer
    row: Attempt
    bill: int
    output: int  # tokens billed
    overdue: float  # seconds the caller waited


class Desk:
    """Makes many calls at once, each with a key of its own, and brings the accounts together."""

    def __init__(self, broker: Broker, tenants: Tenants, books: Books, numbers: Iterator[int]) -> None:
        self.broker = broker
        self.tenants = tenants
        self.books = books
        self.numbers = numbers

    def play(self, cases: dict[str, dict[str, Any]], *, hard: bool = True) -> list[Done]:
        """`cases`: name -> "dialect", "said" to the emulator, and fields of the request. Each has one attempt."""
        keys = {name: self.tenants.key(budget={"limit_usd": "5", "hard": hard}) for name in cases}
        asked = {name: next(self.numbers) for name in cases}

        async def call(name: str, case: dict[str, Any]) -> tuple[Answer, float]:
            fields = dict(case)
            dialect, said = fields.pop("dialect"), fields.pop("said")
            text = "x" * 1200 + script(input=asked[name], **said)
            began = time.monotonic()
            answer = await ask(self.broker.data_port, keys[name].text, asking(dialect, text, **fields), seconds=15)
            return answer, time.monotonic() - began

        async def all_calls() -> list[tuple[Answer, float]]:
            return list(await asyncio.gather(*(call(*case) for case in cases.items())))

        answers = dict(zip(cases, asyncio.run(all_calls()), strict=True))
        done = []
        for name, (answer, overdue) in answers.items():
            (charge,) = self.books.billed([asked[name]])
            (row,) = self.books.settled(keys[name].id)
            done.append(Done(name, answer, row, price_of(charge), charge.output, overdue))
        report = self.books.proven()
        assert report.open_holds == 0
        return done


@pytest.fixture(scope="module")
def desk(impatient: Broker, tenants: Tenants, books: Books, numbers: Iterator[int]) -> Desk:
    return Desk(impatient, tenants, books, numbers)


def covered(done: Done) -> None:
    assert not done.row.exact, done
    assert done.bill <= done.row.cost <= done.row.held, done
    assert (done.row.state, done.row.overage) == ("POSTED", 0), done


def test_stalls(desk: Desk) -> None:
    cases = {
        f"{dialect} {stall} {stream}": {"dialect": dialect, "said": {"output": 40, "stall": stall}, "stream": stream}
        for dialect, stall, stream in product(
            DIALECTS, ("head", "first_byte", "mid_stream", "before_usage"), (False, True)
        )
    }
    for done in desk.play(cases):
        _, stall, stream = done.name.split()
        covered(done)
        assert done.row.outcome == "upstream_broken"
        assert done.overdue < 20, "the deadline is two seconds"
        if stream == "False" or stall == "head":
            assert (done.answer.status, done.answer.word) == (504, "upstream_timeout"), done
            assert done.answer.headers["x-should-retry"] == "true"
            assert done.answer.whole
        else:
            assert done.answer.status == 200, done
            assert not done.answer.whole, "a stream that broke off must be seen to have done so"


def test_a_provider_may_think_before_it_speaks(desk: Desk) -> None:
    """The head comes at once, the first event later than any pause between two may last: no fault."""
    said = {"output": 40, "stall": "first_byte", "stall_s": 1.5}
    for done in desk.play(
        {f"{d} {s}": {"dialect": d, "said": said, "stream": s} for d in DIALECTS for s in (False, True)}
    ):
        assert done.answer.whole, done
        assert done.row.exact
        assert done.row.cost == done.bill


@pytest.mark.parametrize("hard", [True, False], ids=["hard", "soft"])
def test_a_call_that_timed_out_unseen_may_be_billed_whole(desk: Desk, hard: bool) -> None:
    """Nothing of the answer has come: all of it may have been made. Under a hard budget the whole hold is kept."""
    said = {"output": 1500, "abandoned": "full"}
    cases = {
        f"{dialect} {stall} {stream}": {
            "dialect": dialect,
            "said": {**said, "stall": stall},
            "stream": stream,
            "max_tokens": 1500,
        }
        for dialect, stall, stream in product(DIALECTS, ("head", "first_byte"), (False, True))
    }
    for done in desk.play(cases, hard=hard):
        assert done.output == 1500
        if hard:
            covered(done)
        else:
            assert not done.row.exact
            assert done.row.cost > 0, "never nothing"


def test_disconnects(desk: Desk) -> None:
    breaks: list[dict[str, Any]] = [{"disconnect": "before_head"}, {"disconnect": "mid_head"}]
    breaks += [{"disconnect": "mid_stream", "disconnect_at": at} for at in (0, 1, 7, 30, 1000)]
    cases = {
        f"{dialect} {at} {stream}": {"dialect": dialect, "said": {"output": 40, **said}, "stream": stream}
        for dialect, (at, said), stream in product(DIALECTS, enumerate(breaks), (False, True))
    }
    for done in desk.play(cases):
        _, at, stream = done.name.split()
        if stream == "False" or int(at) < 2:
            covered(done)
            assert (done.answer.status, done.answer.word) == (502, "upstream_broken"), done
            assert done.answer.headers["x-should-retry"] == "false", "what it cost is spent already"
        elif done.row.exact:  # the connection broke after the dialect's own end
            assert done.name.split()[1] == "6"
            assert done.row.cost == done.bill
        else:
            covered(done)
            assert done.answer.status == 200
            assert not done.answer.whole


FORMS = ("", "split_utf8", "crlf", "cr_mix", "no_done", "giant_line", "garbage_event", "nul", "multi_data")


def test_streams_in_any_form(desk: Desk) -> None:
    """The text arrives as it was said, usage is read, the bill is met to the pico."""
    said = {"output": 30, "accents": True, "chunks": 12}
    cases = {
        f"{dialect} {form}": {"dialect": dialect, "said": {**said, "sse": form}, "stream": True}
        for dialect, form in product(DIALECTS, FORMS)
    }
    texts = {}
    for done in desk.play(cases):
        assert done.answer.status == 200, done
        assert done.answer.whole, done
        assert done.row.exact, done
        assert done.row.cost == done.bill, done
        assert done.row.outcome == "ok"
        texts[done.name] = said_in(done)
    for dialect in DIALECTS:
        assert len(texts[f"{dialect} "].encode()) == 120
        for form in ("split_utf8", "crlf", "no_done", "giant_line", "garbage_event", "nul"):
            assert len(texts[f"{dialect} {form}"].encode()) == 120, form
            assert texts[f"{dialect} {form}"] in texts[f"{dialect} "] * 2, "the same words, wherever they begin"


def said_in(done: Done) -> str:
    text = ""
    for event in done.answer.events:
        for choice in event.get("choices", ()):
            text += choice["delta"].get("content") or ""
        text += (event.get("delta") or {}).get("text") or ""
    return text


def test_a_line_larger_than_any_real_one_ends_the_stream(desk: Desk) -> None:
    said = {"output": 30, "sse": "giant_line", "giant_bytes": 12_000_000}
    for done in desk.play({d: {"dialect": d, "said": said, "stream": True} for d in DIALECTS}):
        covered(done)
        assert done.row.outcome == "upstream_broken"
        assert done.answer.status == 200
        assert not done.answer.whole


LIES = ("negative", "huge", "missing", "zero", "text")


@pytest.mark.parametrize("hard", [True, False], ids=["hard", "soft"])
def test_lies_about_usage_are_not_believed(desk: Desk, hard: bool) -> None:
    cases = {
        f"{dialect} {lie} {stream}": {"dialect": dialect, "said": {"output": 40, "usage": lie}, "stream": stream}
        for dialect, lie, stream in product(DIALECTS, LIES, (False, True))
    }
    for done in desk.play(cases, hard=hard):
        assert done.answer.status == 200, done
        assert done.answer.whole, done
        if hard:
            covered(done)
        else:
            assert not done.row.exact, done
            assert done.row.cost > 0, done


def test_usage_said_twice_counts_once(desk: Desk) -> None:
    cases = {
        f"{dialect} {stream}": {"dialect": dialect, "said": {"output": 40, "usage": "twice"}, "stream": stream}
        for dialect, stream in product(DIALECTS, (False, True))
    }
    for done in desk.play(cases):
        assert done.row.exact
        assert done.row.cost == done.bill


def test_nothing_said_and_nothing_counted_is_free_of_output(desk: Desk) -> None:
    """Zero output is believed where there was none."""
    cases = {
        f"{dialect} {stream}": {"dialect": dialect, "said": {"output": 0}, "stream": stream}
        for dialect, stream in product(DIALECTS, (False, True))
    }
    for done in desk.play(cases):
        assert done.row.exact, done
        assert done.row.cost == done.bill


def test_more_than_was_allowed_is_booked_in_full_and_closes_the_budget(
    impatient: Broker, tenants: Tenants, books: Books, numbers: Iterator[int]
) -> None:
    key, number = tenants.key(budget={"limit_usd": "1"}), next(numbers)
    said = script(input=number, output=5000, ignore_max_tokens=True)
    answer = asyncio.run(ask(impatient.data_port, key.text, asking("openai", said)))
    assert answer.status == 200
    (charge,) = books.billed([number])
    (row,) = books.settled(key.id)
    assert charge.output == 5000
    assert (row.exact, row.cost, row.overage) == (True, price_of(charge), price_of(charge) - row.held)
    refused = asyncio.run(ask(impatient.data_port, key.text, asking("openai", "again")))
    assert (refused.status, refused.word) == (429, "budget_exhausted")
    assert "overage" in refused.json["error"]["message"]
    until(lambda: "bursar_overage_usd_total{" in impatient.metrics())


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_stream_beyond_its_allowance_is_closed_in_the_dialects_own_way(
    impatient: Broker, tenants: Tenants, books: Books, numbers: Iterator[int], dialect: str
) -> None:
    key, number = tenants.key(budget={"limit_usd": "1"}), next(numbers)
    said = script(input=number, output=4000, chunks=400, chunk_ms=1, ignore_max_tokens=True)
    answer = asyncio.run(ask(impatient.data_port, key.text, asking(dialect, "x" * 2000 + said, stream=True)))
    assert answer.status == 200
    assert answer.whole
    if dialect == "openai":
        assert answer.events[-1]["choices"][0]["finish_reason"] == "length"
        assert answer.body.endswith(b"data: [DONE]\n\n")
    else:
        assert [event["type"] for event in answer.events[-2:]] == ["message_delta", "message_stop"]
        assert answer.events[-2]["delta"]["stop_reason"] == "max_tokens"
    (row,) = books.settled(key.id)
    (charge,) = books.billed([number])
    assert row.outcome == "cut"
    assert charge.end == "abandoned"
    assert charge.output < 1000, "the provider was stopped"
    until(lambda: "bursar_truncated_total{" in impatient.metrics())


def test_nothing_has_leaked(impatient: Broker) -> None:
    """After all of that: no call in flight, no hold open, and the pool's connections are idle ones."""
    wanted = {"bursar_in_flight": "0", "bursar_open_holds": "0", "bursar_bytes_in_flight": "0"}

    def calm() -> bool:
        found = dict(line.split() for line in impatient.metrics().splitlines() if line.startswith(tuple(wanted)))
        return found == wanted

    until(calm, told="gauges at rest")
    keys = {"authorization": f"Bearer {impatient.demo_key}"}
    for _ in range(20):
        body = asking("openai", "again")
        assert httpx.post(f"{impatient.url}/v1/chat/completions", headers=keys, json=body).status_code == 200

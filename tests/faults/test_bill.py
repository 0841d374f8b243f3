"""The ledger beside the emulator's own bill, for every shape of call: never below it, equal where usage was exact."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bursar.core.units import usd_to_pico
from tests.e2e.broker import Broker
from tests.e2e.tenants import Tenants
from tests.faults.books import Books, price_of
from tests.faults.caller import Answer, ask, asking, script

TOOL = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "array", "items": {}}}}
TOOLS = {
    "openai": [{"type": "function", "function": {"name": "weather", "parameters": TOOL}}],
    "anthropic": [{"name": "weather", "input_schema": TOOL}],
}
SHAPES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {  # script, OpenAI fields, Anthropic fields
    "plain": ({"output": 21}, {}, {}),
    "long": ({"output": 90}, {}, {}),
    "nothing": ({"output": 0}, {}, {}),
    "accents": ({"output": 30, "accents": True}, {}, {}),
    "tools": ({"tool": True}, {"tools": TOOLS["openai"]}, {"tools": TOOLS["anthropic"]}),
    "cached": ({"output": 9, "cached": 120}, {}, {}),
    "written": ({"output": 9, "cached": 40, "cache_write": 70}, {}, {}),
    "written-1h": (
        {"output": 9, "cache_write": 70, "cache_write_1h": 50},
        {},
        {"system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral", "ttl": "1h"}}]},
    ),
    "reasoning": (
        {"output": 12, "reasoning": 33},
        {"model": "gpt-5-mini", "reasoning_effort": "low", "max_tokens": None, "max_completion_tokens": 100},
        {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 1100},
    ),
    "truncated": ({"output": 500}, {"max_tokens": 17}, {"max_tokens": 17}),
    "refused": ({"refusal": "I would rather not say anything about that."}, {}, {}),
}


def shaped(dialect: str, shape: str, number: int, **more: Any) -> dict[str, Any]:
    said, for_openai, for_anthropic = SHAPES[shape]
    text = "x" * number + script(input=number, **said)
    body = asking(dialect, text, **(for_openai if dialect == "openai" else for_anthropic), **more)
    return {name: value for name, value in body.items() if value is not None}


@pytest.mark.parametrize("hard", [True, False], ids=["hard", "soft"])
@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
def test_what_is_booked_is_what_is_billed(
    impatient: Broker, tenants: Tenants, books: Books, numbers: Iterator[int], dialect: str, hard: bool
) -> None:
    key = tenants.key(budget={"limit_usd": "20", "hard": hard})
    calls = {next(numbers): pair for pair in itertools.product(SHAPES, [False, True])}

    async def all_calls() -> list[Answer]:
        bodies = [shaped(dialect, shape, number, stream=stream) for number, (shape, stream) in calls.items()]
        return list(await asyncio.gather(*(ask(impatient.data_port, key.text, body) for body in bodies)))

    for (shape, stream), answer in zip(calls.values(), asyncio.run(all_calls()), strict=True):
        assert answer.status == 200, (shape, stream, answer.body)
        assert answer.whole
    charges = {charge.input: charge for charge in books.billed(calls, len(calls))}
    attempts = {row.input_tokens: row for row in books.settled(key.id, len(calls))}
    assert len(charges) == len(calls)
    for number, (shape, stream) in calls.items():
        row = attempts.get(number)
        assert row is not None, (shape, stream)
        assert row.exact, (shape, stream)
        assert row.cost == price_of(charges[number]), (shape, stream, row, charges[number])
        assert row.overage == 0
        assert row.cost <= row.held
        assert (row.state, row.outcome) == ("POSTED", "ok")
    assert len(attempts) == len(calls)
    total = sum(price_of(charge) for charge in charges.values())
    assert balance(tenants, key.budgets[0], total) == total
    books.proven()


def balance(tenants: Tenants, budget: str, wanted: int, seconds: float = 30) -> int:
    """What the admin API says is posted, once it says so much: ledger.db follows the journal a moment later."""
    deadline, posted = time.monotonic() + seconds, -1
    while posted != wanted and time.monotonic() < deadline:
        time.sleep(0.05)
        with contextlib.suppress(StopIteration):  # not known there yet
            posted = usd_to_pico(tenants.balance(budget, spent=wanted > 0)["posted_usd"])
    return posted


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("choices", [2, 5])
def test_every_choice_is_billed_and_booked(
    impatient: Broker, tenants: Tenants, books: Books, numbers: Iterator[int], choices: int, stream: bool
) -> None:
    key, number = tenants.key(budget={"limit_usd": "1"}), next(numbers)
    answer = asyncio.run(
        ask(impatient.data_port, key.text, shaped("openai", "plain", number, n=choices, stream=stream))
    )
    assert answer.whole
    (charge,) = books.billed([number])
    (row,) = books.settled(key.id)
    assert charge.output == 21 * choices
    assert row.exact
    assert row.cost == price_of(charge)


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
@pytest.mark.parametrize("on_disconnect", ["drain", "abort"])
@pytest.mark.parametrize("leave_after", [0, 1, 4, 9])
def test_who_leaves_is_billed_and_booked(
    impatient: Broker,
    tenants: Tenants,
    books: Books,
    numbers: Iterator[int],
    dialect: str,
    on_disconnect: str,
    leave_after: int,
) -> None:
    """Read to the end for a caller who left, usage is exact; cut off, what is booked still covers the bill."""
    key = tenants.key(policy={"on_disconnect": on_disconnect}, budget={"limit_usd": "1"})
    number = next(numbers)
    text = "x" * number + script(input=number, output=40, chunk_ms=8)
    body = asking(dialect, text, stream=True)
    answer = asyncio.run(ask(impatient.data_port, key.text, body, leave_after=leave_after))
    assert answer.left
    rows = books.settled(key.id, 0 if leave_after == 0 else 1)
    if leave_after == 0 and (not rows or rows[0].state == "VOIDED"):
        assert not books.charges([number])  # gone before anything was sent
        return
    (row,) = rows
    (charge,) = books.billed([number])
    if on_disconnect == "drain":
        assert row.exact
        assert row.outcome == "ok"
        assert charge.end == "done"
        assert row.cost == price_of(charge)
    else:
        assert charge.end == "abandoned"
        assert charge.output < 40, "the provider was stopped"
        assert (row.exact, row.outcome) == (False, "client_gone")
        assert price_of(charge) <= row.cost <= row.held


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
def test_who_leaves_a_plain_call_is_billed_and_booked(
    impatient: Broker, tenants: Tenants, books: Books, numbers: Iterator[int], dialect: str
) -> None:
    key, number = tenants.key(budget={"limit_usd": "1"}), next(numbers)
    text = "x" * number + script(input=number, output=40, latency_ms=150)

    async def leave() -> None:
        with pytest.raises(TimeoutError):
            await ask(impatient.data_port, key.text, asking(dialect, text), seconds=0.08)

    asyncio.run(leave())
    (charge,) = books.billed([number])
    (row,) = books.settled(key.id)
    assert row.exact
    assert row.cost == price_of(charge)


def test_a_call_that_the_provider_refuses_costs_nothing(
    impatient: Broker, tenants: Tenants, books: Books, numbers: Iterator[int]
) -> None:
    key = tenants.key(budget={"limit_usd": "1"})
    asked = [next(numbers) for _ in range(5)]
    for number, status in zip(asked, (400, 404, 413, 429, 529), strict=True):
        body = asking("openai", "x" * number + script(input=number, status=status))
        assert asyncio.run(ask(impatient.data_port, key.text, body)).status == status
    rows = books.settled(key.id, len(asked))
    assert {row.state for row in rows} == {"VOIDED"}
    assert not books.charges(asked)
    assert balance(tenants, key.budgets[0], 0) == 0


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
@pytest.mark.parametrize("status", [500, 503])
def test_a_failure_that_is_billed_all_the_same_is_covered(
    impatient: Broker, tenants: Tenants, books: Books, numbers: Iterator[int], dialect: str, status: int
) -> None:
    key, number = tenants.key(budget={"limit_usd": "1"}), next(numbers)
    body = asking(dialect, "x" * number + script(input=number, output=90, status=status, bill_error=True))
    assert asyncio.run(ask(impatient.data_port, key.text, body)).status == status
    (charge,) = books.billed([number])
    (row,) = books.settled(key.id)
    assert not row.exact
    assert price_of(charge) <= row.cost <= row.held


def test_ledger_db_and_the_journal_agree(impatient: Broker, books: Books) -> None:
    """Whatever the tests before have done."""
    deadline = time.monotonic() + 10
    while books.projected() != (fresh := books.attempts()):
        assert time.monotonic() < deadline, "ledger.db does not catch up with the journal"
        time.sleep(0.05)
    report = books.proven()
    assert report.open_holds == 0
    assert sum(spend.cost for spend in report.spend) == sum(row.cost for row in fresh if row.state == "POSTED")


def test_nothing_is_left_open(impatient: Broker) -> None:
    """Gauges of the gateway once everything has ended; descriptors it keeps are its pool's, and few."""
    deadline = time.monotonic() + 10
    while gauges(impatient.metrics()) != {"bursar_in_flight": 0.0, "bursar_open_holds": 0.0}:
        assert time.monotonic() < deadline, gauges(impatient.metrics())
        time.sleep(0.2)
    assert len(list(Path(f"/proc/{impatient.pids()['gateway']}/fd").iterdir())) < 150


def gauges(text: str) -> dict[str, float]:
    wanted = ("bursar_in_flight", "bursar_open_holds")
    return {line.split()[0]: float(line.split()[1]) for line in text.splitlines() if line.startswith(wanted)}

"""A thousand callers at once against a budget for ten: never over, and no refusal that the money does not explain."""

import asyncio
import random
from collections import Counter
from collections.abc import Iterator

import pytest

from bursar.core.units import pico_to_usd
from tests.e2e.broker import Broker
from tests.e2e.tenants import MadeKey, Tenants
from tests.faults.books import Books, covers, price_of
from tests.faults.caller import Answer, ask, asking, script

CALLERS = 1000
FITTING = 10


def worth(impatient: Broker, tenants: Tenants, books: Books, body: dict[str, object]) -> int:
    """What one such call holds, pico-USD: seen by making one on a key without a budget's bound."""
    key = tenants.key(budget={"limit_usd": "50"})
    assert asyncio.run(ask(impatient.data_port, key.text, body)).status == 200
    return books.settled(key.id)[0].held


def limited(tenants: Tenants, pico: int, **policy: object) -> MadeKey:
    return tenants.key(policy=policy, budget={"limit_usd": pico_to_usd(pico), "window": {"kind": "lifetime"}})


async def crowd(port: int, key: str, bodies: list[dict[str, object]], leaving: dict[int, int]) -> list[Answer]:
    """All at once; those in `leaving` go away after so many pieces."""
    calls = [ask(port, key, body, leave_after=leaving.get(at), seconds=100) for at, body in enumerate(bodies)]
    return list(await asyncio.gather(*calls))


def explained(answers: list[Answer]) -> Counter[str]:
    """Each answer is a whole one, one that its caller left, or a refusal that says to come back."""
    for answer in answers:
        if answer.status == 429:
            assert answer.word == "held_by_requests_in_flight", answer.body
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.headers["x-should-retry"] == "true"
            assert answer.json["error"]["code"] == answer.word
        else:
            assert answer.status == 200
            assert answer.whole or answer.left
    return Counter(str(answer.status) for answer in answers)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
def test_a_thousand_callers_for_ten(
    impatient: Broker, tenants: Tenants, books: Books, numbers: Iterator[int], stream: bool
) -> None:
    number = next(numbers)
    body = asking("openai", "x" * 400 + script(input=number, output=5, latency_ms=700), stream=stream)
    one = worth(impatient, tenants, books, body)
    key = limited(tenants, FITTING * one)
    seen = explained(asyncio.run(crowd(impatient.data_port, key.text, [body] * CALLERS, {})))
    assert seen["200"] >= FITTING
    rows = books.settled(key.id, seen["200"])
    assert len(rows) == seen["200"], "who is refused has held nothing"
    assert all(row.exact for row in rows)
    report = books.proven()
    (budget,) = [budget for budget in report.budgets if budget.id == key.budgets[0]]
    assert (budget.held, budget.overage, budget.closed) == (0, 0, False)
    charge = books.charges([number])[0]
    assert budget.posted == seen["200"] * price_of(charge) <= FITTING * one
    spend_the_rest(impatient, books, key, one, body | {"stream": False})


def spend_the_rest(impatient: Broker, books: Books, key: MadeKey, one: int, body: dict[str, object]) -> None:
    """A call that fits succeeds; one that does not is refused."""
    (budget,) = [budget for budget in books.proven().budgets if budget.id == key.budgets[0]]
    left = budget.limit - budget.posted
    answer = asyncio.run(ask(impatient.data_port, key.text, body))
    assert (answer.status == 200) == (left >= one), (answer.body, left, one)


def test_the_words_tell_what_to_do(impatient: Broker, tenants: Tenants, books: Books, numbers: Iterator[int]) -> None:
    """One call after the other until the money is spent: each that fits is served, the first that does not is told."""
    number = next(numbers)
    body = asking("openai", "x" * 400 + script(input=number, output=90))
    one = worth(impatient, tenants, books, body)
    key = limited(tenants, 3 * one)
    big = asyncio.run(ask(impatient.data_port, key.text, body | {"max_tokens": 2000}))
    assert (big.status, big.word) == (402, "can_never_fit")
    assert big.headers["x-should-retry"] == "false"
    served = 0
    while (answer := asyncio.run(ask(impatient.data_port, key.text, body))).status == 200:
        served += 1
        assert served < 20
    assert (answer.status, answer.word) == (429, "budget_exhausted")
    assert answer.headers["x-should-retry"] == "false"
    assert "retry-after" not in answer.headers
    rows = books.settled(key.id, served)
    posted = sum(row.cost for row in rows)
    assert posted + one > 3 * one, "the refused call would have fitted"
    facts = answer.json["bursar"]["facts"]
    assert (int(facts["posted_pico"]), int(facts["held_pico"]), int(facts["asked_pico"])) == (posted, 0, one)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("on_disconnect", ["drain", "abort"])
def test_the_same_while_every_tenth_leaves(
    impatient: Broker, tenants: Tenants, books: Books, numbers: Iterator[int], on_disconnect: str
) -> None:
    """Who is told to come back does, until the money is spent; some leave at a random piece of their answer."""
    chance = random.Random(on_disconnect)

    def body(number: int) -> dict[str, object]:
        text = "x" * 1600 + f"{script(input=number, output=12, chunk_ms=3):<99}"  # all of one length: one ceiling
        return asking("openai", text, stream=True, max_tokens=4000)

    one = worth(impatient, tenants, books, body(next(numbers)))
    key = limited(tenants, FITTING * one, on_disconnect=on_disconnect)
    asked = [next(numbers) for _ in range(CALLERS)]
    leaving = [chance.randint(0, 12) if at % 10 == 0 else None for at in range(CALLERS)]

    async def insist(number: int, leave_after: int | None) -> Answer:
        while True:
            answer = await ask(impatient.data_port, key.text, body(number), leave_after=leave_after)
            if answer.word != "held_by_requests_in_flight":
                return answer
            explained([answer])
            await asyncio.sleep(chance.uniform(0.02, 0.4))

    async def everybody() -> list[Answer]:
        return list(await asyncio.gather(*(insist(*one) for one in zip(asked, leaving, strict=True))))

    answers = asyncio.run(everybody())
    refused = [answer for answer in answers if answer.status == 429]
    assert {answer.word for answer in refused} == {"budget_exhausted"}
    served = len([answer for answer in answers if answer.status == 200])
    rows = books.settled(key.id, served)
    dispatched = [row for row in rows if row.state == "POSTED"]
    charges = books.billed(asked, len(dispatched))
    assert len(charges) == len(dispatched) >= served > 5 * FITTING
    covers(rows, charges)
    if on_disconnect == "drain":
        assert all(row.exact for row in dispatched), "read to its end for those who left"
    (budget,) = [budget for budget in books.proven().budgets if budget.id == key.budgets[0]]
    assert (budget.held, budget.overage) == (0, 0)
    assert sum(price_of(charge) for charge in charges) <= budget.posted <= budget.limit
    assert budget.posted + one > budget.limit, "somebody was refused although the money was there"
    spend_the_rest(impatient, books, key, one, body(next(numbers)))

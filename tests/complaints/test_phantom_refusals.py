"""The reverse: holds that leaked, and budgets that refused although there was room (docs/complaints.md, 3.2)."""

import asyncio
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest

from bursar.core.directory import Delta, Deployment, LimitDef, Policy
from bursar.core.errors import UpstreamFault
from bursar.core.units import usd_to_pico
from tests.complaints.crowd import short_answer
from tests.complaints.test_budgets_overspent import PAYABLE
from tests.e2e.broker import Broker
from tests.e2e.tenants import Tenants
from tests.faults.books import Books, price_of
from tests.faults.caller import ask, asking, script
from tests.gateway.answers import IN, MODEL, OUT, ceiling_of, chat, error, plain, stream, unsent
from tests.gateway.ground import ANTHROPIC_KEY, PLENTY, PRICES, Stand, budget, override, price_table, provider_key
from tests.stores.journal_kit import FailingFiles

MakeStand = Callable[..., Stand]
CAP = 100
BODY = chat(max_tokens=CAP)
CEILING = ceiling_of(BODY, CAP)


@pytest.fixture(scope="module")
def numbers() -> Iterator[int]:
    """Input token counts that no two calls of this file share."""
    return count(301)


@pytest.mark.parametrize(
    "failure", [unsent, lambda: unsent("timeout_connect"), lambda: error(400), lambda: error(401), lambda: error(429)]
)
async def test_a_failure_that_cost_nothing_releases_its_hold(make_stand: MakeStand, failure: Callable[[], Any]) -> None:
    """litellm 27639, PR 29493: the key stayed "over budget" after calls that had failed."""
    stand = make_stand(budgets=[budget(CEILING)])
    for _ in range(20):
        exchange = await stand.ask(failure(), body=BODY)
        assert exchange.word not in ("budget_exhausted", "held_by_requests_in_flight", "can_never_fit")
        assert stand.balance() == (0, 0)
    assert (await stand.ask(short_answer(), body=BODY)).status == 200


def test_what_is_enforced_is_what_was_billed(
    broker: Broker, tenants: Tenants, books: Books, numbers: Iterator[int]
) -> None:
    """litellm 40050: $111 were enforced where $55 had been spent."""
    key = tenants.key(budget={"limit_usd": "1.00"})
    asked = [next(numbers) for _ in range(24)]

    async def calls() -> None:
        bodies = [
            asking(("openai", "anthropic")[n % 2], "x" * n + script(input=n, output=30), stream=n % 4 < 2)
            for n in asked
        ]
        answers = await asyncio.gather(*(ask(broker.data_port, key.text, body) for body in bodies))
        assert {answer.status for answer in answers} == {200}

    asyncio.run(calls())
    billed = sum(price_of(charge) for charge in books.billed(asked, len(asked)))
    books.settled(key.id, len(asked))
    assert usd_to_pico(tenants.balance(key.budgets[0], 30)["posted_usd"]) == billed


async def test_a_store_that_cannot_be_written_refuses_whatever_else_is_set(make_stand: MakeStand) -> None:
    """litellm 33923: "fail closed" was ignored where the counter store failed."""
    files = FailingFiles()
    stand = make_stand(budgets=[budget(PLENTY)], files=files, policy=Policy(modes={"limits": "off"}))
    assert (await stand.ask(short_answer(), body=BODY)).status == 200
    files.room = 0
    for body in (BODY, chat(max_tokens=CAP, stream=True)):
        exchange = await stand.ask(body=body)
        assert (exchange.status, exchange.word) == (503, "store_unavailable")
        assert exchange.header("retry-after") is not None
    assert len(stand.upstream.sent) == 1
    files.room = None


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_first_call_that_just_fits_passes_and_is_held_once(make_stand: MakeStand, streamed: bool) -> None:
    """litellm 35569, PR 27021: a hold was counted twice, so that the first request was refused."""
    body = chat(max_tokens=CAP, stream=True) if streamed else BODY
    most = ceiling_of(body, CAP)
    subjects = {"k": ("team", "team-1"), "o": ("owner", "owner-1"), "m": ("model", MODEL), "n": ("node", "*")}
    stand = make_stand(budgets=[budget(most, name, *subject) for name, subject in subjects.items()])
    seen: list[list[tuple[int, int]]] = []
    stand.upstream.before = lambda: seen.append([stand.balance(name) for name in subjects])
    assert (await stand.ask(short_answer(), body=body)).status == 200
    assert seen == [[(0, most)] * len(subjects)]


@pytest.mark.parametrize("path", PAYABLE)
@pytest.mark.parametrize(
    "answer",
    [
        unsent,
        lambda: error(400),
        lambda: error(500),
        lambda: plain({}),
        lambda: stream(UpstreamFault("reset", sent=True)),
    ],
)
async def test_no_route_leaves_a_hold(make_stand: MakeStand, path: str, answer: Callable[[], Any]) -> None:
    """litellm PR 36592, PR 38111: holds of passthrough routes leaked."""
    any_use = provider_key("pk", "openai/*/api/prod/*", purposes=("inference", "embedding"))
    stand = make_stand(budgets=[budget(PLENTY)], provider_keys=[any_use, ANTHROPIC_KEY])
    stand.node.tenants.change(Delta(version=2, deployments=[Deployment(id="mine", model=MODEL)]))
    await stand.ask(answer(), path=path, body=PAYABLE[path])  # `ask` looks: no hold, slot or reservation is left
    assert len(stand.upstream.sent) == 1
    assert len(stand.ends) == 1
    assert stand.balance()[1] == 0


async def test_without_a_budget_no_budget_refuses(make_stand: MakeStand) -> None:
    """litellm 20615, 22726: "budget exceeded" with none configured, once after a mistaken price."""
    table = price_table().with_overrides(
        [*PRICES, override("openai", "mistaken", input=IN * 10**9, output=OUT * 10**9)]
    )
    limit = LimitDef(id="rpm", unit="requests", amount=100)
    stand = make_stand(prices=table, policy=Policy(limits=(limit,)))
    for _ in range(5):
        exchange = await stand.ask(short_answer(), body=chat(model="mistaken", max_tokens=CAP))
        assert (exchange.status, exchange.word) == (200, None)

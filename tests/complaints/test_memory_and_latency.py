"""Memory that grew for hours, streams that were held up, calls that waited (docs/complaints.md, 3.7).

How long a call takes is measured by `make bench`; here is what makes it long: what is kept, and what is waited for.
"""

import gc
import tracemalloc
from collections.abc import Callable

import httpx
import pytest

from bursar.core.directory import LimitDef, Policy
from tests.complaints.crowd import short_answer
from tests.e2e.broker import Broker
from tests.e2e.tenants import Tenants
from tests.faults.test_streams import resident
from tests.gateway.answers import (
    BLOCK_START,
    DONE,
    MESSAGE_STOP,
    MODEL,
    chat,
    chunk,
    completion,
    message,
    message_delta,
    message_start,
    stream,
    text_delta,
    usage,
    usage_chunk,
)
from tests.gateway.ground import PLENTY, Stand, budget
from tests.gateway.test_cancelled import Driven

MakeStand = Callable[..., Stand]
MODELS = "openai/gpt-4o-mini", "gpt-4o-mini-2024-07-18", MODEL
A_CALL = 100  # bytes that may stay behind of each
WARM, MEASURED = 1_500, 1_500  # calls: what is remembered of names is bounded, and full by then


async def test_calls_leave_nothing_in_memory(make_stand: MakeStand) -> None:
    """litellm 12685, 6404, 15128, 21908, 38193 (40 GiB), 27954, 13805: it grew with every call.

    litellm worker-recycling: the docs advise to replace a worker after so many requests.
    """
    limits = (LimitDef(id="rpm", unit="requests", amount=10**6), LimitDef(id="tpm", unit="tokens", amount=10**9))
    by_user = LimitDef(id="user", unit="requests", amount=10**6, scope="user")
    policy = Policy(limits=(*limits, by_user), user_header="x-user")
    stand = make_stand(budgets=[budget(10**15)], policy=policy)

    async def calls(first: int, count: int) -> None:
        """Everything that a caller may choose is new in each."""
        for number in range(first, first + count):
            body = chat(model=MODELS[number % 3], max_tokens=10 + number % 50, stream=number % 2 == 0)
            body["messages"] = [{"role": "user", "content": f"Hello {number}"}]
            headers = {"x-user": f"user-{number % 300}", "user-agent": f"agent/{number}"}
            said = [chunk("Hi"), chunk(finish="stop"), usage_chunk(10, 2), DONE]
            answer = stream(*said) if number % 2 == 0 else completion("Hi", usage(10, 2))
            if number % 7 == 0:
                body["model"] = f"no-such-model-{number}"
                stand.upstream.answers.clear()
                await stand.ask(body=body, headers=headers)
            else:
                assert (await stand.ask(answer, body=body, headers=headers)).status == 200
            stand.clock.advance(1)
            stand.upstream.sent.clear()  # what the fakes themselves keep
            stand.journal.posts.clear()
            stand.journal.voids.clear()

    tracemalloc.start()
    try:
        await calls(0, WARM)
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        await calls(WARM, MEASURED)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
        top = tracemalloc.take_snapshot().statistics("lineno")[:9]
    finally:
        tracemalloc.stop()
    assert grown < MEASURED * A_CALL, (grown, top)


@pytest.mark.parametrize(
    ("fields", "status"), [({"model": "not-allowed"}, 403), ({"stream": True}, 200), ({"n": 0}, 400)]
)
def test_calls_leave_nothing_in_a_gateway(
    broker: Broker, tenants: Tenants, fields: dict[str, object], status: int
) -> None:
    """litellm 15128, 38193: the process that serves, seen from outside. Here it was refused calls that stayed."""
    key = tenants.key({"models": ["gpt-4o-mini"]}, budget={"limit_usd": "100"})
    headers = {"authorization": f"Bearer {key.text}"}
    body = {"model": "gpt-4o-mini", "max_tokens": 5, "messages": [{"role": "user", "content": "x" * 200_000}]} | fields

    def call(count: int) -> int:
        with httpx.Client(base_url=broker.url, headers=headers, timeout=60) as caller:
            for _ in range(count):
                assert caller.post("/v1/chat/completions", json=body).status_code == status
        return resident(broker)

    warm = call(50)
    assert call(300) - warm < 25 * 2**20  # the bodies of these are 60 MB


# ---- held up


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
async def test_each_event_has_left_before_the_next_one_comes(make_stand: MakeStand, dialect: str) -> None:
    """litellm 9491, 14681, 21046, 38689: slow streaming. Kong 14425: streams were buffered until their end."""
    if dialect == "openai":
        events = [chunk("He"), chunk("llo"), chunk(" there"), chunk(finish="stop")]
        path, body, end = "/v1/chat/completions", chat(max_tokens=99, stream=True), [usage_chunk(10, 3), DONE]
    else:
        events = [message_start(10), BLOCK_START, text_delta("Hello"), text_delta("!"), message_delta(3)]
        path, body, end = "/v1/messages", message(max_tokens=99, stream=True), [MESSAGE_STOP]
    stand = make_stand(budgets=[budget(PLENTY)])
    exchange = stand.exchange(path, body)
    passed_on: list[int] = []
    look = lambda: passed_on.append(len(exchange.pieces))  # noqa: E731
    stand.upstream.will(stream(*(step for event in events for step in (event, look)), *end))
    await stand.pipeline.serve(exchange)
    assert passed_on == list(range(1, len(events) + 1))


async def test_a_call_waits_for_its_body_its_hold_and_its_provider_alone(make_stand: MakeStand) -> None:
    """litellm 13546: latency was added by what a call waited for on its way: caches, databases, callbacks.

    With limits, budgets and a policy of every level at work. The provider key is leased already, as it mostly is.
    """
    limits = tuple(LimitDef(id=unit, unit=unit, amount=10**6) for unit in ("requests", "tokens", "concurrency"))
    subjects = {"k": ("team", "team-1"), "o": ("owner", "owner-1"), "m": ("model", MODEL)}
    budgets = [budget(10**15, name, *subject) for name, subject in subjects.items()]
    stand = make_stand(policy=Policy(limits=limits), team_policy=Policy(limits=limits), budgets=budgets)
    await stand.ask(short_answer(), body=chat(max_tokens=5))
    stand.upstream.will(short_answer())
    call = Driven(stand.pipeline.serve(stand.exchange(body=chat(max_tokens=5))))
    waits = -1
    while not call.done:
        await call.step()
        waits += 1
    stand.at_rest()
    assert waits <= 4  # the body, the hold, the head of the answer and its body

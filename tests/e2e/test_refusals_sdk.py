"""Each refusal as the official SDKs see it: the class they raise, the word they carry, and whether they try again."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import anthropic
import openai
import pytest

from bursar.core.errors import RULES
from bursar.core.units import pico_to_usd, usd_to_pico
from tests.e2e.broker import Broker
from tests.e2e.tenants import Tenants

RETRIES = 2
HELLO = [{"role": "user", "content": "Hello"}]


@dataclass(frozen=True)
class Case:
    """How a word is provoked: what the key may do, what money it has, and what is asked."""

    word: str
    openai_class: type[openai.APIStatusError]
    anthropic_class: type[anthropic.APIStatusError]
    policy: dict[str, Any] = field(default_factory=dict)
    budget: dict[str, Any] = field(default_factory=dict)
    ask: dict[str, Any] = field(default_factory=dict)
    disable: bool = False
    key: str = ""  # another key than the one made


CASES = [
    Case("key_invalid", openai.AuthenticationError, anthropic.AuthenticationError, key="bsr_nobody"),
    Case("key_disabled", openai.PermissionDeniedError, anthropic.PermissionDeniedError, disable=True),
    Case(
        "model_not_allowed",
        openai.PermissionDeniedError,
        anthropic.PermissionDeniedError,
        policy={"models": ["nothing-*"]},
    ),
    Case("model_not_found", openai.NotFoundError, anthropic.NotFoundError, ask={"model": "no-such-model"}),
    Case(
        "max_tokens_exceeded",
        openai.BadRequestError,
        anthropic.BadRequestError,
        policy={"max_tokens_cap": 50, "over_max_tokens": "refuse"},
        ask={"max_tokens": 51},
    ),
    Case(
        "prompt_too_large",
        openai.APIStatusError,
        anthropic.ContentTooLargeError,
        policy={"max_prompt_chars": 20},
        ask={"messages": [{"role": "user", "content": "x" * 100}]},
    ),
    Case(
        "can_never_fit",
        openai.APIStatusError,
        anthropic.PaymentRequiredError,
        budget={"limit_usd": "0.0000001"},
        ask={"max_tokens": 4000},
    ),
    Case("invalid_field", openai.BadRequestError, anthropic.BadRequestError, ask={"max_tokens": -1}),
]


PARAMS = {"model_not_allowed": "model", "model_not_found": "model", "invalid_field": "max_tokens"}


class Counted:
    """An SDK client's transport hook that counts how often it really asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, request: object) -> None:
        self.asked += 1


def tried(word: str) -> int:
    return 1 + RETRIES if RULES[word].retry else 1


@pytest.fixture(scope="module")
def tenants(broker: Broker) -> Tenants:
    return Tenants(broker)


def prepared(tenants: Tenants, case: Case) -> str:
    made = tenants.key(policy=case.policy, budget=case.budget)
    if case.disable:
        tenants.disable(made)
    return case.key or made.text


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.word)
def test_openai(broker: Broker, tenants: Tenants, case: Case) -> None:
    key, counted = prepared(tenants, case), Counted()
    transport = openai.DefaultHttpxClient(event_hooks={"request": [counted]})
    with openai.OpenAI(base_url=f"{broker.url}/v1", api_key=key, max_retries=RETRIES, http_client=transport) as client:
        ask: dict[str, Any] = {"model": "gpt-4o-mini", "messages": HELLO, "max_tokens": 16, **case.ask}
        with pytest.raises(case.openai_class) as caught:
            client.chat.completions.create(**ask)
    rule = RULES[case.word]
    assert caught.value.status_code == rule.status
    assert caught.value.code == case.word
    assert caught.value.type == rule.openai_type
    assert caught.value.param == PARAMS.get(case.word)
    assert caught.value.request_id
    assert counted.asked == tried(case.word)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.word)
def test_anthropic(broker: Broker, tenants: Tenants, case: Case) -> None:
    key, counted = prepared(tenants, case), Counted()
    transport = anthropic.DefaultHttpxClient(event_hooks={"request": [counted]})
    with anthropic.Anthropic(base_url=broker.url, api_key=key, max_retries=RETRIES, http_client=transport) as client:
        ask: dict[str, Any] = {"model": "claude-sonnet-4-6", "messages": HELLO, "max_tokens": 16, **case.ask}
        with pytest.raises(case.anthropic_class) as caught:
            client.messages.create(**ask)
    rule = RULES[case.word]
    assert caught.value.status_code == rule.status
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["error"]["type"] == rule.anthropic_type
    assert caught.value.body["error"]["code"] == case.word
    assert caught.value.request_id
    assert counted.asked == tried(case.word)


# -- refusals that pass by themselves: the SDK waits as told and succeeds


def test_openai_waits_out_a_rate_limit(broker: Broker, tenants: Tenants) -> None:
    key = tenants.key(policy={"limits": [{"unit": "requests", "amount": 1, "per_seconds": 1}]})
    counted = Counted()
    transport = openai.DefaultHttpxClient(event_hooks={"request": [counted]})
    with openai.OpenAI(base_url=f"{broker.url}/v1", api_key=key.text, max_retries=5, http_client=transport) as client:
        for _ in range(3):
            assert client.chat.completions.create(model="gpt-4o-mini", messages=HELLO, max_tokens=16)
    assert counted.asked > 3


def test_anthropic_waits_out_a_rate_limit(broker: Broker, tenants: Tenants) -> None:
    key = tenants.key(policy={"limits": [{"unit": "requests", "amount": 1, "per_seconds": 1}]})
    counted = Counted()
    transport = anthropic.DefaultHttpxClient(event_hooks={"request": [counted]})
    with anthropic.Anthropic(base_url=broker.url, api_key=key.text, max_retries=5, http_client=transport) as client:
        for _ in range(3):
            assert client.messages.create(model="claude-sonnet-4-6", messages=HELLO, max_tokens=16)
    assert counted.asked > 3


def slow(seconds: float) -> list[dict[str, str]]:
    """A message that the provider streams back over so many seconds."""
    script = json.dumps({"output": 20, "chunk_ms": seconds * 50})
    return [{"role": "user", "content": f"Hello [[emulator {script}]]"}]


def test_openai_waits_for_a_place(broker: Broker, tenants: Tenants) -> None:
    key = tenants.key(policy={"limits": [{"unit": "concurrency", "amount": 1}]})
    with openai.OpenAI(base_url=f"{broker.url}/v1", api_key=key.text, max_retries=0) as client:
        ask: dict[str, Any] = {"model": "gpt-4o-mini", "max_tokens": 32}
        stream = client.chat.completions.create(messages=slow(1), stream=True, **ask)
        next(iter(stream))
        with pytest.raises(openai.RateLimitError) as caught:
            client.chat.completions.create(messages=HELLO, **ask)
        assert caught.value.code == "concurrency_limited"
        with client.with_options(max_retries=5) as patient, ThreadPoolExecutor() as pool:
            waiting = pool.submit(patient.chat.completions.create, messages=HELLO, **ask)
            list(stream)
            assert waiting.result(30).choices


def test_money_held_by_a_call_in_flight_comes_back(broker: Broker, tenants: Tenants) -> None:
    """Two calls whose ceilings do not fit together: the second waits, is never told that the money is gone."""
    ask: dict[str, Any] = {"model": "gpt-4o-mini", "max_tokens": 4000}
    most = tenants.worst_case({**ask, "messages": slow(1)})
    key = tenants.key(budget={"limit_usd": pico_to_usd(most * 3 // 2)})
    with openai.OpenAI(base_url=f"{broker.url}/v1", api_key=key.text, max_retries=0) as client:
        stream = client.chat.completions.create(messages=slow(1), stream=True, **ask)
        next(iter(stream))
        with pytest.raises(openai.RateLimitError) as caught:
            client.chat.completions.create(messages=HELLO, **ask)
        assert caught.value.code == "held_by_requests_in_flight"
        assert int(caught.value.response.headers["retry-after"]) >= 1
        list(stream)
        assert client.chat.completions.create(messages=HELLO, **ask).choices


def test_a_spent_budget_is_not_tried_again(broker: Broker, tenants: Tenants) -> None:
    script = json.dumps({"input": 20, "output": 60})
    spend = [{"role": "user", "content": f"Hello [[emulator {script}]]"}]
    ask: dict[str, Any] = {"model": "gpt-4o-mini", "messages": spend, "max_tokens": 60}
    limit = tenants.worst_case(ask)
    key = tenants.key(budget={"limit_usd": pico_to_usd(limit)})
    counted = Counted()
    transport = openai.DefaultHttpxClient(event_hooks={"request": [counted]})
    with openai.OpenAI(base_url=f"{broker.url}/v1", api_key=key.text, max_retries=2, http_client=transport) as client:
        assert client.chat.completions.create(**ask).choices
        before = counted.asked
        with pytest.raises(openai.RateLimitError) as caught:
            client.chat.completions.create(**ask)
    assert caught.value.code == "budget_exhausted"
    assert caught.value.type == "insufficient_quota"
    assert counted.asked - before == 1
    assert usd_to_pico(tenants.balance(key.budgets[0])["posted_usd"]) <= limit

"""Each refusal as the official SDKs see it: the class they raise, the word they carry, and whether they try again."""

from dataclasses import dataclass, field
from typing import Any

import anthropic
import openai
import pytest

from bursar.core.errors import RULES
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
    calls_before: int = 0  # calls that succeed and use up what the key has
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
        "rate_limited",
        openai.RateLimitError,
        anthropic.RateLimitError,
        policy={"limits": [{"unit": "requests", "amount": 1, "per_seconds": 3600}]},
        calls_before=1,
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
        for _ in range(case.calls_before):
            client.chat.completions.create(**{**ask, "max_tokens": 16})
        before = counted.asked
        with pytest.raises(case.openai_class) as caught:
            client.chat.completions.create(**ask)
    rule = RULES[case.word]
    assert caught.value.status_code == rule.status
    assert caught.value.code == case.word
    assert caught.value.type == rule.openai_type
    assert caught.value.request_id
    assert counted.asked - before == tried(case.word)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.word)
def test_anthropic(broker: Broker, tenants: Tenants, case: Case) -> None:
    key, counted = prepared(tenants, case), Counted()
    transport = anthropic.DefaultHttpxClient(event_hooks={"request": [counted]})
    with anthropic.Anthropic(base_url=broker.url, api_key=key, max_retries=RETRIES, http_client=transport) as client:
        ask: dict[str, Any] = {"model": "claude-sonnet-4-5", "messages": HELLO, "max_tokens": 16, **case.ask}
        for _ in range(case.calls_before):
            client.messages.create(**{**ask, "max_tokens": 16})
        before = counted.asked
        with pytest.raises(case.anthropic_class) as caught:
            client.messages.create(**ask)
    rule = RULES[case.word]
    assert caught.value.status_code == rule.status
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["error"]["type"] == rule.anthropic_type
    assert caught.value.body["error"]["code"] == case.word
    assert caught.value.request_id
    assert counted.asked - before == tried(case.word)

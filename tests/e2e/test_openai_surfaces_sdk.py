"""The official `openai` SDK, unmodified: embeddings and legacy completions, and what becomes of their money."""

import base64
import json
import math
import struct
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI

from bursar.providers.emulator import read_bill
from tests.e2e.broker import Broker
from tests.e2e.tenants import Tenants
from tests.faults.books import Books, price_of, until

EMBEDDING = "text-embedding-3-small"
INSTRUCT = "gpt-3.5-turbo-instruct"
LONG = "x" * 1300  # more bytes than the tokens that the provider is told to count


def said(prompt: str = "Once upon a time", **script: Any) -> str:
    return f"{prompt} [[emulator {json.dumps(script)}]]"


@pytest.fixture(scope="module")
def client(broker: Broker) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{broker.url}/v1", api_key=broker.demo_key, max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def tenants(broker: Broker) -> Tenants:
    return Tenants(broker)


def as_key(client: OpenAI, text: str) -> OpenAI:
    return client.with_options(api_key=text)


def test_embeddings_of_texts_and_tokens(client: OpenAI) -> None:
    for given, count in (("one", 1), (["one", "two"], 2), ([1, 2, 3], 1), ([[1, 2], [3]], 2)):
        answer = client.embeddings.create(model=EMBEDDING, input=given, dimensions=64)  # type: ignore[arg-type]
        assert [row.index for row in answer.data] == list(range(count))
        for row in answer.data:
            assert len(row.embedding) == 64
            assert math.isclose(sum(number * number for number in row.embedding), 1, rel_tol=1e-5)
    assert client.embeddings.create(model=EMBEDDING, input=[1, 2, 3]).usage.prompt_tokens == 3


def test_usage_tells_what_calls_were_for(client: OpenAI, tenants: Tenants, broker: Broker) -> None:
    key = tenants.key(budget={"limit_usd": "5"})
    ours = as_key(client, key.text)
    for _ in range(3):
        ours.embeddings.create(model=EMBEDDING, input="one", dimensions=8)
    ours.completions.create(model=INSTRUCT, prompt=said(), max_tokens=5)

    def told() -> dict[str, int]:
        rows = [row["groups"] + [row["attempts"]] for row in broker.cli_json("usage", "--by", "key,purpose")]
        return {purpose: attempts for key_id, purpose, attempts in rows if key_id == key.id}

    until(lambda: told() == {"embedding": 3, "inference": 1})


def test_both_encodings_say_the_same(client: OpenAI) -> None:
    plain = client.embeddings.create(model=EMBEDDING, input="x", encoding_format="float", dimensions=8)
    coded: Any = client.embeddings.create(model=EMBEDDING, input="x", encoding_format="base64", dimensions=8)
    numbers = struct.unpack("<8f", base64.b64decode(coded.data[0].embedding))
    assert all(math.isclose(a, b, rel_tol=1e-5) for a, b in zip(numbers, plain.data[0].embedding, strict=True))


def test_a_plain_completion(client: OpenAI) -> None:
    answer = client.completions.create(model=INSTRUCT, prompt=said(output=12), logprobs=1)
    assert answer.object == "text_completion"
    assert len(answer.choices[0].text) == 48
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].logprobs is not None
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 12


def test_a_completion_ends_where_the_api_would_end_it(client: OpenAI) -> None:
    answer = client.completions.create(model=INSTRUCT, prompt=said(output=100))
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 16


def test_choices_prompts_and_the_best_of_many(client: OpenAI) -> None:
    answer = client.completions.create(model=INSTRUCT, prompt=["a", said(output=5)], n=2, best_of=3, max_tokens=9)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 5 * 2 * 3, "what is not shown is billed"


def test_an_echo(client: OpenAI) -> None:
    prompt = said("Echo this. " * 50, output=3)
    for stream in (False, True):
        if stream:
            chunks = client.completions.create(model=INSTRUCT, prompt=prompt, echo=True, max_tokens=4, stream=True)
            text = "".join(chunk.choices[0].text for chunk in chunks)
        else:
            text = client.completions.create(model=INSTRUCT, prompt=prompt, echo=True, max_tokens=4).choices[0].text
        assert text.startswith(prompt)
        assert len(text) == len(prompt) + 12


def test_a_stream_with_and_without_usage(client: OpenAI) -> None:
    for options in ({}, {"stream_options": {"include_usage": True}}):
        stream = client.completions.create(
            model=INSTRUCT,
            prompt=said(output=10),
            max_tokens=50,
            stream=True,
            **options,  # type: ignore[call-overload]
        )
        chunks = list(stream)
        assert len("".join(choice.text for chunk in chunks for choice in chunk.choices)) == 40
        assert (chunks[-1].usage is not None) == bool(options)


def test_a_stream_is_cut_at_its_allowance(client: OpenAI) -> None:
    prompt = said(output=5000, ignore_max_tokens=True)
    chunks = list(client.completions.create(model=INSTRUCT, prompt=prompt, max_tokens=10, stream=True))
    assert chunks[-1].choices[0].finish_reason == "length"
    assert len("".join(chunk.choices[0].text for chunk in chunks)) < 10 * 8 + 600


def test_money_of_both_is_settled_to_the_pico(broker: Broker, client: OpenAI, tenants: Tenants) -> None:
    key = tenants.key(budget={"limit_usd": "1"})
    ours, books = as_key(client, key.text), Books(broker.data)
    ours.embeddings.create(model=EMBEDDING, input=["one", said(LONG, input=1234)])
    ours.completions.create(model=INSTRUCT, prompt=said(LONG, input=1235, output=20), n=2, max_tokens=30)
    list(ours.completions.create(model=INSTRUCT, prompt=said(LONG, input=1236, output=20), max_tokens=30, stream=True))
    rows = {row.input_tokens: row for row in books.settled(key.id, 3)}
    charges = {charge.input: charge for charge in read_bill(books.bill_path) if charge.input in rows}
    assert set(rows) == set(charges) == {1234, 1235, 1236}
    for tokens, row in rows.items():
        assert row.exact
        assert row.overage == 0
        assert row.cost == price_of(charges[tokens]) <= row.held


def test_a_call_that_can_never_fit_is_not_sent(client: OpenAI, tenants: Tenants) -> None:
    poor = as_key(client, tenants.key(budget={"limit_usd": "0.000001"}).text)
    asks: list[Any] = [
        lambda: poor.embeddings.create(model=EMBEDDING, input="x" * 100_000),
        lambda: poor.completions.create(model=INSTRUCT, prompt="x", max_tokens=10),
        lambda: poor.completions.create(model=INSTRUCT, prompt="x", max_tokens=1, best_of=20),
    ]
    for ask in asks:
        with pytest.raises(openai.APIStatusError) as raised:
            ask()
        assert (raised.value.status_code, raised.value.code) == (402, "can_never_fit")


def test_a_policy_governs_both(client: OpenAI, tenants: Tenants) -> None:
    key = as_key(client, tenants.key(policy={"purposes": ["inference"], "max_tokens_cap": 7}).text)
    with pytest.raises(openai.PermissionDeniedError) as raised:
        key.embeddings.create(model=EMBEDDING, input="x")
    assert raised.value.code == "purpose_not_allowed"
    raw = key.completions.with_raw_response.create(model=INSTRUCT, prompt=said(output=50), max_tokens=40)
    assert raw.headers["x-bursar-max-tokens-applied"] == "7"
    answer = raw.parse()
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 7
    only = as_key(client, tenants.key(policy={"purposes": ["embedding"]}).text)
    assert only.embeddings.create(model=EMBEDDING, input="x").data
    with pytest.raises(openai.PermissionDeniedError):
        only.completions.create(model=INSTRUCT, prompt="x")


def test_both_kinds_of_model_are_listed(client: OpenAI) -> None:
    assert {EMBEDDING, INSTRUCT} <= {model.id for model in client.models.list()}


@pytest.mark.parametrize(
    ("ask", "code"),
    [
        ({"input": []}, "invalid_field"),
        ({"input": [["x"]]}, "invalid_field"),
        ({"input": "x", "model": "no-such-model"}, "model_not_found"),
    ],
)
def test_refusals_arrive_as_the_sdks_own_errors(client: OpenAI, ask: dict[str, Any], code: str) -> None:
    with pytest.raises((openai.BadRequestError, openai.NotFoundError)) as raised:
        client.embeddings.create(**{"model": EMBEDDING, **ask})
    assert raised.value.code == code

"""What is understood of embeddings and legacy completions, what rewriting changes, and how their usage is read."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.completion_create_params import CompletionCreateParamsBase
from openai.types.embedding_create_params import EmbeddingCreateParams

from bursar.core.calls import Call, Edits
from bursar.core.ceiling import input_ceiling
from bursar.core.errors import Refusal
from bursar.core.prices import Price
from bursar.providers import openai_completions, openai_embeddings
from bursar.providers.emulator.answer import answer
from bursar.providers.emulator.request import Unfit, read_request
from bursar.providers.openai import OpenAI
from bursar.stores.catalogue import load

DIALECT = OpenAI()
NOW = 1_795_000_000 * 10**9
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
TOKENS = st.lists(st.integers(0, 200_000), min_size=1, max_size=30)
PROMPTS = TEXTS | st.lists(TEXTS, min_size=1, max_size=5) | TOKENS | st.lists(TOKENS, min_size=1, max_size=5)


def completion(**fields: Any) -> Call:
    return DIALECT.understand("completions", json.dumps({"model": "m", "prompt": "Say", **fields}).encode())


def embedding(**fields: Any) -> Call:
    return DIALECT.understand("embeddings", json.dumps({"model": "m", "input": "Say", **fields}).encode())


def word_of(route: str, **fields: Any) -> str:
    with pytest.raises(Refusal) as raised:
        DIALECT.understand(route, json.dumps({"model": "m", **fields}).encode())
    return raised.value.word


def priced(model: str) -> Price:
    price = load().find("openai", model, NOW)
    assert price is not None
    return price


def test_every_field_of_the_sdk_is_classified() -> None:
    assert set(CompletionCreateParamsBase.__annotations__) | {"stream"} <= openai_completions._KNOWN
    assert set(EmbeddingCreateParams.__annotations__) <= openai_embeddings._KNOWN
    assert completion(prompt_embeds="AAAA").unknown_fields == ("prompt_embeds",)
    assert embedding(messages=[]).unknown_fields == ("messages",)


def test_a_completion_without_a_cap_gets_the_apis_own() -> None:
    call = completion()
    assert (call.max_tokens, call.max_tokens_field, call.n, call.prompts) == (16, "max_tokens", 1, 1)
    assert json.loads(DIALECT.rewrite(call, Edits()))["max_tokens"] == 16, "servers differ in what they write without"
    capped = completion(max_tokens=9)
    assert DIALECT.rewrite(capped, Edits()) is capped.body
    assert json.loads(DIALECT.rewrite(capped, Edits(max_tokens=5)))["max_tokens"] == 5


@pytest.mark.parametrize(
    ("fields", "prompts", "choices"),
    [
        ({"prompt": "x"}, 1, 1),
        ({"prompt": ["x", "y", "z"]}, 3, 3),
        ({"prompt": [1, 2, 3]}, 1, 1),
        ({"prompt": [[1, 2], [3]], "n": 2}, 2, 4),
        ({"prompt": "x", "n": 2, "best_of": 5}, 1, 5),
        ({"prompt": ["x", "y"], "best_of": 3}, 2, 6),
        ({"prompt": None}, 1, 1),
    ],
)
def test_each_prompt_is_answered_and_the_best_of_many_are_all_billed(
    fields: dict[str, Any], prompts: int, choices: int
) -> None:
    call = completion(**fields)
    assert (call.prompts, call.n) == (prompts, choices)


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": {}},
        {"prompt": []},
        {"prompt": [[1], "x"]},
        {"prompt": ["x", 1]},
        {"prompt": [1.5]},
        {"prompt": "x", "n": 3, "best_of": 2},
        {"prompt": "x", "best_of": 0},
        {"prompt": "x", "max_tokens": -1},
        {"prompt": "x", "max_completion_tokens": 9},
        {"prompt": "x", "models": ["dear"]},
        {"prompt": "x", "stop": 4},
        {"prompt": "x", "echo": "yes"},
        {"prompt": "x", "suffix": 4},
    ],
)
def test_what_a_completion_may_not_say(fields: dict[str, Any]) -> None:
    assert word_of("completions", **fields) == "invalid_field"


@pytest.mark.parametrize(
    "fields",
    [{}, {"input": None}, {"input": []}, {"input": {"image": "x"}}, {"input": [{"image": "x"}]}, {"input": [True]}],
)
def test_what_cannot_be_embedded(fields: dict[str, Any]) -> None:
    assert word_of("embeddings", **fields) == "invalid_field"


@pytest.mark.parametrize("route", ["completions", "embeddings"])
def test_a_governed_key_stands_once(route: str) -> None:
    for body in (
        b'{"model":"m","model":"n","input":"x","prompt":"x"}',
        b'{"model":"m","Input":"x","Prompt":"x","input":"x"}',
    ):
        with pytest.raises(Refusal) as raised:
            DIALECT.understand(route, body)
        assert raised.value.word == "duplicate_field"


@given(st.sampled_from(["completions", "embeddings"]), st.binary(max_size=60))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_refused(route: str, data: bytes) -> None:
    with pytest.raises(Refusal):
        DIALECT.understand(route, data)


@given(PROMPTS, st.booleans())
@settings(max_examples=300, deadline=None)
def test_the_input_ceiling_is_never_below_what_is_billed(prompts: Any, ascii_only: bool) -> None:
    for route, field, model in (
        ("embeddings", "input", "text-embedding-3-small"),
        ("completions", "prompt", "gpt-3.5-turbo-instruct"),
    ):
        body = json.dumps({"model": model, field: prompts}, ensure_ascii=ascii_only).encode()
        call = DIALECT.understand(route, body)
        request = read_request("0" * 24, route, "", b"", body, 0)  # type: ignore[arg-type]
        assert request.input_tokens <= call.input_bytes <= input_ceiling(call, priced(model))
        assert call.prompt_chars <= max(len(body), 8 * call.token_ids)
        assert call.token_ids <= request.input_tokens


@pytest.mark.parametrize(("route", "field"), [("completions", "prompt"), ("embeddings", "input")])
@pytest.mark.parametrize("prompts", [[7] * 100, [[7] * 60, [7] * 40], [[100_000] * 100]])
def test_ids_of_tokens_count_as_what_they_can_stand_for(route: str, field: str, prompts: Any) -> None:
    """A digit and a comma are not all the text that a token is."""
    body = json.dumps({"model": "m", field: prompts}).encode()
    call = DIALECT.understand(route, body)
    assert (call.token_ids, call.prompt_chars) == (100, 800)
    assert call.rough_tokens >= 100
    as_text = DIALECT.understand(route, json.dumps({"model": "m", field: ["text"] * 100}).encode())
    assert as_text.token_ids == 0


def test_a_suffix_is_text_beside_ids() -> None:
    call = DIALECT.understand("completions", b'{"model":"m","prompt":[1,2],"suffix":"end"}')
    assert call.prompt_chars == 16 + len('"end"')


def test_each_prompt_has_a_context_window_of_its_own() -> None:
    price = priced("text-embedding-3-small")
    window = price.context_window
    assert window is not None
    one, many = embedding(input="x" * 100_000), embedding(input=["x" * 10_000] * 10)
    assert input_ceiling(one, price) == window
    assert input_ceiling(many, price) == 10 * window
    assert len(json.loads(embedding(input=[[1] * 9_000] * 3).body)["input"]) == 3


def test_embeddings_need_no_cap() -> None:
    call = embedding(user="ada", dimensions=64)
    assert (call.max_tokens, call.writes, call.purpose, call.user) == (0, False, "embedding", "ada")
    assert DIALECT.rewrite(call, Edits()) is call.body
    assert json.loads(DIALECT.rewrite(call, Edits(model="theirs"))) == {
        "model": "theirs",
        "input": "Say",
        "user": "ada",
        "dimensions": 64,
    }


@given(
    PROMPTS,
    st.integers(0, 60),
    st.integers(1, 80),
    st.integers(1, 3),
    st.booleans(),
    st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_what_is_billed_is_what_is_read(
    prompts: Any, output: int, cap: int, choices: int, echo: bool, stream: bool
) -> None:
    fields = {"model": "m", "prompt": prompts, "max_tokens": cap, "n": choices, "echo": echo, "stream": stream}
    body = json.dumps({**fields, "stream_options": {"include_usage": True}}).encode()
    call = DIALECT.understand("completions", body)
    header = json.dumps({"output": output}).encode()
    given = answer(read_request("0" * 24, "completions", "", header, body, 0))
    assert given.counts is not None
    assert given.counts.output <= cap * call.n
    payload = b"".join(step.data for step in given.steps)
    if stream:
        meter = DIALECT.stream_meter(call, Edits())
        for event in payload.partition(b"\r\n\r\n")[2].split(b"\r\n"):
            if event.startswith(b"data"):
                meter.feed(event)
        usage, visible = meter.usage, meter.visible_bytes
        assert meter.ended
        assert meter.invalid == ""
    else:
        usage, visible, reason = DIALECT.read_usage(call, payload.partition(b"\r\n\r\n")[2])
        assert reason == ""
    assert usage is not None
    if given.counts.input:
        assert (usage.input_tokens, usage.output_tokens) == (given.counts.input, given.counts.output)
    assert given.counts.output * 4 <= visible <= given.counts.output * 4 + call.echo_bytes


@pytest.mark.parametrize(
    ("usage", "tokens", "reason"),
    [
        ({"prompt_tokens": 7, "total_tokens": 7}, 7, ""),
        ({"total_tokens": 7}, 7, ""),
        ({"prompt_tokens": 7}, 7, ""),
        ({"prompt_tokens": 5, "total_tokens": 7}, 7, ""),
        ({"prompt_tokens": -7, "total_tokens": 7}, None, "negative"),
        ({"prompt_tokens": 10**12, "total_tokens": 7}, None, "too_large"),
        ({"prompt_tokens": 0, "total_tokens": 0}, None, "zero_with_output"),
        ({"prompt_tokens": "seven"}, None, "unreadable"),
        ({}, None, "missing"),
        (None, None, "missing"),
    ],
)
def test_usage_of_embeddings(usage: Any, tokens: int | None, reason: str) -> None:
    whole = {"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": [0.1]}], "usage": usage}
    read, visible, why = DIALECT.read_usage(embedding(), json.dumps(whole).encode())
    assert (None if read is None else read.input_tokens, visible, why) == (tokens, 0, reason)
    assert DIALECT.read_usage(embedding(), b"no json")[2] == "unreadable"


def test_usage_of_a_completion_that_is_not_believed() -> None:
    call = completion()
    for usage, why in (
        (None, "missing"),
        ({"prompt_tokens": 3, "completion_tokens": 0}, "zero_with_output"),
        ({"prompt_tokens": 3, "completion_tokens": -1}, "negative"),
    ):
        whole = {"choices": [{"text": "four score", "index": 0}], "usage": usage}
        read, visible, reason = DIALECT.read_usage(call, json.dumps(whole).encode())
        assert (read, visible, reason) == (None, 10, why)
    assert DIALECT.read_usage(call, b'{"choices":[{"text":5}]}') == (None, len(b'[{"text":5}]'), "missing")


def test_an_echo_is_no_output() -> None:
    call = completion(prompt="x" * 4000, echo=True)
    whole = {"choices": [{"text": "x" * 4000, "index": 0}], "usage": {"prompt_tokens": 500, "completion_tokens": 0}}
    usage, visible, reason = DIALECT.read_usage(call, json.dumps(whole).encode())
    assert usage is not None
    assert (usage.output_tokens, visible, reason) == (0, 4000, "")


def test_a_cut_stream_ends_in_its_own_shape() -> None:
    meter = DIALECT.stream_meter(completion(stream=True, n=2), Edits())
    meter.feed(b'data: {"id":"cmpl-1","object":"text_completion","choices":[{"text":"a","index":0}]}\n\n')
    last, end = meter.cut("allowance_reached", "too much").split(b"\n\n")[:2]
    told = json.loads(last[6:])
    assert (told["id"], told["object"], end) == ("cmpl-1", "text_completion", b"data: [DONE]")
    assert [choice["finish_reason"] for choice in told["choices"]] == ["length", "length"]


@pytest.mark.parametrize(
    ("route", "fields"),
    [
        ("completions", {"prompt": "x", "best_of": 3, "n": 4}),
        ("completions", {"prompt": "x", "best_of": 3, "stream": True}),
        ("completions", {"prompt": {}}),
        ("embeddings", {}),
        ("embeddings", {"input": []}),
        ("embeddings", {"input": ["x", 1]}),
        ("chat", {}),
    ],
)
def test_the_emulator_refuses_what_a_provider_refuses(route: Any, fields: dict[str, Any]) -> None:
    with pytest.raises(Unfit):
        read_request("0" * 24, route, "", b"", json.dumps({"model": "m", **fields}).encode(), 0)

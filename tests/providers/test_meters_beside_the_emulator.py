"""The two sides of the money, compared without a socket: what the emulator bills is what the dialects read."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.core.calls import Edits
from bursar.core.prices import decompose
from bursar.providers.anthropic import Anthropic
from bursar.providers.emulator import anthropic_answers, openai_answers
from bursar.providers.emulator.counts import count
from bursar.providers.emulator.generation import generate, words
from bursar.providers.emulator.request import Request, read_request
from bursar.providers.emulator.sample import sample
from bursar.providers.openai import OpenAI

SCRIPTS = st.fixed_dictionaries(
    {},
    optional={
        "input": st.integers(1, 5000),
        "output": st.integers(0, 60),
        "reasoning": st.integers(0, 40),
        "cached": st.integers(0, 3000),
        "cache_write": st.integers(0, 3000),
        "cache_write_1h": st.integers(0, 3000),
        "chunks": st.integers(1, 20),
        "searches": st.integers(0, 3),
        "accents": st.booleans(),
        "tool": st.booleans(),
    },
)
TOOL = {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "number"}}}}


def asked(route: str, script: dict[str, Any], fields: dict[str, Any]) -> tuple[bytes, Request]:
    text = f"é [[emulator {json.dumps(script)}]]"
    tool = {"name": "f", "input_schema": TOOL}
    if route == "chat":
        tool = {"type": "function", "function": {"name": "f", "parameters": TOOL}}
        fields = {**fields, "stream_options": {"include_usage": True}}
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": text}], "tools": [tool], **fields})
    return body.encode(), read_request("0" * 24, route, "", b"", body.encode(), 0)  # type: ignore[arg-type]


@given(SCRIPTS, st.integers(1, 80), st.integers(1, 3), st.booleans(), st.booleans())
@settings(max_examples=200, deadline=None)
def test_what_is_billed_is_what_is_read(
    script: dict[str, Any], cap: int, choices: int, openai: bool, thinking: bool
) -> None:
    route = "chat" if openai else "messages"
    fields: dict[str, Any] = {"max_tokens": cap, "stream": True}
    if openai:
        fields["n"] = choices
    elif thinking:
        fields["thinking"] = {"type": "enabled", "budget_tokens": 1024}
    dialect: Any = OpenAI() if openai else Anthropic()
    shape = openai_answers if openai else anthropic_answers
    body, request = asked(route, script, fields)
    generation = generate(request)
    counts = count(request, generation, choices if openai else 1)
    assert counts.output <= cap * (choices if openai else 1)
    call = dialect.understand(route, body)
    assert request.input_tokens == script.get("input", request.input_tokens) <= max(call.input_bytes, 5000)
    meter = dialect.stream_meter(call, Edits())
    for event in shape.events(request, generation, counts):
        meter.feed(event.data)
    whole, _, _ = dialect.read_usage(call, shape.whole(request, generation, counts))
    for usage in (meter.usage, whole):
        if counts.output == 0 and generation.tool:
            continue  # a tool was named although no token is billed: that is not believed
        assert usage is not None
        written = counts.cache_write_5m + counts.cache_write_1h
        assert (usage.input_tokens, usage.output_tokens) == (counts.input, counts.output)
        assert (usage.cache_read, usage.cache_write_5m + usage.cache_write_1h) == (counts.cached, written)
        assert usage.reasoning == counts.reasoning
        decompose(usage)
    if not generation.tool:
        each = len(generation.text.encode()) + len(generation.thought.encode())
        assert meter.visible_bytes == each * (choices if openai else 1)
    assert meter.ended


@given(st.integers(0, 3000), st.integers(0, 50), st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_token_is_four_bytes(tokens: int, offset: int, accents: bool) -> None:
    assert len(words(tokens, offset, accents).encode()) == tokens * 4


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "string"}, "text"),
        ({"enum": [3, 4]}, 3),
        ({"const": "x"}, "x"),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, None),
        ({"type": ["number", "null"]}, 1.5),
        ({"type": "array", "items": {"type": "boolean"}}, [True]),
        ({"$ref": "#/$defs/A", "$defs": {"A": {"type": "integer"}}}, 7),
        ({}, {}),
    ],
)
def test_samples_fit_their_schema(schema: dict[str, Any], value: Any) -> None:
    assert sample(schema) == value


def test_a_schema_that_holds_itself_ends() -> None:
    node: dict[str, Any] = {"type": "object", "properties": {"next": {"$ref": "#"}}}
    assert json.dumps(sample(node))

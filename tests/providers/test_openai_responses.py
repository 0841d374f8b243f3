"""Responses: what a body may say, what it can cost, which ids it names; and the meter over every framing and break."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.responses.response_create_params import ResponseCreateParamsBase

from bursar.core.calls import Call, Edits, Usage
from bursar.core.ceiling import unbounded_reason
from bursar.core.errors import Refusal
from bursar.core.made_ids import Reference
from bursar.core.prices import Price
from bursar.providers.emulator.answer import answer
from bursar.providers.emulator.request import read_request
from bursar.providers.openai import OpenAI
from bursar.providers.openai_responses import _KNOWN
from bursar.stores.catalogue import load
from bursar.wire.sse import EventSplitter

OPENAI = OpenAI()
# What the SDK knows and nobody has classified: each counts as a field that could raise the price.
UNCLASSIFIED = {"access_programs", "background_options", "context_management", "image", "moderation"}


def understood(**fields: Any) -> Call:
    return OPENAI.understand("responses", json.dumps({"model": "gpt-4o-mini", "input": "hi", **fields}).encode())


def refused(**fields: Any) -> str:
    with pytest.raises(Refusal) as refusal:
        understood(**fields)
    return refusal.value.word


def priced(model: str = "gpt-4o-mini") -> Price:
    found = load().find("openai", model, 1_800_000_000 * 10**9)
    assert found is not None
    return found


def test_every_field_of_the_sdk_is_classified() -> None:
    assert set(ResponseCreateParamsBase.__annotations__) - _KNOWN <= UNCLASSIFIED
    assert set(understood(access_programs={}).unknown_fields) == {"access_programs"}


@pytest.mark.parametrize(
    ("fields", "reason", "references"),
    [
        ({"previous_response_id": "resp_1"}, "response_id", [("response", "resp_1")]),
        ({"conversation": "conv_1"}, "conversation_id", [("conversation", "conv_1")]),
        ({"conversation": {"id": "conv_1"}}, "conversation_id", [("conversation", "conv_1")]),
        ({"prompt": {"id": "pmpt_1"}}, "item_id", [("item", "pmpt_1")]),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "item_id", [("item", "msg_1")]),
        ({"input": [{"id": "msg_1"}]}, "item_id", [("item", "msg_1")]),
        ({"input": [{"type": "reasoning", "id": "rs_1", "summary": []}]}, "item_id", [("item", "rs_1")]),
        ({"input": [{"type": "reasoning", "id": "rs_1", "encrypted_content": "x"}]}, "", []),
        ({"input": [{"type": "image_generation_call", "id": "ig_1"}]}, "item_id", [("item", "ig_1")]),
        ({"input": [{"type": "message", "id": "msg_1", "role": "assistant", "content": "said"}]}, "", []),
        ({"input": [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}]}, "", []),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "file-1"}]}]},
            "file_id",
            [("file", "file-1")],
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "file-1"}]}]},
            "file_id",
            [("file", "file-1")],
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "u"}]}]},
            "image_url",
            [],
        ),
        ({"input": [{"role": "user", "content": [{"type": "input_file", "file_url": "https://a"}]}]}, "file_url", []),
        (
            {
                "input": [
                    {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_file", "file_id": "f"}]}
                ]
            },
            "file_id",
            [("file", "f")],
        ),
        (
            {
                "input": [
                    {
                        "type": "computer_call_output",
                        "call_id": "c",
                        "output": {"type": "screen", "file_id": "f"},
                    }
                ]
            },
            "file_id",
            [("file", "f")],
        ),
        ({"tools": [{"type": "file_search", "vector_store_ids": ["vs_1"]}]}, "file_search", [("item", "vs_1")]),
        ({"tools": [{"type": "code_interpreter", "container": "cntr_1"}]}, "code_interpreter", [("item", "cntr_1")]),
        (
            {"tools": [{"type": "code_interpreter", "container": {"type": "auto", "file_ids": ["file-1"]}}]},
            "code_interpreter",
            [("file", "file-1")],
        ),
    ],
)
def test_what_is_named_by_its_id_comes_from_outside(
    fields: dict[str, Any], reason: str, references: list[Reference]
) -> None:
    call = understood(**fields)
    assert call.external_input == reason
    assert list(call.refers) == references


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"background": True}, "background"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"tools": [{"type": "web_search"}]}, "without limit"),
        ({"tools": [{"type": "mcp", "server_label": "x", "server_url": "https://x"}], "max_tool_calls": 1}, "no price"),
        ({"tools": [{"type": "namespace", "tools": [{"type": "code_interpreter", "container": {}}]}]}, "without limit"),
        ({"input": [{"type": "additional_tools", "tools": [{"type": "web_search"}]}]}, "without limit"),
        ({"input": [{"type": "program", "id": "x"}]}, "not known"),
        ({"image": {"x": 1}}, "not known"),
    ],
)
def test_what_has_no_finite_cost(fields: dict[str, Any], told: str) -> None:
    assert told in unbounded_reason(understood(**fields), priced(), 100)


def test_a_plain_one_has() -> None:
    function = {"type": "function", "name": "f", "parameters": {}}
    call = understood(tools=[function], text={"format": {"type": "text"}}, metadata={}, truncation="auto", store=False)
    assert unbounded_reason(call, priced(), 100) == ""
    assert not call.keeps


@pytest.mark.parametrize(
    "fields",
    [
        {"max_tokens": 5},
        {"max_completion_tokens": 5},
        {"max_output_tokens": -1},
        {"max_output_tokens": "many"},
        {"models": ["a"]},
        {"previous_response_id": 7},
        {"conversation": {"id": 7}},
        {"background": "yes"},
        {"tools": {"type": "web_search"}},
        {"input": {"role": "user"}},
        {"input": [{"type": "item_reference"}]},
        {"input": [{"type": "item_reference", "id": f"i{n}"} for n in range(300)]},
    ],
)
def test_what_a_body_may_not_say(fields: dict[str, Any]) -> None:
    assert refused(**fields) == "invalid_field"


def test_a_governed_key_stands_once() -> None:
    for body in (
        b'{"model":"m","input":"x","max_output_tokens":5,"max_output_tokens":9}',
        b'{"model":"m","input":"x","previous_response_id":"a","Previous_Response_Id":"b"}',
        b'{"model":"m","input":[{"role":"user","content":[{"type":"input_file","file_id":"a","file_id":"b"}]}]}',
    ):
        with pytest.raises(Refusal) as refusal:
            OPENAI.understand("responses", body)
        assert refusal.value.word == "duplicate_field"


NAMES = ["type", "id", "role", "content", "output", "file_id", "tools", "container", "image_url", "summary", "text"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=12,
)
FIELDS = ["input", "tools", "conversation", "previous_response_id", "prompt", "reasoning", "background", "stream"]


@given(st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4))
@settings(max_examples=300, deadline=None)
def test_any_body_is_understood_or_refused_and_no_file_id_is_overlooked(fields: dict[str, Any]) -> None:
    words = []
    try:
        call = understood(**fields)
    except Refusal as refusal:
        words.append(refusal.word)
    assert set(words) <= {"invalid_field", "malformed_request", "duplicate_field"}
    if words:
        return
    for item in fields["input"] if isinstance(fields.get("input"), list) else []:
        content = item.get("content") if isinstance(item, dict) else None
        for part in content if isinstance(content, list) else []:
            if isinstance(part.get("file_id"), str):
                assert ("file", part["file_id"]) in call.refers


@given(st.binary(max_size=80))
@settings(max_examples=150, deadline=None)
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(Refusal):
        OPENAI.understand("responses", data)


def test_policy_edits_go_into_the_right_fields() -> None:
    call = understood(tools=[{"type": "web_search"}])
    sent = json.loads(OPENAI.rewrite(call, Edits(model="m2", max_tokens=7, tool_uses_cap=3, stop=("x",))))
    assert sent == {
        "model": "m2",
        "input": "hi",
        "tools": [{"type": "web_search"}],
        "max_output_tokens": 7,
        "max_tool_calls": 3,
    }
    assert OPENAI.rewrite(call, Edits()) is call.body


# ---- the meter -------------------------------------------------------------------------------------------------------


def emulated(stream: bool = True, **script: Any) -> tuple[list[bytes], Any]:
    """The events of a response as the emulator sends it, and what it counts."""
    body = json.dumps({"model": "m", "input": "x" * 400, "stream": stream}).encode()
    given_answer = answer(read_request("0" * 24, "responses", "", json.dumps(script).encode(), body, 0))
    wire = b"".join(step.data for step in given_answer.steps)
    raw = wire.split(b"\r\n\r\n", 1)[1]
    if not stream:
        return [raw], given_answer.counts
    data = b""
    while raw:
        size, _, raw = raw.partition(b"\r\n")
        data, raw = data + raw[: int(size, 16)], raw[int(size, 16) + 2 :]
    return EventSplitter().feed(data), given_answer.counts


SCRIPTS = st.fixed_dictionaries(
    {
        "output": st.integers(0, 40),
        "reasoning": st.integers(0, 20),
        "cached": st.integers(0, 50),
        "searches": st.integers(0, 2),
        "accents": st.booleans(),
        "chunks": st.integers(1, 9),
    }
)


@given(SCRIPTS, st.booleans())
@settings(max_examples=80, deadline=None)
def test_what_is_billed_is_what_is_read(script: dict[str, Any], stream: bool) -> None:
    call = understood(stream=stream, tools=[{"type": "web_search"}])
    events, counts = emulated(stream, **script)
    if stream:
        meter = OPENAI.stream_meter(call, Edits())
        assert b"".join(map(meter.feed, events)) == b"".join(events)
        usage, visible = meter.usage, meter.visible_bytes
        assert meter.ended
        assert next(iter(meter.made)) == ("response", f"resp_{'0' * 24}")
        assert set(meter.made) == set(OPENAI.made(call, emulated(False, **script)[0][0]))
    else:
        usage, visible, reason = OPENAI.read_usage(call, events[0])
        assert reason == ""
    searches = (("web_search", counts.searches),) if counts.searches else ()
    assert usage == Usage(
        input_tokens=counts.input,
        output_tokens=counts.output,
        cache_read=counts.cached,
        reasoning=counts.reasoning,
        tool_uses=searches,
        service_tier="default",
    )
    assert visible == 4 * (counts.output - counts.reasoning)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_stream_that_breaks_anywhere_has_counted_what_was_seen(data: st.DataObject) -> None:
    events, _ = emulated(output=20)
    meter = OPENAI.stream_meter(understood(stream=True), Edits())
    count = data.draw(st.integers(0, len(events) - 1))
    for event in events[:count]:
        meter.feed(event)
    seen = sum(len(json.loads(one.split(b"data: ")[1]).get("delta", "")) for one in events[:count])
    assert meter.visible_bytes == seen
    assert meter.usage is None
    closing = meter.cut("allowance_reached", "why").split(b"data: ")[1]
    told = json.loads(closing)
    assert (told["type"], told["response"]["status"]) == ("response.incomplete", "incomplete")


@pytest.mark.parametrize("lie", ["negative", "huge", "missing", "zero", "text"])
def test_a_lie_is_not_believed(lie: str) -> None:
    events, _ = emulated(output=20, usage=lie)
    meter = OPENAI.stream_meter(understood(stream=True), Edits())
    for event in events:
        meter.feed(event)
    assert meter.usage is None
    assert meter.invalid
    assert meter.visible_bytes == 80


def test_text_that_comes_only_when_an_item_is_done_is_output_too() -> None:
    events, _ = emulated(output=20)
    meter = OPENAI.stream_meter(understood(stream=True), Edits())
    for event in events:
        if b"output_text.delta" not in event:
            meter.feed(event)
    assert meter.visible_bytes == 80


@given(st.lists(st.binary(max_size=60), max_size=5))
@settings(max_examples=100, deadline=None)
def test_garbage_neither_passes_for_usage_nor_stops_the_meter(pieces: list[bytes]) -> None:
    meter = OPENAI.stream_meter(understood(stream=True), Edits())
    for piece in pieces:
        event = b"data: " + piece.replace(b"\n", b" ") + b"\n\n"
        assert meter.feed(event) == event
    assert meter.usage is None


def test_nothing_is_made_by_what_is_not_stored() -> None:
    events, _ = emulated()
    meter = OPENAI.stream_meter(understood(stream=True, store=False), Edits())
    for event in events:
        meter.feed(event)
    assert list(meter.made) == []

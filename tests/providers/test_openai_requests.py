"""What is understood of a chat body, and what rewriting it changes."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat.completion_create_params import CompletionCreateParamsBase

from bursar.core.calls import Call, Edits
from bursar.core.errors import Refusal
from bursar.providers import openai_chat as dialect_module
from bursar.providers.openai import OpenAI

DIALECT = OpenAI()
SAY_HI = [{"role": "user", "content": "hi"}]


def understand(**fields: Any) -> Call:
    body = {"model": "gpt-x", "messages": SAY_HI, **fields}
    return DIALECT.understand("chat", json.dumps(body, ensure_ascii=False).encode())


def part(**fields: Any) -> Call:
    return understand(messages=[{"role": "user", "content": [{"type": "text", "text": "see"}, fields]}])


def refused(body: str) -> str:
    with pytest.raises(Refusal) as raised:
        DIALECT.understand("chat", body.encode())
    return raised.value.word


def test_every_field_of_the_sdk_is_classified() -> None:
    fields = set(CompletionCreateParamsBase.__annotations__) | {"stream"}
    assert fields - dialect_module._KNOWN == {"moderation"}  # its price is not known: reported, not waved through
    assert understand(moderation={"model": "m"}).unknown_fields == ("moderation",)


def test_a_plain_call() -> None:
    call = understand(temperature=0.5, max_tokens=100, stream=True, n=3, user="ada")
    assert (call.model, call.stream, call.n, call.messages, call.user) == ("gpt-x", True, 3, 1, "ada")
    assert (call.max_tokens, call.max_tokens_field) == (100, "max_tokens")
    assert (call.external_input, call.unbounded, call.unknown_fields, call.server_tools) == ("", "", (), ())
    assert not call.wants_usage
    assert call.input_bytes == len(call.body)


@pytest.mark.parametrize(
    ("given_caps", "cap", "field"),
    [
        ({}, None, ""),
        ({"max_tokens": 5}, 5, "max_tokens"),
        ({"max_completion_tokens": 5}, 5, "max_completion_tokens"),
        ({"max_tokens": 9, "max_completion_tokens": 5}, 9, "max_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 9}, 9, "max_completion_tokens"),
        ({"max_tokens": None, "max_completion_tokens": 9}, 9, "max_completion_tokens"),
        ({"max_tokens": None}, None, ""),
    ],
)
def test_the_largest_explicit_cap_binds(given_caps: dict[str, Any], cap: int | None, field: str) -> None:
    call = understand(**given_caps)
    assert (call.max_tokens, call.max_tokens_field) == (cap, field)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"type": "image_url", "image_url": {"url": "https://x/y.png"}}, "image_url"),
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}, "image"),
        ({"type": "image_url", "image_url": "https://x/y.png"}, "image_url"),
        ({"type": "text", "text": "x", "image_url": {"url": "https://x"}}, "image_url"),
        ({"type": "file", "file": {"file_id": "file-1"}}, "file_id"),
        ({"type": "file", "file": {"file_data": "AAAA", "filename": "x.pdf"}}, "file"),
        ({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}, "input_audio"),
        ({"type": "video_url", "video_url": {"url": "https://x"}}, "content_type"),
    ],
)
def test_input_that_the_body_does_not_bound(fields: dict[str, Any], reason: str) -> None:
    assert part(**fields).external_input == reason


def test_an_escaped_spelling_hides_nothing() -> None:
    body = '{"model":"m","messages":[{"role":"user","content":[{"type":"image_url","\\u0069mage_url":{"url":"https://x"}}]}]}'
    assert DIALECT.understand("chat", body.encode()).external_input == "image_url"


def test_inline_media_does_not_count_as_text() -> None:
    call = part(type="image_url", image_url={"url": "data:image/png;base64," + "A" * 500_000})
    assert call.input_bytes < 20_000


def test_audio() -> None:
    assert part(type="input_audio", input_audio={"data": "AAAA", "format": "wav"}).audio
    assert understand(modalities=["text", "audio"]).audio
    assert understand(audio={"voice": "alloy", "format": "mp3"}).audio
    spoken = understand(messages=[{"role": "assistant", "audio": {"id": "audio_1"}}])
    assert (spoken.audio, spoken.external_input) == (True, "audio_id")
    assert not understand(modalities=["text"]).audio


def test_what_has_no_finite_ceiling() -> None:
    searching = understand(web_search_options={})
    assert searching.unbounded == "web_search_options"
    assert [tool.name for tool in searching.server_tools] == ["web_search"]
    assert understand(prediction={"type": "content", "content": "x"}).unbounded == "prediction"
    assert understand(tools=[{"type": "mcp", "server_url": "https://x"}]).unbounded == "mcp"
    assert not understand(tools=[{"type": "function", "function": {"name": "f"}}]).unbounded
    assert not understand(tools=[{"type": "custom", "custom": {"name": "f"}}]).server_tools


def test_other_facts() -> None:
    assert understand(reasoning_effort="high").reasoning
    assert not understand(reasoning_effort="none").reasoning
    assert understand(service_tier="flex").service_tier == "flex"
    assert understand(stream_options={"include_usage": True}).wants_usage
    assert understand(prompt_cache_retention="24h").cache_write == "1h"
    assert understand(safety_identifier="u1").user == "u1"
    assert understand(background=True, zap=1).unknown_fields == ("background", "zap")
    assert understand(messages=[{"role": "user", "content": "x", "attachments": []}]).unknown_fields == (
        "messages[].attachments",
    )


@pytest.mark.parametrize("name", ["models", "fallbacks"])
def test_a_list_of_other_models_is_refused(name: str) -> None:
    with pytest.raises(Refusal) as raised:
        understand(**{name: ["gpt-dear"]})
    assert raised.value.word == "invalid_field"


@pytest.mark.parametrize(
    "fields",
    [
        {"model": 1},
        {"model": ""},
        {"model": None},
        {"messages": "hi"},
        {"messages": None},
        {"messages": [1]},
        {"messages": [{"role": "user", "content": {"type": "text"}}]},
        {"max_tokens": "100"},
        {"max_tokens": 1.5},
        {"max_tokens": -1},
        {"max_tokens": True},
        {"n": 0},
        {"n": "3"},
        {"stream": "true"},
        {"stream": 1},
        {"stream_options": []},
        {"stream_options": {"include_usage": 1}},
        {"stop": [1]},
        {"tools": {}},
        {"user": 1},
        {"service_tier": 1},
        {"modalities": "audio"},
    ],
)
def test_wrong_kinds(fields: dict[str, Any]) -> None:
    assert refused(json.dumps({"model": "m", "messages": SAY_HI, **fields})) == "invalid_field"


@pytest.mark.parametrize(
    "tail",
    [
        '"max_tokens":1,"max_tokens":9',
        '"max_tokens": 1, "max_tokens": 9',
        '"max_tokens":1,"Max_Tokens":9',
        '"MAX_COMPLETION_TOKENS":9',
        '"max_\\u0074okens":1,"max_tokens":9',
        '"stream_options":{"include_usage":true,"include_usage":false}',
        '"stream_options":{"Include_Usage":true}',
        '"tools":[{"type":"function","type":"mcp"}]',
        '"tools":[{"Type":"mcp"}]',
        '"messages":[{"role":"user","content":"a","content":"b"}]',
        '"temperature":1,"temperature":2',
    ],
)
def test_duplicates_and_case_collisions(tail: str) -> None:
    head = '{"model":"m",' if '"messages"' in tail else '{"model":"m","messages":[{"role":"user","content":"x"}],'
    assert refused(head + tail + "}") == "duplicate_field"


def test_duplicates_inside_parts() -> None:
    for inner in ('"type":"text","text":"a","type":"image_url"', '"type":"text","Image_Url":{"url":"x"}'):
        body = '{"model":"m","messages":[{"role":"user","content":[{' + inner + "}]}]}"
        assert refused(body) == "duplicate_field"


def test_characters_are_counted_whatever_the_spelling() -> None:
    text = "日本語のテキスト" * 50
    overhead = len('[{"role": "user", "content": ""}]')
    plain = understand(messages=[{"role": "user", "content": text}])
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": text}]}).encode()  # as \\uXXXX
    escaped = DIALECT.understand("chat", body)
    assert plain.prompt_chars == escaped.prompt_chars == len(text) + overhead
    tricky = understand(messages=[{"role": "user", "content": "\\u0041 is not an escape " * 9}])
    assert tricky.prompt_chars >= len("\\u0041 is not an escape " * 9)


# ---- rewriting -------------------------------------------------------------------------------------------------------

STYLES = st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", " : ")])
EXTRA = st.dictionaries(
    st.sampled_from(["temperature", "seed", "metadata", "logit_bias", "x_new", "tools", "response_format"]),
    st.sampled_from([0, 1.0, 1e-7, {"a": [1, {"b": 'é\\ "'}]}]),
)
EDITS = st.builds(
    Edits,
    model=st.none() | st.sampled_from(["gpt-x", "upstream-name"]),
    max_tokens=st.none() | st.integers(0, 5000),
    max_tokens_field=st.sampled_from(["", "max_tokens", "max_completion_tokens"]),
    include_usage=st.booleans(),
    stop=st.lists(st.sampled_from(["A", "B", "\n"]), max_size=3, unique=True).map(tuple),
)


@given(EXTRA, st.fixed_dictionaries({}, optional={
    "max_tokens": st.integers(0, 99), "max_completion_tokens": st.integers(0, 99), "stream": st.booleans(),
    "stop": st.sampled_from(["X", ["X", "A"], ["1", "2", "3", "4"], None]),
    "stream_options": st.sampled_from([None, {"include_usage": False}, {"include_obfuscation": False}]),
}), EDITS, STYLES)  # fmt: skip
@settings(max_examples=300, deadline=None)
def test_rewriting_changes_only_what_it_says(
    extra: dict[str, Any], caps: dict[str, Any], edits: Edits, style: tuple[str, str]
) -> None:
    extra.pop("tools", None)
    fields = {"model": "gpt-x", "messages": SAY_HI, **extra, **caps}
    body = json.dumps(fields, separators=style).encode()
    call = DIALECT.understand("chat", body)
    sent = DIALECT.rewrite(call, edits)
    after = json.loads(sent)
    touched = {"model", "max_tokens", "max_completion_tokens", "stop", "stream_options"}
    assert {k: v for k, v in after.items() if k not in touched} == {k: v for k, v in fields.items() if k not in touched}
    assert [key for key in after if key in fields] == [key for key in fields if key in after]
    assert after["model"] == (edits.model or "gpt-x")
    again = DIALECT.understand("chat", sent)
    if edits.max_tokens is not None:
        assert again.max_tokens == edits.max_tokens
        assert len({"max_tokens", "max_completion_tokens"} & set(after)) == 1
        assert not edits.max_tokens_field or edits.max_tokens_field in after
    else:
        assert again.max_tokens == call.max_tokens
    if edits.include_usage and call.stream:
        assert again.wants_usage
        assert {**(fields.get("stream_options") or {}), "include_usage": True} == after["stream_options"]
    if edits.stop:
        assert set(edits.stop) <= set(after["stop"])
        assert len(after["stop"]) <= 4
    if sent is not body:
        assert sent != body
    if after == fields:
        assert sent is body
    for name, raw in json.loads(body).items():
        if name not in touched:
            assert json.dumps(raw, separators=style).encode() in sent  # values keep their bytes

"""Whole answers: usage as normalised, and every lie found out."""

import json
from typing import Any

import pytest

from bursar.core.calls import Call, Usage
from bursar.core.prices import decompose
from bursar.providers.anthropic import Anthropic
from bursar.providers.openai import OpenAI
from bursar.providers.usage_counts import larger

OPENAI, ANTHROPIC = OpenAI(), Anthropic()
HI = [{"role": "user", "content": "hi"}]


def chat_call(**fields: Any) -> Call:
    return OPENAI.understand("chat", json.dumps({"model": "m", "messages": HI, **fields}).encode())


def message_call(**fields: Any) -> Call:
    return ANTHROPIC.understand("messages", json.dumps({"model": "m", "messages": HI, **fields}).encode())


def read_chat(usage: Any, message: Any = None, **more: Any) -> tuple[Usage | None, int, str]:
    message = message or {"role": "assistant", "content": "four"}
    answer = {"id": "c", "choices": [{"index": 0, "message": message}], **({} if usage is None else {"usage": usage})}
    return OPENAI.read_usage(chat_call(), json.dumps({**answer, **more}).encode())


def read_message(usage: Any, content: Any = None, call: Call | None = None) -> tuple[Usage | None, int, str]:
    content = [{"type": "text", "text": "four"}] if content is None else content
    answer = {"type": "message", "content": content, **({} if usage is None else {"usage": usage})}
    return ANTHROPIC.read_usage(call or message_call(), json.dumps(answer).encode())


def test_openai_details_are_parts_of_their_totals() -> None:
    usage, _, reason = read_chat(
        {
            "prompt_tokens": 100,
            "completion_tokens": 50,
            "total_tokens": 150,
            "prompt_tokens_details": {"cached_tokens": 40, "cache_write_tokens": 10, "audio_tokens": 20},
            "completion_tokens_details": {"reasoning_tokens": 30, "audio_tokens": 5, "text_tokens": 15},
        },
        service_tier="flex",
    )
    assert reason == ""
    assert usage == Usage(
        input_tokens=100, output_tokens=50, cache_read=40, cache_write_5m=10, reasoning=30,
        audio_input=20, audio_output=5, service_tier="flex",
    )  # fmt: skip
    decompose(usage)


@pytest.mark.parametrize(
    ("said", "totals"),
    [
        # reasoning left out of completion_tokens, shown in the total only (xAI), or in the details only
        ({"prompt_tokens": 32, "completion_tokens": 9, "total_tokens": 135,
          "completion_tokens_details": {"reasoning_tokens": 94}}, (32, 103)),
        ({"prompt_tokens": 3, "completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 94}}, (3, 103)),
        ({"prompt_tokens": 32, "completion_tokens": 9, "total_tokens": 135}, (32, 103)),
        # cached input left out of prompt_tokens
        ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 115,
          "prompt_tokens_details": {"cached_tokens": 100}}, (110, 5)),
        ({"prompt_tokens": 100, "completion_tokens": 5, "prompt_cache_hit_tokens": 60}, (100, 5)),
        ({"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": None, "prompt_tokens_details": None}, (7, 5)),
    ],
)  # fmt: skip
def test_what_compatible_servers_count_otherwise(said: dict[str, Any], totals: tuple[int, int]) -> None:
    usage, _, _ = read_chat(said)
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens) == totals
    decompose(usage)


def test_anthropic_input_is_the_inclusive_total() -> None:
    usage, _, reason = read_message(
        {
            "input_tokens": 100,
            "cache_creation_input_tokens": 30,
            "cache_read_input_tokens": 20,
            "cache_creation": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20},
            "output_tokens": 50,
            "output_tokens_details": {"thinking_tokens": 15},
            "server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 0},
            "service_tier": "priority",
        }
    )
    assert reason == ""
    assert usage == Usage(
        input_tokens=150, output_tokens=50, cache_read=20, cache_write_5m=10, cache_write_1h=20, reasoning=15,
        tool_uses=(("web_search", 2),), service_tier="priority",
    )  # fmt: skip
    decompose(usage)


def test_a_cache_write_without_a_split_has_the_life_the_body_asked_for() -> None:
    said = {"input_tokens": 1, "cache_creation_input_tokens": 9, "output_tokens": 5}
    hour = message_call(cache_control={"type": "ephemeral", "ttl": "1h"})
    assert read_message(said)[0] == Usage(input_tokens=10, output_tokens=5, cache_write_5m=9)
    assert read_message(said, call=hour)[0] == Usage(input_tokens=10, output_tokens=5, cache_write_1h=9)


GOOD_CHAT = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
GOOD_MESSAGE = {"input_tokens": 10, "output_tokens": 5}


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        (None, "missing"),
        ({"completion_tokens": -5, "total_tokens": None}, "negative"),
        ({"prompt_tokens": -1}, "negative"),
        ({"prompt_tokens_details": {"cached_tokens": -3}}, "negative"),
        ({"completion_tokens": 10**12}, "too_large"),
        ({"prompt_tokens": 10**30}, "too_large"),
        ({"total_tokens": 10**12}, "too_large"),
        ({"completion_tokens": "5"}, "unreadable"),
        ({"completion_tokens": 5.5}, "unreadable"),
        ({"completion_tokens": True}, "unreadable"),
        ({"completion_tokens": None}, "unreadable"),
        ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, "zero_with_output"),
        ({"completion_tokens": 0, "total_tokens": 10}, "zero_with_output"),
        ({"prompt_tokens": 0, "total_tokens": 5}, "zero_with_output"),
        ({"prompt_tokens_details": {"audio_tokens": 11}}, "contradictory"),
        ({"completion_tokens_details": {"audio_tokens": 6}}, "contradictory"),
    ],
)
def test_openai_lies(lie: dict[str, Any] | None, reason: str) -> None:
    usage, visible, told = read_chat(None if lie is None else {**GOOD_CHAT, **lie})
    assert (usage, visible, told) == (None, 4, reason)


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        (None, "missing"),
        ({"output_tokens": -5}, "negative"),
        ({"input_tokens": -50, "cache_read_input_tokens": 60}, "negative"),
        ({"cache_read_input_tokens": -1}, "negative"),
        ({"cache_creation_input_tokens": -1}, "negative"),
        ({"server_tool_use": {"web_search_requests": -1}}, "negative"),
        ({"output_tokens": 10**12}, "too_large"),
        ({"cache_read_input_tokens": 10**12}, "too_large"),
        ({"output_tokens": "5"}, "unreadable"),
        ({"output_tokens": None}, "unreadable"),
        ({"cache_creation": [1]}, "unreadable"),
        ({"input_tokens": 0, "output_tokens": 0}, "zero_with_output"),
        ({"output_tokens": 0}, "zero_with_output"),
        ({"output_tokens_details": {"thinking_tokens": 6}}, "contradictory"),
    ],
)
def test_anthropic_lies(lie: dict[str, Any] | None, reason: str) -> None:
    usage, visible, told = read_message(None if lie is None else {**GOOD_MESSAGE, **lie})
    assert (usage, visible, told) == (None, 4, reason)


def test_zero_counts_when_nothing_was_output() -> None:
    nothing = {"role": "assistant", "content": ""}
    zero = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    assert read_chat(zero, nothing) == (Usage(input_tokens=0, output_tokens=0), 0, "")
    assert read_message({"input_tokens": 9, "output_tokens": 0}, []) == (Usage(input_tokens=9, output_tokens=0), 0, "")


def test_far_fewer_tokens_than_were_seen_are_not_believed() -> None:
    long = "word " * 20_000
    assert (
        read_chat({**GOOD_CHAT, "completion_tokens": 1}, {"role": "assistant", "content": long})[2] == "contradictory"
    )
    assert read_message({**GOOD_MESSAGE, "output_tokens": 1}, [{"type": "text", "text": long}])[2] == "contradictory"
    usage, _, reason = read_chat({**GOOD_CHAT, "completion_tokens": 20_000}, {"role": "assistant", "content": long})
    assert usage is not None
    assert reason == ""


def test_visible_bytes_of_every_kind_of_output() -> None:
    message = {
        "role": "assistant",
        "content": "é",
        "refusal": "no",
        "reasoning_content": "hm",
        "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}},
            {"id": "2", "type": "custom", "custom": {"name": "g", "input": "xyz"}},
        ],
        "audio": {"transcript": "la", "data": "AAAA"},
    }
    assert read_chat(None, message)[1] == 2 + 2 + 2 + 3 + 4 + 2
    content = [
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "text", "text": "é"},
        {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}},
    ]
    assert read_message(None, content)[1] == 2 + 2 + 1 + len('{"a": 1}')


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"usage":', b'{"usage":[1],"choices":{}}', b"[" * 100_000])
def test_what_is_no_answer_has_no_usage(body: bytes) -> None:
    assert OPENAI.read_usage(chat_call(), body)[0] is None
    assert ANTHROPIC.read_usage(message_call(), body)[0] is None


def test_the_later_report_wins_unless_it_takes_something_back() -> None:
    def say(inputs: int, outputs: int) -> Usage:
        return Usage(input_tokens=inputs, output_tokens=outputs)

    assert larger(None, say(1, 1)) == say(1, 1)
    assert larger(say(5, 5), say(5, 9)) == say(5, 9)
    assert larger(say(5, 9), say(5, 1)) == say(5, 9)
    assert larger(say(9, 5), say(5, 9)) == say(9, 9)
    assert larger(say(5, 9), say(9, 5)) == say(9, 9)


def test_statuses() -> None:
    for facts in (OPENAI.upstream, ANTHROPIC.upstream):
        assert all(facts.definite_refusal(status) for status in (400, 401, 403, 404, 413, 422, 429, 529))
        assert not any(facts.definite_refusal(status) for status in (200, 408, 500, 502, 503, 504))
        assert facts.rejects_key(401, b"")
        assert not facts.rejects_key(429, b"")
        assert not facts.rejects_key(403, b'{"error":{"type":"forbidden_region"}}')
        assert not facts.rejects_key(403, b"<html>")
        forbidden = {"authorization", "x-api-key", "api-key", "cookie", "openai-organization", "openai-project"}
        assert not facts.request_headers & (forbidden | {"anthropic-workspace-id", "host", "x-emulator"})
        assert not facts.response_headers & {"set-cookie", "x-ratelimit-limit-requests", "openai-organization"}
    assert OPENAI.upstream.rejects_key(403, b'{"error":{"code":"account_deactivated"}}')
    assert OPENAI.upstream.rejects_key(400, b'{"error":{"code":400,"status":"API_KEY_INVALID"}}')
    assert ANTHROPIC.upstream.rejects_key(403, b'{"type":"error","error":{"type":"permission_error"}}')
    assert OPENAI.upstream.fixed_headers == (("content-type", "application/json"),)
    assert ANTHROPIC.upstream.fixed_headers == (
        ("content-type", "application/json"),
        ("anthropic-version", "2023-06-01"),
    )

"""What is understood of a messages body, and what rewriting it changes."""

import json
from typing import Any

import pytest
from anthropic.types.beta.message_create_params import MessageCreateParamsBase as BetaParams
from anthropic.types.message_create_params import MessageCreateParamsBase

from bursar.core.calls import Call, Edits, ServerTool, Usage
from bursar.core.errors import Refusal
from bursar.providers import anthropic as dialect_module
from bursar.providers.anthropic import Anthropic

DIALECT = Anthropic()
SAY_HI = [{"role": "user", "content": "hi"}]
HEADERS = {"user_profile_id", "workspace_id", "betas"}  # the SDK sends these as headers


def understand(route: str = "messages", **fields: Any) -> Call:
    return DIALECT.understand(
        route, json.dumps({"model": "claude-x", "max_tokens": 64, "messages": SAY_HI, **fields}).encode()
    )


def blocks(*content: Any) -> Call:
    return understand(messages=[{"role": "user", "content": list(content)}])


def refused(**fields: Any) -> str:
    with pytest.raises(Refusal) as raised:
        understand(**fields)
    return raised.value.word


def test_every_field_of_the_sdk_is_classified() -> None:
    known = dialect_module._KNOWN
    assert set(MessageCreateParamsBase.__annotations__) - HEADERS - known == set()
    unclassified = {"billing_policy", "compaction", "context_management", "fallback_credit_token", "thread"}
    assert set(BetaParams.__annotations__) - HEADERS - known == unclassified  # reported as unknown


def test_a_plain_call() -> None:
    call = understand(system="be brief", temperature=0, stream=True, metadata={"user_id": "u-7"})
    assert (call.model, call.max_tokens, call.max_tokens_field) == ("claude-x", 64, "max_tokens")
    assert (call.stream, call.user, call.messages, call.cache_write) == (True, "u-7", 1, "")
    assert (call.external_input, call.unbounded, call.unknown_fields, call.server_tools) == ("", "", (), ())


TEXT = {"type": "text", "text": "x"}
URL = {"type": "url", "url": "https://x/y"}
BASE64 = {"type": "base64", "media_type": "image/png", "data": "AAAA"}


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        ({"type": "image", "source": BASE64}, "image"),
        ({"type": "image", "source": URL}, "image_url"),
        ({"type": "image", "source": {"type": "file", "file_id": "f"}}, "file_id"),
        ({"type": "document", "source": URL}, "document_url"),
        ({"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "A"}}, "document"),
        ({"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "A"}}, ""),
        ({"type": "document", "source": {"content": [{"type": "image", "source": URL}]}}, "image_url"),
        ({"type": "tool_result", "tool_use_id": "t", "content": [{"type": "image", "source": BASE64}]}, "image"),
        ({"type": "tool_result", "tool_use_id": "t", "content": "text"}, ""),
        ({"type": "web_fetch_tool_result", "content": {"type": "web_fetch_result", "url": "https://x",
          "content": {"type": "document", "source": {"type": "base64", "data": "A"}}}}, "document"),
        ({"type": "search_result", "source": "https://x", "content": [TEXT]}, ""),
        ({"type": "container_upload", "file_id": "f"}, "file_id"),
        ({"type": "tool_use", "id": "a", "name": "b", "input": {"file_id": "not looked into"}}, ""),
        ({"type": "hologram"}, "content_type"),
    ],
)  # fmt: skip
def test_input_that_the_body_does_not_bound(block: dict[str, Any], reason: str) -> None:
    assert blocks({"type": "text", "text": "see"}, block).external_input == reason


def test_containers() -> None:
    assert understand(container="container_1").external_input == "container"


EPHEMERAL = {"type": "ephemeral"}


@pytest.mark.parametrize(
    ("fields", "life"),
    [
        ({}, ""),
        ({"cache_control": EPHEMERAL}, "5m"),
        ({"cache_control": {**EPHEMERAL, "ttl": "1h"}}, "1h"),
        ({"cache_control": {**EPHEMERAL, "ttl": "9d"}}, "1h"),
        ({"cache_control": None}, ""),
        ({"system": [{"type": "text", "text": "x", "cache_control": EPHEMERAL}]}, "5m"),
        ({"tools": [{"name": "f", "input_schema": {}, "cache_control": {**EPHEMERAL, "ttl": "1h"}}]}, "1h"),
        ({"messages": [{"role": "user", "content": [{**TEXT, "cache_control": EPHEMERAL}]}]}, "5m"),
        ({"messages": [{"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "t", "content": [{**TEXT, "cache_control": EPHEMERAL}]}
        ]}]}, "5m"),
        ({"cache_control": EPHEMERAL, "system": [{"type": "text", "text": "x", "cache_control": {"ttl": "1h"}}]}, "1h"),
    ],
)  # fmt: skip
def test_cache_writes(fields: dict[str, Any], life: str) -> None:
    assert understand(**fields).cache_write == life


@pytest.mark.parametrize(
    ("tool", "server_tool", "unbounded"),
    [
        ({"name": "f", "input_schema": {"type": "object"}}, None, ""),
        ({"type": "custom", "name": "f"}, None, ""),
        ({"type": "bash_20250124", "name": "bash"}, None, ""),
        ({"type": "text_editor_20250728", "name": "e"}, None, ""),
        ({"type": "web_search_20250305", "name": "web_search"}, ServerTool("web_search", None), ""),
        ({"type": "web_search_20260318", "name": "web_search", "max_uses": 3}, ServerTool("web_search", 3), ""),
        ({"type": "web_fetch_20250910", "name": "web_fetch", "max_uses": None}, ServerTool("web_fetch", None), ""),
        ({"type": "code_execution_20250825", "name": "x"}, ServerTool("code_execution", None), "code_execution"),
        ({"type": "tool_search_tool_regex", "name": "x"}, ServerTool("tool_search_tool", None), "tool_search_tool"),
        ({"type": "mcp_toolset", "mcp_server_name": "x"}, ServerTool("mcp_toolset", None), "mcp_toolset"),
        ({"type": "brand_new_2027"}, ServerTool("brand_new_2027", None), "brand_new_2027"),
    ],
)
def test_tools(tool: dict[str, Any], server_tool: ServerTool | None, unbounded: str) -> None:
    call = understand(tools=[tool])
    assert call.server_tools == ((server_tool,) if server_tool else ())
    assert call.unbounded == unbounded
    inside = blocks({"type": "tool_addition", "tool": tool})
    assert inside.server_tools == call.server_tools


def test_thinking_and_tiers() -> None:
    thinking = understand(max_tokens=4096, thinking={"type": "enabled", "budget_tokens": 1024})
    assert (thinking.reasoning, thinking.thinking_budget, thinking.unbounded) == (True, 1024, "")
    assert (
        understand(max_tokens=100, thinking={"type": "enabled", "budget_tokens": 1024}).unbounded == "thinking_budget"
    )
    assert understand(thinking={"type": "adaptive"}).reasoning
    assert not understand(thinking={"type": "disabled"}).reasoning
    assert understand(speed="fast").service_tier == "fast"
    assert understand(service_tier="standard_only").service_tier == "standard_only"
    assert understand(inference_geo="us").unknown_fields == ("inference_geo",)
    assert understand(inference_geo="global").unknown_fields == ()
    assert understand(mcp_servers=[{"type": "url", "url": "https://x"}]).unbounded == "mcp_servers"
    assert understand(mcp_servers=[]).unbounded == ""


def test_other_models_by_the_back_door_are_refused() -> None:
    assert refused(fallbacks=[{"model": "claude-dear"}]) == "invalid_field"
    assert refused(tools=[{"type": "advisor_20260301", "model": "claude-dear"}]) == "invalid_field"
    content = [{"type": "tool_addition", "tool": {"type": "advisor_20260301", "model": "claude-dear"}}]
    assert refused(messages=[{"role": "user", "content": content}]) == "invalid_field"


@pytest.mark.parametrize(
    "fields",
    [
        {"model": None},
        {"messages": {}},
        {"max_tokens": "64"},
        {"max_tokens": -5},
        {"stream": 0},
        {"system": {"type": "text"}},
        {"system": ["text"]},
        {"thinking": "enabled"},
        {"thinking": {"type": "enabled", "budget_tokens": "many"}},
        {"tools": [1]},
        {"tools": [{"type": "web_search_20250305", "max_uses": "3"}]},
        {"tools": [{"type": 3}]},
        {"cache_control": "ephemeral"},
        {"metadata": {"user_id": 7}},
        {"stop_sequences": "X"},
    ],
)
def test_wrong_kinds(fields: dict[str, Any]) -> None:
    assert refused(**fields) == "invalid_field"


@pytest.mark.parametrize(
    "tail",
    [
        '"max_tokens":1,"max_tokens":9',
        '"Max_Tokens":9',
        '"thinking":{"type":"enabled","budget_tokens":1,"budget_tokens":2}',
        '"thinking":{"type":"enabled","Budget_Tokens":2}',
        '"tools":[{"type":"web_search_20250305","max_uses":1,"max_uses":9}]',
        '"tools":[{"type":"web_search_20250305","Max_Uses":9}]',
        '"system":[{"type":"text","text":"x","cache_control":{},"Cache_Control":{}}]',
        '"system":[{"type":"image","source":{"type":"text","type":"url","url":"x"}}]',
        '"metadata":{"user_id":"a","user_id":"b"}',
    ],
)
def test_duplicates_and_case_collisions(tail: str) -> None:
    body = '{"model":"m","messages":[{"role":"user","content":"x"}],' + tail + "}"
    with pytest.raises(Refusal) as raised:
        DIALECT.understand("messages", body.encode())
    assert raised.value.word == "duplicate_field"


def test_counting_tokens_is_free_and_needs_no_cap() -> None:
    body = json.dumps({"model": "m", "messages": SAY_HI}).encode()
    call = DIALECT.understand("count_tokens", body)
    assert (call.max_tokens, call.route) == (None, "count_tokens")
    edits = Edits(model="up", max_tokens=5, stop=("X",), tool_uses_cap=1)
    assert json.loads(DIALECT.rewrite(call, edits)) == {"model": "up", "messages": SAY_HI}
    assert DIALECT.read_usage(call, b'{"input_tokens":9}') == (Usage(input_tokens=0, output_tokens=0), 0, "")


def test_rewriting() -> None:
    tools = [
        {"name": "f", "input_schema": {"a": 1.50}},
        {"type": "web_search_20250305", "name": "web_search"},
        {"type": "web_fetch_20250910", "name": "web_fetch", "max_uses": 2},
        {"type": "code_execution_20250825", "name": "code_execution"},
    ]
    call = understand(tools=tools, stop_sequences=["B"], top_k=5)
    assert DIALECT.rewrite(call, Edits()) is call.body
    assert DIALECT.rewrite(call, Edits(model="claude-x", max_tokens=64, include_usage=True)) is call.body
    sent = DIALECT.rewrite(call, Edits(max_tokens=7, stop=("A", "B"), tool_uses_cap=4, model="up"))
    after = json.loads(sent)
    assert after["tools"] == [tools[0], {**tools[1], "max_uses": 4}, tools[2], tools[3]]
    assert (after["max_tokens"], after["stop_sequences"], after["model"]) == (7, ["A", "B"], "up")
    assert list(after) == list(json.loads(call.body))
    assert after["messages"] == SAY_HI

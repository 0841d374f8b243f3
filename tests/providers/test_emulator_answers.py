"""Every answer of the emulator parses with the official SDKs and says what the script said."""

from typing import Any

import anthropic
import openai
import pytest
from pydantic import BaseModel

from tests.providers.emulated import Emulated, scripted

WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "unit": {"enum": ["C", "F"]}},
    "required": ["city", "days", "unit"],
}
OPENAI_TOOL: Any = {"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}}
ANTHROPIC_TOOL: Any = {"name": "get_weather", "description": "Weather", "input_schema": WEATHER}
MODEL = "gpt-emulated"
CLAUDE = "claude-emulated"


class Place(BaseModel):
    name: str
    tags: list[str]
    inner: "Place | None"


# ---- OpenAI ----------------------------------------------------------------------------------------------------------


def test_a_plain_chat(openai_client: openai.OpenAI) -> None:
    answer = openai_client.chat.completions.create(
        model=MODEL, messages=scripted(output=7, cached=3, input=50, tier="flex"), n=2
    )
    assert [len((choice.message.content or "").encode()) for choice in answer.choices] == [28, 28]
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (50, 14)
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 3
    assert answer.service_tier == "flex"
    assert answer._request_id


def test_the_same_question_gets_the_same_answer(openai_client: openai.OpenAI) -> None:
    texts = {
        openai_client.chat.completions.create(model=MODEL, messages=scripted()).choices[0].message.content
        for _ in range(3)
    }
    assert len(texts) == 1


@pytest.mark.parametrize("accents", [False, True])
def test_a_streamed_chat(openai_client: openai.OpenAI, accents: bool) -> None:
    messages = scripted(output=9, reasoning=5, accents=accents)
    with openai_client.chat.completions.stream(
        model=MODEL, messages=messages, stream_options={"include_usage": True}
    ) as stream:
        answer = stream.get_final_completion()
    assert len((answer.choices[0].message.content or "").encode()) == 36
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 14
    assert answer.usage.completion_tokens_details is not None
    assert answer.usage.completion_tokens_details.reasoning_tokens == 5


def test_chunks_and_no_usage_unless_asked(openai_client: openai.OpenAI) -> None:
    chunks = list(
        openai_client.chat.completions.create(model=MODEL, messages=scripted(output=50, chunks=4), stream=True)
    )
    assert sum(bool(chunk.choices and chunk.choices[0].delta.content) for chunk in chunks) == 4
    assert all(chunk.usage is None for chunk in chunks)


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_max_tokens_is_honoured_reasoning_first(openai_client: openai.OpenAI, field: str) -> None:
    cap: Any = {field: 6}
    answer = openai_client.chat.completions.create(model=MODEL, messages=scripted(output=50, reasoning=4), **cap)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 6
    assert answer.choices[0].finish_reason == "length"
    assert len(answer.choices[0].message.content or "") == 8
    ignored = scripted(output=50, ignore_max_tokens=True)
    answer = openai_client.chat.completions.create(model=MODEL, messages=ignored, **cap)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 50


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
@pytest.mark.parametrize("stream", [False, True])
def test_openai_tools(openai_client: openai.OpenAI, choice: Any, stream: bool) -> None:
    asked: Any = {"model": MODEL, "messages": scripted(), "tools": [OPENAI_TOOL], "tool_choice": choice}
    if stream:
        with openai_client.chat.completions.stream(**asked) as running:
            answer: Any = running.get_final_completion()
    else:
        answer = openai_client.chat.completions.create(**asked)
    call = answer.choices[0].message.tool_calls[0]
    assert call.function.name == "get_weather"
    assert call.function.arguments == '{"city":"text","days":7,"unit":"C"}'
    assert answer.choices[0].finish_reason == "tool_calls"


def test_tools_left_alone(openai_client: openai.OpenAI) -> None:
    answer = openai_client.chat.completions.create(model=MODEL, messages=scripted(), tools=[OPENAI_TOOL])
    assert answer.choices[0].message.content


def test_openai_structured_output(openai_client: openai.OpenAI) -> None:
    answer = openai_client.chat.completions.parse(model=MODEL, messages=scripted(), response_format=Place)
    assert answer.choices[0].message.parsed is not None
    assert answer.choices[0].message.parsed.tags == ["text"]


def test_refusals_and_fixed_texts(openai_client: openai.OpenAI) -> None:
    answer = openai_client.chat.completions.create(model=MODEL, messages=scripted(refusal="I will not."))
    assert answer.choices[0].message.refusal == "I will not."
    answer = openai_client.chat.completions.create(model=MODEL, messages=scripted(text='Say "hé".'))
    assert answer.choices[0].message.content == 'Say "hé".'


def test_openai_models(openai_client: openai.OpenAI) -> None:
    assert MODEL in [model.id for model in openai_client.models.list()]


async def test_async_clients(emulated: Emulated) -> None:
    async with openai.AsyncOpenAI(base_url=f"{emulated.url}/v1", api_key="k") as client:
        stream = await client.chat.completions.create(model=MODEL, messages=scripted(output=5), stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])
    assert len(text) == 20
    async with (
        anthropic.AsyncAnthropic(base_url=emulated.url, api_key="k") as claude,
        claude.messages.stream(model=CLAUDE, max_tokens=99, messages=scripted(output=5)) as running,
    ):
        message = await running.get_final_message()
    assert message.usage.output_tokens == 5


# ---- Anthropic -------------------------------------------------------------------------------------------------------


def anthropic_answer(client: anthropic.Anthropic, stream: bool, **asked: Any) -> Any:
    asked = {"model": CLAUDE, "max_tokens": 4000, **asked}
    if not stream:
        return client.messages.create(**asked)
    with client.messages.stream(**asked) as running:
        return running.get_final_message()


@pytest.mark.parametrize("stream", [False, True])
def test_a_message(anthropic_client: anthropic.Anthropic, stream: bool) -> None:
    messages = scripted(output=7, input=100, cached=10, cache_write=20, cache_write_1h=30, searches=2)
    message = anthropic_answer(anthropic_client, stream, messages=messages)
    assert len(message.content[0].text) == 28
    usage = message.usage
    assert (usage.input_tokens, usage.output_tokens, usage.cache_read_input_tokens) == (40, 7, 10)
    assert usage.cache_creation_input_tokens == 50
    assert usage.server_tool_use.web_search_requests == 2
    assert message.stop_reason == "end_turn"


@pytest.mark.parametrize("stream", [False, True])
def test_thinking(anthropic_client: anthropic.Anthropic, stream: bool) -> None:
    thinking = {"type": "enabled", "budget_tokens": 1024}
    message = anthropic_answer(anthropic_client, stream, messages=scripted(output=5, reasoning=6), thinking=thinking)
    assert [block.type for block in message.content] == ["thinking", "text"]
    assert len(message.content[0].thinking) == 24
    assert message.usage.output_tokens == 11
    assert message.usage.output_tokens_details.thinking_tokens == 6


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "get_weather"}])
@pytest.mark.parametrize("stream", [False, True])
def test_anthropic_tools(anthropic_client: anthropic.Anthropic, stream: bool, choice: Any) -> None:
    message = anthropic_answer(
        anthropic_client, stream, messages=scripted(), tools=[ANTHROPIC_TOOL], tool_choice=choice
    )
    assert message.content[0].input == {"city": "text", "days": 7, "unit": "C"}
    assert message.stop_reason == "tool_use"


def test_anthropic_structured_output(anthropic_client: anthropic.Anthropic) -> None:
    message = anthropic_client.messages.parse(model=CLAUDE, max_tokens=500, messages=scripted(), output_format=Place)
    assert message.parsed_output is not None
    assert message.parsed_output.tags == ["text"]


@pytest.mark.parametrize("stream", [False, True])
def test_anthropic_max_tokens(anthropic_client: anthropic.Anthropic, stream: bool) -> None:
    message = anthropic_answer(anthropic_client, stream, messages=scripted(output=50), max_tokens=3)
    assert (message.usage.output_tokens, message.stop_reason) == (3, "max_tokens")
    message = anthropic_answer(anthropic_client, stream, messages=scripted(output=50, tool=True), max_tokens=3,
                               tools=[ANTHROPIC_TOOL])  # fmt: skip
    assert message.stop_reason == "max_tokens"


def test_counted_tokens_and_models(anthropic_client: anthropic.Anthropic) -> None:
    counted = anthropic_client.messages.count_tokens(model=CLAUDE, messages=scripted(input=77))
    assert counted.input_tokens == 77
    assert CLAUDE in [model.id for model in anthropic_client.models.list()]


# ---- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, "BadRequestError"),
        (401, "AuthenticationError"),
        (403, "PermissionDeniedError"),
        (404, "NotFoundError"),
        (429, "RateLimitError"),
        (500, "InternalServerError"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors(
    openai_client: openai.OpenAI, anthropic_client: anthropic.Anthropic, status: int, error: str, stream: bool
) -> None:
    messages = scripted(status=status, retry_after=2.5)
    with pytest.raises(getattr(openai, error)) as ours:
        openai_client.chat.completions.create(model=MODEL, messages=messages, stream=stream)
    assert ours.value.response.headers["retry-after"] == "2.5"
    assert ours.value.type
    with pytest.raises(getattr(anthropic, error)) as theirs:
        anthropic_client.messages.create(model=CLAUDE, max_tokens=5, messages=messages, stream=stream)
    assert theirs.value.body["error"]["message"]


def test_overload_has_its_own_status(anthropic_client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.APIStatusError) as raised:
        anthropic_client.messages.create(model=CLAUDE, max_tokens=5, messages=scripted(status=529))
    assert raised.value.status_code == 529


def test_a_body_of_the_scripts_own(openai_client: openai.OpenAI) -> None:
    with pytest.raises(openai.RateLimitError) as raised:
        openai_client.chat.completions.create(
            model=MODEL, messages=scripted(status=429, body={"error": {"code": "insufficient_quota"}})
        )
    assert raised.value.code == "insufficient_quota"


def test_the_header_scripts_as_well_and_a_bad_script_is_told(openai_client: openai.OpenAI) -> None:
    header = {"x-emulator": '{"output": 3}'}
    answer = openai_client.chat.completions.create(model=MODEL, messages=scripted(), extra_headers=header)
    assert answer.choices[0].message.content is not None
    assert len(answer.choices[0].message.content) == 12
    for bad in ({"colour": 1}, {"stall": "forever"}):
        with pytest.raises(openai.BadRequestError, match="emulator script"):
            openai_client.chat.completions.create(model=MODEL, messages=scripted(**bad))


def test_what_a_provider_refuses(anthropic_client: anthropic.Anthropic) -> None:
    broken: Any = {"model": CLAUDE, "messages": scripted(), "max_tokens": None}
    with pytest.raises(anthropic.BadRequestError, match="max_tokens"):
        anthropic_client.messages.create(**broken)

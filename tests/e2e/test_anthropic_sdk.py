"""The official `anthropic` SDK, unmodified, against Bursar."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any, Literal

import anthropic
import pytest
from anthropic import Anthropic, AsyncAnthropic
from pydantic import BaseModel

from tests.e2e.broker import Broker

MODEL = "claude-sonnet-4-6"


def said(prompt: str = "Hello", **script: Any) -> list[Any]:
    """One user message, with a script for the provider."""
    directive = f" [[emulator {json.dumps(script)}]]" if script else ""
    return [{"role": "user", "content": prompt + directive}]


WEATHER: Any = {
    "name": "weather",
    "description": "Weather of a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


class Verdict(BaseModel):
    mood: Literal["good", "bad"]
    reasons: list[str]


@pytest.fixture(scope="module")
def client(broker: Broker) -> Iterator[Anthropic]:
    with Anthropic(base_url=broker.url, api_key=broker.demo_key, max_retries=0) as made:
        yield made


@pytest.fixture
async def aclient(broker: Broker) -> AsyncIterator[AsyncAnthropic]:
    async with AsyncAnthropic(base_url=broker.url, api_key=broker.demo_key, max_retries=0) as made:
        yield made


def text_of(message: anthropic.types.Message) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def test_a_plain_call(client: Anthropic) -> None:
    message = client.messages.create(model=MODEL, max_tokens=64, messages=said(output=20))
    assert text_of(message)
    assert message.stop_reason == "end_turn"
    assert message.usage.output_tokens == 20
    assert message._request_id
    assert message._request_id.startswith("req_")


def test_the_key_may_come_as_a_bearer_token_too(broker: Broker) -> None:
    with Anthropic(base_url=broker.url, auth_token=broker.demo_key, api_key=None, max_retries=0) as client:
        assert text_of(client.messages.create(model=MODEL, max_tokens=64, messages=said()))


def test_headers_tell_the_request_and_the_limits(client: Anthropic) -> None:
    raw = client.messages.with_raw_response.create(model=MODEL, max_tokens=64, messages=said())
    assert raw.headers["x-bursar-request-id"] == raw.headers["request-id"]
    assert "anthropic-ratelimit-requests-remaining" in raw.headers


def test_the_raw_stream(client: Anthropic) -> None:
    events = list(client.messages.create(model=MODEL, max_tokens=64, messages=said(output=12), stream=True))
    assert events[0].type == "message_start"
    assert events[-1].type == "message_stop"
    (delta,) = [event for event in events if event.type == "message_delta"]
    assert delta.usage.output_tokens == 12


def test_the_stream_helper(client: Anthropic) -> None:
    with client.messages.stream(model=MODEL, max_tokens=64, messages=said(output=12)) as stream:
        seen = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert seen == text_of(final)
    assert final.stop_reason == "end_turn"


async def test_async_plain_and_streamed(aclient: AsyncAnthropic) -> None:
    assert text_of(await aclient.messages.create(model=MODEL, max_tokens=64, messages=said()))
    async with aclient.messages.stream(model=MODEL, max_tokens=64, messages=said()) as stream:
        assert text_of(await stream.get_final_message())


async def test_many_at_once_get_their_own_answers(aclient: AsyncAnthropic) -> None:
    async def plain(number: int) -> None:
        answer = await aclient.messages.create(model=MODEL, max_tokens=64, messages=said(text=f"answer {number}"))
        assert text_of(answer) == f"answer {number}"

    async def streamed(number: int) -> None:
        script = said(text=f"stream {number}")
        async with aclient.messages.stream(model=MODEL, max_tokens=64, messages=script) as stream:
            assert text_of(await stream.get_final_message()) == f"stream {number}"

    await asyncio.gather(*(plain(number) for number in range(30)), *(streamed(number) for number in range(30)))


def test_a_tool_is_used_and_its_result_goes_back(client: Anthropic) -> None:
    question = said("Weather?", tool=True)
    first = client.messages.create(model=MODEL, max_tokens=64, messages=question, tools=[WEATHER])
    (use,) = [block for block in first.content if block.type == "tool_use"]
    assert first.stop_reason == "tool_use"
    result: Any = {
        "role": "user",
        "content": [{"type": "tool_result", "tool_use_id": use.id, "content": "sunny"}],
    }
    messages = [*question, {"role": "assistant", "content": first.content}, result]
    assert text_of(client.messages.create(model=MODEL, max_tokens=64, messages=messages, tools=[WEATHER]))


def test_a_streamed_tool_use(client: Anthropic) -> None:
    with client.messages.stream(
        model=MODEL, max_tokens=64, messages=said("Weather?"), tools=[WEATHER], tool_choice={"type": "any"}
    ) as stream:
        final = stream.get_final_message()
    (use,) = [block for block in final.content if block.type == "tool_use"]
    assert use.input == {"city": "text"}


def test_structured_output_is_parsed(client: Anthropic) -> None:
    message = client.messages.parse(model=MODEL, max_tokens=200, messages=said("How?"), output_format=Verdict)
    assert isinstance(message.parsed_output, Verdict)


def test_thinking_is_shown_and_billed_as_output(client: Anthropic) -> None:
    message = client.messages.create(
        model=MODEL,
        max_tokens=4000,
        messages=said(reasoning=50, output=10),
        thinking={"type": "enabled", "budget_tokens": 1024},
    )
    assert [block.type for block in message.content] == ["thinking", "text"]
    assert message.usage.output_tokens == 60


def test_prompt_caching_passes(client: Anthropic) -> None:
    system: Any = [{"type": "text", "text": "You are brief. " * 50, "cache_control": {"type": "ephemeral"}}]
    message = client.messages.create(
        model=MODEL, max_tokens=64, system=system, messages=said(input=900, cache_write=400, cached=300)
    )
    assert message.usage.cache_creation_input_tokens == 400
    assert message.usage.cache_read_input_tokens == 300


def test_count_tokens_costs_nothing_and_answers(client: Anthropic) -> None:
    assert client.messages.count_tokens(model=MODEL, messages=said("Count this")).input_tokens > 0


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, anthropic.BadRequestError),
        (429, anthropic.RateLimitError),
        (500, anthropic.InternalServerError),
        (529, anthropic.OverloadedError),
    ],
)
def test_what_the_provider_refuses_is_told_as_the_provider_would(
    client: Anthropic, status: int, kind: type[anthropic.APIStatusError]
) -> None:
    with pytest.raises(kind) as caught:
        client.messages.create(model=MODEL, max_tokens=64, messages=said(status=status))
    assert caught.value.status_code == status


def test_a_provider_key_that_the_provider_refuses_is_not_the_callers_fault(client: Anthropic) -> None:
    with pytest.raises(anthropic.APIStatusError) as caught:
        client.messages.create(model=MODEL, max_tokens=64, messages=said(status=401))
    assert caught.value.status_code == 502


def test_a_stream_that_the_provider_breaks_off_breaks_off_for_the_caller(client: Anthropic) -> None:
    script = said(disconnect="mid_stream", output=40)
    stream = client.messages.create(model=MODEL, max_tokens=64, messages=script, stream=True)
    with pytest.raises(Exception, match=r"peer closed connection|[Cc]onnection error"):  # as without Bursar between
        list(stream)

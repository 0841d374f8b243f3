"""The official `openai` SDK, unmodified, against Bursar: every way in which applications use it.

What the provider does is scripted in the last user message (see `bursar.providers.emulator`).
"""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any, Literal

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

from tests.e2e.broker import Broker

MODEL = "gpt-4o-mini"


def said(prompt: str = "Hello", **script: Any) -> list[Any]:
    """One user message, with a script for the provider."""
    directive = f" [[emulator {json.dumps(script)}]]" if script else ""
    return [{"role": "user", "content": prompt + directive}]


WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}


class Verdict(BaseModel):
    mood: Literal["good", "bad"]
    reasons: list[str]


@pytest.fixture(scope="module")
def client(broker: Broker) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{broker.url}/v1", api_key=broker.demo_key, max_retries=0) as made:
        yield made


@pytest.fixture
async def aclient(broker: Broker) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{broker.url}/v1", api_key=broker.demo_key, max_retries=0) as made:
        yield made


def test_a_plain_call(client: OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=said(output=20), max_tokens=64)
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 20
    assert answer._request_id
    assert answer._request_id.startswith("req_")


def test_the_cap_reaches_the_provider(client: OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=said(output=100), max_tokens=10)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 10


def test_headers_tell_the_request_and_the_limits(client: OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=said())
    assert raw.headers["x-bursar-request-id"] == raw.headers["x-request-id"]
    for name in ("x-ratelimit-limit-requests", "x-ratelimit-remaining-tokens", "ratelimit"):
        assert name in raw.headers
    assert raw.headers["x-bursar-max-tokens-applied"], "no cap was asked for: the caller is told which was set"


def test_a_stream_without_usage_has_none(client: OpenAI) -> None:
    chunks = list(client.chat.completions.create(model=MODEL, messages=said(output=30), stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert all(chunk.usage is None for chunk in chunks)
    assert all(chunk.choices for chunk in chunks), "usage was asked for upstream, not by the caller: it is taken out"


def test_a_stream_with_usage_has_it_last(client: OpenAI) -> None:
    stream = client.chat.completions.create(
        model=MODEL, messages=said(output=30), stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 30


def test_the_stream_helper(client: OpenAI) -> None:
    with client.chat.completions.stream(model=MODEL, messages=said("Tell me", output=12)) as stream:
        seen = [event for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert "".join(event.delta for event in seen) == final.choices[0].message.content


async def test_async_plain_and_streamed(aclient: AsyncOpenAI) -> None:
    answer = await aclient.chat.completions.create(model=MODEL, messages=said())
    assert answer.choices[0].message.content
    stream = await aclient.chat.completions.create(model=MODEL, messages=said(), stream=True)
    assert [chunk async for chunk in stream][-1].choices[0].finish_reason == "stop"


async def test_many_at_once_get_their_own_answers(aclient: AsyncOpenAI) -> None:
    async def plain(number: int) -> None:
        answer = await aclient.chat.completions.create(model=MODEL, messages=said(text=f"answer {number}"))
        assert answer.choices[0].message.content == f"answer {number}"

    async def streamed(number: int) -> None:
        stream = await aclient.chat.completions.create(model=MODEL, messages=said(text=f"stream {number}"), stream=True)
        parts = [chunk.choices[0].delta.content or "" async for chunk in stream]
        assert "".join(parts) == f"stream {number}"

    await asyncio.gather(*(plain(number) for number in range(30)), *(streamed(number) for number in range(30)))


def test_a_tool_is_called_and_its_result_goes_back(client: OpenAI) -> None:
    question = said("What is the weather?", tool=True)
    first = client.chat.completions.create(model=MODEL, messages=question, tools=[WEATHER])
    (call,) = first.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert set(json.loads(call.function.arguments)) == {"city", "days"}
    messages = [
        *question,
        first.choices[0].message,
        {"role": "tool", "tool_call_id": call.id, "content": "sunny"},
        *said("And so?"),
    ]
    second = client.chat.completions.create(model=MODEL, messages=messages, tools=[WEATHER])
    assert second.choices[0].message.content


def test_a_streamed_tool_call(client: OpenAI) -> None:
    with client.chat.completions.stream(
        model=MODEL, messages=said("Weather?"), tools=[WEATHER], tool_choice="required"
    ) as stream:
        final = stream.get_final_completion()
    (call,) = final.choices[0].message.tool_calls or []
    assert call.function.parsed_arguments
    assert final.choices[0].finish_reason == "tool_calls"


def test_structured_output_is_parsed(client: OpenAI) -> None:
    answer = client.chat.completions.parse(model=MODEL, messages=said("How is it?"), response_format=Verdict)
    assert isinstance(answer.choices[0].message.parsed, Verdict)


def test_structured_output_is_parsed_from_a_stream(client: OpenAI) -> None:
    with client.chat.completions.stream(model=MODEL, messages=said("How?"), response_format=Verdict) as stream:
        parsed = stream.get_final_completion().choices[0].message.parsed
    assert isinstance(parsed, Verdict)


def test_parse_tells_when_the_cap_cut_the_answer(client: OpenAI) -> None:
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(model=MODEL, messages=said("How?"), response_format=Verdict, max_tokens=2)


def test_a_refusal_of_the_model_passes(client: OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=said(refusal="I would rather not."))
    assert answer.choices[0].message.refusal == "I would rather not."


def test_several_choices(client: OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=said(output=5), n=3, max_tokens=16)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 15


def test_an_image_in_the_message_passes(client: OpenAI) -> None:
    pixel = "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(64)).decode()
    content: Any = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": pixel}}]
    answer = client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": content}])
    assert answer.choices[0].message.content


def test_reasoning_and_cached_tokens_are_reported(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="gpt-5-mini",
        messages=said("hm", reasoning=40, output=10, input=2000, cached=1500),
        max_completion_tokens=4000,
        reasoning_effort="low",
    )
    usage = answer.usage
    assert usage is not None
    assert usage.completion_tokens_details is not None
    assert usage.completion_tokens_details.reasoning_tokens == 40
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens == 1500


def test_models_are_those_that_the_key_may_use(client: OpenAI) -> None:
    ids = [model.id for model in client.models.list()]
    assert MODEL in ids
    assert len(ids) == len(set(ids))


def test_a_route_that_is_not_metered_is_refused(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.images.generate(model="gpt-image-1", prompt="Hello")


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, openai.BadRequestError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
        (503, openai.InternalServerError),
    ],
)
def test_what_the_provider_refuses_is_told_as_the_provider_would(
    client: OpenAI, status: int, kind: type[openai.APIStatusError]
) -> None:
    with pytest.raises(kind) as caught:
        client.chat.completions.create(model=MODEL, messages=said(status=status))
    assert caught.value.status_code == status


def test_a_provider_key_that_the_provider_refuses_is_not_the_callers_fault(client: OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(model=MODEL, messages=said(status=401))
    assert caught.value.status_code == 502
    assert caught.value.code == "upstream_key_refused"


def test_a_stream_that_the_provider_breaks_off_breaks_off_for_the_caller(client: OpenAI) -> None:
    stream = client.chat.completions.create(model=MODEL, messages=said(disconnect="mid_stream", output=40), stream=True)
    with pytest.raises(Exception, match=r"peer closed connection|[Cc]onnection error"):  # as without Bursar between
        list(stream)

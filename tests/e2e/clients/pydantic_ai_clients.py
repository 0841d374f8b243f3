"""Pydantic AI's agents on OpenAI's and Anthropic's models, as its guides use them."""

import asyncio
import json
import os

from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.models import Model
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

URL, KEY = os.environ["BURSAR_URL"], os.environ["BURSAR_KEY"]


class Weather(BaseModel):
    """The weather of a city."""

    city: str
    days: int


def openai(key: str = KEY) -> Model:
    return OpenAIChatModel("gpt-4o-mini", provider=OpenAIProvider(base_url=f"{URL}/v1", api_key=key))


def anthropic(key: str = KEY) -> Model:
    return AnthropicModel("claude-haiku-4-5", provider=AnthropicProvider(base_url=URL, api_key=key))


async def refusal(model: Model) -> dict[str, object]:
    try:
        await Agent(model).run("Hello")
    except Exception as error:  # noqa: BLE001 - which class it is, is what is asked
        return {"class": type(error).__name__, "module": type(error).__module__.split(".")[0], "text": str(error)}
    return {"class": "none"}


async def tried(make: object) -> dict[str, object]:
    agent = Agent(make())  # type: ignore[operator]
    answer = await agent.run("Hello")
    async with agent.run_stream("Hello") as streamed:
        text = "".join([piece async for piece in streamed.stream_text(delta=True)])
    structured = await Agent(make(), output_type=Weather).run("How is it?")  # type: ignore[operator]
    return {
        "chat": answer.output,
        "usage": {"input_tokens": answer.usage.input_tokens, "output_tokens": answer.usage.output_tokens}
        if not callable(answer.usage)
        else {"input_tokens": answer.usage().input_tokens, "output_tokens": answer.usage().output_tokens},
        "stream": text,
        "tool": type(structured.output).__name__,
        "arguments": structured.output.model_dump(),
        "refusal": await refusal(make("bsr_nobody")),  # type: ignore[operator]
    }


async def main() -> None:
    print(json.dumps({"openai": await tried(openai), "anthropic": await tried(anthropic)}))


asyncio.run(main())

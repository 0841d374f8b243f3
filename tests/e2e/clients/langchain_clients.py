"""LangChain's OpenAI and Anthropic chat models and OpenAI embeddings, as their guides use them."""

import json
import os

from langchain_anthropic import ChatAnthropic
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

URL, KEY = os.environ["BURSAR_URL"], os.environ["BURSAR_KEY"]


@tool
def weather(city: str, days: int) -> str:
    """The weather of a city."""
    return f"{city} {days}"


def openai(key: str = KEY, **more: object) -> ChatOpenAI:
    return ChatOpenAI(model="gpt-4o-mini", base_url=f"{URL}/v1", api_key=key, max_retries=0, **more)


def anthropic(key: str = KEY, **more: object) -> ChatAnthropic:
    return ChatAnthropic(model="claude-haiku-4-5", base_url=URL, api_key=key, max_tokens=64, max_retries=0, **more)


def refusal(ask: object) -> dict[str, object]:
    try:
        ask()  # type: ignore[operator]
    except Exception as error:  # noqa: BLE001 - which class it is, is what is asked
        return {"class": type(error).__name__, "module": type(error).__module__.split(".")[0], "text": str(error)}
    return {"class": "none"}


found: dict[str, object] = {}
for name, make in (("openai", openai), ("anthropic", anthropic)):
    model = make()
    answer = model.invoke("Hello")
    called = model.bind_tools([weather], tool_choice="any" if name == "anthropic" else "required").invoke("How is it?")
    found[name] = {
        "chat": answer.text,
        "usage": answer.usage_metadata,
        "stream": "".join(chunk.text for chunk in model.stream("Hello")),
        "tool": called.tool_calls[0]["name"],
        "arguments": called.tool_calls[0]["args"],
        "refusal": refusal(lambda: make("bsr_nobody").invoke("Hello")),  # noqa: B023 - asked at once
    }
# To check lengths it would fetch a tokenizer from the internet.
embeddings = OpenAIEmbeddings(
    model="text-embedding-3-small",
    base_url=f"{URL}/v1",
    api_key=KEY,
    dimensions=16,
    check_embedding_ctx_length=False,
)
found["embeddings"] = [len(vector) for vector in embeddings.embed_documents(["one", "two"])]
print(json.dumps(found))

"""LlamaIndex's OpenAI model and embeddings, as its guides use them."""

import json
import os

from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai import OpenAIEmbedding
from llama_index.llms.openai import OpenAI

URL, KEY = os.environ["BURSAR_URL"], os.environ["BURSAR_KEY"]


def weather(city: str, days: int) -> str:
    """The weather of a city."""
    return f"{city} {days}"


def openai(key: str = KEY) -> OpenAI:
    return OpenAI(model="gpt-4o-mini", api_base=f"{URL}/v1", api_key=key, max_retries=0)


def refusal() -> dict[str, object]:
    try:
        openai("bsr_nobody").complete("Hello")
    except Exception as error:  # noqa: BLE001 - which class it is, is what is asked
        return {"class": type(error).__name__, "module": type(error).__module__.split(".")[0], "text": str(error)}
    return {"class": "none"}


llm = openai()
called = llm.chat_with_tools([FunctionTool.from_defaults(weather)], user_msg="How is it?", tool_required=True)
selection = llm.get_tool_calls_from_response(called)[0]
embedding = OpenAIEmbedding(model="text-embedding-3-small", api_base=f"{URL}/v1", api_key=KEY, dimensions=16)
found = {
    "openai": {
        "chat": llm.chat([ChatMessage(role="user", content="Hello")]).message.content,
        "usage": llm.complete("Hello").raw.usage.model_dump(),
        "stream": "".join(chunk.delta or "" for chunk in llm.stream_complete("Hello")),
        "tool": selection.tool_name,
        "arguments": selection.tool_kwargs,
        "refusal": refusal(),
    },
    "embeddings": [len(vector) for vector in embedding.get_text_embedding_batch(["one", "two"])],
}
print(json.dumps(found))

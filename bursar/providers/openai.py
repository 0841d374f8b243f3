"""The OpenAI dialect: which of its surfaces a route is, and what all of them share of the provider's API.

Each surface is a file: bodies, usage and streams differ, the host, its key and its errors do not.
Reference: https://platform.openai.com/docs/api-reference.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from bursar.core.calls import Call, DialectName, Edits, Usage
from bursar.core.made_ids import Reference
from bursar.core.parts import Part, Path
from bursar.ports import BatchForms, StreamMeter
from bursar.providers import openai_audio
from bursar.providers.openai_batches import Batches
from bursar.providers.openai_chat import Chat
from bursar.providers.openai_completions import Completions
from bursar.providers.openai_embeddings import Embeddings
from bursar.providers.openai_responses import ConversationItems, Responses
from bursar.providers.openai_responses_usage import is_running, made_in
from bursar.providers.rewriting import rename
from bursar.providers.upstream_facts import UpstreamFacts, fixed_headers, request_headers, response_headers
from bursar.providers.walk import parts_of, with_texts


class Surface(Protocol):
    """One route's part of `bursar.ports.Dialect`."""

    def understand(self, body: bytes) -> Call: ...

    def rewrite(self, call: Call, edits: Edits) -> bytes: ...

    def read_usage(self, call: Call, body: bytes) -> tuple[Usage | None, int, str]: ...

    def stream_meter(self, call: Call, edits: Edits) -> StreamMeter: ...


SURFACES: dict[str, Surface] = {
    "chat": Chat(),
    "completions": Completions(),
    "embeddings": Embeddings(),
    "responses": Responses(),
}
_ITEMS = ConversationItems()


class OpenAI:
    """`bursar.ports.Dialect`: every route of `SURFACES`."""

    name: DialectName = "openai"
    batches: BatchForms | None = Batches()
    upstream = UpstreamFacts(
        paths={
            "chat": "/chat/completions",
            "completions": "/completions",
            "embeddings": "/embeddings",
            "responses": "/responses",
            "conversations": "/conversations",
            "files": "/files",
            "batches": "/batches",
        },
        auth="bearer",
        fixed_headers=fixed_headers(),
        request_headers=request_headers("openai-beta"),
        response_headers=response_headers(("x-request-id", "openai-processing-ms", "openai-version", "openai-model")),
        key_errors=frozenset({"invalid_api_key", "account_deactivated", "authentication_error", "API_KEY_INVALID"}),
    )

    def understand(self, route: str, body: bytes) -> Call:
        """Parse strictly what is governed. Raises Refusal(malformed_request | duplicate_field | invalid_field)."""
        if route == "conversations":
            return _ITEMS.understand(route, body)
        return SURFACES[route].understand(body)

    def rename(self, body: bytes, naming: Callable[[str], str]) -> bytes:
        """The body with another name for its model."""
        return rename(body, naming)

    def parts(self, call: Call) -> Iterator[Part]:
        """The content of the call, piece by piece. Raises Refusal(malformed_request | duplicate_field)."""
        return parts_of(call.route, call.body)

    def replaced(self, call: Call, texts: Mapping[Path, str]) -> Call:
        """The call with other texts at these paths, understood anew. Raises KeyError where nothing lies."""
        return self.understand(call.route, with_texts(call.body, texts))

    def rewrite(self, call: Call, edits: Edits) -> bytes:
        """The body to send: the original bytes when no edit applies."""
        return SURFACES[call.route].rewrite(call, edits)

    def read_usage(self, call: Call, body: bytes) -> tuple[Usage | None, int, str]:
        """A whole answer -> (usage or None, visible output bytes, why usage was not believed)."""
        return SURFACES[call.route].read_usage(call, body)

    def stream_meter(self, call: Call, edits: Edits) -> StreamMeter:
        return SURFACES[call.route].stream_meter(call, edits)

    def made(self, call: Call, body: bytes) -> list[Reference]:
        if not call.keeps:
            return []
        return openai_audio.made_in(body) if call.route == "chat" else made_in(body)

    def still_running(self, body: bytes) -> bool:
        return is_running(body)

"""What the emulator keeps for its callers: responses and conversations, in memory, whoever asks for them.

Like the real one it knows accounts, not the tenants of somebody in front: an id is all that is needed.
"""

import time
from collections import OrderedDict
from typing import Any, NamedTuple

import msgspec

from bursar.providers.emulator.openai_answers import CREATED
from bursar.providers.emulator.request import Body, Request, Unfit

_MOST = 10_000  # of each kind

Item = dict[str, Any]
Page = tuple[int, object]  # status, body


class _Response(NamedTuple):
    final: dict[str, Any]
    inputs: list[Item]
    ready_at: float  # monotonic seconds


class Kept:
    def __init__(self) -> None:
        self._responses: OrderedDict[str, _Response] = OrderedDict()
        self._conversations: OrderedDict[str, tuple[dict[str, Any], list[Item]]] = OrderedDict()
        self._made = 0

    # ---- what a response builds upon, and leaves

    def before(self, body: Body) -> bytes:
        """The items that come before those of the body. Raises Unfit for an id that is not known."""
        items: list[Item] = []
        if body.previous_response_id is not None:
            if body.previous_response_id not in self._responses:
                raise Unfit(f"Previous response with id '{body.previous_response_id}' not found.")
            items += self._thread(body.previous_response_id)
        if (conversation := _conversation_of(body)) is not None:
            if conversation not in self._conversations:
                raise Unfit(f"Conversation with id '{conversation}' not found.")
            items += self._conversations[conversation][1]
        return msgspec.json.encode(items) if items else b""

    def keep(self, request: Request, final: dict[str, Any]) -> None:
        wait = request.script.background_s if request.body.background else 0.0
        inputs = _items(request.body.input, request.id)
        self._responses[final["id"]] = _Response(final, inputs, time.monotonic() + wait)
        if len(self._responses) > _MOST:
            self._responses.popitem(last=False)
        conversation = _conversation_of(request.body)
        if conversation is not None:
            self._conversations[conversation][1].extend([*inputs, *final["output"]])

    def _thread(self, made_id: str | None) -> list[Item]:
        items: list[Item] = []
        while made_id is not None and made_id in self._responses:
            found = self._responses[made_id]
            items = [*found.inputs, *found.final["output"], *items]
            made_id = found.final["previous_response_id"]
        return items

    # ---- pages

    def page(self, method: str, path: str, body: bytes) -> Page | None:
        """The answer to a request about something kept; None when the path is none of these."""
        parts = path.removeprefix("/v1").strip("/").split("/")
        if parts[0] == "responses" and len(parts) > 1:
            return self._response_page(method, parts[1], parts[2:])
        if parts[0] == "conversations":
            return self._conversation_page(method, parts[1:], body)
        return None

    def _response_page(self, method: str, made_id: str, rest: list[str]) -> Page:
        found = self._responses.get(made_id)
        if found is None:
            return 404, f"Response with id '{made_id}' not found."
        if method == "DELETE":
            del self._responses[made_id]
            return 200, {"id": made_id, "object": "response", "deleted": True}
        if rest == ["input_items"]:
            return 200, _listed(found.inputs)
        if rest == ["cancel"]:
            if time.monotonic() < found.ready_at:
                cancelled = {**found.final, "status": "cancelled", "output": []}
                self._responses[made_id] = found._replace(final=cancelled, ready_at=0.0)
            return 200, self._responses[made_id].final
        if time.monotonic() < found.ready_at:
            return 200, {**found.final, "status": "in_progress", "output": [], "usage": None}
        return 200, found.final

    def _conversation_page(self, method: str, rest: list[str], body: bytes) -> Page:
        fields: dict[str, Any] = msgspec.json.decode(body) if body.strip() else {}
        if not rest:
            return 200, self._open(fields)
        found = self._conversations.get(rest[0])
        if found is None:
            return 404, f"Conversation with id '{rest[0]}' not found."
        conversation = found[0]
        if len(rest) > 1:
            return self._items_page(method, rest[2:], fields, found)
        if method == "DELETE":
            del self._conversations[rest[0]]
            return 200, {"id": rest[0], "object": "conversation.deleted", "deleted": True}
        conversation["metadata"] = fields.get("metadata", conversation["metadata"])
        return 200, conversation

    def _items_page(
        self, method: str, rest: list[str], fields: dict[str, Any], found: tuple[dict[str, Any], list[Item]]
    ) -> Page:
        conversation, items = found
        if not rest:
            added = _items(msgspec.json.encode(fields.get("items", [])), self._number()) if method == "POST" else []
            items.extend(added)
            return 200, _listed(added or items)
        one = next((item for item in items if item["id"] == rest[0]), None)
        if one is None:
            return 404, f"Item with id '{rest[0]}' not found."
        if method == "DELETE":
            items.remove(one)
            return 200, conversation
        return 200, one

    def _open(self, fields: dict[str, Any]) -> dict[str, Any]:
        made_id = f"conv_{self._number()}"
        conversation = {"id": made_id, "object": "conversation", "created_at": CREATED}
        conversation["metadata"] = fields.get("metadata") or {}
        items = _items(msgspec.json.encode(fields.get("items") or []), made_id[5:])
        self._conversations[made_id] = (conversation, items)
        if len(self._conversations) > _MOST:
            self._conversations.popitem(last=False)
        return conversation

    def _number(self) -> str:
        self._made += 1
        return f"{time.time_ns():016x}{self._made:08x}"


def _conversation_of(body: Body) -> str | None:
    given = body.conversation
    return given.get("id") if isinstance(given, dict) else given


def _items(raw: bytes, name: str) -> list[Item]:
    """Input as items with ids of their own; a text is a message of the user."""
    given: Any = msgspec.json.decode(raw) if raw else []
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    items = []
    for number, item in enumerate(given):
        content = item.get("content")
        whole = {"content": [{"type": "input_text", "text": content}]} if isinstance(content, str) else {}
        items.append({"type": "message", "status": "completed", "id": f"msg_{name}in{number}", **item, **whole})
    return items


def _listed(items: list[Item]) -> dict[str, Any]:
    ends = {"first_id": items[0]["id"] if items else None, "last_id": items[-1]["id"] if items else None}
    return {"object": "list", "data": items, "has_more": False, **ends}

"""What a response of OpenAI's says it used, what of it can be seen, and the ids that it hands out.

Shape: https://platform.openai.com/docs/api-reference/responses/object.
"""

import msgspec

from bursar.core.calls import Call, Usage
from bursar.core.made_ids import Reference
from bursar.providers.usage_counts import MISSING, UNREADABLE, doubt, doubt_beside_output, utf8_bytes

_NONE = msgspec.Raw()
_RUNNING = frozenset({"queued", "in_progress"})


class _InputDetails(msgspec.Struct, gc=False):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class _OutputDetails(msgspec.Struct, gc=False):
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct, gc=False):
    input_tokens: int
    output_tokens: int
    total_tokens: int | None = None
    input_tokens_details: _InputDetails | None = None
    output_tokens_details: _OutputDetails | None = None


class _Text(msgspec.Struct, gc=False):
    text: str | None = None
    refusal: str | None = None


class Item(msgspec.Struct, gc=False):
    """An item of the output: only what is counted."""

    id: str | None = None
    type: str = ""
    content: list[_Text] | None = None
    summary: list[_Text] | None = None
    name: str | None = None
    arguments: str | None = None
    input: str | None = None
    code: str | None = None
    container_id: str | None = None


class Told(msgspec.Struct, gc=False):
    """A response as it stands, of which the rest passes unread."""

    id: str | None = None
    status: str | None = None
    usage: msgspec.Raw = _NONE
    output: msgspec.Raw = _NONE
    service_tier: str | None = None


class _Named(msgspec.Struct):
    id: str | None = None
    object: str = ""
    output: msgspec.Raw = _NONE
    data: msgspec.Raw = _NONE


_usage = msgspec.json.Decoder(_Usage).decode
_told = msgspec.json.Decoder(Told).decode
_named = msgspec.json.Decoder(_Named).decode
_items = msgspec.json.Decoder(list[Item]).decode
_FAULTS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_SEARCHES = {"web_search_call": "web_search", "file_search_call": "file_search"}


def read_answer(call: Call, body: bytes) -> tuple[Usage | None, int, str]:
    """A whole answer -> (usage or None, visible output bytes, why usage was not believed)."""
    try:
        answer = _told(body)
    except _FAULTS:
        return None, len(body), UNREADABLE
    return read_told(call, answer)


def read_told(call: Call, answer: Told) -> tuple[Usage | None, int, str]:
    items, visible = items_of(answer.output)
    if len(answer.usage) <= len(b"null"):
        return None, visible, MISSING
    try:
        usage = _counts(_usage(answer.usage), answer.service_tier, items, call)
    except _FAULTS:
        return None, visible, UNREADABLE
    reason = doubt(usage) or doubt_beside_output(usage, visible, visible > 0)
    return (None, visible, reason) if reason else (usage, visible, "")


def items_of(raw: bytes) -> tuple[list[Item], int]:
    """-> (the output's items, their visible bytes). What has an unknown shape counts whole."""
    if len(raw) <= len(b"null"):
        return [], 0
    try:
        items = _items(raw)
    except _FAULTS:
        return [], len(raw)
    return items, sum(map(visible_bytes, items))


def visible_bytes(item: Item) -> int:
    """UTF-8 bytes of what a caller can see of an item."""
    size = sum(utf8_bytes(said) for said in (item.name, item.arguments, item.input, item.code) if said)
    for part in (*(item.content or ()), *(item.summary or ())):
        size += sum(utf8_bytes(said) for said in (part.text, part.refusal) if said)
    return size


def _counts(said: _Usage, tier: str | None, items: list[Item], call: Call) -> Usage:
    inputs, outputs = said.input_tokens, said.output_tokens
    if inputs >= 0 and outputs >= 0:
        outputs = max(outputs, (said.total_tokens or 0) - inputs)
    before, after = said.input_tokens_details, said.output_tokens_details
    return Usage(
        input_tokens=inputs,
        output_tokens=outputs,
        cache_read=(before.cached_tokens or 0) if before else 0,
        cache_write_5m=(before.cache_write_tokens or 0) if before else 0,
        reasoning=(after.reasoning_tokens or 0) if after else 0,
        tool_uses=_uses(items) if call.server_tools else (),
        service_tier=tier or "",
    )


def _uses(items: list[Item]) -> tuple[tuple[str, int], ...]:
    """How often each of the provider's own tools was used. A container is one use, however much runs in it."""
    counts: dict[str, int] = {}
    containers = {item.container_id for item in items if item.type == "code_interpreter_call"}
    for item in items:
        name = _SEARCHES.get(item.type)
        if name is None and item.type in ("image_generation_call", "mcp_call"):
            name = item.type.removesuffix("_call")
        if name is not None:
            counts[name] = counts.get(name, 0) + 1
    if containers:
        counts["code_interpreter"] = len(containers)
    return tuple(counts.items())


def is_running(body: bytes) -> bool:
    """Whether a response has not come to an end yet."""
    try:
        return _told(body).status in _RUNNING
    except _FAULTS:
        return False


# ---- ids -------------------------------------------------------------------------------------------------------------


def made_in(body: bytes) -> list[Reference]:
    """The ids in an answer: of a response, of a conversation, of their items and of the containers they ran in."""
    try:
        answer = _named(body)
    except _FAULTS:
        return []
    found = []
    if answer.id and answer.object in ("response", "conversation"):
        found.append(Reference("response" if answer.object == "response" else "conversation", answer.id))
    for raw in (answer.output, answer.data):
        for item in items_of(raw)[0]:
            found += made_of(item)
    return found


def made_of(item: Item) -> list[Reference]:
    return [Reference("item", one) for one in (item.id, item.container_id) if one]

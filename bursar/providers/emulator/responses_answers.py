"""Responses in OpenAI's shape: whole and streamed in typed events, and as they are kept."""

from typing import Any

import msgspec

from bursar.providers.emulator.counts import Counts, lie_about
from bursar.providers.emulator.generation import Generation
from bursar.providers.emulator.openai_answers import CREATED
from bursar.providers.emulator.request import Request
from bursar.providers.emulator.steps import Event, pieces


def whole(request: Request, generation: Generation, counts: Counts) -> bytes:
    if request.body.background:
        return msgspec.json.encode(_opening(request, "queued"))
    return msgspec.json.encode(_final(request, generation, counts))


def kept(request: Request, generation: Generation, counts: Counts) -> dict[str, Any] | None:
    """The response in the end; None when it is not to be stored."""
    return None if request.body.store is False else _final(request, generation, counts)


def _final(request: Request, generation: Generation, counts: Counts) -> dict[str, Any]:
    response = _opening(request, "incomplete" if generation.cut else "completed")
    if generation.cut:
        response["incomplete_details"] = {"reason": "max_output_tokens"}
    response["output"] = _output(request, generation)
    told = lie_about(_usage(counts), request.script.usage)
    if told is None:
        del response["usage"]
    else:
        response["usage"] = told
    return response


def _usage(counts: Counts) -> dict[str, Any]:
    return {
        "input_tokens": counts.input,
        "input_tokens_details": {
            "cached_tokens": counts.cached,
            "cache_write_tokens": counts.cache_write_5m + counts.cache_write_1h,
        },
        "output_tokens": counts.output,
        "output_tokens_details": {"reasoning_tokens": counts.reasoning},
        "total_tokens": counts.input + counts.output,
    }


def _opening(request: Request, status: str) -> dict[str, Any]:
    body = request.body
    conversation = body.conversation
    return {
        "id": f"resp_{request.id}",
        "object": "response",
        "created_at": CREATED,
        "status": status,
        "background": bool(body.background),
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "model": body.model,
        "output": [],
        "parallel_tool_calls": True,
        "previous_response_id": body.previous_response_id,
        "conversation": {"id": conversation} if isinstance(conversation, str) else conversation,
        "reasoning": body.reasoning or {"effort": None, "summary": None},
        "service_tier": request.script.tier or "default",
        "store": body.store is not False,
        "temperature": 1.0,
        "text": body.text or {"format": {"type": "text"}},
        "tool_choice": msgspec.json.decode(body.tool_choice) if len(body.tool_choice) > 4 else "auto",
        "tools": msgspec.json.decode(body.tools) if len(body.tools) > 4 else [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": None,
        "metadata": body.metadata or {},
    }


def _output(request: Request, generation: Generation) -> list[dict[str, Any]]:
    searches = [
        {"id": f"ws_{request.id}{number}", "type": "web_search_call", "status": "completed", "action": _SEARCH}
        for number in range(request.script.searches)
    ]
    thoughts = []
    if generation.reasoning:
        thoughts.append({"id": f"rs_{request.id}", "type": "reasoning", "summary": []})
    return [*thoughts, *searches, _item(request, generation, generation.text, "completed")]


_SEARCH = {"type": "search", "query": "something"}


def _item(request: Request, generation: Generation, text: str, status: str) -> dict[str, Any]:
    if generation.tool:
        named = {"call_id": f"call_{request.id[-8:]}", "name": generation.tool, "arguments": text}
        return {"id": f"fc_{request.id}", "type": "function_call", "status": status, **named}
    content = [_part(generation, text)] if text else []
    return {"id": f"msg_{request.id}", "type": "message", "status": status, "role": "assistant", "content": content}


def _part(generation: Generation, text: str) -> dict[str, Any]:
    if generation.refused:
        return {"type": "refusal", "refusal": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


class _Events:
    """The events of one stream, numbered."""

    def __init__(self) -> None:
        self.found: list[Event] = []

    def add(self, kind: str, done: int, *, usage: bool = False, last: bool = False, **fields: Any) -> None:
        event = {"type": f"response.{kind}", "sequence_number": len(self.found), **fields}
        data = b"event: response." + kind.encode() + b"\ndata: " + msgspec.json.encode(event) + b"\n\n"
        self.found.append(Event(data, done, usage=usage, last=last))


def events(request: Request, generation: Generation, counts: Counts) -> list[Event]:
    """The stream's events in order, without malformations."""
    stream = _Events()
    final = _final(request, generation, counts)
    stream.add("created", 0, response=_opening(request, "in_progress"))
    stream.add("in_progress", 0, response=_opening(request, "in_progress"))
    *before, item = final["output"]
    for index, thing in enumerate(before):
        stream.add("output_item.added", 0, output_index=index, item=thing)
        stream.add("output_item.done", counts.reasoning, output_index=index, item=thing)
    _item_events(stream, request, generation, counts, (len(before), item))
    ending = "incomplete" if generation.cut else "completed"
    stream.add(ending, counts.output, usage=True, last=True, response=final)
    return stream.found


def _item_events(
    stream: _Events, request: Request, generation: Generation, counts: Counts, placed: tuple[int, dict[str, Any]]
) -> None:
    index, item = placed
    place = {"item_id": item["id"], "output_index": index}
    stream.add("output_item.added", 0, output_index=index, item=_item(request, generation, "", "in_progress"))
    delta = "output_text"
    done_as: dict[str, Any] = {"text": generation.text, "logprobs": []}
    if generation.tool:
        delta, done_as = "function_call_arguments", {"arguments": generation.text, "name": generation.tool}
    else:
        place["content_index"] = 0
        if generation.refused:
            delta, done_as = "refusal", {"refusal": generation.text}
        stream.add("content_part.added", 0, **place, part=_part(generation, ""))
    done = counts.reasoning
    for piece in pieces(generation.text, generation.visible, request.script.chunks):
        done += piece.tokens
        more: dict[str, Any] = {"logprobs": []} if delta == "output_text" else {}
        stream.add(f"{delta}.delta", done, **place, delta=piece.text, **more)
    stream.add(f"{delta}.done", counts.output, **place, **done_as)
    if not generation.tool:
        stream.add("content_part.done", counts.output, **place, part=_part(generation, generation.text))
    stream.add("output_item.done", counts.output, output_index=index, item=item)

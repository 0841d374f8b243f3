"""OpenAI's Responses: POST /v1/responses, and the items of conversations.

Reference: https://platform.openai.com/docs/api-reference/responses/create. A response is kept by the provider unless
`store` is false, and can be built upon (`previous_response_id`, `conversation`): what is read then is not in the body.
"""

from typing import Any

from bursar.core.calls import Call, Edits, Usage
from bursar.core.errors import Refusal
from bursar.providers.findings import Findings
from bursar.providers.openai_governed import refuse_other_models
from bursar.providers.openai_items import read_input, read_tools
from bursar.providers.openai_responses_stream import ResponsesMeter
from bursar.providers.openai_responses_usage import read_answer
from bursar.providers.prompt_size import MEDIA_BYTES, count_chars
from bursar.providers.rewriting import raw_value, rebuild
from bursar.providers.strict_json import (
    Fields,
    fields_of,
    given,
    kind_of,
    model_of,
    names,
    read_body,
    text,
    truth,
    unknown_keys,
    whole,
    wrong_kind,
)

# Read, and rewritten where policy says so.
_GOVERNED = names(
    "model input instructions max_output_tokens max_tool_calls tools stream stream_options previous_response_id"
    " conversation prompt background reasoning service_tier store user safety_identifier prompt_cache_options"
    " prompt_cache_retention models fallbacks"
)
# Change the answer, or what is kept of it, but never raise the price above input and output cap at this model's rates.
_HARMLESS = names(
    "include metadata parallel_tool_calls temperature top_p text tool_choice top_logprobs prompt_cache_key truncation"
)
_KNOWN = _GOVERNED | _HARMLESS
_ITEMS = names("items metadata")
_STREAM_OPTIONS = frozenset({"include_obfuscation"})
_UNSET_TIER = "auto"  # what its project is set to, which may be the dearest one
_CAP = "max_output_tokens"
_OTHER_CAPS = ("max_tokens", "max_completion_tokens")
_REASONING = names("effort summary generate_summary context mode")


class Responses:
    """The surface of the route "responses"."""

    def understand(self, body: bytes) -> Call:
        """Parse strictly what is governed. Raises Refusal(malformed_request | duplicate_field | invalid_field)."""
        fields = read_body(body)
        model = model_of(fields)
        found = Findings()
        _check_names(fields, found)
        most_uses = whole(fields, "max_tool_calls")
        if (tools := given(fields, "tools")) is not None:
            read_tools(tools, found, most_uses)
        given_input = given(fields, "input")
        count = 0 if given_input is None else read_input(given_input, found)
        conversation = _read_context(fields, found)
        background = truth(fields, "background")
        if background:
            found.no_ceiling("background")  # it goes on unseen, and cannot be cut
        texts = [raw for name in ("input", "instructions") if (raw := given(fields, name)) is not None]
        call = Call(
            route="responses",
            dialect="openai",
            purpose="inference",
            model=model,
            stream=truth(fields, "stream"),
            body=body,
            input_bytes=len(body) - found.media_bytes + MEDIA_BYTES * found.media,
            prompt_chars=count_chars(body, *texts),
            messages=count + 1,
            max_tokens=whole(fields, _CAP),
            max_tokens_field=_CAP,
            service_tier=text(fields, "service_tier") or _UNSET_TIER,
            user=text(fields, "user") or text(fields, "safety_identifier") or "",
            parsed=fields,
        )
        call.reasoning = _reasons(fields, found)
        call.background = background
        call.keeps = background or conversation or _is_stored(fields)
        found.tell(call)
        return call

    def rewrite(self, call: Call, edits: Edits) -> bytes:
        """The body to send: the original bytes when no edit applies. The API takes no stop sequences."""
        fields = call.parsed
        assert isinstance(fields, dict), "the call was understood by this surface"
        changes: Fields = {}
        if edits.model is not None and edits.model != call.model:
            changes["model"] = raw_value(edits.model)
        if edits.max_tokens is not None:
            changes[_CAP] = raw_value(edits.max_tokens)
        if edits.tool_uses_cap is not None and any(tool.max_uses is None for tool in call.server_tools):
            changes["max_tool_calls"] = raw_value(edits.tool_uses_cap)
        changes = {name: raw for name, raw in changes.items() if bytes(fields.get(name, b"")) != bytes(raw)}
        return rebuild(fields, changes) if changes else call.body

    def read_usage(self, call: Call, body: bytes) -> tuple[Usage | None, int, str]:
        """A whole answer -> (usage or None, visible output bytes, why usage was not believed)."""
        return read_answer(call, body)

    def stream_meter(self, call: Call, edits: Edits) -> ResponsesMeter:
        del edits  # usage comes unasked
        return ResponsesMeter(call)


class ConversationItems:
    """Bodies that put items into a conversation, or open one with some: nothing is generated, nothing billed."""

    def understand(self, route: str, body: bytes) -> Call:
        """Raises Refusal(malformed_request | duplicate_field | invalid_field)."""
        fields = read_body(body) if body.strip() else {}
        found = Findings()
        found.new_fields(fields, _ITEMS)
        items = given(fields, "items")
        if items is not None and kind_of(items) != "array":
            raise wrong_kind("items", "an array")
        count = 0 if items is None else read_input(items, found, "items")
        call = Call(
            route=route,
            dialect="openai",
            purpose="inference",
            model="",
            stream=False,
            body=body,
            input_bytes=len(body),
            prompt_chars=0 if items is None else count_chars(body, items),
            messages=count,
            keeps=True,
            parsed=fields,
        )
        found.tell(call)
        return call


def _check_names(fields: Fields, found: Findings) -> None:
    refuse_other_models(fields)
    for name in _OTHER_CAPS:  # some servers read it, and it would pass by the cap
        if name in fields:
            raise Refusal("invalid_field", f"`{name}` is a field of chat", f"Give `{_CAP}`")
    found.new_fields(fields, _KNOWN)
    if (options := given(fields, "stream_options")) is not None:
        for path in unknown_keys(fields_of(options, "stream_options"), _STREAM_OPTIONS, "stream_options"):
            found.new_key(path)
    if given(fields, "prompt_cache_options") is not None or given(fields, "prompt_cache_retention") is not None:
        found.one_hour = True


def _read_context(fields: Fields, found: Findings) -> bool:
    """What is read besides the body, by its id -> whether it is a conversation, which also keeps the answer."""
    if (before := text(fields, "previous_response_id")) is not None:
        found.refer("response", before)
    if (prompt := given(fields, "prompt")) is not None:  # written in the provider's dashboard: it is no team's
        found.refer("item", text(fields_of(prompt, "prompt"), "id", "prompt") or "")
        found.no_ceiling("prompt")
    conversation = given(fields, "conversation")
    if conversation is None:
        return False
    if kind_of(conversation) == "object":
        kept = text(fields_of(conversation, "conversation"), "id", "conversation") or ""
    else:
        kept = text(fields, "conversation") or ""
    found.refer("conversation", kept)
    return True


def _is_stored(fields: Fields) -> bool:
    return given(fields, "store") is None or truth(fields, "store")


def _reasons(fields: Fields, found: Findings) -> bool:
    reasoning: Any = given(fields, "reasoning")
    if reasoning is None:
        return False
    asked = fields_of(reasoning, "reasoning")
    for path in unknown_keys(asked, _REASONING, "reasoning"):
        found.new_key(path)
    return text(asked, "effort", "reasoning") != "none"

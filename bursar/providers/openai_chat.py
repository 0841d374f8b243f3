"""OpenAI's chat: POST /v1/chat/completions, also as spoken by compatible servers.

Reference: https://platform.openai.com/docs/api-reference/chat/create.
"""

from typing import Any

import msgspec

from bursar.core.calls import Call, Edits, ServerTool, Usage
from bursar.providers.findings import Findings
from bursar.providers.openai_audio import SpokenMeter
from bursar.providers.openai_content import read_messages, read_tools
from bursar.providers.openai_governed import edit_stops, edit_stream, read_stops, refuse_other_models, wants_usage
from bursar.providers.openai_stream import OpenAIMeter
from bursar.providers.openai_usage import Output, read_counts, visible_bytes
from bursar.providers.prompt_size import MEDIA_BYTES, count_chars
from bursar.providers.rewriting import ABSENT, raw_value, rebuild
from bursar.providers.strict_json import (
    Fields,
    given,
    model_of,
    names,
    read_as,
    read_body,
    text,
    truth,
    whole,
    wrong_kind,
)
from bursar.providers.usage_counts import BYTES_PER_TOKEN, MISSING, SLACK_BYTES, UNREADABLE, doubt_beside_output

# Read, and rewritten where policy says so.
_GOVERNED = names(
    "model messages max_tokens max_completion_tokens n stream stream_options stop tools functions web_search_options"
    " modalities audio prediction service_tier reasoning_effort user safety_identifier"
    " prompt_cache_options prompt_cache_retention models fallbacks"
)
# Change the answer, or what is kept of it, but never raise the price above input and output cap at this model's rates.
_HARMLESS = names(
    "frequency_penalty presence_penalty logit_bias logprobs top_logprobs temperature top_p top_k min_p"
    " repetition_penalty seed response_format parallel_tool_calls tool_choice function_call verbosity metadata store"
    " prompt_cache_key"
)
_KNOWN = _GOVERNED | _HARMLESS
# A request that names no tier gets what its project is set to, which may be the dearest one (service_tier: "auto").
_UNSET_TIER = "auto"
_SEARCHING = "-search-"  # models that search on every call: gpt-4o-search-preview, gpt-5-search-api
# The commonest keys need no further look.
_PLAIN = _HARMLESS | names("model messages max_tokens max_completion_tokens n stream user")

_WORDS: msgspec.json.Decoder[list[str]] = msgspec.json.Decoder(list[str])


class _Choice(msgspec.Struct):
    message: Output | None = None


class _Answer(msgspec.Struct):
    usage: msgspec.Raw = msgspec.Raw()
    choices: msgspec.Raw = msgspec.Raw()
    service_tier: str | None = None


_answer = msgspec.json.Decoder(_Answer)
_choices = msgspec.json.Decoder(list[_Choice])


class Chat:
    """The surface of the route "chat"."""

    def understand(self, body: bytes) -> Call:
        """Parse strictly what is governed. Raises Refusal(malformed_request | duplicate_field | invalid_field)."""
        fields = read_body(body)
        model = model_of(fields)
        messages = fields.get("messages")
        if messages is None:
            raise wrong_kind("messages", "an array")
        found = Findings()
        count = read_messages(messages, found)
        extras = {} if _PLAIN.issuperset(fields) else _read_extras(fields, found)
        if _SEARCHING in model and not found.tools:
            _search(found, "the search of this model")
        cap, cap_field = _largest_cap(fields)
        # Fifteen named arguments at most: Python makes a dict of more, which costs 1 us.
        call = Call(
            route="chat",
            dialect="openai",
            purpose="inference",
            model=model,
            stream=truth(fields, "stream") if "stream" in fields else False,
            body=body,
            input_bytes=len(body) - found.media_bytes + MEDIA_BYTES * found.media,
            prompt_chars=count_chars(body, messages),
            messages=count,
            max_tokens=cap,
            max_tokens_field=cap_field,
            n=(whole(fields, "n", least=1) or 1) if "n" in fields else 1,
            service_tier=_UNSET_TIER,
            user=_user(fields) if extras or "user" in fields else "",
            parsed=fields,
        )
        found.tell(call)
        if found.audio:
            call.keeps = True
        return msgspec.structs.replace(call, **extras) if extras else call

    def rewrite(self, call: Call, edits: Edits) -> bytes:
        """The body to send: the original bytes when no edit applies."""
        fields = call.parsed
        assert isinstance(fields, dict), "the call was understood by this dialect"
        changes: Fields = {}
        if edits.model is not None and edits.model != call.model:
            changes["model"] = raw_value(edits.model)
        if edits.max_tokens is not None:
            _set_cap(fields, edits.max_tokens, edits.max_tokens_field or call.max_tokens_field or "max_tokens", changes)
        if call.stream:
            edit_stream(fields, call, edits, changes)
        if edits.stop:
            edit_stops(fields, edits.stop, changes)
        return rebuild(fields, changes) if changes else call.body

    def read_usage(self, call: Call, body: bytes) -> tuple[Usage | None, int, str]:
        """A whole answer -> (usage or None, visible output bytes, why usage was not believed).

        The visible bytes are counted (not 0) only where usage is missing or looks wrong.
        """
        try:
            answer = _answer.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None, len(body), UNREADABLE
        if len(answer.usage) <= 4:  # absent or null
            return None, _count_visible(answer.choices)[0], MISSING
        usage, reason = read_counts(answer.usage, answer.service_tier, call)
        if usage is not None:
            plausible = len(answer.choices) <= usage.output_tokens * BYTES_PER_TOKEN + SLACK_BYTES
            if plausible and usage.output_tokens and usage.input_tokens:
                return usage, 0, ""
            visible, seen = _count_visible(answer.choices)
            reason = doubt_beside_output(usage, visible, seen)
            return (None, visible, reason) if reason else (usage, visible, "")
        return None, _count_visible(answer.choices)[0], reason

    def stream_meter(self, call: Call, edits: Edits) -> OpenAIMeter:
        strip = edits.include_usage and not call.wants_usage
        return SpokenMeter(call, strip_usage=strip) if call.keeps else OpenAIMeter(call, strip_usage=strip)


def _user(fields: Fields) -> str:
    return text(fields, "user") or text(fields, "safety_identifier") or ""


def _largest_cap(fields: Fields) -> tuple[int | None, str]:
    """The largest explicit cap binds: a smaller one beside it must not hide it."""
    plain = whole(fields, "max_tokens") if "max_tokens" in fields else None
    completion = whole(fields, "max_completion_tokens") if "max_completion_tokens" in fields else None
    if plain is None and completion is None:
        return None, ""
    if completion is None or (plain is not None and plain > completion):
        return plain, "max_tokens"
    return completion, "max_completion_tokens"


def _set_cap(fields: Fields, cap: int, wanted: str, changes: Fields) -> None:
    """One cap under the wanted name, and none under the other."""
    other = "max_tokens" if wanted == "max_completion_tokens" else "max_completion_tokens"
    raw = raw_value(cap)
    if bytes(fields.get(wanted, b"")) != bytes(raw):
        changes[wanted] = raw
    if other in fields:
        changes[other] = ABSENT


def _read_extras(fields: Fields, found: Findings) -> dict[str, Any]:
    """The rarer governed fields, as arguments of `Call`."""
    found.new_fields(fields, _KNOWN)
    refuse_other_models(fields)
    _read_inputs(fields, found)
    read_stops(fields)
    effort = text(fields, "reasoning_effort")
    return {
        "wants_usage": wants_usage(fields, found),
        "service_tier": text(fields, "service_tier") or _UNSET_TIER,
        "reasoning": effort not in (None, "none"),
    }


def _read_inputs(fields: Fields, found: Findings) -> None:
    if (tools := given(fields, "tools")) is not None:
        read_tools(tools, found)
    if given(fields, "web_search_options") is not None:
        _search(found, "web_search_options")
    if given(fields, "prediction") is not None:
        found.no_ceiling("prediction")  # rejected predicted tokens are billed as output, beyond the cap
    if given(fields, "audio") is not None:
        found.audio = True
    modalities = given(fields, "modalities")
    if modalities is not None and "audio" in read_as(_WORDS, modalities, "modalities", "an array of texts"):
        found.audio = True
    if given(fields, "prompt_cache_options") is not None or given(fields, "prompt_cache_retention") is not None:
        found.one_hour = True


def _search(found: Findings, reason: str) -> None:
    """The provider searches the web, and chat has no field that caps how often."""
    found.tools.append(ServerTool("web_search", None))
    found.no_ceiling(reason)
    found.outside("web_search")


def _count_visible(raw: bytes) -> tuple[int, bool]:
    """-> (visible bytes of all choices, whether anything was output). An unknown shape counts whole."""
    if len(raw) <= 4:
        return 0, False
    try:
        choices = _choices.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return len(raw), True
    messages = [choice.message for choice in choices if choice.message is not None]
    size = sum(map(visible_bytes, messages))
    return size, size > 0 or any(message.audio is not None for message in messages)

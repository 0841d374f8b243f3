"""OpenAI's `usage` object, and the texts of its answers, as values.

Shape: https://platform.openai.com/docs/api-reference/chat/object (usage). Compatible servers differ in two ways that
matter for money: some leave reasoning out of `completion_tokens` (only `total_tokens` shows it), some leave cached
input out of `prompt_tokens`.
"""

import msgspec

from bursar.core.calls import Call, Usage
from bursar.providers.usage_counts import UNREADABLE, doubt, utf8_bytes


class _PromptDetails(msgspec.Struct, gc=False):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    audio_tokens: int | None = None
    image_tokens: int | None = None


class _CompletionDetails(msgspec.Struct, gc=False):
    reasoning_tokens: int | None = None
    audio_tokens: int | None = None


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None
    prompt_cache_hit_tokens: int | None = None  # DeepSeek


_decode = msgspec.json.Decoder(_Usage).decode
_NO_PROMPT_DETAILS = _PromptDetails()
_NO_COMPLETION_DETAILS = _CompletionDetails()


def read_counts(raw: bytes, tier: str | None, call: Call) -> tuple[Usage | None, str]:
    """-> (usage, "") or (None, why it is not believed)."""
    try:
        said = _decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None, UNREADABLE
    prompt = said.prompt_tokens_details or _NO_PROMPT_DETAILS
    completion = said.completion_tokens_details or _NO_COMPLETION_DETAILS
    cached = prompt.cached_tokens or said.prompt_cache_hit_tokens or 0
    written = prompt.cache_write_tokens or 0
    reasoning = completion.reasoning_tokens or 0
    inputs, outputs = said.prompt_tokens, said.completion_tokens
    if inputs >= 0 and outputs >= 0:
        if cached + written > inputs:
            inputs += cached + written
        outputs = max(outputs, (said.total_tokens or 0) - inputs)
        if reasoning > outputs:
            outputs += reasoning
    searches: tuple[tuple[str, int], ...] = ()
    if call.server_tools:
        searches = tuple((tool.name, 1) for tool in call.server_tools if tool.name == "web_search")
    usage = Usage(
        input_tokens=inputs,
        output_tokens=outputs,
        cache_read=cached,
        cache_write_5m=written,
        reasoning=reasoning,
        audio_input=prompt.audio_tokens or 0,
        audio_output=completion.audio_tokens or 0,
        image_input=prompt.image_tokens or 0,
        tool_uses=searches,
        service_tier=tier or "",
    )
    reason = doubt(usage)
    return (None, reason) if reason else (usage, "")


# ---- texts of an answer or of a delta --------------------------------------------------------------------------------


class Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: str | None = None
    input: str | None = None  # custom tools


class ToolCall(msgspec.Struct, gc=False):
    function: Function | None = None
    custom: Function | None = None


class Audio(msgspec.Struct, gc=False):
    transcript: str | None = None
    data: msgspec.Raw = msgspec.Raw()


class Output(msgspec.Struct, gc=False):
    """A message, or the delta of one: only what was generated."""

    content: str | list[msgspec.Raw] | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[ToolCall] | None = None
    function_call: Function | None = None
    audio: Audio | None = None


class TextChoice(msgspec.Struct, gc=False):
    """One choice of a legacy completion, or a piece of it."""

    text: str | None = None
    index: int = 0
    finish_reason: str | None = None


def visible_bytes(output: Output) -> int:
    """UTF-8 bytes of what a caller can see: text, refusals, shown reasoning, tool names and arguments, transcripts."""
    content = output.content
    size = utf8_bytes(content) if isinstance(content, str) else sum(map(len, content or ()))
    if (
        output.refusal
        or output.reasoning_content
        or output.reasoning
        or output.tool_calls
        or output.function_call is not None
        or output.audio is not None
    ):
        size += _rarer_bytes(output)
    return size


def _rarer_bytes(output: Output) -> int:
    """What is no plain text: in most chunks there is nothing of it."""
    size = 0
    for said in (output.refusal, output.reasoning_content, output.reasoning):
        if said:
            size += utf8_bytes(said)
    if output.tool_calls:
        for tool in output.tool_calls:
            size += _function_bytes(tool.function) + _function_bytes(tool.custom)
    if output.function_call is not None:
        size += _function_bytes(output.function_call)
    if output.audio is not None and output.audio.transcript:
        size += utf8_bytes(output.audio.transcript)
    return size


def _function_bytes(function: Function | None) -> int:
    if function is None:
        return 0
    return sum(utf8_bytes(said) for said in (function.name, function.arguments, function.input) if said)

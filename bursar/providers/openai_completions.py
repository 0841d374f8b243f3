"""OpenAI's legacy completions: POST /v1/completions, as base models and many local servers still speak it.

Reference: https://platform.openai.com/docs/api-reference/completions/create.
"""

import msgspec

from bursar.core.calls import Call, Edits, Usage
from bursar.core.errors import Refusal
from bursar.providers.findings import Findings
from bursar.providers.openai_governed import edit_stops, edit_stream, read_stops, refuse_other_models, wants_usage
from bursar.providers.openai_prompts import Prompts, read_prompts
from bursar.providers.openai_stream import TextMeter
from bursar.providers.openai_usage import TextChoice, read_counts
from bursar.providers.prompt_size import count_chars
from bursar.providers.rewriting import raw_value, rebuild
from bursar.providers.strict_json import Fields, given, model_of, names, read_body, text, truth, whole
from bursar.providers.usage_counts import MISSING, UNREADABLE, doubt_beside_output, utf8_bytes

DEFAULT_OUTPUT = 16  # tokens that the API writes for a caller who gives no cap

# Read, and rewritten where policy says so.
_GOVERNED = names("model prompt suffix max_tokens n best_of echo stream stream_options stop user models fallbacks")
# Change the answer but never raise the price above input and output cap at this model's rates.
_HARMLESS = names(
    "frequency_penalty presence_penalty logit_bias logprobs seed temperature top_p top_k min_p repetition_penalty"
)
_KNOWN = _GOVERNED | _HARMLESS
_NO_PROMPT = Prompts(1, 0)  # the model begins a document of its own


class _Answer(msgspec.Struct):
    usage: msgspec.Raw = msgspec.Raw()
    choices: msgspec.Raw = msgspec.Raw()


_answer = msgspec.json.Decoder(_Answer)
_choices = msgspec.json.Decoder(list[TextChoice])


class Completions:
    """The surface of the route "completions"."""

    def understand(self, body: bytes) -> Call:
        """Parse strictly what is governed. Raises Refusal(malformed_request | duplicate_field | invalid_field)."""
        fields = read_body(body)
        model = model_of(fields)
        found = Findings()
        _check_names(fields, found)
        read_stops(fields)
        prompt = given(fields, "prompt")
        prompts = _NO_PROMPT if prompt is None else read_prompts(prompt, "prompt")
        text(fields, "suffix")
        choices = _choices_each(fields) * prompts.number
        cap = whole(fields, "max_tokens")
        call = Call(
            route="completions",
            dialect="openai",
            purpose="inference",
            model=model,
            stream=truth(fields, "stream"),
            body=body,
            input_bytes=len(body),
            prompt_chars=_chars(body, fields, prompts),
            messages=prompts.number,
            max_tokens=DEFAULT_OUTPUT if cap is None else cap,
            max_tokens_field="max_tokens",
            n=choices,
            unseen=choices > (whole(fields, "n") or 1) * prompts.number,
            prompts=prompts.number,
            echo_bytes=prompts.most_bytes * (choices // prompts.number) if truth(fields, "echo") else 0,
            parsed=fields,
        )
        call.wants_usage = wants_usage(fields, found)
        call.token_ids = prompts.tokens
        call.user = text(fields, "user") or ""
        found.tell(call)
        return call

    def rewrite(self, call: Call, edits: Edits) -> bytes:
        """The body to send: the original bytes when no edit applies. The cap always stands in it.

        Servers differ in what they write where none does.
        """
        fields = call.parsed
        assert isinstance(fields, dict), "the call was understood by this surface"
        changes: Fields = {}
        if edits.model is not None and edits.model != call.model:
            changes["model"] = raw_value(edits.model)
        cap = raw_value(call.max_tokens if edits.max_tokens is None else edits.max_tokens)
        if bytes(fields.get("max_tokens", b"")) != bytes(cap):
            changes["max_tokens"] = cap
        edit_stream(fields, call, edits, changes)
        if edits.stop:
            edit_stops(fields, edits.stop, changes)
        return rebuild(fields, changes) if changes else call.body

    def read_usage(self, call: Call, body: bytes) -> tuple[Usage | None, int, str]:
        """A whole answer -> (usage or None, visible output bytes, why usage was not believed)."""
        try:
            answer = _answer.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None, len(body), UNREADABLE
        visible = _count_visible(answer.choices)
        if len(answer.usage) <= len(b"null"):  # absent or null
            return None, visible, MISSING
        usage, reason = read_counts(answer.usage, None, call)
        if usage is not None:
            written = max(0, visible - call.echo_bytes)
            reason = doubt_beside_output(usage, written, written > 0)
        return (None, visible, reason) if usage is None or reason else (usage, visible, "")

    def stream_meter(self, call: Call, edits: Edits) -> TextMeter:
        return TextMeter(call, strip_usage=edits.include_usage and not call.wants_usage)


def _check_names(fields: Fields, found: Findings) -> None:
    refuse_other_models(fields)
    found.new_fields(fields, _KNOWN)
    if "max_completion_tokens" in fields:  # some servers read it, and it would pass by the cap
        message = "`max_completion_tokens` is a field of chat"
        raise Refusal("invalid_field", message, "Give `max_tokens`")


def _chars(body: bytes, fields: Fields, prompts: Prompts) -> int:
    texts = ("suffix",) if prompts.tokens else ("prompt", "suffix")
    return prompts.chars + count_chars(body, *(fields[name] for name in texts if name in fields))


def _choices_each(fields: Fields) -> int:
    """Answers written for one prompt: `best_of` are billed, `n` of them are shown."""
    shown, written = whole(fields, "n", least=1) or 1, whole(fields, "best_of", least=1)
    if written is not None and written < shown:
        raise Refusal("invalid_field", "`best_of` must not be less than `n`")
    return written or shown


def _count_visible(raw: bytes) -> int:
    """Visible bytes of all choices. An unknown shape counts whole."""
    if len(raw) <= len(b"null"):
        return 0
    try:
        return sum(utf8_bytes(choice.text or "") for choice in _choices.decode(raw))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return len(raw)

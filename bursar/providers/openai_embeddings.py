"""OpenAI's embeddings: POST /v1/embeddings. Input only: nothing is written, so nothing needs a cap.

Reference: https://platform.openai.com/docs/api-reference/embeddings/create.
"""

import msgspec

from bursar.core.calls import Call, Edits, Usage
from bursar.ports import StreamMeter
from bursar.providers.findings import Findings
from bursar.providers.openai_governed import refuse_other_models
from bursar.providers.openai_prompts import read_prompts
from bursar.providers.openai_stream import OpenAIMeter
from bursar.providers.prompt_size import count_chars
from bursar.providers.rewriting import raw_value, rebuild
from bursar.providers.strict_json import model_of, names, read_body, text, wrong_kind
from bursar.providers.usage_counts import MISSING, UNREADABLE, ZERO, doubt

_KNOWN = names("model input encoding_format dimensions user models fallbacks")


class _Counts(msgspec.Struct):
    prompt_tokens: int | None = None
    total_tokens: int | None = None


class _Answer(msgspec.Struct):
    usage: msgspec.Raw = msgspec.Raw()
    data: msgspec.Raw = msgspec.Raw()


_counts = msgspec.json.Decoder(_Counts | None)
_answer = msgspec.json.Decoder(_Answer)


class Embeddings:
    """The surface of the route "embeddings"."""

    def understand(self, body: bytes) -> Call:
        """Parse strictly what is governed. Raises Refusal(malformed_request | duplicate_field | invalid_field)."""
        fields = read_body(body)
        model = model_of(fields)
        given = fields.get("input")
        if given is None:
            raise wrong_kind("input", "a text or an array")
        refuse_other_models(fields)
        found = Findings()
        found.new_fields(fields, _KNOWN)
        prompts = read_prompts(given, "input")
        call = Call(
            route="embeddings",
            dialect="openai",
            purpose="embedding",
            model=model,
            stream=False,
            body=body,
            input_bytes=len(body),
            prompt_chars=prompts.chars or count_chars(body, given),
            token_ids=prompts.tokens,
            messages=prompts.number,
            prompts=prompts.number,
            max_tokens=0,
            writes=False,
            user=text(fields, "user") or "",
            parsed=fields,
        )
        found.tell(call)
        return call

    def rewrite(self, call: Call, edits: Edits) -> bytes:
        """The body to send: the original bytes unless the model has another name upstream."""
        assert isinstance(call.parsed, dict), "the call was understood by this surface"
        if edits.model is None or edits.model == call.model:
            return call.body
        return rebuild(call.parsed, {"model": raw_value(edits.model)})

    def read_usage(self, call: Call, body: bytes) -> tuple[Usage | None, int, str]:  # noqa: ARG002 - all in the answer
        """A whole answer -> (usage or None, 0, why usage was not believed). Vectors are not output that is billed.

        Compatible servers leave out `prompt_tokens` or `total_tokens`: of the two the larger counts.
        """
        try:
            answer = _answer.decode(body)
            counts = _counts.decode(answer.usage or b"null")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None, 0, UNREADABLE
        said = [] if counts is None else [n for n in (counts.prompt_tokens, counts.total_tokens) if n is not None]
        if not said:
            return None, 0, MISSING
        usage = Usage(input_tokens=min(said) if min(said) < 0 else max(said), output_tokens=0)
        reason = doubt(usage) or (ZERO if not usage.input_tokens and len(answer.data) > len(b"[]") else "")
        return (None, 0, reason) if reason else (usage, 0, "")

    def stream_meter(self, call: Call, edits: Edits) -> StreamMeter:  # noqa: ARG002 - never asked for
        return OpenAIMeter(call, strip_usage=False)

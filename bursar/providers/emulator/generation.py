"""What the model "says": texts and token counts of one answer, fixed by the request and the seed."""

from typing import Any

import msgspec

from bursar.providers.emulator.request import TOKEN_BYTES, Request, schema_of, wanted_tool
from bursar.providers.emulator.sample import sample

_WORDS = "all the old cat sat and saw one red fox run far off now she did not ask why but her dog can dig"
_ACCENTED = "né où là ça dû"
_LONG = 512  # tokens of text kept ready


def _endless(words: str) -> bytes:
    line = words.encode() + b" "
    return line * (_LONG * TOKEN_BYTES // len(line) + 2)


_PLAIN_TEXT = _endless(_WORDS)
_ACCENTED_TEXT = _endless(_ACCENTED)


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """One choice (all choices of a call are alike), and the counts of one choice."""

    text: str  # visible: an answer, a refusal or the arguments of the tool
    tool: str = ""  # name of the tool called
    refused: bool = False
    thought: str = ""  # reasoning as shown in Anthropic's thinking blocks
    visible: int = 0  # tokens of `text`
    reasoning: int = 0
    cut: bool = False  # max_tokens ended it

    @property
    def output(self) -> int:
        return self.visible + self.reasoning


def words(tokens: int, offset: int, accents: bool) -> str:
    """Deterministic text of exactly `tokens` x 4 bytes (in UTF-8)."""
    source = _ACCENTED_TEXT if accents else _PLAIN_TEXT
    size = tokens * TOKEN_BYTES
    start = offset % 5 * TOKEN_BYTES
    if start + size > len(source):
        source = source * ((start + size) // len(source) + 1)
    return source[start : start + size].decode()


def count_tokens(text: str) -> int:
    return -(-len(text.encode()) // TOKEN_BYTES)


def generate(request: Request) -> Generation:
    """The answer, within max_tokens unless the script ignores it. Reasoning is spent first."""
    script = request.script
    text, tool = _content(request)
    tokens = count_tokens(text) if text is not None else _default_output(request)
    reasoning = _reasoning(request)
    cap = _cap(request)
    cut = cap is not None and tokens + reasoning > cap
    if cap is not None and cut:
        reasoning = min(reasoning, cap)
        tokens = cap - reasoning
    if text is None:
        text = words(tokens, request.seed, script.accents)
    elif cut:
        text = text.encode()[: tokens * TOKEN_BYTES].decode(errors="ignore")
    thinking = request.body.thinking is not None and request.route == "messages"
    return Generation(
        text=text,
        tool=tool,
        refused=script.refusal is not None,
        thought=words(reasoning, 0, accents=False) if thinking else "",
        visible=tokens,
        reasoning=reasoning,
        cut=cut,
    )


def _content(request: Request) -> tuple[str | None, str]:
    """-> (fixed text or None for generated text, tool name)."""
    script, body = request.script, request.body
    if script.refusal is not None:
        return script.refusal, ""
    if script.text is not None:
        return script.text, ""
    if len(body.tools) > 4 and (tool := wanted_tool(request)) is not None:
        return _compact(sample(tool["schema"])), str(tool["name"])
    structured = len(body.response_format) > 4 or len(body.output_config) > 4 or body.text is not None
    if structured and (schema := schema_of(request)) is not None:
        return _compact(sample(schema) if schema else {"answer": "text"}), ""
    return None, ""


def _compact(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _default_output(request: Request) -> int:
    return request.script.output if request.script.output is not None else 16 + request.seed % 33


def _reasoning(request: Request) -> int:
    if request.script.reasoning is not None:
        return request.script.reasoning
    body = request.body
    if body.thinking is not None:
        return 0 if body.thinking.type == "disabled" else min(32, body.thinking.budget_tokens or 32)
    effort = body.reasoning_effort or (body.reasoning or {}).get("effort")
    return 32 if effort not in (None, "none") else 0


def _cap(request: Request) -> int | None:
    if request.script.ignore_max_tokens:
        return None
    body = request.body
    caps = (body.max_output_tokens, body.max_completion_tokens, body.max_tokens)
    return next((cap for cap in caps if cap is not None), None)

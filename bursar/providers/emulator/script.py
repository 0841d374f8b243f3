"""How one request is to be answered: read from the `x-emulator` header, or from the last user message, or the prompt.

A directive in a message looks like ``[[emulator {"status": 429, "retry_after": 2}]]``; it works through any proxy.
"""

from typing import Literal

import msgspec

Stall = Literal["", "head", "first_byte", "mid_stream", "before_usage"]
Disconnect = Literal["", "before_head", "mid_head", "mid_stream"]
Sse = Literal["", "split_utf8", "crlf", "cr_mix", "no_done", "giant_line", "garbage_event", "nul", "multi_data"]
UsageLie = Literal["", "negative", "huge", "missing", "twice", "zero", "text", "low"]

MARK = "[[emulator "
HEADER = b"x-emulator"


class Script(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Times are milliseconds unless named otherwise; counts are tokens. Absent = the emulator decides."""

    latency_ms: float = 0
    chunk_ms: float = 0  # between two events of a stream
    chunks: int | None = None  # events that carry text; by default one per token
    input: int | None = None
    output: int | None = None  # visible tokens per choice
    reasoning: int | None = None  # hidden (OpenAI) or shown as thinking (Anthropic)
    cached: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0
    searches: int = 0
    text: str | None = None  # the answer itself instead of generated text
    accents: bool = False  # generated text has two-byte characters
    tool: bool | None = None  # call the first tool (True), or answer in text although one is required (False)
    refusal: str | None = None
    tier: str = ""  # service tier as answered
    ignore_max_tokens: bool = False
    status: int = 200
    body: msgspec.Raw = msgspec.Raw()  # of an error; by default the dialect's own
    retry_after: float | None = None  # seconds
    stall: Stall = ""
    stall_s: float = 3600
    sse: Sse = ""
    giant_bytes: int = 1_000_000
    usage: UsageLie = ""
    disconnect: Disconnect = ""
    disconnect_at: int | None = None  # event after which a stream breaks off; by default the middle
    abandoned: Literal["so_far", "full", "none"] = "so_far"  # what is billed when the caller leaves
    background_s: float = 1  # how long a response takes that goes on in the background
    bill_error: bool = False  # an error status is billed all the same, as a timed-out call may be


class BadScript(ValueError):
    """The directive could not be read: a test's own mistake, told in the answer."""


_script = msgspec.json.Decoder(Script)
_PLAIN = Script()


def read_script(header: bytes, body: bytes, texts: bytes) -> Script:
    """The script of a request. `texts`: its raw messages, prompt or input. Raises BadScript."""
    if header:
        return _decode(header)
    if MARK.encode() not in body:
        return _PLAIN
    text = _last_user_text(texts)
    return _decode(_directive(text).encode()) if MARK in text else _PLAIN


def _decode(data: bytes) -> Script:
    try:
        return _script.decode(data)
    except msgspec.DecodeError as error:
        raise BadScript(f"emulator script: {error}") from None


def _directive(text: str) -> str:
    start = text.rindex(MARK) + len(MARK)
    end = text.find("]]", start)
    return text[start:end] if end >= 0 else text[start:]


class _Message(msgspec.Struct):
    role: str = ""
    content: str | list[dict[str, object]] | None = None


_messages = msgspec.json.Decoder(list[_Message])
_prompts = msgspec.json.Decoder(str | list[str | list[int] | int])


def _last_user_text(raw: bytes) -> str:
    if not bytes(memoryview(raw)[:64]).translate(None, b" \n\r\t").startswith(b"[{"):
        # no messages: a prompt, or several
        given = _prompts.decode(raw)
        return given if isinstance(given, str) else " ".join(one for one in given if isinstance(one, str))
    users = [message for message in _messages.decode(raw) if message.role == "user"]
    if not users:
        return ""
    content = users[-1].content
    if isinstance(content, list):
        return " ".join(str(part.get("text", "")) for part in content)
    return content or ""

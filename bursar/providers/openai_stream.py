"""Meters a streamed chat completion, or a legacy one, chunk by chunk.

Reference: https://platform.openai.com/docs/api-reference/chat/streaming. The chunk with usage comes last, with empty
`choices`; some servers put usage into the final choice's chunk or, cumulative, into every one.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from bursar.core.calls import Call, Usage
from bursar.core.made_ids import Reference
from bursar.providers.event_data import data_of
from bursar.providers.openai_usage import Output, TextChoice, read_counts, visible_bytes
from bursar.providers.usage_counts import doubt_beside_output, larger, utf8_bytes

_DONE = b"[DONE]"
_NONE = msgspec.Raw()


class _Choice(msgspec.Struct, gc=False):
    delta: Output | None = None
    index: int = 0
    finish_reason: str | None = None


class _Chunk(msgspec.Struct, gc=False):
    choices: list[_Choice] | None = None
    usage: msgspec.Raw = _NONE
    service_tier: str | None = None


class _TextChunk(msgspec.Struct, gc=False):
    choices: list[TextChoice] | None = None
    usage: msgspec.Raw = _NONE
    service_tier: str | None = None


class _Shapeless(msgspec.Struct):
    """A chunk whose choices are of an unknown shape."""

    choices: msgspec.Raw = _NONE
    usage: msgspec.Raw = _NONE


class _Names(msgspec.Struct):
    id: str = "chatcmpl-cut"
    created: int = 0
    model: str = ""


_chunk = msgspec.json.Decoder(_Chunk).decode
_text_chunk = msgspec.json.Decoder(_TextChunk).decode
_shapeless = msgspec.json.Decoder(_Shapeless).decode
_names = msgspec.json.Decoder(_Names).decode


class OpenAIMeter:
    """`bursar.ports.StreamMeter` for "chat"."""

    made: Sequence[Reference] = ()  # but for speech nothing is kept: bursar.providers.openai_audio
    __slots__ = (
        "_call",
        "_finished",
        "_said",
        "_sample",
        "_strip",
        "_tier",
        "ended",
        "input_usage",
        "interim",
        "invalid",
        "output_events",
        "output_seen",
        "usage",
        "visible_bytes",
    )

    _read: Any = staticmethod(_chunk)
    _object = "chat.completion.chunk"

    def __init__(self, call: Call, *, strip_usage: bool) -> None:
        self.usage: Usage | None = None
        self.interim = False
        self.input_usage: Usage | None = None
        self.visible_bytes = 0
        self.output_events = 0
        self.output_seen = False
        self.ended = False
        self.invalid = ""
        self._call = call
        self._strip = strip_usage  # the caller did not ask for the chunk with usage, Bursar did
        self._said: Usage | None = None  # the largest usage said so far
        self._tier: str | None = None
        self._sample = b""  # the first chunk, for its id
        self._finished: set[int] = set()

    def feed(self, event: bytes) -> bytes:
        """One whole event -> the bytes to send on: the event itself, or nothing for a usage chunk nobody asked for."""
        data = event[6:] if event.startswith(b"data: {") else data_of(event)
        if data is None:
            return event
        try:
            chunk = self._read(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return self._feed_unusual(data, event)
        if not self._sample:
            self._sample = data
        if chunk.service_tier is not None:
            self._tier = chunk.service_tier
        if chunk.choices:
            self._count(chunk.choices)
        if len(chunk.usage) > 4:  # not absent, not null
            self.interim = bool(chunk.choices) and len(self._finished) < self._call.n
            self._read_usage(chunk.usage)
            if self._strip and not chunk.choices:
                return b""
        return event

    def _count(self, choices: list[_Choice]) -> None:
        size = 0
        for choice in choices:
            if choice.delta is not None:
                size += visible_bytes(choice.delta)
                if choice.delta.audio is not None:
                    self.output_seen = True
            if choice.finish_reason is not None:
                self._finished.add(choice.index)
        if size:
            self._saw(size)

    def _saw(self, size: int) -> None:
        self.visible_bytes += size
        self.output_events += 1
        self.output_seen = True
        self.usage = None  # said before this output: no longer the final word

    def _read_usage(self, raw: bytes) -> None:
        usage, reason = read_counts(raw, self._tier, self._call)
        if usage is not None:
            usage = larger(self._said, usage)
            written = max(0, self.visible_bytes - self._call.echo_bytes)
            reason = doubt_beside_output(
                usage, written, self.output_seen and (written > 0 or not self._call.echo_bytes)
            )
        if usage is None or reason:
            self.invalid = "" if self.usage is not None else reason
            return
        self.usage = self._said = usage
        self.invalid = ""

    def _feed_unusual(self, data: bytes, event: bytes) -> bytes:
        """The end mark; data in several fields; a chunk of another shape; garbage, which proves nothing."""
        joined = data_of(event) or data
        if joined.strip() == _DONE:
            self.ended = True
        elif b"\n" in joined and data is not joined:
            return event if self.feed(b"data: " + joined.replace(b"\n", b" ") + b"\n\n") else b""
        else:
            self._count_shapeless(joined)
        return event

    def _count_shapeless(self, data: bytes) -> None:
        """Choices of an unknown shape count whole as output; the usage beside them is read."""
        try:
            chunk = _shapeless(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return
        if len(chunk.choices) > 4:
            self._saw(len(chunk.choices))
        if len(chunk.usage) > 4:
            self.interim = len(chunk.choices) > 4
            self._read_usage(chunk.usage)

    def cut(self, word: str, message: str) -> bytes:
        """A chunk that finishes every open choice with "length" and tells why, then the end mark."""
        try:
            names = _names(self._sample)
        except (msgspec.DecodeError, UnicodeDecodeError):
            names = _Names(model=self._call.model)
        still_open = [index for index in range(self._call.n) if index not in self._finished]
        chunk = {
            "id": names.id,
            "object": self._object,
            "created": names.created,
            "model": names.model,
            "choices": [self._ended_choice(index) for index in still_open],
            "bursar": {"code": word, "message": message},
        }
        self.ended = True
        return b"data: " + msgspec.json.encode(chunk) + b"\n\ndata: [DONE]\n\n"

    def _ended_choice(self, index: int) -> dict[str, Any]:
        return {"index": index, "delta": {}, "finish_reason": "length"}


class TextMeter(OpenAIMeter):
    """`bursar.ports.StreamMeter` for "completions": the text stands in the choice itself."""

    __slots__ = ()

    _read = staticmethod(_text_chunk)
    _object = "text_completion"

    def _count(self, choices: list[Any]) -> None:
        size = 0
        for choice in choices:
            size += utf8_bytes(choice.text or "")
            if choice.finish_reason is not None:
                self._finished.add(choice.index)
        if size:
            self._saw(size)

    def _ended_choice(self, index: int) -> dict[str, Any]:
        return {"index": index, "text": "", "logprobs": None, "finish_reason": "length"}

"""Meters a streamed message, event by event.

Reference: https://docs.anthropic.com/en/docs/build-with-claude/streaming. `message_start` tells the input side,
`message_delta` the cumulative totals; pings and errors may stand anywhere.
"""

from collections.abc import Sequence

import msgspec

from bursar.core.calls import Call, Usage
from bursar.core.made_ids import Reference
from bursar.providers.anthropic_usage import Said, onto, read_said, to_usage
from bursar.providers.event_data import data_of
from bursar.providers.usage_counts import UNREADABLE, doubt_beside_output, larger, utf8_bytes

_NONE = msgspec.Raw()
_DATA = b"\ndata: "


class _Delta(msgspec.Struct, gc=False):
    text: str | None = None
    thinking: str | None = None
    partial_json: str | None = None


class _Block(msgspec.Struct):
    type: str = ""
    text: str | None = None
    thinking: str | None = None
    name: str | None = None
    input: msgspec.Raw = _NONE


class _Message(msgspec.Struct):
    usage: msgspec.Raw = _NONE


class _Event(msgspec.Struct):
    type: str = ""
    index: int = 0
    delta: _Delta | None = None
    usage: msgspec.Raw = _NONE
    message: _Message | None = None
    content_block: _Block | None = None


_event = msgspec.json.Decoder(_Event).decode


class AnthropicMeter:
    """`bursar.ports.StreamMeter` for "messages"."""

    made: Sequence[Reference] = ()  # mostly nothing is kept: bursar.providers.anthropic_kept
    __slots__ = (
        "_block",
        "_call",
        "_final",
        "_said",
        "_started",
        "ended",
        "input_usage",
        "interim",
        "invalid",
        "output_events",
        "output_seen",
        "usage",
        "visible_bytes",
    )

    def __init__(self, call: Call) -> None:
        self.usage: Usage | None = None
        self.interim = False  # totals come with the stop reason only
        self.input_usage: Usage | None = None
        self.visible_bytes = 0
        self.output_events = 0
        self.output_seen = False
        self.ended = False
        self.invalid = ""
        self._call = call
        self._said: Said | None = None  # everything said about usage so far
        self._final: Usage | None = None  # the largest totals said so far
        self._started = False
        self._block = -1  # index of the open content block

    def feed(self, event: bytes) -> bytes:
        """One whole event -> the bytes to send on: always the event itself."""
        at = event.find(_DATA)
        data = event[at + len(_DATA) :] if at > 0 and event.startswith(b"event:") else data_of(event)
        if data is None:
            return event
        try:
            said = _event(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            joined = data_of(event)  # data in several fields
            if joined is None or b"\n" not in joined:
                return event
            try:
                said = _event(joined)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                return event  # passed on, proves nothing
        if said.type == "content_block_delta":
            if said.delta is not None:
                self._count(said.delta)
        else:
            self._other(said)
        return event

    def _count(self, delta: _Delta) -> None:
        piece = delta.text or delta.partial_json or delta.thinking
        if piece:
            self._saw(len(piece) if piece.isascii() else utf8_bytes(piece))

    def _saw(self, size: int) -> None:
        self.visible_bytes += size
        self.output_events += 1
        self.output_seen = True
        self.usage = None  # said before this output: no longer the final word

    def _other(self, event: _Event) -> None:
        if event.type == "content_block_start":
            self._block = event.index
            if event.content_block is not None:
                self._open(event.content_block)
        elif event.type == "content_block_stop":
            self._block = -1
        elif event.type == "message_delta":
            if len(event.usage) > 4:
                self._read_totals(event.usage)
        elif event.type == "message_start":
            self._started = True
            if event.message is not None and len(event.message.usage) > 4:
                self._read_input(event.message.usage)
        elif event.type == "message_stop":
            self.ended = True

    def _open(self, block: _Block) -> None:
        """A block may begin with content; a tool's name and a redacted thought are output as well."""
        size = utf8_bytes(block.text or "") + utf8_bytes(block.thinking or "")
        if block.type.endswith("tool_use"):
            size += utf8_bytes(block.name or "")
            size += len(block.input) if len(block.input) > 2 else 0
        if size:
            self._saw(size)
        elif block.type.endswith("thinking"):
            self.output_seen = True

    def _read_input(self, raw: bytes) -> None:
        """The input side, as soon as it is known: a hold can shrink by it."""
        said = read_said(raw)
        if said is None:
            self.invalid = UNREADABLE
            return
        self._said = said
        usage, self.invalid = to_usage(said, self._call)
        if usage is not None and usage.input_tokens:
            self.input_usage = msgspec.structs.replace(usage, output_tokens=0, reasoning=0)

    def _read_totals(self, raw: bytes) -> None:
        said = read_said(raw)
        usage, reason = to_usage(onto(self._said, said) if said is not None else None, self._call)
        if usage is not None:
            usage = larger(self._final, usage)
            reason = doubt_beside_output(usage, self.visible_bytes, self.output_seen)
        if usage is None or reason:
            self.invalid = "" if self.usage is not None else reason
            return
        self.usage = self._final = usage
        self.invalid = ""

    def cut(self, word: str, message: str) -> bytes:
        """Close the open block and the message with stop_reason "max_tokens"; before any message, an error event."""
        self.ended = True
        if not self._started:
            error = {"type": "error", "error": {"type": "api_error", "message": message, "code": word}}
            return _named("error", error)
        closing = b""
        if self._block >= 0:
            closing = _named("content_block_stop", {"type": "content_block_stop", "index": self._block})
        delta = {
            "type": "message_delta",
            "delta": {"stop_reason": "max_tokens", "stop_sequence": None},
            "usage": {"output_tokens": self._output_so_far()},
            "bursar": {"code": word, "message": message},
        }
        return closing + _named("message_delta", delta) + _named("message_stop", {"type": "message_stop"})

    def _output_so_far(self) -> int:
        """As last said by the provider, else guessed from what was seen: four bytes a token."""
        return self._final.output_tokens if self._final is not None else -(-self.visible_bytes // 4)


def _named(name: str, data: object) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + msgspec.json.encode(data) + b"\n\n"

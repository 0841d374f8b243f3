"""Meters a streamed response, event by event, by the type in its data.

Reference: https://platform.openai.com/docs/api-reference/responses-streaming. Usage comes with the last event
(response.completed, .incomplete or .failed). Texts come as deltas and once more, whole, when an item is done: of the
two ways of counting the larger counts.
"""

import msgspec

from bursar.core.calls import Call, Usage
from bursar.core.made_ids import Reference
from bursar.providers.event_data import data_of
from bursar.providers.openai_responses_usage import Item, Told, made_of, read_told, visible_bytes
from bursar.providers.usage_counts import doubt_beside_output, utf8_bytes

_FINAL = frozenset({"response.completed", "response.incomplete", "response.failed"})
_ITEMS = frozenset({"response.output_item.added", "response.output_item.done"})
_NONE = msgspec.Raw()


class _Event(msgspec.Struct, gc=False):
    type: str = ""
    delta: str | None = None
    item: Item | None = None
    response: msgspec.Raw = _NONE
    sequence_number: int = 0


_event = msgspec.json.Decoder(_Event).decode
_told = msgspec.json.Decoder(Told).decode
_FAULTS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class ResponsesMeter:
    """`bursar.ports.StreamMeter` for "responses"."""

    __slots__ = (
        "_call",
        "_done_bytes",
        "_first",
        "_sequence",
        "ended",
        "input_usage",
        "interim",
        "invalid",
        "made",
        "output_events",
        "output_seen",
        "usage",
        "visible_bytes",
    )

    def __init__(self, call: Call) -> None:
        self.usage: Usage | None = None
        self.interim = False
        self.input_usage: Usage | None = None
        self.visible_bytes = 0
        self.output_events = 0
        self.output_seen = False
        self.ended = False
        self.invalid = ""
        self.made: list[Reference] = []
        self._call = call
        self._done_bytes = 0
        self._first = b""  # the response as it was when it began, for a cut
        self._sequence = 0

    def feed(self, event: bytes) -> bytes:
        """One whole event -> the bytes to send on, which are the same."""
        data = data_of(event)
        if data is None:
            return event
        try:
            told = _event(data)
        except _FAULTS:
            if b'"delta"' in data:
                self._saw(len(data))  # of an unknown shape: it counts whole
            return event
        self._sequence = told.sequence_number
        if told.delta:
            self._saw(utf8_bytes(told.delta))
        elif told.item is not None and told.type in _ITEMS:
            self._item(told.item, done=told.type.endswith("done"))
        elif told.response:
            self._response(told)
        return event

    def _saw(self, size: int) -> None:
        self.visible_bytes += size
        self.output_events += 1
        self.output_seen = True
        self.usage = None  # said before this output: no longer the final word

    def _item(self, item: Item, *, done: bool) -> None:
        self._note(made_of(item))
        if not done:
            return
        self._done_bytes += visible_bytes(item)
        if self._done_bytes > self.visible_bytes:
            self._saw(self._done_bytes - self.visible_bytes)
        if item.type == "reasoning":
            self.output_seen = True

    def _response(self, told: _Event) -> None:
        try:
            response = _told(told.response)
        except _FAULTS:
            return
        if not self._first:
            self._first = bytes(told.response)
            if response.id:
                self._note([Reference("response", response.id)])
        if told.type not in _FINAL:
            return
        usage, visible, reason = read_told(self._call, response)
        if visible > self.visible_bytes:
            self._saw(visible - self.visible_bytes)
        if usage is not None:
            reason = doubt_beside_output(usage, self.visible_bytes, self.output_seen)
        self.usage, self.invalid = (None, reason) if reason else (usage, "")
        self.ended = True

    def _note(self, references: list[Reference]) -> None:
        if self._call.keeps:
            self.made += [one for one in references if one not in self.made]

    def cut(self, word: str, message: str) -> bytes:
        """The event by which the API itself ends what has reached its cap, telling why."""
        try:
            response = msgspec.json.decode(self._first)
        except _FAULTS:
            response = {"id": "resp_cut", "object": "response", "model": self._call.model, "output": []}
        response |= {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
        event = {
            "type": "response.incomplete",
            "sequence_number": self._sequence + 1,
            "response": response,
            "bursar": {"code": word, "message": message},
        }
        self.ended = True
        return b"event: response.incomplete\ndata: " + msgspec.json.encode(event) + b"\n\n"

"""Spoken answers of chat, which OpenAI keeps for an hour: a later message of the assistant may name one by its id.

Shape: https://platform.openai.com/docs/guides/audio (`message.audio.id`; in a stream `delta.audio.id`).
"""

import msgspec

from bursar.core.calls import Call
from bursar.core.made_ids import Reference
from bursar.providers.event_data import data_of
from bursar.providers.openai_stream import OpenAIMeter


class _Audio(msgspec.Struct):
    id: str | None = None


class _Spoken(msgspec.Struct):
    audio: _Audio | None = None


class _Choice(msgspec.Struct):
    message: _Spoken | None = None
    delta: _Spoken | None = None


class _Answer(msgspec.Struct):
    choices: list[_Choice] = []


_answer = msgspec.json.Decoder(_Answer).decode


def made_in(body: bytes) -> list[Reference]:
    """The ids of what was spoken, in a whole answer or in a piece of one."""
    try:
        choices = _answer(body).choices
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []
    spoken = [said.audio for choice in choices for said in (choice.message, choice.delta) if said is not None]
    return [Reference("audio", audio.id) for audio in spoken if audio is not None and audio.id]


class SpokenMeter(OpenAIMeter):
    """`OpenAIMeter` for calls that may be answered in speech: it learns the ids as well."""

    __slots__ = ("made",)

    def __init__(self, call: Call, *, strip_usage: bool) -> None:
        super().__init__(call, strip_usage=strip_usage)
        self.made: list[Reference] = []

    def feed(self, event: bytes) -> bytes:
        if b"audio" in event:
            self.made += [one for one in made_in(data_of(event) or b"") if one not in self.made]
        return super().feed(event)

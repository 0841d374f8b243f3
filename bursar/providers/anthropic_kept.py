"""What Anthropic keeps for a caller: containers in which code ran, the files that it wrote there, and custom skills.

Shapes: https://platform.claude.com/docs/en/agents-and-tools/tool-use/code-execution-tool (`container`, the blocks of
results), https://platform.claude.com/docs/en/build-with-claude/skills-guide. An id is learned only where the API itself
puts it: what a model writes, a caller can have it write.
"""

from collections.abc import Iterator

import msgspec

from bursar.core.calls import Call
from bursar.core.made_ids import Reference
from bursar.providers.anthropic_stream import AnthropicMeter
from bursar.providers.event_data import data_of
from bursar.providers.findings import Findings
from bursar.providers.strict_json import Fields, fields_of, given, kind_of, names, objects_of, text, unknown_keys

_NONE = msgspec.Raw()
_FAULTS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_CONTAINER = names("id skills")
_SKILL = names("type skill_id version")
_SKILLS = "container.skills[]"
_RESULT, _OUTPUT = "code_execution_tool_result", "code_execution_output"  # also of bash: the ends of their types


def read_container(fields: Fields, found: Findings) -> None:
    """`container`: one that an earlier call has made, by its id, and skills to put in. Raises Refusal."""
    container = given(fields, "container")
    if container is None:
        return
    found.outside("container")
    if kind_of(container) != "object":
        found.refer("container", text(fields, "container") or "")
        return
    inside = fields_of(container, "container")
    for path in unknown_keys(inside, _CONTAINER, "container"):
        found.new_key(path)
    if (kept := text(inside, "id", "container")) is not None:
        found.refer("container", kept)
    if (skills := given(inside, "skills")) is not None:
        for skill in objects_of(skills, _SKILLS):
            _skill(skill, found)


def _skill(fields: Fields, found: Findings) -> None:
    """Anthropic's own have plain names, and are everybody's."""
    for path in unknown_keys(fields, _SKILL, _SKILLS):
        found.new_key(path)
    name = text(fields, "skill_id", _SKILLS) or ""
    if text(fields, "type", _SKILLS) != "anthropic" or name.startswith("skill_"):
        found.refer("skill", name)


# ---- what an answer tells --------------------------------------------------------------------------------------------


class _Container(msgspec.Struct):
    id: str = ""


class _Block(msgspec.Struct):
    type: str = ""
    content: msgspec.Raw = _NONE


class _Output(msgspec.Struct):
    type: str = ""
    file_id: str = ""


class _Answer(msgspec.Struct):
    container: _Container | None = None
    content: msgspec.Raw = _NONE


class _Event(msgspec.Struct):
    message: _Answer | None = None
    delta: _Answer | None = None
    content_block: msgspec.Raw = _NONE


_answer = msgspec.json.Decoder(_Answer).decode
_event = msgspec.json.Decoder(_Event).decode
_items = msgspec.json.Decoder(list[msgspec.Raw]).decode
_block = msgspec.json.Decoder(_Block).decode
_output = msgspec.json.Decoder(_Output).decode


def made_in(body: bytes) -> list[Reference]:
    """The ids in a whole answer."""
    try:
        answer = _answer(body)
        blocks = _items(answer.content) if answer.content else []
    except _FAULTS:
        return []
    return [*_of_container(answer), *(one for block in blocks for one in _of_block(block))]


def _of_container(answer: _Answer | None) -> list[Reference]:
    if answer is None or answer.container is None or not answer.container.id:
        return []
    return [Reference("container", answer.container.id)]


def _of_block(raw: bytes) -> Iterator[Reference]:
    """The files that a run of code has left, by its block of results."""
    try:
        block = _block(raw)
        if block.type.endswith(_RESULT) and kind_of(block.content) == "object":
            for item in _items(_block(block.content).content):
                output = _output(item)
                if output.type.endswith(_OUTPUT) and output.file_id:
                    yield Reference("file", output.file_id)
    except _FAULTS:
        return  # a block of another shape


class KeepingMeter(AnthropicMeter):
    """`AnthropicMeter` for calls that leave something behind: it learns the ids as well."""

    __slots__ = ("made",)

    def __init__(self, call: Call) -> None:
        super().__init__(call)
        self.made: list[Reference] = []

    def feed(self, event: bytes) -> bytes:
        if b"container" in event or _OUTPUT.encode() in event:
            self._learn(data_of(event) or b"")
        return super().feed(event)

    def _learn(self, data: bytes) -> None:
        try:
            event = _event(data)
        except _FAULTS:
            return
        found = [*_of_container(event.message), *_of_container(event.delta)]
        if event.content_block:
            found += _of_block(event.content_block)
        self.made += [one for one in found if one not in self.made]

"""What an OpenAI chat body's messages and tools hold besides text.

Shapes: https://platform.openai.com/docs/api-reference/chat/create (messages, tools). Judged by the keys present, not
by `type` alone: a lenient server takes an `image_url` wherever it stands.
"""

import msgspec

from bursar.core.calls import ServerTool
from bursar.providers.findings import Findings
from bursar.providers.strict_json import (
    Fields,
    fields_of,
    given,
    kind_of,
    names,
    objects_of,
    raw_size,
    text,
    unknown_keys,
    wrong_kind,
)

_MESSAGE = names(
    "role content name tool_calls tool_call_id refusal function_call audio annotations"
    " reasoning_content reasoning reasoning_details"
)
_PLAIN_MESSAGE = frozenset({"role", "content"})
_PART = names("type text refusal image_url input_audio file prompt_cache_breakpoint cache_control detail annotations")
_PLAIN_PART = frozenset({"type", "text"})
_PART_TYPES = frozenset({"text", "refusal", "image_url", "input_audio", "file"})
_IMAGE = frozenset({"url", "detail", "format"})
_FILE = frozenset({"file_id", "file_data", "filename", "format"})
_TOOL = frozenset({"type", "function", "custom", "cache_control"})
_CLIENT_TOOLS = frozenset({"function", "custom"})

_IN_MESSAGES = "messages[]"
_IN_PARTS = "messages[].content[]"


def read_messages(raw: bytes, found: Findings) -> int:
    """Look into every message; the count of them. Raises Refusal."""
    messages = objects_of(raw, _IN_MESSAGES)
    for fields in messages:
        if not _PLAIN_MESSAGE.issuperset(fields):
            _more_of_message(fields, found)
        content = fields.get("content")
        if content is not None:
            kind = kind_of(content)
            if kind == "array":
                for part in objects_of(content, _IN_PARTS):
                    _part(part, found)
            elif kind == "object":
                raise wrong_kind("messages[].content", "text or an array")
    return len(messages)


def _more_of_message(fields: Fields, found: Findings) -> None:
    for path in unknown_keys(fields, _MESSAGE, _IN_MESSAGES):
        found.new_key(path)
    if (audio := given(fields, "audio")) is not None:  # {"id": ...}: an earlier spoken answer, kept by the provider
        found.audio = True
        found.outside("audio_id")
        if (kept := text(fields_of(audio, "messages[].audio"), "id", "messages[].audio")) is not None:
            found.refer("audio", kept)


def _part(fields: Fields, found: Findings) -> None:
    kind = text(fields, "type", _IN_PARTS)
    if kind == "text" and _PLAIN_PART.issuperset(fields):
        return
    for path in unknown_keys(fields, _PART, _IN_PARTS):
        found.new_key(path)
    if kind not in _PART_TYPES:
        found.new_key(f"{_IN_PARTS}.type={(kind or '')[:32]}")
        found.outside("content_type")
    if "prompt_cache_breakpoint" in fields:
        found.one_hour = True
    if (marker := given(fields, "cache_control")) is not None:  # understood by routers in front of Anthropic
        found.cache_marker(fields_of(marker, f"{_IN_PARTS}.cache_control"), f"{_IN_PARTS}.cache_control")
    _media(fields, found)


def _media(fields: Fields, found: Findings) -> None:
    size = raw_size(fields)
    if (image := given(fields, "image_url")) is not None:
        url = _image_url(image, found)
        found.medium("image" if url.startswith("data:") else "image_url", size)
    if given(fields, "input_audio") is not None:
        found.audio = True
        found.medium("input_audio", size)
    if (attached := given(fields, "file")) is not None:
        file = fields_of(attached, f"{_IN_PARTS}.file")
        for path in unknown_keys(file, _FILE, f"{_IN_PARTS}.file"):
            found.new_key(path)
        _refer(file, f"{_IN_PARTS}.file", found)
        found.medium("file", size)
    _refer(fields, _IN_PARTS, found)  # as other surfaces spell it, and lenient servers take it
    if (attached := given(fields, "image_file")) is not None:
        _refer(fields_of(attached, f"{_IN_PARTS}.image_file"), f"{_IN_PARTS}.image_file", found)


def _refer(fields: Fields, where: str, found: Findings) -> None:
    """A file that the provider keeps must be the team's own, wherever its id stands."""
    if (file_id := text(fields, "file_id", where)) is not None:
        found.refer("file", file_id)


def _image_url(raw: bytes, found: Findings) -> str:
    """OpenAI wants an object with `url`; some servers take the address itself."""
    if kind_of(raw) != "object":
        return text({"image_url": msgspec.Raw(raw)}, "image_url", _IN_PARTS) or ""
    image = fields_of(raw, f"{_IN_PARTS}.image_url")
    for path in unknown_keys(image, _IMAGE, f"{_IN_PARTS}.image_url"):
        found.new_key(path)
    _refer(image, f"{_IN_PARTS}.image_url", found)
    return text(image, "url", f"{_IN_PARTS}.image_url") or ""


def read_tools(raw: bytes, found: Findings) -> None:
    """Function and custom tools are text. Anything else the provider runs itself, and chat has no field to cap it."""
    for fields in objects_of(raw, "tools[]"):
        for path in unknown_keys(fields, _TOOL, "tools[]"):
            found.new_key(path)
        kind = text(fields, "type", "tools[]")
        if kind not in _CLIENT_TOOLS:
            name = (kind or "unnamed")[:64]
            found.tools.append(ServerTool(name, None))
            found.no_ceiling(name)
        if (marker := given(fields, "cache_control")) is not None:
            found.cache_marker(fields_of(marker, "tools[].cache_control"), "tools[].cache_control")

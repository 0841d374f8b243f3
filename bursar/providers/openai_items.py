"""What the items of OpenAI's Responses and Conversations hold besides text, and which of them only name an id.

Shapes: https://platform.openai.com/docs/api-reference/responses/create (input, tools). An item that the provider has
kept may be given by its id alone: then the id must be the team's own. One that is given whole is text like any other,
whatever id it carries.
"""

import msgspec

from bursar.core.calls import ServerTool
from bursar.core.errors import Refusal
from bursar.providers.findings import Findings
from bursar.providers.strict_json import (
    Fields,
    fields_of,
    given,
    kind_of,
    names,
    objects_of,
    raw_size,
    read_as,
    text,
    unknown_keys,
    wrong_kind,
)

_MESSAGE = names("type role content id status phase")
_PLAIN_MESSAGE = frozenset({"role", "content", "type"})
_PART = names(
    "type text refusal annotations logprobs detail image_url file_id file_url file_data filename input_audio"
    " prompt_cache_breakpoint"
)
_PLAIN_PART = frozenset({"type", "text"})
_PART_TYPES = frozenset(
    {"input_text", "output_text", "text", "refusal", "summary_text", "reasoning_text", "input_image", "input_file"}
    | {"input_audio", "computer_screenshot"}
)
# Items that are whole as they stand: what the model or a tool has said before, and what the caller answers.
_WHOLE = names(
    "message function_call function_call_output custom_tool_call custom_tool_call_output reasoning web_search_call"
    " file_search_call code_interpreter_call image_generation_call computer_call computer_call_output local_shell_call"
    " local_shell_call_output shell_call shell_call_output apply_patch_call apply_patch_call_output mcp_list_tools"
    " mcp_call mcp_approval_request mcp_approval_response compaction item_reference"
)
# Of an item that the provider has kept: without this field it is looked up by its id.
_CONTENT_OF = {"reasoning": "encrypted_content", "image_generation_call": "result"}
_CLIENT_TOOLS = frozenset({"function", "custom", "local_shell", "apply_patch"})
_COMPUTERS = frozenset({"computer", "computer_use_preview"})
_MOST_DEEP = 8  # content in content: each level is read anew

_IDS: msgspec.json.Decoder[list[str]] = msgspec.json.Decoder(list[str])


def read_input(raw: bytes, found: Findings, where: str = "input") -> int:
    """A text, or an array of items; how many there are. Raises Refusal."""
    if kind_of(raw) != "array":
        text({where: msgspec.Raw(raw)}, where)
        return 1
    items = objects_of(raw, f"{where}[]")
    for fields in items:
        _item(fields, found, f"{where}[]")
    return len(items)


def _item(fields: Fields, found: Findings, where: str) -> None:
    kind = text(fields, "type", where)
    if kind is None:
        kind = "message" if "role" in fields else "item_reference"
    if kind == "message":
        if not _PLAIN_MESSAGE.issuperset(fields):
            for path in unknown_keys(fields, _MESSAGE, where):
                found.new_key(path)
        _contents(fields.get("content"), found, f"{where}.content", 0)
        return
    if kind == "additional_tools":
        _inner_tools(fields, found, where)
    elif kind not in _WHOLE:
        found.new_key(f"{where}.type={kind[:32]}")
        found.outside("item_type")
    if kind == "item_reference" or (kind in _CONTENT_OF and given(fields, _CONTENT_OF[kind]) is None):
        _kept(fields, kind, found, where)
    if kind == "image_generation_call" and given(fields, "result") is not None:
        found.medium("image", raw_size(fields))
    for name in ("content", "output"):
        _contents(fields.get(name), found, f"{where}.{name}", 0)


def _kept(fields: Fields, kind: str, found: Findings, where: str) -> None:
    made_id = text(fields, "id", where)
    if made_id is not None:
        found.refer("item", made_id)
    elif kind == "item_reference":
        raise wrong_kind(f"{where}.id", "the id of an item")


def _contents(raw: bytes | None, found: Findings, where: str, depth: int) -> None:
    """A text, a part, or an array of parts."""
    if raw is None or depth > _MOST_DEEP:
        if depth > _MOST_DEEP:
            raise Refusal("malformed_request", "The body is nested too deeply")
        return
    kind = kind_of(raw)
    if kind == "array":
        for fields in objects_of(raw, f"{where}[]"):
            _part(fields, found, f"{where}[]", depth)
    elif kind == "object":
        _part(fields_of(raw, where), found, where, depth)


def _part(fields: Fields, found: Findings, where: str, depth: int) -> None:
    kind = text(fields, "type", where)
    if _PLAIN_PART.issuperset(fields) and kind in _PART_TYPES:
        return
    if kind not in _PART_TYPES and where.startswith("input[].content"):
        found.new_key(f"{where}.type={(kind or '')[:32]}")
        found.outside("content_type")
    elif kind in _PART_TYPES:
        for path in unknown_keys(fields, _PART, where):
            found.new_key(path)
    if (file_id := text(fields, "file_id", where)) is not None:
        found.refer("file", file_id)
    _media(fields, kind or "", found, where)
    for name in ("content", "output"):
        _contents(fields.get(name), found, f"{where}.{name}", depth + 1)


def _media(fields: Fields, kind: str, found: Findings, where: str) -> None:
    size = raw_size(fields)
    if (image := given(fields, "image_url")) is not None:
        url = image if kind_of(image) == "object" else (text(fields, "image_url", where) or "").encode()
        found.medium("image" if bytes(url[:5]) == b"data:" else "image_url", size)
    if given(fields, "file_url") is not None:
        found.medium("file_url", size)
    if given(fields, "file_data") is not None or kind == "input_file":
        found.medium("file", size)
    if given(fields, "input_audio") is not None or kind == "input_audio":
        found.audio = True
        found.medium("input_audio", size)


# ---- tools -----------------------------------------------------------------------------------------------------------


def read_tools(raw: bytes, found: Findings, most_uses: int | None, where: str = "tools") -> None:
    """Functions are text. What the provider runs itself is billed a use, and reads in what it finds."""
    for fields in objects_of(raw, f"{where}[]"):
        _tool(fields, found, most_uses, f"{where}[]")


def _tool(fields: Fields, found: Findings, most_uses: int | None, where: str) -> None:
    kind = text(fields, "type", where) or "unnamed"
    if kind in _CLIENT_TOOLS:
        return
    if kind in _COMPUTERS:
        found.outside(kind)  # a prompt of unknown length, and screenshots
        return
    if kind == "namespace" and (inner := given(fields, "tools")) is not None:
        read_tools(inner, found, most_uses, f"{where}.tools")
        return
    name = "web_search" if kind.startswith("web_search") and "preview" not in kind else kind[:64]
    found.tools.append(ServerTool(name, most_uses))
    found.outside(name)
    _names_of(fields, found, where)


def _names_of(fields: Fields, found: Findings, where: str) -> None:
    """Files, stores and containers that a tool is given by their ids."""
    for made_id in _ids(fields, "vector_store_ids", where):
        found.refer("item", made_id)
    container = given(fields, "container")
    if container is not None and kind_of(container) == "object":
        inside = fields_of(container, f"{where}.container")
        for file_id in _ids(inside, "file_ids", f"{where}.container"):
            found.refer("file", file_id)
        if (kept := text(inside, "container_id", f"{where}.container")) is not None:
            found.refer("item", kept)
    elif container is not None:
        found.refer("item", text(fields, "container", where) or "")
    mask = given(fields, "input_image_mask")
    if mask is not None and (masked := text(fields_of(mask, where), "file_id", where)) is not None:
        found.refer("file", masked)


def _ids(fields: Fields, name: str, where: str) -> list[str]:
    raw = given(fields, name)
    return [] if raw is None else read_as(_IDS, raw, f"{where}.{name}", "an array of texts")


def _inner_tools(fields: Fields, found: Findings, where: str) -> None:
    if (tools := given(fields, "tools")) is not None:
        read_tools(tools, found, None, f"{where}.tools")

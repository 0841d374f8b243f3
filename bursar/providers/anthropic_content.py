"""What an Anthropic body's messages, system prompt and tools hold besides text.

Shapes: https://docs.anthropic.com/en/api/messages. Judged by the keys present, not by `type` alone.
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
    text,
    unknown_keys,
    whole,
    wrong_kind,
)

_MESSAGE = names("role content")
_BLOCK = names(
    "type text cache_control citations source transformations context title content signature thinking data id input"
    " name caller toolset_name tool_use_id is_error file_id"
)
_PLAIN_BLOCK = names("type text")
_BLOCK_TYPES = names(
    "text image document search_result thinking redacted_thinking tool_use tool_result server_tool_use"
    " web_search_tool_result web_search_result web_search_tool_result_error"
    " web_fetch_tool_result web_fetch_result web_fetch_tool_result_error"
    " code_execution_tool_result code_execution_result code_execution_output code_execution_tool_result_error"
    " bash_code_execution_tool_result bash_code_execution_result bash_code_execution_output"
    " bash_code_execution_tool_result_error encrypted_code_execution_result"
    " text_editor_code_execution_tool_result text_editor_code_execution_view_result"
    " text_editor_code_execution_create_result text_editor_code_execution_str_replace_result"
    " text_editor_code_execution_tool_result_error"
    " tool_search_tool_result tool_search_tool_search_result tool_search_tool_result_error tool_reference"
    " container_upload browser_state"
)
# Inside results: what a server tool answered, which a conversation sends back. All of it is text in the body.
_RESULT = _BLOCK | names(
    "url page_age encrypted_content retrieved_at error_code error_message stdout stderr encrypted_stdout return_code"
    " file_type num_lines start_line total_lines is_file_update lines new_lines new_start old_lines old_start"
    " tool_references tool_name"
)
_SOURCE = names("type data media_type url file_id content")
_CACHE_CONTROL = names("type ttl")
_TOOL = names(
    "type name description input_schema cache_control max_uses allowed_domains blocked_domains user_location citations"
    " max_content_tokens allowed_callers defer_loading strict input_examples eager_input_streaming max_characters"
    " display_height_px display_width_px display_number enable_zoom configs response_inclusion url_sources use_cache"
)
_PLAIN_TOOL = names("name description input_schema")

# Tools by the start of their `type`: run by the caller; run by Anthropic and capped by `max_uses`; run by Anthropic
# with no field that caps them.
_CLIENT_TOOLS = ("bash_", "text_editor_", "computer_", "memory_", "browser_toolset_")
_CAPPED_TOOLS = ("web_search", "web_fetch")
_UNCAPPED_TOOLS = ("code_execution", "tool_search_tool")

# Tokens that Anthropic adds. It documents up to 806 for its tool system prompt, and 245 + 700 + 735 for the built-in
# client tools (platform.claude.com, "Tool use pricing"). Of toolsets (some thirty tools each) and of the marks that
# citations put around each sentence it says only that they count: these bounds are generous.
_TOOLS_TOKENS = 2_600
_TOOLSET_TOKENS = 16_384
_CITED_TOKENS_PER_BYTE = 8

_IN_BLOCKS = "messages[].content[]"
_DEEPEST = 32  # blocks within blocks; the API itself knows four levels


def read_messages(raw: bytes, found: Findings) -> int:
    """Look into every message; the count of them. Raises Refusal."""
    messages = objects_of(raw, "messages[]")
    for fields in messages:
        if not _MESSAGE.issuperset(fields):
            for path in unknown_keys(fields, _MESSAGE, "messages[]"):
                found.new_key(path)
        content = fields.get("content")
        if content is not None:
            kind = kind_of(content)
            if kind == "array":
                read_blocks(content, found, _IN_BLOCKS)
            elif kind == "object":
                raise wrong_kind("messages[].content", "text or an array")
    return len(messages)


def read_blocks(raw: bytes, found: Findings, where: str) -> None:
    for fields in objects_of(raw, where):
        _block(fields, found, where, _BLOCK)


def _block(fields: Fields, found: Findings, where: str, known: frozenset[str]) -> None:
    if where.count(".") > _DEEPEST:  # each level is read anew: depth times size is what it costs
        raise Refusal("malformed_request", "The body is nested too deeply")
    kind = text(fields, "type", where)
    if kind == "text" and _PLAIN_BLOCK.issuperset(fields):
        return
    for path in unknown_keys(fields, known, where):
        found.new_key(path)
    if kind not in _BLOCK_TYPES:
        found.new_key(f"{where}.type={(kind or '')[:32]}")
        found.outside("content_type")
    read_cache_control(fields, found, where)
    _file(fields, kind, found, where)
    if (tool := given(fields, "tool")) is not None:  # a tool added in the middle of a conversation
        found.overhead_tokens += _TOOLS_TOKENS
        _tool(fields_of(tool, f"{where}.tool"), found)
    if (source := given(fields, "source")) is not None and kind_of(source) == "object":
        _source(fields_of(source, f"{where}.source"), kind or "source", raw_size(fields), found, f"{where}.source")
        if given(fields, "citations") is not None:
            found.overhead_tokens += _CITED_TOKENS_PER_BYTE * len(source)
    if (content := given(fields, "content")) is not None:
        _nested(content, found, f"{where}.content")


def _file(fields: Fields, kind: str | None, found: Findings, where: str) -> None:
    """A file of the account is put in; elsewhere the id tells of an output that the caller has seen before."""
    if (file_id := text(fields, "file_id", where)) is not None:
        found.outside("file_id")
        if kind == "container_upload":
            found.refer("file", file_id)


def _nested(content: msgspec.Raw, found: Findings, where: str) -> None:
    """The content of a tool's result or of a document: text, blocks, or one object."""
    kind = kind_of(content)
    if kind == "array":
        for fields in objects_of(content, f"{where}[]"):
            _block(fields, found, f"{where}[]", _RESULT)
    elif kind == "object":
        _block(fields_of(content, where), found, where, _RESULT)


def _source(source: Fields, kind: str, size: int, found: Findings, where: str) -> None:
    for path in unknown_keys(source, _SOURCE, where):
        found.new_key(path)
    if (content := given(source, "content")) is not None:
        _nested(content, found, f"{where}.content")
    if (file_id := text(source, "file_id", where)) is not None:
        found.refer("file", file_id)
        found.medium("file_id", size)
    elif given(source, "url") is not None:
        found.medium(f"{kind}_url", size)
    elif text(source, "type", where) not in ("text", "content"):
        found.medium(kind, size)


def read_cache_control(fields: Fields, found: Findings, where: str) -> None:
    marker = given(fields, "cache_control")
    if marker is not None:
        path = f"{where}.cache_control" if where else "cache_control"
        control = fields_of(marker, path)
        for unknown in unknown_keys(control, _CACHE_CONTROL, path):
            found.new_key(unknown)
        found.cache_marker(control, path)


def read_tools(raw: bytes, found: Findings) -> None:
    """Which of the tools Anthropic runs itself, and how often at most. Raises Refusal."""
    found.overhead_tokens += _TOOLS_TOKENS
    for fields in objects_of(raw, "tools[]"):
        if not _PLAIN_TOOL.issuperset(fields):
            _tool(fields, found)


def _tool(fields: Fields, found: Findings) -> None:
    for path in unknown_keys(fields, _TOOL | {"model"}, "tools[]"):
        found.new_key(path)
    read_cache_control(fields, found, "tools[]")
    if given(fields, "model") is not None:
        message = "`tools[].model` would let the provider use another model than the one asked for"
        raise Refusal("invalid_field", message, "Leave the tool out")
    kind = text(fields, "type", "tools[]")
    if kind is None or kind == "custom" or kind.startswith(_CLIENT_TOOLS):
        if kind is not None and "_toolset_" in kind:
            found.overhead_tokens += _TOOLSET_TOKENS
        return
    most = whole(fields, "max_uses", "tools[]")
    name = server_tool(kind)
    found.tools.append(ServerTool(name, most))
    if name not in _CAPPED_TOOLS:
        found.no_ceiling(name)


def server_tool(kind: str) -> str:
    """The price key of a server tool: its type without the version."""
    for name in (*_CAPPED_TOOLS, *_UNCAPPED_TOOLS):
        if kind.startswith(name):
            return name
    return kind[:64]


def takes_cap(fields: Fields) -> bool:
    """Whether a tool is run by Anthropic, takes `max_uses` and came without it."""
    kind = text(fields, "type", "tools[]") or ""
    return kind.startswith(_CAPPED_TOOLS) and given(fields, "max_uses") is None

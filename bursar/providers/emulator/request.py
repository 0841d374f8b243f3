"""One request as the emulator reads it. It is a provider: it checks what providers check, not what a broker governs."""

from collections.abc import Callable
from typing import Any, Literal

import msgspec

from bursar.providers.emulator.script import Script, read_script

Route = Literal["chat", "completions", "embeddings", "responses", "messages", "count_tokens"]

ROUTES: dict[bytes, Route] = {
    b"/v1/chat/completions": "chat",
    b"/chat/completions": "chat",
    b"/v1/completions": "completions",
    b"/completions": "completions",
    b"/v1/embeddings": "embeddings",
    b"/embeddings": "embeddings",
    b"/v1/responses": "responses",
    b"/responses": "responses",
    b"/v1/messages": "messages",
    b"/v1/messages/count_tokens": "count_tokens",
}

_MOST_CHOICES = 128  # as OpenAI has it
_MOST_BEST = 20
# The field that holds what a model reads, by route.
_PROMPT: dict[Route, str] = {"completions": "prompt", "embeddings": "input"}
_MAY_LACK_PROMPT = "completions"
TOKEN_BYTES = 4
Prompt = str | list[int]


class _Options(msgspec.Struct):
    include_usage: bool | None = None


class Thinking(msgspec.Struct):
    type: str
    budget_tokens: int | None = None


class Body(msgspec.Struct):
    """The fields that change an answer, of both dialects."""

    model: str
    messages: msgspec.Raw = msgspec.Raw()
    prompt: msgspec.Raw = msgspec.Raw()
    input: msgspec.Raw = msgspec.Raw()
    best_of: int | None = None
    echo: bool | None = None
    logprobs: msgspec.Raw = msgspec.Raw()  # a count for completions, true or false for chat
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None
    stream: bool | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    max_output_tokens: int | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    conversation: str | dict[str, str] | None = None
    background: bool | None = None
    store: bool | None = None
    reasoning: dict[str, Any] | None = None
    text: dict[str, Any] | None = None
    metadata: dict[str, str] | None = None
    n: int | None = None
    stream_options: _Options | None = None
    tools: msgspec.Raw = msgspec.Raw()
    tool_choice: msgspec.Raw = msgspec.Raw()
    system: msgspec.Raw = msgspec.Raw()
    response_format: msgspec.Raw = msgspec.Raw()
    output_config: msgspec.Raw = msgspec.Raw()
    reasoning_effort: str | None = None
    thinking: Thinking | None = None
    service_tier: str | None = None


class Request(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    route: Route
    key: str  # digest of the credential
    body: Body
    prompts: tuple[Prompt, ...]  # of completions and embeddings
    script: Script
    before: bytes = b""  # items of a response or a conversation that this one builds upon
    size: int  # bytes of the whole body, which also seed the answer
    seed: int

    @property
    def input_tokens(self) -> int:
        if self.script.input is not None:
            return self.script.input
        body = self.body
        if self.route == "responses":
            texts = len(body.input) + len(body.instructions or "") + len(body.tools) + len(self.before)
            return -(-texts // TOKEN_BYTES)
        if self.prompts:
            return sum(map(prompt_tokens, self.prompts))
        return -(-(len(body.messages) + len(body.system) + len(body.tools)) // 4)


class Unfit(Exception):
    """The request is not one a provider takes: answered with 400."""


def prompt_tokens(prompt: Prompt) -> int:
    """Never nothing: an empty text is read as the mark that begins a document."""
    return len(prompt) if isinstance(prompt, list) else max(1, -(-len(prompt.encode()) // TOKEN_BYTES))


def _read_prompts(route: Route, fields: Body) -> tuple[tuple[Prompt, ...], bytes]:
    """-> (prompts, the raw value in which a script may stand). Raises Unfit."""
    name = _PROMPT.get(route)
    if route == "responses":
        return (), fields.input or b'""'
    if name is None:
        if not fields.messages:
            raise Unfit("messages: Field required")
        return (), fields.messages
    raw = bytes(getattr(fields, name))
    if not raw:
        if route != _MAY_LACK_PROMPT:
            raise Unfit(f"{name}: Field required")
        return ("",), b'""'
    given: Any = msgspec.json.decode(raw)
    if isinstance(given, str):
        return (given,), raw
    if not isinstance(given, list) or not given:
        raise Unfit(f"{name}: should be a string or an array")
    if all(isinstance(one, int) for one in given):
        return (given,), raw
    if not all(isinstance(one, str) for one in given) and not all(_is_tokens(one) for one in given):
        raise Unfit(f"{name}: an array holds strings, tokens, or arrays of tokens")
    return tuple(given), raw


def _is_tokens(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(token, int) for token in value)


_body = msgspec.json.Decoder(Body)


Kept = Callable[[Body], bytes]


def _nothing(_body: Body) -> bytes:
    return b""


def read_request(
    name: str, route: Route, key: str, header: bytes, body: bytes, seed: int, kept: Kept = _nothing
) -> Request:
    """`kept`: the items that a body builds upon. Raises Unfit, BadScript."""
    try:
        fields = _body.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unfit(f"invalid request: {error}") from None
    prompts, texts = _read_prompts(route, fields)
    if route == "messages" and fields.max_tokens is None:
        raise Unfit("max_tokens: Field required")
    if fields.n is not None and not 1 <= fields.n <= _MOST_CHOICES:
        raise Unfit(f"n: should be between 1 and {_MOST_CHOICES}")
    if fields.best_of is not None and not (fields.n or 1) <= fields.best_of <= _MOST_BEST:
        raise Unfit(f"best_of: should be between n and {_MOST_BEST}")
    if fields.best_of is not None and fields.best_of > 1 and fields.stream:
        raise Unfit("best_of: results cannot be streamed")
    return Request(
        id=name,
        route=route,
        key=key,
        body=fields,
        prompts=prompts,
        script=read_script(header, body, texts),
        before=kept(fields),
        size=len(body),
        seed=seed + len(body),
    )


def schema_of(request: Request) -> dict[str, Any] | None:
    """The JSON schema the answer must follow; {} = any object; None = free text."""
    body = request.body
    if len(body.response_format) > 4:
        wanted: dict[str, Any] = msgspec.json.decode(body.response_format)
        if wanted.get("type") == "json_schema":
            return wanted["json_schema"].get("schema") or {}
        return {} if wanted.get("type") == "json_object" else None
    if body.text is not None and (form := body.text.get("format")):
        if form.get("type") == "json_schema":
            return form.get("schema") or {}
        return {} if form.get("type") == "json_object" else None
    if len(body.output_config) > 4:
        form = msgspec.json.decode(body.output_config).get("format") or {}
        return form.get("schema") if form.get("type") == "json_schema" else None
    return None


def wanted_tool(request: Request) -> dict[str, Any] | None:
    """The tool to call, as {"name", "schema"}: when the request or the script demands one."""
    body, script = request.body, request.script
    if len(body.tools) <= 4 or script.tool is False:
        return None
    choice: Any = msgspec.json.decode(body.tool_choice) if len(body.tool_choice) > 4 else "auto"
    tools = [_name_and_schema(tool) for tool in msgspec.json.decode(body.tools)]
    tools = [tool for tool in tools if tool["name"]]
    named = choice.get("name") or (choice.get("function") or {}).get("name") if isinstance(choice, dict) else None
    if named:
        return next((tool for tool in tools if tool["name"] == named), None)
    demanded = choice == "required" or (isinstance(choice, dict) and choice.get("type") == "any")
    return tools[0] if tools and (demanded or script.tool) else None


def _name_and_schema(tool: dict[str, Any]) -> dict[str, Any]:
    function = tool.get("function") or tool
    schema = function.get("parameters") or function.get("input_schema") or {}
    server_side = "type" in tool and tool["type"] not in ("function", "custom")
    return {"name": "" if server_side else function.get("name"), "schema": schema}

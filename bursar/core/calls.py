"""The values that travel along the way of a request. Plain data: no behaviour that decides anything.

Structs of the hot path are mutable and untracked by the garbage collector where they hold no cycles (`gc=False`):
a request makes about ten of them.
"""

from typing import Literal

import msgspec

from bursar.core.made_ids import Reference

DialectName = Literal["openai", "anthropic"]
Purpose = Literal["inference", "embedding", "fine-tuning", "batch"]


class ServerTool(msgspec.Struct, frozen=True, gc=False):
    """A tool that the provider itself runs and bills: each use costs, and each round re-reads the context."""

    name: str  # price key, e.g. "web_search"
    max_uses: int | None  # the caller's own cap; None = unbounded until policy injects one


class Call(msgspec.Struct, gc=False, kw_only=True):
    """What a dialect understood of one request: the governed fields, and the facts that can raise its price.

    `body` is kept as received; the dialect rewrites it from parsed values only when something governed changes.
    """

    route: str  # "chat" | "completions" | "embeddings" | "responses" | "messages" | "count_tokens" | ...
    dialect: DialectName
    purpose: Purpose
    model: str
    stream: bool
    body: bytes
    input_bytes: int  # UTF-8 bytes that can become input tokens (never less than what the provider tokenises)
    prompt_chars: int  # characters of the prompt texts, an upper bound is allowed
    messages: int  # count of messages
    token_ids: int = 0  # tokens of prompts that came as their ids: exactly so many
    max_tokens: int | None = None  # the LARGEST explicit output cap found (max_tokens, max_completion_tokens, ...)
    max_tokens_field: str = ""  # the field that carried it ("" = none)
    n: int = 1  # choices asked for, of all prompts together, also those that are billed and not shown
    unseen: bool = False  # some of them are billed and never shown: what is visible bounds nothing
    prompts: int = 1  # read each by itself, in a context window of its own
    writes: bool = True  # False: it has no output at all, and needs no cap (embeddings)
    echo_bytes: int = 0  # UTF-8 bytes of the prompts that the answer may repeat
    wants_usage: bool = False  # the caller itself asked for usage events in the stream
    thinking_budget: int = 0  # tokens the caller set aside for hidden reasoning (Anthropic thinking.budget_tokens)
    reasoning: bool = False  # hidden reasoning was asked for explicitly
    external_input: str = ""  # why input is not bounded by the body ("image_url", "file_id", ...); "" = bounded
    server_tools: tuple[ServerTool, ...] = ()
    unbounded: str = ""  # a reason no finite ceiling exists at all ("background", ...)
    unknown_fields: tuple[str, ...] = ()  # top-level fields not in the dialect's table of harmless ones
    service_tier: str = ""  # as asked for: "flex", "priority", "auto", ...
    cache_write: Literal["", "5m", "1h"] = ""  # longest-lived cache write the body can cause
    audio: bool = False  # audio in or out
    overhead_tokens: int = 0  # input that the provider adds for what the body asks for: tool prompts, citation marks
    refers: tuple[Reference, ...] = ()  # ids in the body of what a provider keeps: each must be this team's
    loose: tuple[
        str, ...
    ] = ()  # texts in top-level fields not known here that could be ids: none may be another team's
    keeps: bool = False  # the provider keeps what it makes, and ids of it come back
    background: bool = False  # it goes on when the answer has been given
    user: str = ""  # the body's own user field: recorded, never trusted
    content: str = ""  # its class, for the estimate (core.content); set when it is priced
    parsed: object = None  # the dialect's private parse, for `rewrite`

    @property
    def rough_tokens(self) -> int:
        """Input tokens by a rule of thumb, four bytes each; no fewer than came as ids."""
        rough = self.input_bytes >> 2
        return rough if rough > self.token_ids else self.token_ids


class Edits(msgspec.Struct, gc=False, kw_only=True):
    """What policy changes in a call before it is sent. None / empty = leave as the caller wrote it."""

    model: str | None = None  # the upstream's own name for the model
    max_tokens: int | None = None
    max_tokens_field: str = ""  # which field the model wants: "max_tokens" | "max_completion_tokens"
    include_usage: bool = False  # inject stream_options.include_usage
    tool_uses_cap: int | None = None  # cap for server tools that came without one
    stop: tuple[str, ...] = ()  # stop sequences to add


class Usage(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Billable counts of one attempt, normalised: totals include their parts.

    `input_tokens` includes cache reads, cache writes, audio and image input; `output_tokens` includes reasoning and
    audio.
    """

    input_tokens: int
    output_tokens: int
    cache_read: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    reasoning: int = 0
    audio_input: int = 0
    audio_output: int = 0
    image_input: int = 0
    tool_uses: tuple[tuple[str, int], ...] = ()
    service_tier: str = ""  # as billed, when the provider says so

    @property
    def has_parts(self) -> bool:
        """Whether anything is counted besides the two totals: in most answers nothing is."""
        return bool(
            self.cache_read
            or self.cache_write_5m
            or self.cache_write_1h
            or self.reasoning
            or self.audio_input
            or self.audio_output
            or self.image_input
            or self.tool_uses
        )


class Cost(msgspec.Struct, frozen=True, gc=False):
    """The price of a usage, with the provenance that its ledger row carries."""

    pico: int
    price_id: str  # provider/model@date
    price_digest: str


class Ceiling(msgspec.Struct, frozen=True, gc=False):
    """The dearest this call can become, and what is expected of it."""

    pico: int
    expected_pico: int
    input_tokens: int
    output_tokens: int  # cap x n
    expected_input: int
    expected_output: int


class Principal(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Who is calling, as proven by a credential."""

    key_id: str
    team_id: str
    owner_id: str
    user: str = ""  # a verified claim or a header that the key's policy trusts


class Candidate(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One way to serve a call: a provider, its name for the model and the provider key to use."""

    provider: str
    model: str  # the upstream's own name
    secret_id: str
    price_id: str

"""What was decided about one request, with its numbers: the value that `bursar explain` shows and replays read.

A gateway makes a `Decision` of every call that was refused, cut, failed, or that a rule in shadow would have refused or
clamped, and of as many ordinary calls a second as it was told (`explain.allowed`). They travel to control in a `Batch`,
at most once, and are kept for a while. There is no text of a prompt or answer in any of them, and no key.

Amounts are pico-USD. What does not fit 63 bits is decimal text (`bursar.core.ledger_records.Money`); `number` reads
both. Records are maps in msgpack: a field that says nothing is left out, new ones are added with a default.
"""

from typing import Literal

import msgspec

from bursar.core.calls import Call, DialectName, Purpose, ServerTool
from bursar.core.directory import Mode
from bursar.core.ledger_records import Money
from bursar.core.prices import STANDARD_TIERS

Outcome = Literal[
    "refused",  # by Bursar: nothing was sent, or nothing that the caller has seen
    "failed",  # upstream: the provider said no, or broke off
    "cut",  # a stream was ended at its allowance
    "gone",  # the caller left
    "allowed",
]
Verdict = Literal["allows", "refuses", "clamps"]
Control = Literal[
    "key",
    "networks",
    "user",
    "limits",
    "models",
    "purposes",
    "prompt",
    "max_tokens",
    "tools",
    "stop",
    "unpriced",
    "guard",
    "breaker",
    "budgets",
]
Why = Literal["flood", "buffer", "fault", "store"]
"""Why a decision was counted and not kept: too many a second of one key or in all, the gateway's buffer was full while
control was away, a fault of ours, or the store could not be written."""

_SEARCHING = {"web_search", "web_search_options", "web_fetch", "file_search", "tool_search", "memory"}
_RUNNING = {"code_execution", "code_interpreter", "computer_use", "image_generation", "mcp", "bash", "text_editor"}
_TOOLS = _SEARCHING | _RUNNING
_REASONS = _TOOLS | {"prediction", "thinking_budget", "mcp_servers", "background"}
_TIERS = STANDARD_TIERS | {"flex", "priority", "batch", "fast"}
_UNKNOWN = "unknown"  # stands for a name of the caller's own making

OTHERS = "(others)"  # stands for keys and rules of which there are too many to count each
HOUR_NS = 3_600 * 10**9


class RuleAsked(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One rule that was asked about a call, and what it said. Numbers are in `unit`; None = does not apply.

    `used` includes `held`. `left` is what was left before this call asked; `asked` what it asked for.
    """

    control: Control
    rule: str  # a limit's or budget's id; elsewhere the policy field
    mode: Mode = "enforce"
    verdict: Verdict = "allows"
    word: str = ""  # in which it refuses, or would
    subject: str = ""  # whose counter it is: "team/search", "key/3f2a", ...
    unit: str = ""  # "requests", "tokens", "pico_usd", "characters", ...; "" = the rule has no numbers
    per_seconds: int = 0  # of a rate
    limit: Money | None = None
    used: Money | None = None
    held: Money | None = None  # by calls in flight
    asked: Money | None = None
    left: Money | None = None
    resets_ns: int | None = None  # when time alone makes room
    says: str = ""  # what a rule without numbers allows: "gpt-4o*, claude-*"
    saved_pico: Money = 0  # in shadow: what it would have saved of what this call cost


class CallFacts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was understood of the request, without any of its text. `facts_of` and `call_of` lead there and back."""

    route: str
    dialect: DialectName
    purpose: Purpose = "inference"
    model: str = ""  # as asked for
    stream: bool = False
    input_bytes: int = 0
    prompt_chars: int = 0
    messages: int = 0
    token_ids: int = 0
    max_tokens: int | None = None
    n: int = 1
    prompts: int = 1
    writes: bool = True
    thinking_budget: int = 0
    reasoning: bool = False
    external_input: str = ""
    server_tools: tuple[ServerTool, ...] = ()
    unbounded: str = ""
    unknown_fields: int = 0  # how many: their names are the caller's
    service_tier: str = ""
    cache_write: Literal["", "5m", "1h"] = ""
    audio: bool = False
    overhead_tokens: int = 0


class Decision(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One request and everything that was asked about it, in the order in which it was asked."""

    request_id: str
    at_ns: int
    outcome: Outcome
    status: int = 0  # of the answer; 0 = none was given
    word: str = ""
    message: str = ""  # as the caller was told; "" where it could quote what he sent
    hint: str = ""
    retry_after: float | None = None  # seconds
    facts: dict[str, str | int] = {}
    node: str = ""  # set by control: which gateway said so
    route: str = ""  # by its name: a path may hold what the caller wrote; "" = there is none such
    key_id: str = ""
    team_id: str = ""
    owner_id: str = ""
    user: str = ""
    credential: str = ""  # "" = the key itself, "token", "federation"
    directory_version: int = 0
    call: CallFacts | None = None  # None = refused before the body was understood
    output_cap: int | None = None  # output tokens per choice that its ceiling counts with
    max_tokens_applied: int | None = None  # what Bursar set
    provider: str = ""
    model: str = ""  # canonical
    price_id: str = ""
    expected_pico: Money | None = None  # None = not priced: it was refused before
    ceiling_pico: Money | None = None
    expected_input: int = 0  # tokens
    expected_output: int = 0
    cost_pico: Money = 0  # what was posted
    input_tokens: int | None = None  # by the provider's word
    output_tokens: int | None = None
    rules: tuple[RuleAsked, ...] = ()

    @property
    def binding(self) -> RuleAsked | None:
        """The rule that refused; None where none did, or none with a name."""
        return next((rule for rule in self.rules if rule.mode == "enforce" and rule.verdict == "refuses"), None)

    @property
    def shadowed(self) -> tuple[RuleAsked, ...]:
        """The rules in shadow that would have refused or clamped."""
        return tuple(rule for rule in self.rules if rule.mode == "shadow" and rule.verdict != "allows")

    @property
    def ordinary(self) -> bool:
        """Nothing to tell: it was allowed, and nothing in shadow would have said otherwise."""
        return self.outcome == "allowed" and not self.shadowed


class ShadowSum(msgspec.Struct, frozen=True, kw_only=True):
    """What one rule in shadow would have done to the calls of one key in one hour. Exact: also of calls whose record
    was not kept.

    A call that two rules would have refused counts in both.
    """

    hour: int  # hours since the epoch, UTC
    team_id: str
    key_id: str
    control: str
    rule: str
    verdict: Verdict
    word: str
    calls: int
    expected_pico: Money = 0
    ceiling_pico: Money = 0
    cost_pico: Money = 0  # what these calls did cost
    saved_pico: Money = 0  # of that, what the rule would have saved


class Dropped(msgspec.Struct, frozen=True):
    """Decisions that were counted and not kept."""

    hour: int
    key_id: str
    why: Why
    count: int


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """What a gateway ships at once. `records` are `Decision`s, encoded.

    `session` and `number` name it: one that comes twice is counted once.
    """

    session: str
    number: int
    at_ns: int
    records: list[bytes] = []
    sums: list[ShadowSum] = []
    dropped: list[Dropped] = []


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which decisions somebody wants to see. Empty = any."""

    since_ns: int = 0
    until_ns: int = 2**63 - 1
    team_id: str = ""
    key_id: str = ""
    word: str = ""
    ordinary: bool | None = None  # False = only those that something refused, cut, or would have


def number(amount: Money | None) -> int:
    """An amount as it is in the record, as the number it is; None counts as zero."""
    return 0 if amount is None else int(amount)


def facts_of(call: Call) -> CallFacts:
    """What a replay needs of a call. Of what a caller can write only the model's name is kept, cut short."""
    return CallFacts(
        route=call.route,
        dialect=call.dialect,
        purpose=call.purpose,
        model=call.model[:200],
        stream=call.stream,
        input_bytes=call.input_bytes,
        prompt_chars=call.prompt_chars,
        messages=call.messages,
        token_ids=call.token_ids,
        max_tokens=call.max_tokens,
        n=call.n,
        prompts=call.prompts,
        writes=call.writes,
        thinking_budget=call.thinking_budget,
        reasoning=call.reasoning,
        external_input=call.external_input,
        server_tools=tuple(_named(tool) for tool in call.server_tools[:16]),
        unbounded=_UNKNOWN if call.unbounded and call.unbounded not in _REASONS else call.unbounded,
        unknown_fields=len(call.unknown_fields),
        service_tier=call.service_tier if call.service_tier in _TIERS else _UNKNOWN,
        cache_write=call.cache_write,
        audio=call.audio,
        overhead_tokens=call.overhead_tokens,
    )


def _named(tool: ServerTool) -> ServerTool:
    return tool if tool.name in _TOOLS else ServerTool(_UNKNOWN, tool.max_uses)


def call_of(facts: CallFacts) -> Call:
    """The call again, without its body: enough to ask a policy, a ceiling and limits about it."""
    named = {name: getattr(facts, name) for name in CallFacts.__struct_fields__ if name != "unknown_fields"}
    return Call(**named, body=b"", unknown_fields=tuple(f"field{i}" for i in range(facts.unknown_fields)))


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Decision)


def encode(decision: Decision) -> bytes:
    """Raises msgspec.MsgspecError, OverflowError for what no record can hold."""
    return _encoder.encode(decision)


def decode(record: bytes) -> Decision:
    """Raises msgspec.MsgspecError."""
    return _decoder.decode(record)

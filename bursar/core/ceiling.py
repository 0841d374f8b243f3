"""The dearest that one call can become. The money promise stands on this file.

For a hard budget nothing is dispatched before its ceiling is held, so a ceiling that a usage within the caps can pass
is a broken promise. Where no finite one exists, the call is refused: `unbounded_request`.
"""

from bursar.core.calls import Call, Ceiling, Usage
from bursar.core.errors import Refusal
from bursar.core.estimate import Estimate
from bursar.core.prices import (
    Price,
    band_at,
    decompose,
    token_pico,
    tool_fee,
    worst_band,
    worst_input_rate,
    worst_output_rate,
    worst_rates,
)

# Tokens that providers add to what the body holds. OpenAI's cookbook counts 3 a message and 3 to prime the answer; the
# open models' chat templates take up to 6 a message and a system text of their own. What else the body asks for is
# counted by its dialect: `Call.overhead_tokens`.
_PER_REQUEST = 256
_PER_MESSAGE = 16

# Output tokens per choice that may have been made unseen when a stream was cut: bytes under way, the closing tokens.
SLACK_TOKENS = 512
_BYTES_PER_TOKEN = 3  # of visible output, for soft budgets: a little dearer than English text is


def input_ceiling(call: Call, price: Price) -> int:
    """The most input tokens that the body, or what it refers to, can become in one round.

    Byte-level tokenizers make at most one token of a byte; no prompt is larger than the context window.
    """
    window = price.context_window
    if window is not None and call.prompts > 1:
        window *= call.prompts
    if call.external_input and window is not None:
        return window
    tokens = call.input_bytes + call.overhead_tokens + _PER_REQUEST + _PER_MESSAGE * call.messages
    return tokens if window is None or tokens < window else window


def unbounded_reason(
    call: Call, price: Price, output_cap: int, allow_unknown: bool = False, tool_cap: int | None = None
) -> str:
    """Why this call has no finite ceiling; "" when it has one."""
    if call.unbounded:
        return f"{call.unbounded} has no finite cost"
    if call.unknown_fields and not allow_unknown:
        return f"the field {call.unknown_fields[0]!r} is not known and could raise the price"
    if call.n <= 0 or (output_cap <= 0 and call.writes):
        return "the output is not capped"
    if call.server_tools and (reason := _unbounded_tool(call, price, tool_cap)):
        return reason
    return _unbounded_input(call, price) if call.external_input or call.audio else ""


def _unbounded_input(call: Call, price: Price) -> str:
    if call.external_input and price.context_window is None:
        return f"{call.external_input} adds input from outside the body, and the model's context window is not known"
    if call.audio and not price.audio_listed:
        return "the model has no price for audio"
    return ""


def _unbounded_tool(call: Call, price: Price, tool_cap: int | None) -> str:
    for tool in call.server_tools:
        if tool.max_uses is None and tool_cap is None:
            return f"the tool {tool.name} may be used without limit"
        if tool.name not in price.tools:
            return f"the tool {tool.name} has no price"
    if price.context_window is None:
        return "a server-side tool re-reads the context, and the model's context window is not known"
    return ""


def ceiling(  # noqa: PLR0913 - facts of one call
    call: Call,
    price: Price,
    output_cap: int,
    ratios: Estimate,
    strict: bool,
    *,
    allow_unknown: bool = False,
    tool_cap: int | None = None,
    key_id: str = "",
) -> Ceiling:
    """The ceiling of a call, in pico-USD, and what is expected of it.

    `output_cap`: output tokens per choice as they will be sent. `tool_cap`: uses that policy injects into server tools
    without a cap. `strict`: a hard budget applies; raises Refusal(unbounded_request) where no finite ceiling exists.
    Without it the figure is the best that is known. `key_id`: whose answers' lengths are expected.
    """
    if strict:
        reason = unbounded_reason(call, price, output_cap, allow_unknown, tool_cap)
        if reason:
            raise Refusal(
                "unbounded_request",
                f"No finite cost ceiling: {reason}",
                "Cap or leave out what is unbounded, or ask for a key with a soft budget",
            )
    uses, fees = _tool_uses(call, price, tool_cap) if call.server_tools else (0, 0)
    input_tokens = input_ceiling(call, price) + uses * (price.context_window or 0)
    output_tokens = output_cap * call.n
    input_rate, output_rate = worst_rates(price, call, input_tokens)
    pico = input_tokens * input_rate + output_tokens * output_rate + fees + price.request_fee
    expected_input, expected_output = ratios.expected(price.model, call.content, key_id, call.input_bytes, output_cap)
    expected_input = min(expected_input, input_tokens)
    expected_output *= call.n
    band = price.bands[0] if len(price.bands) == 1 else band_at(price.bands, expected_input)  # as in `likely_pico`
    expected = expected_input * band.input + expected_output * band.output + price.request_fee
    return Ceiling(pico, min(expected, pico), input_tokens, output_tokens, expected_input, expected_output)


def likely_pico(price: Price, input_tokens: int, output_tokens: int) -> int:
    """What so many tokens cost at the plain rates: no cache, no tool, no dearer tier."""
    band = price.bands[0] if len(price.bands) == 1 else band_at(price.bands, input_tokens)
    return input_tokens * band.input + output_tokens * band.output + price.request_fee


def _tool_uses(call: Call, price: Price, tool_cap: int | None) -> tuple[int, int]:
    """(uses of server-side tools at most, their fees in pico-USD). A use is also one more round over the context."""
    uses = fees = 0
    for tool in call.server_tools:
        cap = (tool_cap or 0) if tool.max_uses is None else tool.max_uses
        uses += cap
        fees += cap * tool_fee(price, tool.name)
    return uses, fees


def shrunk_ceiling(price: Price, call: Call, input_usage: Usage, output_cap: int, tool_cap: int | None = None) -> int:
    """The ceiling in pico-USD once the provider has reported the input side (Anthropic's `message_start`).

    Take the smaller of this and the hold. Raises ValueError when the counts contradict one another: keep the hold.
    """
    uses, fees = _tool_uses(call, price, tool_cap) if call.server_tools else (0, 0)
    total = input_usage.input_tokens + uses * (price.context_window or 0)
    pico = token_pico(worst_band(price, call.service_tier, total), decompose(input_usage))
    if uses:
        pico += (total - input_usage.input_tokens) * worst_input_rate(price, call, total)
    return pico + output_cap * call.n * worst_output_rate(price, call, total) + fees + price.request_fee


def hides_output(price: Price, call: Call) -> bool:
    """Whether output may be billed that the caller never sees, so that visible bytes bound nothing."""
    return bool(
        price.reasoning
        or call.reasoning
        or call.thinking_budget
        or call.server_tools
        or call.audio
        or call.unbounded
        or call.unseen
    )


def inexact_cost(price: Price, call: Call, hold: int, visible_bytes: int, input_usage: Usage | None = None) -> int:
    """What to post under a hard budget when an attempt ended without believable usage; never above the hold.

    Input at its ceiling (or as reported early) + a token for each visible byte of output + the slack. A call that can
    hide output keeps the whole hold. Raises ValueError when `input_usage` contradicts itself.
    """
    if hides_output(price, call):
        return hold
    tokens = input_ceiling(call, price)
    input_pico = tokens * worst_input_rate(price, call, tokens)
    if input_usage is not None:
        tokens = input_usage.input_tokens
        input_pico = token_pico(worst_band(price, call.service_tier, tokens), decompose(input_usage))
    output_tokens = visible_bytes + SLACK_TOKENS * call.n
    return min(hold, input_pico + output_tokens * worst_output_rate(price, call, tokens) + price.request_fee)


def observed_cost(price: Price, call: Call, visible_bytes: int, expected_input: int) -> int:
    """What to post under soft budgets only, when an attempt ended without believable usage: what was observed."""
    band = band_at(price.bands, expected_input)
    output_tokens = -(-visible_bytes // _BYTES_PER_TOKEN)
    if hides_output(price, call):
        output_tokens = max(output_tokens, price.reasoning_floor)
    return expected_input * band.input + output_tokens * band.output + price.request_fee

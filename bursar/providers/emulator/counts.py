"""What one call uses, as it will be billed; and the lies a script may tell about it."""

from typing import Any

import msgspec

from bursar.providers.emulator.generation import Generation
from bursar.providers.emulator.request import Request
from bursar.providers.emulator.script import UsageLie

_HUGE = 10**12


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """Totals over all choices."""

    input: int
    output: int
    reasoning: int
    cached: int
    cache_write_5m: int
    cache_write_1h: int
    searches: int


def count(request: Request, generation: Generation, choices: int) -> Counts:
    """`choices`: all that are written, shown or not."""
    script = request.script
    tokens = request.input_tokens
    cached = min(script.cached, tokens)
    five = min(script.cache_write, tokens - cached)
    return Counts(
        input=tokens,
        output=generation.output * choices,
        reasoning=generation.reasoning * choices,
        cached=cached,
        cache_write_5m=five,
        cache_write_1h=min(script.cache_write_1h, tokens - cached - five),
        searches=script.searches,
    )


def lie_about(usage: dict[str, Any], lie: UsageLie) -> dict[str, Any] | None:
    """The usage object as told: every number bent the same way; None = left out."""
    if lie in ("", "twice"):
        return usage
    if lie == "missing":
        return None
    return {name: _bend(value, lie) for name, value in usage.items()}


def _bend(value: Any, lie: UsageLie) -> Any:
    if isinstance(value, dict):
        return {name: _bend(inner, lie) for name, inner in value.items()}
    if not isinstance(value, int):
        return value
    bent: dict[str, Any] = {
        "negative": -abs(value) - 1,
        "huge": _HUGE,
        "zero": 0,
        "text": "twelve",
        "low": min(value, 1),
    }
    return bent[lie]

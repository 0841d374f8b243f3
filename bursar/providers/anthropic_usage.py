"""Anthropic's `usage` object as a value.

Shape: https://docs.anthropic.com/en/api/messages (usage). `input_tokens` leaves cache reads and writes out, so that
the whole input is the sum of three fields. In streams `message_start` brings the input side, `message_delta` the
cumulative totals, and what it leaves out stands as said before.
"""

import msgspec

from bursar.core.calls import Call, Usage
from bursar.providers.usage_counts import UNREADABLE, doubt


class CacheCreation(msgspec.Struct, gc=False):
    ephemeral_5m_input_tokens: int = 0
    ephemeral_1h_input_tokens: int = 0


class OutputDetails(msgspec.Struct, gc=False):
    thinking_tokens: int | None = None


class Said(msgspec.Struct):
    """A usage object as it came."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation: CacheCreation | None = None
    output_tokens_details: OutputDetails | None = None
    server_tool_use: dict[str, int | None] | None = None
    service_tier: str | None = None
    speed: str | None = None


_decode = msgspec.json.Decoder(Said).decode


def read_said(raw: bytes) -> Said | None:
    """None when it is not whole numbers in the expected places."""
    try:
        return _decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def onto(before: Said | None, now: Said) -> Said:
    """What `now` leaves out stands as said before; a count is not taken back (but a negative one shows)."""
    if before is None:
        return now
    changes = {}
    for name in Said.__struct_fields__:
        old, new = getattr(before, name), getattr(now, name)
        if new is not None:
            changes[name] = max(old or 0, new) if isinstance(new, int) and new >= 0 else new
    return msgspec.structs.replace(before, **changes)


def to_usage(said: Said | None, call: Call) -> tuple[Usage | None, str]:
    """-> (usage, "") or (None, why it is not believed)."""
    if said is None or said.input_tokens is None or said.output_tokens is None:
        return None, UNREADABLE
    five, hour = _cache_writes(said, call)
    read = said.cache_read_input_tokens or 0
    details = said.output_tokens_details
    uses = said.server_tool_use
    fresh = said.input_tokens
    usage = Usage(
        input_tokens=fresh + read + five + hour if fresh >= 0 else fresh,  # a negative part must not hide in a sum
        output_tokens=said.output_tokens,
        cache_read=read,
        cache_write_5m=five,
        cache_write_1h=hour,
        reasoning=(details.thinking_tokens or 0) if details is not None else 0,
        tool_uses=tuple((name.removesuffix("_requests"), n) for name, n in uses.items() if n) if uses else (),
        service_tier="fast" if said.speed == "fast" else said.service_tier or "",
    )
    reason = doubt(usage)
    return (None, reason) if reason else (usage, "")


def _cache_writes(said: Said, call: Call) -> tuple[int, int]:
    """(5 minutes, 1 hour). What the split does not account for counts as the dearest life the body asked for."""
    total = said.cache_creation_input_tokens or 0
    split = said.cache_creation
    five = split.ephemeral_5m_input_tokens if split is not None else 0
    hour = split.ephemeral_1h_input_tokens if split is not None else 0
    rest = max(0, total - five - hour) if total >= 0 else total
    return (five, hour + rest) if call.cache_write == "1h" else (five + rest, hour)

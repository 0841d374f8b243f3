"""When a provider's own counts are believed, and what is wrong with them when they are not."""

import msgspec

from bursar.core.calls import Usage

MOST_TOKENS = 100_000_000  # more than any model can take or give in one call
BYTES_PER_TOKEN = 256  # no tokenizer packs more visible text into one token on average
SLACK_BYTES = 1_024

# Words for usage that is not believed (metric labels).
MISSING = "missing"
UNREADABLE = "unreadable"  # not whole numbers, or not the dialect's shape
NEGATIVE = "negative"
TOO_LARGE = "too_large"
ZERO = "zero_with_output"  # nothing counted although something was output
CONTRADICTORY = "contradictory"  # parts above their total, or far fewer tokens than were seen


def doubt(usage: Usage) -> str:
    """Why a usage cannot be true by itself; "" if it can."""
    if 0 <= usage.input_tokens <= MOST_TOKENS and 0 <= usage.output_tokens <= MOST_TOKENS and not usage.has_parts:
        return ""
    counts = (
        usage.input_tokens,
        usage.output_tokens,
        usage.cache_read,
        usage.cache_write_5m,
        usage.cache_write_1h,
        usage.reasoning,
        usage.audio_input,
        usage.audio_output,
        usage.image_input,
        *(count for _, count in usage.tool_uses),
    )
    if min(counts) < 0:
        return NEGATIVE
    if max(counts) > MOST_TOKENS:
        return TOO_LARGE
    cached = usage.cache_read + usage.cache_write_5m + usage.cache_write_1h
    media = usage.audio_input + usage.image_input
    both = max(0, cached + media - usage.input_tokens)  # cached media is counted under both names
    if cached > usage.input_tokens or both > min(media, usage.cache_read):
        return CONTRADICTORY
    return CONTRADICTORY if usage.reasoning + usage.audio_output > usage.output_tokens else ""


def doubt_beside_output(usage: Usage, visible_bytes: int, output_seen: bool) -> str:
    """Why a usage cannot be true beside what was output; "" if it can. Zero counts only if nothing was output."""
    if output_seen and (not usage.output_tokens or not usage.input_tokens):
        return ZERO
    if visible_bytes > usage.output_tokens * BYTES_PER_TOKEN + SLACK_BYTES:
        return CONTRADICTORY
    return ""


def larger(old: Usage | None, new: Usage) -> Usage:
    """Of two reports about the same call the later one, unless it takes back what was already said."""
    if old is None or (new.output_tokens >= old.output_tokens and new.input_tokens >= old.input_tokens):
        return new
    if new.output_tokens <= old.output_tokens and new.input_tokens <= old.input_tokens:
        return old
    return msgspec.structs.replace(
        new if new.output_tokens > old.output_tokens else old,
        input_tokens=max(old.input_tokens, new.input_tokens),
        output_tokens=max(old.output_tokens, new.output_tokens),
    )


def utf8_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))

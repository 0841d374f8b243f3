"""What the price source does not say about models and money needs: windows, output limits, reasoning, tool fees.

Hand-written and conservative, from the providers' own model pages. The first pattern that matches a model's id whole
decides. A window is the bound of an input ceiling, so it is never smaller than the real one; `reasoning` says that a
model may think, and bill for it, without being asked.
"""

import re
from typing import NamedTuple

FLOOR = 4_096  # output tokens below which hidden reasoning eats the answer


class Facts(NamedTuple):
    window: int | None = None
    max_output: int | None = None
    reasoning: bool = False
    field: str = "max_tokens"


_NEW = "max_completion_tokens"
_OPENAI: list[tuple[str, Facts]] = [
    (r"o1-mini|o1-preview", Facts(131_072, 65_536, True, _NEW)),
    (r"(o1|o3|o4-mini|o3-mini)(-pro|-deep-research)?", Facts(200_000, 100_000, True, _NEW)),
    (r"codex-mini", Facts(200_000, 100_000, True, _NEW)),
    (r"gpt-5\.3", Facts(131_072, 16_384, True, _NEW)),
    (r"gpt-5-pro", Facts(400_000, 272_000, True, _NEW)),
    (r"gpt-5(\.[1234])?(-mini|-nano|-codex|-codex-mini|-codex-max|-pro)?", Facts(None, 128_000, True, _NEW)),
    (r"gpt-(5\.[56]|6|6\.1)-(sol|terra|luna|astra|pro)|gpt-5\.5", Facts(1_050_000, 128_000, True, _NEW)),
    (r"gpt-(5|6)(\.\d+)?-(cyber|rosalind|search-api)", Facts(None, None, True, _NEW)),
    (r"gpt-(chat-latest|rosalind-.*)", Facts(None, None, True, _NEW)),
    (r"gpt-4\.1(-mini|-nano)?", Facts(1_047_576, 32_768)),
    (r"gpt-4o-2024-05-13|gpt-4-turbo|gpt-3\.5-turbo", Facts(None, 4_096)),
    (r"gpt-4o(-mini)?|gpt-4o(-mini)?-(search|audio)-preview|gpt-audio(-mini)?", Facts(131_072, 16_384)),
    (r"gpt-4", Facts(8_192, 8_192)),
    (r"gpt-oss-.*", Facts(131_072, None, True)),
]
_ANTHROPIC: list[tuple[str, Facts]] = [
    (r"claude-(fable|mythos)-.*", Facts(1_000_000, 128_000, True)),
    (r"claude-(opus|sonnet|haiku)-5(-\d)?", Facts(1_000_000, 128_000, True)),
    (r"claude-opus-4-[678]", Facts(1_000_000, 128_000)),
    (r"claude-opus-4-5|claude-haiku-4-5", Facts(200_000, 64_000)),
    (r"claude-sonnet-4-\d", Facts(1_000_000, 64_000)),  # some of them reach it by a beta header only
    (r"claude-opus-4-[01]", Facts(200_000, 32_000)),
    (r"claude-3-7-sonnet.*", Facts(200_000, 64_000)),
    (r"claude-3-5-.*", Facts(200_000, 8_192)),
    (r"claude-3-.*", Facts(200_000, 4_096)),
]
_GOOGLE: list[tuple[str, Facts]] = [
    (r"gemini-1\.5-pro.*", Facts(2_097_152, 8_192)),
    (r"gemini-(1\.5|2\.0).*", Facts(1_048_576, 8_192)),
    (r"gemini-(2\.5|[3-9]).*", Facts(1_048_576, 65_536, True)),
]
_THINKERS = (
    r"reason|thinking|claude|gpt-[5-9]|gpt-oss|gemini-(2\.5|[3-9])|grok-[3-9]|magistral|qwq|deepseek-(r|v[3-9]|flash)"
    r"|\bo[134]\b|-r1|qwen3|glm-[4-9]|kimi|minimax|nemotron"
)
_OTHERS: list[tuple[str, Facts]] = [
    (r".*claude-\w+-(3|4)\b.*|.*claude-3.*|.*claude-v?2.*", Facts()),  # think when asked to, in the body
    (rf".*({_THINKERS}).*", Facts(reasoning=True)),
]
_TABLES = {"openai": _OPENAI, "azure": _OPENAI, "anthropic": _ANTHROPIC, "google": _GOOGLE}

# USD per use where the source has none. A tool without a fee has no finite ceiling: hard budgets refuse it.
EXTRA_TOOLS: dict[str, dict[str, str]] = {"anthropic": {"web_fetch": "0"}}

# USD per million audio tokens (input, output) of models that the source prices for text only.
EXTRA_AUDIO: dict[tuple[str, str], tuple[str, str]] = {
    ("openai", "gpt-4o-audio-preview"): ("40", "80"),
    ("openai", "gpt-4o-mini-audio-preview"): ("10", "20"),
}


def facts_of(provider: str, model: str) -> Facts:
    """The hand-written facts of a model; empty ones where nothing is known."""
    for table in (_TABLES.get(provider, []), _OTHERS):
        for pattern, facts in table:
            if re.fullmatch(pattern, model):
                return facts
    return Facts()


def safe_window(provider: str, model: str, listed: int | None, last_cliff: int) -> int | None:
    """The window to bound input with: hand-written, or the listed one rounded up, or none where it contradicts itself.

    Listings round binary sizes down (128000 for 131072, 1000000 for 1048576); a bound must not be too small.
    """
    known = facts_of(provider, model).window
    if known is not None:
        return max(known, listed or 0)
    if not listed or last_cliff >= listed:
        return None
    if listed % 1_000_000 == 0:
        return listed // 1_000_000 * 1_048_576
    return listed // 1_000 * 1_024 if listed % 1_000 == 0 else listed

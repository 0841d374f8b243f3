"""Which price holds for a model at an instant, and what a usage costs by it. Integers only.

An unknown model has no price: a name is found when the table lists it, or when it is a dated snapshot of a listed
name. A prefix never matches, so that a new model cannot silently be billed as an old one.
"""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from bursar.core.calls import Call, Cost, Usage
from bursar.core.directory import PriceOverride
from bursar.core.overrides import dearest_of, override_price
from bursar.core.tariff import Band, Bands, Dated, ModelRow, Price, band_at, read_entry

__all__ = [
    "Band",
    "Book",
    "Leaves",
    "Price",
    "PriceTable",
    "ProviderRow",
    "band_at",
    "billed_bands",
    "cost",
    "decompose",
    "token_pico",
    "tool_fee",
    "worst_band",
    "worst_input_rate",
    "worst_output_rate",
    "worst_rates",
]

# what providers call their ordinary price; "scale" and Anthropic's "priority" are bought ahead, not by the token
STANDARD_TIERS = frozenset({"", "default", "standard", "standard_only", "auto", "scale", "on_demand"})
_SNAPSHOT = re.compile(r"(.+)[-@](?:20\d{6}|20\d\d-\d\d-\d\d)(?:-v\d+(?::\d+)?)?\Z")
_HOUR_NS = 3_600 * 10**9
_CACHED_NAMES = 4_096  # callers choose model names: what is remembered of them is bounded


class ProviderRow(msgspec.Struct, frozen=True, kw_only=True):
    """One provider of the table. Models stay undecoded until somebody asks for them."""

    fallback: tuple[str, ...] = ()  # providers whose models this one resells at the same price
    aliases: dict[str, str] = {}
    models: dict[str, msgspec.Raw] = {}


class Book(msgspec.Struct, frozen=True, kw_only=True):
    """The whole table as it ships."""

    format: int
    source: str
    date: str
    providers: dict[str, ProviderRow]


class Leaves(NamedTuple):
    """Token counts that do not overlap: each token is billed once, at one rate."""

    text: int
    cache_read: int
    cache_write_5m: int
    cache_write_1h: int
    audio_input: int
    image_input: int
    cached_media: int
    answer: int
    reasoning: int
    audio_output: int


def decompose(usage: Usage) -> Leaves:
    """Take overlapping totals apart. Raises ValueError where the counts contradict one another.

    Providers do not say how many cached tokens were audio or images. They are taken as apart as the total allows,
    which is the dearest reading; only what then exceeds the total must have been both.
    """
    cached = usage.cache_read + usage.cache_write_5m + usage.cache_write_1h
    media = usage.audio_input + usage.image_input
    text = usage.input_tokens - cached - media
    both = 0
    if text < 0 and media:
        both, text = -text, 0
        if both > usage.cache_read or both > media:
            raise ValueError("usage: cached, audio and image tokens exceed the input tokens")
    answer = usage.output_tokens - usage.reasoning - usage.audio_output
    audio_both = min(both, usage.audio_input)
    leaves = Leaves(
        text,
        usage.cache_read - both,
        usage.cache_write_5m,
        usage.cache_write_1h,
        usage.audio_input - audio_both,
        usage.image_input - (both - audio_both),
        both,
        answer,
        usage.reasoning,
        usage.audio_output,
    )
    if min(leaves) < 0:
        raise ValueError(f"usage: a part exceeds its total or is negative ({leaves})")
    return leaves


def token_pico(band: Band, leaves: Leaves) -> int:
    """What the tokens cost at the rates of one band, in pico-USD."""
    text, read, write_5m, write_1h, audio, image, cached_media, answer, reasoning, audio_out = leaves
    pico = text * band.input + answer * band.output
    if read:
        pico += read * band.cache_read
    if write_5m or write_1h:
        pico += write_5m * band.cache_write_5m + write_1h * band.cache_write_1h
    if reasoning:
        pico += reasoning * band.reasoning
    if audio or image or cached_media or audio_out:
        pico += audio * band.audio_input + image * band.image_input + cached_media * band.cached_media
        pico += audio_out * band.audio_output
    return pico


def billed_bands(price: Price, tier: str) -> Bands:
    """The bands of a service tier as billed. A tier nobody has heard of costs the dearest there is, never nothing."""
    if not price.tiers or tier in STANDARD_TIERS:
        return price.bands
    return price.tiers.get(tier) or (price.bands if tier == "priority" else price.worst["*"])


def cost(price: Price, usage: Usage) -> Cost:
    """The exact price of a usage. Raises ValueError when its counts contradict one another (see `decompose`)."""
    bands = price.bands if not usage.service_tier else billed_bands(price, usage.service_tier)
    band = bands[0] if len(bands) == 1 else band_at(bands, usage.input_tokens)
    if usage.input_tokens >= 0 <= usage.output_tokens and not usage.has_parts:
        pico = usage.input_tokens * band.input + usage.output_tokens * band.output + price.request_fee
        return Cost(pico, price.id, price.digest)
    pico = token_pico(band, decompose(usage)) + price.request_fee
    for tool, uses in usage.tool_uses:
        if uses < 0:
            raise ValueError("usage: negative tool uses")
        pico += uses * tool_fee(price, tool)
    return Cost(pico, price.id, price.digest)


def tool_fee(price: Price, tool: str) -> int:
    """Pico-USD per use; of a tool without a listed fee, the dearest listed one."""
    fee = price.tools.get(tool)
    return max(price.tools.values(), default=0) if fee is None else fee


def worst_band(price: Price, tier: str, input_tokens: int) -> Band:
    """Rates that no request of up to `input_tokens`, asked for at this service tier, can be billed above."""
    if not tier or tier not in price.worst:
        # what a project's "auto" resolves to is not ours to see; an unknown tier bounds nothing
        tier = "" if tier in STANDARD_TIERS and tier != "auto" else "*"
    bands = price.worst[tier]
    return bands[0] if len(bands) == 1 else band_at(bands, input_tokens)


def worst_input_rate(price: Price, call: Call, input_tokens: int) -> int:
    """The dearest pico-USD an input token of this call can cost: cliff, tier, cache write, audio and images counted."""
    band = worst_band(price, call.service_tier, input_tokens)
    rate = max(band.input, band.cache_read)
    if call.cache_write or price.implicit_cache_write:
        rate = max(rate, band.cache_write_5m, band.cache_write_1h if call.cache_write != "5m" else 0)
    if call.audio:
        rate = max(rate, band.audio_input, band.cached_media)
    if call.external_input:
        rate = max(rate, band.image_input, band.cached_media)
    return rate


def worst_rates(price: Price, call: Call, input_tokens: int) -> tuple[int, int]:
    """`worst_input_rate` and `worst_output_rate`, for the many calls without anything special at one look."""
    if call.cache_write or call.audio or call.external_input or price.implicit_cache_write:
        return worst_input_rate(price, call, input_tokens), worst_output_rate(price, call, input_tokens)
    band = worst_band(price, call.service_tier, input_tokens)
    return max(band.input, band.cache_read), max(band.output, band.reasoning)


def worst_output_rate(price: Price, call: Call, input_tokens: int) -> int:
    """The dearest pico-USD an output token of this call can cost."""
    band = worst_band(price, call.service_tier, input_tokens)
    rate = max(band.output, band.reasoning)
    return max(rate, band.audio_output) if call.audio else rate


# ---- the table -------------------------------------------------------------------------------------------------------


class PriceTable:
    """Dated prices of all providers, with an operator's overrides on top. Immutable; `with_overrides` makes another."""

    def __init__(self, book: Book, digest: str, overrides: Sequence[PriceOverride] = ()) -> None:
        self.book = book
        self.digest = digest
        self._overrides: dict[tuple[str, str], list[PriceOverride]] = {}
        for override in overrides:
            self._overrides.setdefault((override.provider, override.model.lower()), []).append(override)
        self._hits: dict[tuple[str, str], tuple[Dated, ...]] = {}
        self._dearest: dict[str, tuple[int, Price | None]] = {}  # the hour it was found for

    def with_overrides(self, overrides: Sequence[PriceOverride]) -> "PriceTable":
        return PriceTable(self.book, self.digest, overrides)

    def find(self, provider: str, model: str, at_ns: int) -> Price | None:
        """The price in force at an instant; None when the model is unknown. A dict hit after the first time."""
        timeline = self._hits.get((provider, model))
        if timeline is None:
            timeline = self._resolve(provider, model)
        for dated in timeline:  # newest first
            if at_ns >= dated.from_ns:
                return dated.at(at_ns) if dated.hours else dated.price
        return None

    def models(self, provider: str) -> list[str]:
        """Canonical names that the table or an override prices, sorted."""
        row = self.book.providers.get(provider)
        names = {model for name, model in self._overrides if name == provider}
        return sorted(names | (row.models.keys() if row else set()))

    def dearest(self, provider: str, at_ns: int) -> Price | None:
        """A price that no model of the provider exceeds, for `unpriced: assume_dearest`; None without any model."""
        hour = at_ns // _HOUR_NS
        known = self._dearest.get(provider)
        if known is None or known[0] != hour:
            found = [self.find(provider, model, at_ns) for model in self.models(provider)]
            known = self._dearest[provider] = (hour, dearest_of(provider, [price for price in found if price]))
        return known[1]

    def _resolve(self, provider: str, model: str) -> tuple[Dated, ...]:
        canonical, shipped = self._shipped(provider, model.lower())
        overrides = [*self._overrides.get((provider, canonical), ())]
        if canonical != model.lower():
            overrides += self._overrides.get((provider, model.lower()), ())
        timeline = shipped
        if overrides:
            # the newest first; of two for the same instant, the one appended last; all of them before the table's own
            ordered = sorted(overrides, key=lambda override: override.from_ns)[::-1]
            timeline = (*(override_price(override, shipped) for override in ordered), *shipped)
        if timeline:
            if len(self._hits) >= _CACHED_NAMES:
                self._hits.clear()
            self._hits[(provider, model)] = timeline
        return timeline

    def _shipped(self, provider: str, model: str) -> tuple[str, tuple[Dated, ...]]:
        own = self.book.providers.get(provider)
        if own is not None:
            for name in (provider, *own.fallback):
                row = self.book.providers.get(name)
                canonical = canonical_name(model, row) if row else None
                if row and canonical:
                    return canonical, self._read(name, canonical, row.models[canonical])
        overridden = canonical_of(model, lambda name: name if (provider, name) in self._overrides else None)
        return overridden or model, ()

    def _read(self, provider: str, model: str, raw: msgspec.Raw) -> tuple[Dated, ...]:
        facts = msgspec.json.decode(raw, type=ModelRow)
        source = f"{self.book.source}, {self.book.date}"
        return tuple(read_entry(provider, model, facts, entry, source) for entry in reversed(facts.entries))


def canonical_of(model: str, known: Callable[[str], str | None]) -> str | None:
    """A listed name as it is, else the listed name of which this is a dated snapshot (also below `ft:`)."""
    if model.startswith("ft:"):
        model = "ft:" + model.split(":", 2)[1]
    found = known(model)
    if found is None and (snapshot := _SNAPSHOT.match(model)):
        found = known(snapshot[1])
    return found


def canonical_name(model: str, row: ProviderRow) -> str | None:
    """The provider's canonical name for a model as callers write it; None when the table does not know it."""
    return canonical_of(model, lambda name: name if name in row.models else row.aliases.get(name))

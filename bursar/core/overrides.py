"""Prices that no table ships: an operator's own, and the dearest of a provider."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import msgspec

from bursar.core.directory import PriceOverride
from bursar.core.tariff import Band, Bands, Dated, Price, dearest_bands, price_digest, worst_by_tier
from bursar.core.units import NS_PER_S


def dearest_of(provider: str, prices: Iterable[Price]) -> Price | None:
    """One synthetic price that bounds all of them; None of none."""
    found = list(prices)
    if not found:
        return None
    bands = dearest_bands(price.worst["*"] for price in found)
    return Price(
        id=f"{provider}/dearest@{max(price.id.rpartition('@')[2] for price in found)}",
        digest=max(found, key=lambda price: price.worst["*"][-1].output).digest,
        source=found[0].source,
        provider=provider,
        model="dearest",
        bands=bands,
        worst=worst_by_tier([bands], {}),
        tools={tool: max(price.tools.get(tool, 0) for price in found) for price in found for tool in price.tools},
        request_fee=max(price.request_fee for price in found),
        context_window=max(price.context_window or 0 for price in found) or None,
        reasoning=True,
        reasoning_floor=max(price.reasoning_floor for price in found),
        audio_listed=all(price.audio_listed for price in found),
        implicit_cache_write=True,
    )


def override_price(override: PriceOverride, shipped: Sequence[Dated]) -> Dated:
    """An operator's price. Where the table knows the model, all of its bands and tiers are re-rated in proportion.

    A discount on the input rate is thus one on cache writes and above the context cliff as well, as contracts have it;
    a rate that the operator names is taken as named. Rounded up: a derived rate is never too low.
    """
    before = [dated for dated in shipped if dated.from_ns <= override.from_ns]
    day = datetime.fromtimestamp(override.from_ns // NS_PER_S, UTC).date().isoformat()
    given = Price(
        id=f"{override.provider}/{override.model}@{day}",
        digest=price_digest(override.provider, override.model, override),
        source=override.source,
        provider=override.provider,
        model=override.model.lower(),
        bands=(flat_band(override),),
        worst={},
        context_window=override.context_window,
        max_output=override.max_output,
    )
    if before:
        given = rerated(given, before[0].at(override.from_ns), override)
    return Dated(
        from_ns=override.from_ns,
        price=msgspec.structs.replace(given, worst=worst_by_tier([given.bands], given.tiers)),
    )


def flat_band(override: PriceOverride) -> Band:
    """One band from what the operator named. Claude's cache writes cost up to twice the input rate (1 h)."""
    write = override.input if override.cache_write is None else override.cache_write
    write_1h = 2 * override.input if "claude" in override.model.lower() else write
    read = override.input if override.cache_read is None else override.cache_read
    return Band(
        above=0,
        input=override.input,
        output=override.output,
        cache_read=read,
        cache_write_5m=write,
        cache_write_1h=max(write, write_1h),
        reasoning=override.output,
        audio_input=override.input,
        audio_output=override.output,
        image_input=override.input,
        cached_media=read,
    )


def rerated(given: Price, base: Price, override: PriceOverride) -> Price:
    """The table's price with its rates in the proportion of the operator's to the first band's."""
    first = base.bands[0]

    def all_of(bands: Bands) -> Bands:
        return tuple(rerated_band(band, first, override) for band in bands)

    return msgspec.structs.replace(
        base,
        id=given.id,
        digest=given.digest,
        source=given.source,
        provider=given.provider,
        bands=all_of(base.bands),
        tiers={tier: all_of(bands) for tier, bands in base.tiers.items()},
        context_window=override.context_window or base.context_window,
        max_output=override.max_output or base.max_output,
    )


def rerated_band(band: Band, first: Band, override: PriceOverride) -> Band:
    """One band in proportion: input-side rates by the input rate, output-side ones by the output rate."""

    def scaled(rate: int, named: int, of: int) -> int:
        return -(-rate * named // of) if of else named

    read = (override.input, first.input) if override.cache_read is None else (override.cache_read, first.cache_read)
    write = (
        (override.input, first.input) if override.cache_write is None else (override.cache_write, first.cache_write_5m)
    )
    return Band(
        above=band.above,
        input=scaled(band.input, override.input, first.input),
        output=scaled(band.output, override.output, first.output),
        cache_read=scaled(band.cache_read, *read),
        cache_write_5m=scaled(band.cache_write_5m, *write),
        cache_write_1h=scaled(band.cache_write_1h, *write),
        reasoning=scaled(band.reasoning, override.output, first.output),
        audio_input=scaled(band.audio_input, override.input, first.input),
        audio_output=scaled(band.audio_output, override.output, first.output),
        image_input=scaled(band.image_input, override.input, first.input),
        cached_media=scaled(band.cached_media, *read),
    )

"""The values of one dated price, and how they are read from the rows of the shipped table.

Rates are pico-USD per token. A price has *bands*: above an input-token threshold every token of the request, also the
output, is billed at the band's rates (the cliff that all large providers use). Service tiers are bands of their own.
"""

import hashlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import msgspec

from bursar.core.directory import PriceOverride
from bursar.core.units import NS_PER_S

DEFAULT_FLOOR = 4_096  # output tokens that leave a reasoning model room to answer after it thought
_DAY_S = 86_400


class Band(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Rates for requests with more than `above` input tokens, every one resolved."""

    above: int
    input: int
    output: int
    cache_read: int
    cache_write_5m: int
    cache_write_1h: int
    reasoning: int
    audio_input: int
    audio_output: int
    image_input: int
    cached_media: int  # a cached audio or image token


Bands = tuple[Band, ...]
_RATES = tuple(name for name in Band.__struct_fields__ if name != "above")


class Price(msgspec.Struct, frozen=True, kw_only=True):
    """What one model costs from one day on, and the facts about it that money needs. Immutable, with its provenance.

    `bands` bill. `worst` bounds: the dearest rates by service tier asked for ("" = none, "*" = any), each band the
    maximum of all bands up to it.
    """

    id: str  # provider/model@date, e.g. openai/gpt-6-sol@2026-10-14
    digest: str  # sha256 (first 32 hex digits) of the entry's canonical JSON
    source: str
    provider: str
    model: str  # canonical name: aliases and dated snapshots share it
    bands: Bands
    worst: dict[str, Bands]
    tiers: dict[str, Bands] = {}
    tools: dict[str, int] = {}  # pico-USD per use
    request_fee: int = 0  # pico-USD per request
    context_window: int | None = None
    max_output: int | None = None
    reasoning: bool = False  # may think, unseen and billed, without being asked to
    reasoning_floor: int = 0  # smallest output cap that does not starve it; 0 = none
    max_tokens_field: str = "max_tokens"
    audio_listed: bool = False  # audio has a rate of its own
    implicit_cache_write: bool = False  # cache writes happen and are billed unasked


# ---- rows of the table -----------------------------------------------------------------------------------------------


class BandRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A band as the table stores it; what is absent has no rate of its own."""

    above: int = 0
    input: int = msgspec.field(name="in", default=0)
    output: int = msgspec.field(name="out", default=0)
    cache_read: int | None = msgspec.field(name="read", default=None)
    cache_write: int | None = msgspec.field(name="write", default=None)
    cache_write_1h: int | None = msgspec.field(name="write_1h", default=None)
    reasoning: int | None = msgspec.field(name="reason", default=None)
    audio_input: int | None = msgspec.field(name="audio_in", default=None)
    audio_output: int | None = msgspec.field(name="audio_out", default=None)
    image_input: int | None = msgspec.field(name="image_in", default=None)
    cached_media: int | None = msgspec.field(name="read_media", default=None)


class HoursRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bands that bill between two seconds of the UTC day."""

    start: int
    end: int
    bands: tuple[BandRow, ...]


class EntryRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One dated price. `start` is a UTC day, "1970-01-01" when the table does not know when it began."""

    start: str = msgspec.field(name="from")
    bands: tuple[BandRow, ...]
    tiers: dict[str, tuple[BandRow, ...]] = {}
    hours: tuple[HoursRow, ...] = ()
    tools: dict[str, int] = {}
    request: int = 0


class ModelRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """All dated entries of one model, oldest first, and its facts."""

    entries: tuple[EntryRow, ...]
    window: int | None = None
    max_output: int | None = None
    reasoning: bool = False
    floor: int = 0
    field: str = "max_tokens"
    writes_unasked: bool = False


class Dated(msgspec.Struct, frozen=True, kw_only=True):
    """A price in force from an instant on; by the hour where the provider bills so: (start_s, end_s, price)."""

    from_ns: int
    price: Price
    hours: tuple[tuple[int, int, Price], ...] = ()

    def at(self, at_ns: int) -> Price:
        second = at_ns // NS_PER_S % _DAY_S
        for start, end, price in self.hours:
            if start <= second < end:
                return price
        return self.price


def resolve_band(row: BandRow) -> Band:
    """Fill in what has no rate of its own: it is billed as what contains it."""
    read = row.input if row.cache_read is None else row.cache_read
    write = row.input if row.cache_write is None else row.cache_write
    return Band(
        above=row.above,
        input=row.input,
        output=row.output,
        cache_read=read,
        cache_write_5m=write,
        cache_write_1h=write if row.cache_write_1h is None else row.cache_write_1h,
        reasoning=row.output if row.reasoning is None else row.reasoning,
        audio_input=row.input if row.audio_input is None else row.audio_input,
        audio_output=row.output if row.audio_output is None else row.audio_output,
        image_input=row.input if row.image_input is None else row.image_input,
        cached_media=read if row.cached_media is None else row.cached_media,
    )


def band_at(bands: Bands, input_tokens: int) -> Band:
    """The band that bills a request with so many input tokens."""
    found = bands[0]
    for band in bands[1:]:
        if input_tokens > band.above:
            found = band
    return found


def dearest_bands(several: Iterable[Bands]) -> Bands:
    """The fieldwise maximum of several prices, each band also of the bands below it: never less than any of them."""
    choices = list(several)
    starts = sorted({band.above for bands in choices for band in bands})
    top = dict.fromkeys(_RATES, 0)
    merged = []
    for start in starts:
        active = [band_at(bands, start + 1) for bands in choices]
        top = {name: max(top[name], *(getattr(band, name) for band in active)) for name in _RATES}
        merged.append(Band(above=start, **top))
    return tuple(merged)


def worst_by_tier(standard: Sequence[Bands], tiers: dict[str, Bands]) -> dict[str, Bands]:
    """Bounds by tier asked for. A tier asked for may not be granted, so the standard price always counts as well."""
    return {
        "": dearest_bands(standard),
        "*": dearest_bands([*standard, *tiers.values()]),
        **{tier: dearest_bands([*standard, bands]) for tier, bands in tiers.items()},
    }


def price_digest(provider: str, model: str, row: EntryRow | PriceOverride) -> str:
    """Provenance that anybody can recompute from the table: sha256 of [provider, model, entry] as compact JSON."""
    text = msgspec.json.encode((provider, model, row), order="deterministic")
    return hashlib.sha256(text).hexdigest()[:32]


def day_to_ns(day: str) -> int:
    """Midnight UTC of an ISO day, in nanoseconds since the epoch."""
    return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()) * NS_PER_S


def read_entry(provider: str, model: str, facts: ModelRow, row: EntryRow, source: str) -> Dated:
    """One dated row -> the price (or the prices by hour) that it stands for."""
    base = tuple(map(resolve_band, row.bands))
    tiers = {name: tuple(map(resolve_band, bands)) for name, bands in row.tiers.items()}
    by_hour = [(hour.start, hour.end, tuple(map(resolve_band, hour.bands))) for hour in row.hours]
    worst = worst_by_tier([base, *(bands for _, _, bands in by_hour)], tiers)
    digest = price_digest(provider, model, row)

    def price(bands: Bands, suffix: str = "") -> Price:
        return Price(
            id=f"{provider}/{model}@{row.start}{suffix}",
            digest=digest,
            source=source,
            provider=provider,
            model=model,
            bands=bands,
            worst=worst,
            tiers=tiers,
            tools=row.tools,
            request_fee=row.request,
            context_window=facts.window,
            max_output=facts.max_output,
            reasoning=facts.reasoning,
            reasoning_floor=facts.floor,
            max_tokens_field=facts.field,
            audio_listed=any(band.audio_input is not None for band in row.bands),
            implicit_cache_write=facts.writes_unasked,
        )

    return Dated(
        from_ns=day_to_ns(row.start),
        price=price(base),
        hours=tuple((start, end, price(bands, f"T{start // 3600:02d}")) for start, end, bands in by_hour),
    )

"""Costs are exact, counts are taken apart without billing a token twice, and an unknown name has no price."""

from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.core.calls import Usage
from bursar.core.directory import PriceOverride
from bursar.core.prices import Price, PriceTable, cost, decompose
from bursar.core.tariff import dearest_bands
from bursar.stores import catalogue

TABLE = catalogue.load()


def at(day: str) -> int:
    return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()) * 10**9


NOW = at("2026-11-23")


def price(provider: str, model: str, when: int = NOW, table: PriceTable = TABLE) -> Price:
    found = table.find(provider, model, when)
    assert found is not None
    return found


# ---- exact costs, against figures worked out by hand from the providers' price pages --------------------------------


@pytest.mark.parametrize(
    ("provider", "model", "usage", "pico"),
    [
        # $2.50 in, $1.25 cached, $10 out per million
        ("openai", "gpt-4o", Usage(input_tokens=1000, output_tokens=10, cache_read=400), 2_100_000_000),
        # 272,000 is still the base band, one more token reprices all of them, the output as well
        ("openai", "gpt-6-sol", Usage(input_tokens=272_000, output_tokens=100), 545_000_000_000),
        ("openai", "gpt-6-sol", Usage(input_tokens=272_001, output_tokens=100), 1_089_504_000_000),
        # flex is half; a tier's own cliff counts
        ("openai", "gpt-6-sol", Usage(input_tokens=1000, output_tokens=100, service_tier="flex"), 1_500_000_000),
        ("openai", "gpt-6-sol", Usage(input_tokens=1000, output_tokens=100, service_tier="priority"), 6_000_000_000),
        # $3, write 5m $3.75, write 1h $6, read $0.30, $15 out; two searches at $10 per thousand
        (
            "anthropic",
            "claude-sonnet-4-5-20250929",
            Usage(
                input_tokens=1000,
                output_tokens=10,
                cache_read=100,
                cache_write_5m=200,
                cache_write_1h=300,
                tool_uses=(("web_search", 2),),
            ),
            400 * 3_000_000 + 100 * 300_000 + 200 * 3_750_000 + 300 * 6_000_000 + 10 * 15_000_000 + 2 * 10**10,
        ),
        # audio apart: $32 in, $64 out; text $2.50 and $10
        (
            "openai",
            "gpt-audio",
            Usage(input_tokens=100, output_tokens=50, audio_input=60, audio_output=40),
            40 * 2_500_000 + 60 * 32_000_000 + 10 * 10_000_000 + 40 * 64_000_000,
        ),
        # a fee for each request
        ("perplexity", "sonar", Usage(input_tokens=10, output_tokens=10), 20 * 1_000_000 + 12 * 10**9),
    ],
)
def test_costs_are_exact(provider: str, model: str, usage: Usage, pico: int) -> None:
    found = cost(price(provider, model), usage)
    assert found.pico == pico
    assert found.price_id.startswith(f"{provider}/")
    assert len(found.price_digest) == 32


def test_prices_are_dated() -> None:
    usage = Usage(input_tokens=1_000_000 // 4, output_tokens=0)
    before = cost(price("openai", "gpt-5.6-sol", at("2026-08-20")), usage)
    after = cost(price("openai", "gpt-5.6-sol", at("2026-08-21")), usage)
    assert (before.pico, after.pico) == (1_250_000_000_000, 1_000_000_000_000)
    assert before.price_digest != after.price_digest
    assert after.price_id == "openai/gpt-5.6-sol@2026-08-21"


def test_prices_by_the_hour_bill_by_the_hour_and_bound_by_the_dearest() -> None:
    cheap = price("deepseek", "deepseek-v4-pro", at("2026-11-23") + 12 * 3600 * 10**9)
    dear = price("deepseek", "deepseek-v4-pro", at("2026-11-23") + 7 * 3600 * 10**9)
    assert dear.bands[0].input == 2 * cheap.bands[0].input
    assert cheap.worst[""][0].input == dear.worst[""][0].input == dear.bands[0].input
    assert cheap.id != dear.id


def test_a_tier_nobody_has_heard_of_is_never_cheap() -> None:
    found = price("openai", "gpt-6-sol")
    plain = Usage(input_tokens=1000, output_tokens=1000)
    odd = Usage(input_tokens=1000, output_tokens=1000, service_tier="turbo-2029")
    default = Usage(input_tokens=1000, output_tokens=1000, service_tier="default")
    assert cost(found, odd).pico > cost(found, plain).pico == cost(found, default).pico


# ---- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model",
    [
        "gpt-7",
        "gpt-4o-ultra",
        "gpt-4o-mini-2",
        "claude-sonnet-4-5-turbo",
        "claude-haiku-4-55",
        "claude-opus-6",
        "gpt-5-nano-next",
        "",
        "ft:",
        "GPT",
        "mistral-large-9901",
    ],
)
def test_a_model_that_is_not_listed_has_no_price(model: str) -> None:
    assert all(TABLE.find(provider, model, NOW) is None for provider in ("openai", "anthropic", "azure", "mistral"))


@pytest.mark.parametrize(
    ("model", "canonical"),
    [
        ("gpt-4o-2024-08-06", "gpt-4o"),
        ("GPT-4o", "gpt-4o"),
        ("gpt-4o-2024-05-13", "gpt-4o-2024-05-13"),  # a snapshot with a price of its own keeps it
        ("gpt-6-sol-2027-01-31", "gpt-6-sol"),
        ("ft:gpt-4o-mini-2024-07-18:acme::abc", "ft:gpt-4o-mini"),
    ],
)
def test_aliases_and_dated_snapshots_share_a_price(model: str, canonical: str) -> None:
    assert price("openai", model).model == canonical


def test_a_reseller_falls_back_to_the_maker() -> None:
    assert price("azure", "gpt-4o").id.startswith("openai/gpt-4o@")


def test_names_chosen_by_callers_do_not_grow_the_memory() -> None:
    table = catalogue.load()
    for number in range(9_000):
        table.find("openai", f"gpt-4o-20{number:06d}", NOW)
        table.find("openai", f"no-such-{number}", NOW)
    assert len(table._hits) <= 4_096


# ---- counts that overlap --------------------------------------------------------------------------------------------


@st.composite
def usages(draw: st.DrawFn, max_input: int = 400_000, max_output: int = 100_000) -> Usage:
    """Consistent counts: parts drawn from what is left of the total."""
    total = draw(st.integers(0, max_input))
    read = draw(st.integers(0, total))
    write_5m = draw(st.integers(0, total - read))
    write_1h = draw(st.integers(0, total - read - write_5m))
    audio = draw(st.integers(0, total - write_5m - write_1h))  # may also be cached
    image = draw(st.integers(0, total - write_5m - write_1h - audio))
    output = draw(st.integers(0, max_output))
    reasoning = draw(st.integers(0, output))
    return Usage(
        input_tokens=total,
        output_tokens=output,
        cache_read=read,
        cache_write_5m=write_5m,
        cache_write_1h=write_1h,
        audio_input=audio,
        image_input=image,
        reasoning=reasoning,
        audio_output=draw(st.integers(0, output - reasoning)),
    )


@given(usages())
def test_every_token_is_billed_once(usage: Usage) -> None:
    leaves = decompose(usage)
    assert min(leaves) >= 0
    assert sum(leaves[:7]) == usage.input_tokens
    assert sum(leaves[7:]) == usage.output_tokens
    assert leaves.cache_read + leaves.cached_media == usage.cache_read
    assert leaves.audio_input + leaves.image_input + leaves.cached_media == usage.audio_input + usage.image_input


@pytest.mark.parametrize(
    "usage",
    [
        Usage(input_tokens=-1, output_tokens=0),
        Usage(input_tokens=0, output_tokens=-1),
        Usage(input_tokens=10, output_tokens=0, cache_read=11),
        Usage(input_tokens=10, output_tokens=0, cache_read=-1),
        Usage(input_tokens=10, output_tokens=0, cache_read=6, cache_write_5m=5),
        Usage(input_tokens=10, output_tokens=0, audio_input=6, image_input=5),
        Usage(input_tokens=10, output_tokens=0, audio_input=8, cache_write_1h=8),
        Usage(input_tokens=0, output_tokens=10, reasoning=11),
        Usage(input_tokens=0, output_tokens=10, reasoning=6, audio_output=5),
        Usage(input_tokens=0, output_tokens=0, tool_uses=(("web_search", -1),)),
    ],
)
def test_counts_that_contradict_one_another_are_refused(usage: Usage) -> None:
    with pytest.raises(ValueError, match="usage:"):
        cost(price("openai", "gpt-realtime"), usage)


# ---- overrides, the dearest -----------------------------------------------------------------------------------------


def override(**changes: object) -> PriceOverride:
    values = {"provider": "openai", "model": "gpt-6-sol", "from_ns": at("2026-11-01"), "input": 1_000_000}
    return PriceOverride(**{**values, "output": 5_000_000, **changes})  # type: ignore[arg-type]


def test_an_override_rerates_every_band_and_tier() -> None:
    table = TABLE.with_overrides([override()])
    old, new = price("openai", "gpt-6-sol"), price("openai", "gpt-6-sol", table=table)
    for before, after in zip(old.bands, new.bands, strict=True):
        assert (after.input, after.output, after.cache_read) == (
            before.input // 2,
            before.output // 2,
            before.cache_read // 2,
        )
    assert new.tiers["flex"][0].input == old.tiers["flex"][0].input // 2
    assert new.id == "openai/gpt-6-sol@2026-11-01"
    assert new.digest != old.digest
    assert (new.context_window, new.max_tokens_field) == (old.context_window, old.max_tokens_field)
    assert price("openai", "gpt-6-sol-2026-12-24", table=table) == new


def test_an_override_holds_from_its_instant_and_the_last_one_appended_wins() -> None:
    first, second = override(), override(input=3_000_000)
    table = TABLE.with_overrides([first, second])
    assert price("openai", "gpt-6-sol", at("2026-10-31"), table).bands[0].input == 2_000_000
    assert price("openai", "gpt-6-sol", at("2026-11-01"), table).bands[0].input == 3_000_000


def test_an_override_prices_what_no_table_knows() -> None:
    table = TABLE.with_overrides([override(provider="vllm-7", model="our-llama", context_window=8192)])
    found = price("vllm-7", "our-llama", table=table)
    assert cost(found, Usage(input_tokens=10, output_tokens=10, cache_read=5)).pico == 60_000_000
    assert found.context_window == 8192
    assert table.find("vllm-7", "their-llama", NOW) is None


@given(usages())
def test_the_dearest_price_bounds_every_model_of_the_provider(usage: Usage) -> None:
    dearest = TABLE.dearest("openai", NOW)
    assert dearest is not None
    top = cost(dearest, usage).pico
    assert all(cost(price("openai", model), usage).pico <= top for model in TABLE.models("openai"))


def test_there_is_no_dearest_of_nothing() -> None:
    assert TABLE.dearest("vllm-7", NOW) is None


def test_bounding_bands_never_fall() -> None:
    for model in TABLE.models("openai"):
        found = price("openai", model)
        bound = dearest_bands([found.bands])
        assert all(low.input <= high.input for low, high in pairwise(bound))


def test_the_dearest_follows_the_calendar() -> None:
    table = TABLE.with_overrides([override(input=10**12, output=10**12)])
    before, after = table.dearest("openai", at("2026-10-31")), table.dearest("openai", at("2026-11-01"))
    assert before is not None
    assert after is not None
    assert before.bands[0].input < 10**12 <= after.bands[0].input

"""The property the money promise stands on: no usage within the caps costs more than the ceiling."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.core.calls import Call, ServerTool, Usage
from bursar.core.ceiling import (
    ceiling,
    hides_output,
    inexact_cost,
    input_ceiling,
    observed_cost,
    shrunk_ceiling,
)
from bursar.core.errors import Refusal
from bursar.core.estimate import Estimate
from bursar.core.prices import Price, cost
from bursar.core.tariff import Dated
from bursar.stores import catalogue

TABLE = catalogue.load()
NOW = 1_795_000_000 * 10**9  # November 2026


def every_price() -> list[Price]:
    """Each dated entry of each model of each provider, by the hour where it has hours."""
    timelines: list[Dated] = []
    for provider in TABLE.book.providers:
        for model in TABLE.models(provider):
            TABLE.find(provider, model, NOW)
            timelines += TABLE._hits[(provider, model)]
    return [price for dated in timelines for price in (dated.price, *(hour[2] for hour in dated.hours))]


PRICES = every_price()
# no listed model thinks dearer than it writes, or reads a cache dearer than text; the next one may
ODD = [
    msgspec.structs.replace(
        price,
        bands=tuple(msgspec.structs.replace(b, reasoning=2 * b.output, cache_read=3 * b.input) for b in price.bands),
        worst={
            tier: tuple(msgspec.structs.replace(b, reasoning=2 * b.output, cache_read=3 * b.input) for b in bands)
            for tier, bands in price.worst.items()
        },
        tiers={},
    )
    for price in PRICES[:50]
]
BY_KIND = [
    [price for price in PRICES if len(price.bands) > 1],
    [price for price in PRICES if price.tiers],
    [price for price in PRICES if price.audio_listed],
    [price for price in PRICES if price.tools],
    [price for price in PRICES if price.request_fee],
    [price for price in PRICES if price.implicit_cache_write],
    ODD,
    PRICES,
]
TIERS = ["", "auto", "auto", "auto", "default", "flex", "priority", "batch", "fast", "never-heard-of"]


def a_call(**changes: object) -> Call:
    values: dict[str, object] = {
        "route": "chat",
        "dialect": "openai",
        "purpose": "inference",
        "model": "m",
        "stream": False,
        "body": b"",
        "input_bytes": 2_000,
        "prompt_chars": 2_000,
        "messages": 3,
    }
    return Call(**{**values, **changes})  # type: ignore[arg-type]


@st.composite
def calls(draw: st.DrawFn, price: Price) -> Call:
    tools = draw(st.lists(st.sampled_from(sorted(price.tools)), max_size=2, unique=True)) if price.tools else []
    return a_call(
        dialect=draw(st.sampled_from(["openai", "anthropic"])),
        overhead_tokens=draw(st.sampled_from([0, 2_600])),
        input_bytes=draw(st.one_of(st.integers(0, 5_000), st.integers(90_000, 300_000), st.integers(0, 3_000_000))),
        messages=draw(st.integers(0, 50)),
        n=draw(st.integers(1, 4)),
        service_tier=draw(st.sampled_from(TIERS)),
        cache_write=draw(st.sampled_from(["", "5m", "1h"])),
        audio=price.audio_listed and draw(st.booleans()),
        external_input="image_url" if price.context_window and draw(st.booleans()) else "",
        server_tools=tuple(ServerTool(name, draw(st.integers(0, 5))) for name in tools if price.context_window),
    )


def edge(draw: st.DrawFn, most: int) -> int:
    """Anything up to `most`, often `most` itself: that is where a bound breaks."""
    return draw(st.one_of(st.just(most), st.integers(0, most)))


@st.composite
def usage_within(draw: st.DrawFn, price: Price, call: Call, input_cap: int, output_cap: int) -> Usage:
    """A usage that the provider may honestly report for this call: within both caps, any split, any tier it can get."""
    total = left = edge(draw, input_cap)
    writes_5m = writes_1h = audio = image = 0
    if call.cache_write == "1h" or (price.implicit_cache_write and not call.cache_write):
        left -= (writes_1h := edge(draw, left))
    if call.cache_write or price.implicit_cache_write:
        left -= (writes_5m := edge(draw, left))
    if call.audio:
        left -= (audio := edge(draw, left))
    if call.external_input:
        left -= (image := edge(draw, left))
    output = edge(draw, output_cap)
    reasoning = edge(draw, output)
    granted = {"", "default", call.service_tier}
    if call.service_tier in ("auto", "never-heard-of"):
        granted |= price.tiers.keys()
    return Usage(
        input_tokens=total,
        output_tokens=output,
        cache_read=edge(draw, left + audio + image),
        cache_write_5m=writes_5m,
        cache_write_1h=writes_1h,
        audio_input=audio,
        image_input=image,
        reasoning=reasoning,
        audio_output=edge(draw, output - reasoning) if call.audio else 0,
        tool_uses=tuple((tool.name, edge(draw, tool.max_uses or 0)) for tool in call.server_tools),
        service_tier=draw(st.sampled_from(sorted(granted))),
    )


@settings(max_examples=1_500, deadline=None)
@given(st.data())
def test_no_usage_within_the_caps_costs_more_than_the_ceiling(data: st.DataObject) -> None:
    price = data.draw(st.sampled_from(data.draw(st.sampled_from(BY_KIND))))
    call = data.draw(calls(price))
    cap = data.draw(st.integers(1, 200_000))
    held = ceiling(call, price, cap, Estimate(), strict=True)
    usage = data.draw(usage_within(price, call, held.input_tokens, held.output_tokens))
    assert cost(price, usage).pico <= held.pico
    assert held.output_tokens == cap * call.n
    assert 0 <= held.expected_pico <= held.pico


@settings(max_examples=600, deadline=None)
@given(st.data())
def test_the_ceiling_shrinks_to_the_reported_input_and_still_bounds(data: st.DataObject) -> None:
    price = data.draw(st.sampled_from(data.draw(st.sampled_from(BY_KIND))))
    call = data.draw(calls(price))
    cap = data.draw(st.integers(1, 50_000))
    held = ceiling(call, price, cap, Estimate(), strict=True)
    first = input_ceiling(call, price)
    final = data.draw(usage_within(price, call, first, held.output_tokens))
    early = msgspec.structs.replace(final, output_tokens=0, reasoning=0, audio_output=0, tool_uses=(), service_tier="")
    shrunk = shrunk_ceiling(price, call, early, cap)
    assert cost(price, final).pico <= shrunk <= held.pico


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_an_inexact_settlement_covers_what_was_visible_and_never_passes_the_hold(data: st.DataObject) -> None:
    price = data.draw(st.sampled_from(PRICES))
    call = data.draw(calls(price))
    cap = data.draw(st.integers(1, 20_000))
    held = ceiling(call, price, cap, Estimate(), strict=True)
    usage = data.draw(usage_within(price, call, input_ceiling(call, price), held.output_tokens))
    visible = usage.output_tokens * data.draw(st.integers(1, 6))  # at least a byte for each token
    posted = inexact_cost(price, call, held.pico, visible)
    assert cost(price, usage).pico <= posted <= held.pico
    if hides_output(price, call):
        assert posted == held.pico


def price_of(provider: str, model: str) -> Price:
    found = TABLE.find(provider, model, NOW)
    assert found is not None
    return found


GPT = price_of("openai", "gpt-4o")
CLAUDE = price_of("anthropic", "claude-sonnet-4-5")
NO_WINDOW = msgspec.structs.replace(GPT, context_window=None)
SEARCH = (ServerTool("web_search", 2),)


@pytest.mark.parametrize(
    ("price", "changes", "reason"),
    [
        (GPT, {"unbounded": "background"}, "background"),
        (GPT, {"unknown_fields": ("turbo",)}, "turbo"),
        (GPT, {"n": 0}, "not capped"),
        (GPT, {"n": -3}, "not capped"),
        (GPT, {"audio": True}, "audio"),
        (NO_WINDOW, {"external_input": "file_id"}, "file_id"),
        (NO_WINDOW, {"server_tools": SEARCH}, "context window"),
        (CLAUDE, {"server_tools": (ServerTool("web_search", None),)}, "without limit"),
        (CLAUDE, {"server_tools": (ServerTool("time_machine", 1),)}, "no price"),
    ],
)
def test_what_has_no_finite_ceiling_is_refused_under_a_hard_budget_only(
    price: Price, changes: dict[str, object], reason: str
) -> None:
    with pytest.raises(Refusal, match=reason) as refused:
        ceiling(a_call(**changes), price, 100, Estimate(), strict=True)
    assert refused.value.word == "unbounded_request"
    assert ceiling(a_call(**changes), price, 100, Estimate(), strict=False).pico >= 0 or "n" in changes


def test_no_output_cap_is_no_ceiling() -> None:
    with pytest.raises(Refusal, match="not capped"):
        ceiling(a_call(), GPT, 0, Estimate(), strict=True)


def test_policy_may_know_better() -> None:
    odd = a_call(unknown_fields=("turbo",), server_tools=(ServerTool("web_search", None),))
    held = ceiling(odd, CLAUDE, 100, Estimate(), strict=True, allow_unknown=True, tool_cap=3)
    bare = ceiling(a_call(), CLAUDE, 100, Estimate(), strict=True)
    assert CLAUDE.context_window
    rounds = held.input_tokens - bare.input_tokens
    assert rounds == 3 * CLAUDE.context_window
    assert held.pico - bare.pico > 3 * CLAUDE.tools["web_search"]


def test_a_ceiling_worked_out_by_hand() -> None:
    """2,000 bytes + 256 + 3 x 16 at $2.50, and 2 x 512 at $10, per million."""
    held = ceiling(a_call(n=2), GPT, 512, Estimate(), strict=True)
    assert held.pico == 2_304 * 2_500_000 + 1_024 * 10_000_000


def test_outside_input_costs_the_whole_window() -> None:
    held = ceiling(a_call(external_input="image_url"), GPT, 1, Estimate(), strict=True)
    assert held.input_tokens == GPT.context_window
    huge = ceiling(a_call(input_bytes=50_000_000), GPT, 1, Estimate(), strict=True)
    assert huge.input_tokens == GPT.context_window


def test_soft_budgets_post_what_was_observed() -> None:
    assert observed_cost(GPT, a_call(), 300, 500) == 500 * 2_500_000 + 100 * 10_000_000
    thinker = price_of("openai", "gpt-6-sol")
    assert observed_cost(thinker, a_call(), 0, 0) == 4_096 * thinker.bands[0].output

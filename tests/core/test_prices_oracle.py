"""Our integers against the source's own calculator: every model, the same usage, the same instant, the same dollars."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from genai_prices import types
from genai_prices.data import providers

from bursar.core.calls import Usage
from bursar.core.prices import cost
from bursar.stores import catalogue

TABLE = catalogue.load()
FOLDED = {"output_image_mtok", "output_video_mtok"}  # billed at the dearer rate here: a chat answer does not split them
CASES = [
    (Usage(input_tokens=1_000, output_tokens=200), "2026-11-23T12:00"),
    (Usage(input_tokens=1_000, output_tokens=200), "2025-01-01T02:00"),
    (Usage(input_tokens=900_000, output_tokens=1, cache_read=400_000), "2026-11-23T07:30"),
    (Usage(input_tokens=272_000, output_tokens=7, cache_write_5m=1_000), "2026-10-13T23:59"),
]


def theirs(provider: types.Provider, model: types.ModelInfo, usage: Usage, moment: datetime) -> Decimal | None:
    units: dict[str, int] = {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens}
    units["cache_read_tokens"] = usage.cache_read
    units["cache_write_tokens"] = usage.cache_write_5m
    if FOLDED & {unit for unit, rate in vars(model.get_prices(moment)).items() if rate is not None}:
        return None
    usage_units = types.Usage(**{unit: count for unit, count in units.items() if count})
    return model.calc_price(usage_units, provider, genai_request_timestamp=moment).total_price


@pytest.mark.parametrize(("usage", "day"), CASES)
def test_every_model_costs_what_the_source_says(usage: Usage, day: str) -> None:
    """litellm 35904, 39501, PR 35913: a price map kept by hand was wrong in half of its rows."""
    moment = datetime.fromisoformat(day).replace(tzinfo=UTC)
    compared = 0
    for provider in providers:
        known = TABLE.book.providers[provider.id].models
        for model in provider.models:
            name = model.id.lower().rstrip("-")
            if name not in known:
                continue
            price = TABLE.find(provider.id, name, int(moment.timestamp()) * 10**9)
            assert price is not None
            expected = theirs(provider, model, usage, moment)
            if expected is None:
                continue
            ours = Decimal(cost(price, usage).pico) / 10**12
            rounding = Decimal(usage.input_tokens + usage.output_tokens) / (2 * 10**12)  # half a pico-USD a token
            assert abs(ours - expected) <= rounding, f"{price.id}: {ours}, the source says {expected}"
            compared += 1
    assert compared > 2_000

"""The shipped table is whole, quick to load, and a broken one is never half believed."""

import json
import os
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import msgspec
import pytest

from bursar.core.calls import Usage
from bursar.core.prices import cost
from bursar.core.tariff import ModelRow, price_digest
from bursar.stores import catalogue
from bursar.stores.catalogue import CatalogueBroken, compare, load

NOW = 1_795_000_000 * 10**9  # November 2026
ROOT = Path(__file__).parents[2]
SHIPPED = Path(catalogue.__file__).parent / "data" / "prices.json"


def test_every_entry_can_be_read_and_priced() -> None:
    table = load()
    usage = Usage(input_tokens=1_000, output_tokens=100)
    counted = 0
    for provider in table.book.providers:
        for model in table.models(provider):
            price = table.find(provider, model, NOW)
            assert price is not None
            assert price.provider == provider
            assert cost(price, usage).pico >= 0
            assert all(low.above < high.above for low, high in zip(price.bands, price.bands[1:], strict=False))
            counted += 1
    assert counted > 2_000


def test_aliases_lead_to_models_and_fallbacks_to_providers() -> None:
    providers = load().book.providers
    for row in providers.values():
        assert set(row.aliases.values()) <= row.models.keys()
        assert not row.aliases.keys() & row.models.keys()
        assert set(row.fallback) <= providers.keys()


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_the_models_people_use_have_the_facts_money_needs(provider: str) -> None:
    """A window to bound what is not in the body, an output limit for defaults, the right field, no starving."""
    table = load()
    current = [
        name
        for name in table.models(provider)
        if name.startswith(("gpt-4o", "gpt-4.1", "gpt-5", "gpt-6", "o1", "o3", "o4", "claude-"))
        and not any(
            part in name
            for part in ("realtime", "transcribe", "tts", "image", ".ft", "extended", "cyber", "rosalind", "search-api")
        )
        and name not in ("claude-2", "claude-v1", "gpt-4.5-preview")
    ]
    assert len(current) > 20
    for name in current:
        price = table.find(provider, name, NOW)
        assert price is not None
        assert price.context_window, name
        assert price.max_output, name
        assert price.max_output <= price.context_window
        assert all(band.above < price.context_window for band in price.bands), name
        assert (price.reasoning_floor > 0) == price.reasoning
        if name.startswith(("gpt-5", "gpt-6", "o1", "o3", "o4")):
            assert price.reasoning, name
            assert price.max_tokens_field == "max_completion_tokens"
        else:
            assert price.max_tokens_field == "max_tokens"


def test_a_digest_can_be_recomputed_from_the_file_alone() -> None:
    found = load().find("openai", "gpt-6-sol", NOW)
    assert found is not None
    row = json.loads(SHIPPED.read_text())["table"]["providers"]["openai"]["models"]["gpt-6-sol"]
    entry = msgspec.convert(row, ModelRow).entries[-1]
    assert price_digest("openai", "gpt-6-sol", entry) == found.digest


def test_the_shipped_file_is_what_the_script_makes(tmp_path: Path) -> None:
    """From the pinned source, with the date that the file bears: nobody has edited it by hand."""
    again = tmp_path / "prices.json"
    command = [sys.executable, "scripts/compile_prices.py", "--out", str(again), "--date", load().book.date]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert again.read_bytes() == SHIPPED.read_bytes()


def test_a_shipped_price_is_never_overwritten(tmp_path: Path) -> None:
    """The source changes a figure in place: the script writes nothing unless told that the old one was wrong."""
    changed = tmp_path / "prices.json"
    before = SHIPPED.read_text().replace('"in":2000000', '"in":1999999', 1)
    changed.write_text(before)
    command = [sys.executable, "scripts/compile_prices.py", "--out", str(changed)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "never overwritten" in done.stdout
    assert changed.read_text() == before


def test_loading_is_quick_and_small() -> None:
    load()
    started = time.perf_counter()
    load()
    assert time.perf_counter() - started < 0.1  # 3 ms on an idle machine
    tracemalloc.start()
    table = load()
    table.find("openai", "gpt-6-sol", NOW)
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used < 3_000_000


# ---- broken tables --------------------------------------------------------------------------------------------------


def broken(tmp_path: Path, content: bytes) -> str:
    path = tmp_path / "prices.json"
    path.write_bytes(content)
    with pytest.raises(CatalogueBroken) as found:
        load(path)
    return str(found.value)


def test_one_changed_figure_is_noticed(tmp_path: Path) -> None:
    content = SHIPPED.read_bytes()
    assert b'"in":2000000' in content
    assert "sha256" in broken(tmp_path, content.replace(b'"in":2000000', b'"in":1000000', 1))


def test_a_table_that_is_cut_off_missing_or_of_another_format_is_refused(tmp_path: Path) -> None:
    content = SHIPPED.read_bytes()
    broken(tmp_path, content[: len(content) // 2])
    broken(tmp_path, b"")
    broken(tmp_path, b'{"sha256":"","table":{}}')
    with pytest.raises(CatalogueBroken):
        load(tmp_path / "nowhere.json")
    (tmp_path / "same.json").write_bytes(content)
    assert load(tmp_path / "same.json").digest == load().digest


# ---- the cross-check ------------------------------------------------------------------------------------------------


def test_differences_over_one_percent_are_rows(tmp_path: Path) -> None:
    other = tmp_path / "model_prices_and_context_window.json"
    other.write_text(
        json.dumps(
            {
                "sample_spec": {"litellm_provider": "one of https://...", "input_cost_per_token": 0.0},
                "gpt-4o": {
                    "litellm_provider": "openai",
                    "input_cost_per_token": 2.5e-06,
                    "output_cost_per_token": 1.005e-05,  # half a percent
                    "cache_read_input_token_cost": 2.5e-06,  # no discount known there
                },
                "xai/grok-4": {"litellm_provider": "xai", "input_cost_per_token": 1.0, "output_cost_per_token": None},
                "no-such-model": {"litellm_provider": "openai", "input_cost_per_token": 1.0},
            }
        )
    )
    rows = [(row.provider, row.model, row.rate, row.percent) for row in compare(load(), other, NOW)]
    assert ("openai", "gpt-4o", "cache_read", 100) in rows
    assert [row[:3] for row in rows if row[1] != "grok-4"] == [("openai", "gpt-4o", "cache_read")]
    assert ("x-ai", "grok-4", "input") in [row[:3] for row in rows]


def test_the_other_shape_is_read_too(tmp_path: Path) -> None:
    other = tmp_path / "data.json"
    prices = {"input_mtok": {"base": 2, "tiers": [{"start": 272000, "price": 4}]}, "output_mtok": 12.5}
    dated = [{"prices": {"input_mtok": 9}}, {"constraint": {"start_date": "2026-08-21"}, "prices": prices}]
    other.write_text(json.dumps([{"id": "openai", "models": [{"id": "gpt-6-sol", "prices": dated}]}]))
    (row,) = compare(load(), other, NOW)
    assert (row.rate, row.ours, row.theirs, row.percent) == ("output", 10_000_000, 12_500_000, 25)


@pytest.mark.parametrize("content", ["", "[1]", "{", '{"a":3}', "7"])
def test_what_is_no_price_table_says_so(tmp_path: Path, content: str) -> None:
    other = tmp_path / "other.json"
    other.write_text(content)
    with pytest.raises(CatalogueBroken):
        compare(load(), other, NOW)

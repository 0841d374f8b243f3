"""Compile the price table that ships with Bursar from PyPI's `genai-prices` (needed here only, never at run time).

``compile_prices.py [--out FILE] [--date YYYY-MM-DD]``. Prints what was left out or rounded, and why. A price is never
overwritten: when the file exists, an entry that it already holds must come out the same, or the run fails unless
``--accept-changes`` says that the source itself was wrong.
"""

import argparse
import hashlib
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import date
from decimal import Decimal
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
from genai_prices import types
from genai_prices.data import providers
from model_facts import EXTRA_AUDIO, EXTRA_TOOLS, FLOOR, facts_of, safe_window

from bursar.core.tariff import BandRow, EntryRow, HoursRow, ModelRow

OUT = Path(__file__).parent.parent / "bursar" / "stores" / "data" / "prices.json"
UNKNOWN_START = "1970-01-01"
PICO_PER_TOKEN = 10**6  # of one USD per million tokens
PICO_PER_USE = 10**9  # of one USD per thousand uses

TOKEN_UNITS = {
    "input_mtok": "input",
    "output_mtok": "output",
    "cache_read_mtok": "cache_read",
    "cache_write_mtok": "cache_write",
    "cache_write_1h_mtok": "cache_write_1h",
    "output_reasoning_mtok": "reasoning",
    "input_audio_mtok": "audio_input",
    "output_audio_mtok": "audio_output",
    "input_image_mtok": "image_input",
    "cache_audio_read_mtok": "cached_media",
    "cache_image_read_mtok": "cached_media",
    # an answer's image or video tokens are not told apart in a chat answer's usage: the dearer rate bills them all
    "output_image_mtok": "output",
    "output_video_mtok": "output",
}
TOOL_UNITS = {
    "web_searches_kcount": "web_search",
    "storage_searches_kcount": "file_search",
    "social_searches_kcount": "x_search",
    "code_executions_kcount": "code_execution",
}
TIERS = {("processing", "batch"): "batch", ("speed", "fast"): "fast"}

rounded: list[str] = []
left_out: Counter[str] = Counter()


def whole(value: Decimal, factor: int, where: str) -> int:
    """An exact integer of pico-USD; float noise of the source is rounded half-even and reported."""
    scaled = value * factor
    result = round(scaled)
    if scaled != result:
        rounded.append(f"{where}: {value} -> {result / factor!r}")
    return result


def rate_at(value: Any, start: int) -> Decimal:
    """The rate above `start` input tokens of a flat or tiered price."""
    if not isinstance(value, types.TieredPrices):
        return Decimal(value)
    rate = value.base
    for tier in value.tiers:
        if tier.start <= start and start:
            rate = tier.price
    return rate


def bands_of(prices: dict[str, Any], where: str) -> tuple[BandRow, ...]:
    tiered = [value for value in prices.values() if isinstance(value, types.TieredPrices)]
    starts = sorted({0} | {tier.start for value in tiered for tier in value.tiers})
    bands = []
    for start in starts:
        rates: dict[str, int] = {}
        for unit, field in TOKEN_UNITS.items():
            if unit in prices:
                rate = whole(rate_at(prices[unit], start), PICO_PER_TOKEN, f"{where} {unit}")
                rates[field] = max(rate, rates.get(field, 0))
        bands.append(BandRow(above=start, **rates))
    return tuple(bands)


def listed(prices: types.ModelPrice) -> dict[str, Any]:
    return {unit: value for unit, value in vars(prices).items() if value is not None}


def reason_to_leave_out(prices: dict[str, Any]) -> str:
    """Why Bursar cannot bill a model by its table; it then counts as unpriced, and hard budgets refuse it."""
    if "input_mtok" not in prices:
        return "not priced by input tokens"
    known = TOKEN_UNITS.keys() | TOOL_UNITS.keys() | {"requests_kcount"}
    unknown = sorted(prices.keys() - known)
    return f"also priced by {', '.join(unknown)}" if unknown else ""


def conditions(model: types.ModelInfo) -> list[tuple[Any, types.ModelPrice]]:
    if isinstance(model.prices, types.ModelPrice):
        return [(None, model.prices)]
    return [(item.constraint, item.prices) for item in model.prices]


def started(constraint: Any, day: str) -> bool:
    return constraint is None or (
        isinstance(constraint, types.StartDateConstraint) and constraint.start_date.isoformat() <= day
    )


def standard_at(model: types.ModelInfo, day: str) -> tuple[dict[str, Any], list[tuple[Any, dict[str, Any]]]]:
    """The price of a day, and those that override it at some hours. The source lets the last active one win."""
    hours: list[tuple[Any, dict[str, Any]]] = []
    known = conditions(model)
    for constraint, prices in reversed(known):
        if isinstance(constraint, types.TimeOfDateConstraint):
            hours.append((constraint, listed(prices)))
        elif started(constraint, day):
            return listed(prices), hours
    return listed(known[0][1]), hours


def tiers_at(model: types.ModelInfo, day: str, standard: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Service tiers of a day: the standard price with the tier's own rates laid over it."""
    tiers: dict[str, dict[str, Any]] = {}
    for variant in model.price_variants or ():
        (pair,) = variant.when.items()
        name = pair[1] if pair[0] == "service_tier" else TIERS.get(pair, "")
        if not name:
            left_out[f"variant {pair[0]}={pair[1]}"] += 1
        elif started(variant.constraint, day):
            tiers[name] = listed(variant.prices) | tiers.get(name, {})  # the first that names a rate wins
    return {name: standard | prices for name, prices in tiers.items() if standard | prices != standard}


def hour_rows(hours: list[tuple[Any, dict[str, Any]]], where: str) -> Iterator[HoursRow]:
    for constraint, prices in hours:
        start, end = (
            moment.hour * 3600 + moment.minute * 60 for moment in (constraint.start_time, constraint.end_time)
        )
        if end <= start:
            raise SystemExit(f"{where}: hours across midnight are not handled")
        yield HoursRow(start=start, end=end, bands=bands_of(prices, where))


def days_of(model: types.ModelInfo) -> list[str]:
    constraints = [constraint for constraint, _ in conditions(model)]
    constraints += [variant.constraint for variant in model.price_variants or ()]
    starts = {c.start_date.isoformat() for c in constraints if isinstance(c, types.StartDateConstraint)}
    return [UNKNOWN_START, *sorted(starts)]


def entry_of(provider: str, model: types.ModelInfo, day: str) -> EntryRow | str:
    """The dated entry of one day, or why there is none."""
    where = f"{provider}/{model.id}@{day}"
    standard, hours = standard_at(model, day)
    if reason := reason_to_leave_out(standard):
        return reason
    extra = EXTRA_AUDIO.get((provider, model.id))
    if extra:
        standard |= {"input_audio_mtok": Decimal(extra[0]), "output_audio_mtok": Decimal(extra[1])}
    tools = {
        tool: whole(Decimal(fee), PICO_PER_USE * 1000, where) for tool, fee in EXTRA_TOOLS.get(provider, {}).items()
    }
    for unit, tool in TOOL_UNITS.items():
        if unit in standard:
            tools[tool] = whole(rate_at(standard[unit], 0), PICO_PER_USE, where)
    fee = standard.get("requests_kcount")
    return EntryRow(
        start=day,
        bands=bands_of(standard, where),
        tiers={name: bands_of(p, f"{where} {name}") for name, p in tiers_at(model, day, standard).items()},
        hours=tuple(hour_rows(hours, where)),
        tools=tools,
        request=whole(rate_at(fee, 0), PICO_PER_USE, where) if fee is not None else 0,
    )


def model_row(provider: str, model: types.ModelInfo) -> ModelRow | None:
    entries: list[EntryRow] = []
    for day in days_of(model):
        entry = entry_of(provider, model, day)
        if isinstance(entry, str):
            left_out[entry] += 1
            return None
        if not entries or msgspec.structs.replace(entry, start="") != msgspec.structs.replace(entries[-1], start=""):
            entries.append(entry)
    facts = facts_of(provider, model.id)
    writes = any(band.cache_write is not None for entry in entries for band in entry.bands)
    cliff = max(band.above for entry in entries for band in entry.bands)
    return ModelRow(
        entries=tuple(entries),
        window=safe_window(provider, model.id, model.context_window, cliff),
        max_output=facts.max_output,
        reasoning=facts.reasoning,
        floor=FLOOR if facts.reasoning else 0,
        field=facts.field,
        writes_unasked=writes and "claude" not in model.id,  # Claude's are asked for in the body, block by block
    )


def names_of(clause: Any) -> Iterator[str]:
    """Names that a matcher certainly means. A prefix gives itself only: its dated snapshots are found by rule."""
    for part in getattr(clause, "or_", ()):
        yield from names_of(part)
    if isinstance(clause, types.ClauseEquals):
        yield clause.equals
    elif isinstance(clause, types.ClauseStartsWith):
        yield clause.starts_with.rstrip("-@:")
    elif isinstance(clause, types.ClauseContains):
        yield clause.contains


def provider_table(provider: types.Provider) -> dict[str, Any]:
    models: dict[str, ModelRow] = {}
    aliases: dict[str, str] = {}
    for model in provider.models:
        row = model_row(provider.id, model)
        if row is None:
            continue
        models[model.id.lower().rstrip("-")] = row
        for name in names_of(model.match):
            aliases.setdefault(name.lower(), model.id.lower().rstrip("-"))
    aliases = {name: model for name, model in sorted(aliases.items()) if name not in models}
    return {"fallback": provider.fallback_model_providers or [], "aliases": aliases, "models": models}


def lines(table: dict[str, Any]) -> Iterator[str]:
    """The table as JSON with one model a line, so that a change reads as a change."""
    head = {name: value for name, value in table.items() if name != "providers"}
    yield msgspec.json.encode(head).decode()[:-1] + ',"providers":{'
    for position, (name, provider) in enumerate(table["providers"].items()):
        comma = "," if position else ""
        fallback, aliases = (msgspec.json.encode(provider[key]).decode() for key in ("fallback", "aliases"))
        yield f'{comma}"{name}":{{"fallback":{fallback},"aliases":{aliases},"models":{{'
        rows = provider["models"].items()
        yield ",\n".join(f"{msgspec.json.encode(m).decode()}:{msgspec.json.encode(row).decode()}" for m, row in rows)
        yield "}}"
    yield "}}"


def overwritten(old: Path, table: dict[str, Any]) -> Iterator[str]:
    """Entries of the table already shipped that the new one would change."""
    if not old.exists():
        return
    for name, provider in msgspec.json.decode(old.read_bytes())["table"]["providers"].items():
        for model, row in provider["models"].items():
            new = table["providers"].get(name, {}).get("models", {}).get(model)
            kept = {entry.start: entry for entry in new.entries} if new else {}
            for entry in msgspec.convert(row, ModelRow).entries:
                if kept.get(entry.start) != entry:
                    yield f"{name}/{model}@{entry.start}"


def show(title: str, rows: Iterable[str]) -> None:
    found = list(rows)
    print(f"{title}: {len(found)}")
    print("".join(f"  {row}\n" for row in found), end="")


def main() -> int:
    parser = argparse.ArgumentParser(description="compile the price table")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--date", type=date.fromisoformat, default=date.today())  # noqa: DTZ011  a label, not an instant
    parser.add_argument("--accept-changes", action="store_true")
    wanted = parser.parse_args()
    table = {
        "format": 1,
        "source": f"genai-prices {version('genai-prices')} (MIT)",
        "date": wanted.date.isoformat(),
        "providers": {provider.id: provider_table(provider) for provider in providers},
    }
    show("rounded to a pico-USD", rounded)
    show("left out", (f"{count} x {reason}" for reason, count in left_out.most_common()))
    changed = list(overwritten(wanted.out, table))
    show("entries that differ from the file", changed)
    if changed and not wanted.accept_changes:
        print("a shipped price is never overwritten; nothing written")
        return 1
    body = "\n".join(lines(table))
    digest = hashlib.sha256(body.encode()).hexdigest()
    wanted.out.parent.mkdir(parents=True, exist_ok=True)
    wanted.out.write_text(f'{{"sha256":"{digest}",\n"table":{body}}}\n', encoding="utf-8")
    models = sum(len(provider["models"]) for provider in table["providers"].values())
    print(f"{wanted.out.name}: {models} models, {wanted.out.stat().st_size // 1000} kB, sha256 {digest}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

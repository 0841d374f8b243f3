"""The price table that ships with Bursar: read, checked against its digest, compared with a second public table."""

import hashlib
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from bursar.core.prices import Book, PriceTable

FORMAT = 1
_SHIPPED = Path(__file__).parent / "data" / "prices.json"


class CatalogueBroken(Exception):
    """A price table could not be read, or is not what its digest says."""


class _File(msgspec.Struct, frozen=True):
    sha256: str
    table: msgspec.Raw


def load(path: Path | None = None) -> PriceTable:
    """The shipped table, or the one at `path`. Raises CatalogueBroken; never returns half a table.

    The digest covers the bytes of the file's `table` value as they stand.
    """
    name = path or _SHIPPED
    try:
        file = msgspec.json.decode(name.read_bytes(), type=_File)
        book = msgspec.json.decode(file.table, type=Book)
    except (OSError, msgspec.DecodeError) as error:
        raise CatalogueBroken(f"{name}: {error}") from error
    if hashlib.sha256(file.table).hexdigest() != file.sha256:
        raise CatalogueBroken(f"{name}: the content does not match its sha256")
    if book.format != FORMAT:
        raise CatalogueBroken(f"{name}: format {book.format}, this version reads {FORMAT}")
    return PriceTable(book, file.sha256)


# ---- cross-check -----------------------------------------------------------------------------------------------------


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """A rate on which two tables disagree. Rates are pico-USD per token."""

    provider: str
    model: str
    rate: str
    ours: int
    theirs: int
    percent: int  # of ours, rounded; 0 where ours is zero


_Row = tuple[str, str, dict[str, Decimal]]  # provider, model, rate -> USD per token
_LITELLM_RATES = {
    "input": "input_cost_per_token",
    "output": "output_cost_per_token",
    "cache_read": "cache_read_input_token_cost",
}
_GENAI_RATES = {"input": "input_mtok", "output": "output_mtok", "cache_read": "cache_read_mtok"}
_LITELLM_NAMES = {"xai": "x-ai", "gemini": "google", "together_ai": "together", "fireworks_ai": "fireworks"}


def compare(table: PriceTable, other: Path, at_ns: int, tolerance_percent: int = 1) -> list[Difference]:
    """Rates of the first context band that differ by more than the tolerance; of models that both tables know.

    `other` is LiteLLM's model_prices_and_context_window.json or genai-prices' data.json. Raises CatalogueBroken.
    """
    try:
        content: Any = msgspec.json.Decoder(float_hook=Decimal).decode(other.read_bytes())
        rows = list(
            _genai_rows(content) if isinstance(content, list) or "providers" in content else _litellm_rows(content)
        )
    except (OSError, msgspec.DecodeError, ArithmeticError, KeyError, TypeError, AttributeError) as error:
        raise CatalogueBroken(f"{other}: not a price table that can be read ({error})") from error
    found = []
    for provider, model, rates in rows:
        price = table.find(provider, model, at_ns)
        if price is None or price.provider != provider:
            continue
        for rate, usd in rates.items():
            ours, theirs = getattr(price.bands[0], rate), round(usd.scaleb(12))
            if abs(theirs - ours) * 100 > tolerance_percent * ours:
                percent = round(100 * (theirs - ours) / ours) if ours else 0
                row = Difference(provider=provider, model=model, rate=rate, ours=ours, theirs=theirs, percent=percent)
                found.append(row)
    return found


def _litellm_rows(content: dict[str, dict[str, Any]]) -> Iterator[_Row]:
    for key, row in content.items():
        name = str(row.get("litellm_provider", ""))
        provider = _LITELLM_NAMES.get(name, name)
        rates = {rate: Decimal(row[field]) for rate, field in _LITELLM_RATES.items() if row.get(field) is not None}
        yield provider, key.removeprefix(f"{name}/"), rates


def _genai_rows(content: Any) -> Iterator[_Row]:
    for provider in content if isinstance(content, list) else content["providers"]:
        for model in provider["models"]:
            prices = model["prices"]
            if isinstance(prices, list):  # conditional prices: the last dated one is the one in force
                prices = [item for item in prices if "start_time" not in (item.get("constraint") or {})][-1]["prices"]
            rates = {rate: prices[field] for rate, field in _GENAI_RATES.items() if prices.get(field) is not None}
            yield provider["id"], model["id"], {rate: _per_token(value) for rate, value in rates.items()}


def _per_token(value: Any) -> Decimal:
    return Decimal(value["base"] if isinstance(value, dict) else value).scaleb(-6)

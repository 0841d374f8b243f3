"""Prices as the administration sees them: what is in force, and an operator's own dated prices on top.

A price is never overwritten: an override is appended with the instant from which it holds, and money spent before
keeps the price under which it was spent.
"""

from collections.abc import Collection

import msgspec

from bursar.control.directory import Book, Change, Directory
from bursar.core.directory import Delta, PriceOverride, id_of
from bursar.core.errors import Refusal
from bursar.core.prices import PriceTable
from bursar.core.strict import suggest
from bursar.core.tariff import Price
from bursar.core.units import NS_PER_S

MAX_RATE_PICO = 10**12  # one USD per token: beyond it somebody mistook the unit
MIN_RATE_PICO = 1_000  # $0.001 per million tokens, a third of the cheapest listed: below it the rate was by the token
_SLACK_NS = 60 * NS_PER_S  # clocks of an operator's machine and of the node differ a little


class PriceLine(msgspec.Struct, frozen=True, kw_only=True):
    """One model's price in force."""

    provider: str
    model: str
    price: Price
    overridden: bool


class Prices:
    """`table` is what ships; the directory's overrides are laid over it and followed."""

    def __init__(self, directory: Directory, table: PriceTable, providers: Collection[str] = ()) -> None:
        self._directory = directory
        self._shipped = table
        self._providers = providers
        self._table = self._rebuilt()
        directory.subscribe(self._follow)

    def models(self, provider: str) -> list[str]:
        """Names that have a price at this provider, sorted. Refuses an unknown provider."""
        self._check_provider(provider)
        return self._table.models(provider)

    def providers(self) -> list[str]:
        return sorted({*self._shipped.book.providers, *self._providers})

    def find(self, provider: str, model: str) -> PriceLine:
        """The price in force now. Raises Refusal(unknown_id)."""
        self._check_provider(provider)
        price = self._table.find(provider, model, self._directory.now())
        if price is None:
            near = suggest(model, self._table.models(provider))
            hint = near or f"bursar prices set {provider}/{model} --input USD --output USD"
            raise Refusal("unknown_id", f"{model[:64]!r} has no price at {provider}", hint)
        return PriceLine(provider=provider, model=model, price=price, overridden=self._is_overridden(price))

    def page(self, provider: str, models: list[str]) -> list[PriceLine]:
        """The prices of some of `models(provider)`; one that is not in force yet is left out."""
        now = self._directory.now()
        found = [(model, self._table.find(provider, model, now)) for model in models]
        return [
            PriceLine(provider=provider, model=model, price=price, overridden=self._is_overridden(price))
            for model, price in found
            if price is not None
        ]

    def overrides(self) -> list[PriceOverride]:
        return self._directory.book.all(PriceOverride)

    async def set(self, actor: str, override: PriceOverride) -> PriceOverride:
        """Append a price. Refuses with invalid_input (rates, an instant in the past) or already_exists."""
        self._check_provider(override.provider)
        _check_rates(override)
        entity_id = id_of(override)

        def decide(book: Book) -> Change:
            if override.from_ns < self._directory.now() - _SLACK_NS:
                message = "A price cannot begin in the past: what was spent keeps its price"
                raise Refusal("invalid_input", message, "Leave --from out, or give an instant to come")
            if book.find(PriceOverride, entity_id):
                raise Refusal("already_exists", "There is a price from this instant on", "Give another --from")
            facts: dict[str, str | int] = {"input_pico": override.input, "output_pico": override.output}
            return Change(action="price.set", target=f"price/{entity_id}", put=[override], facts=facts)

        await self._directory.change(actor, decide)
        return override

    def _rebuilt(self) -> PriceTable:
        return self._shipped.with_overrides(self.overrides())

    def _follow(self, delta: Delta) -> None:
        if delta.prices or any(kind == "price" for kind, _ in delta.gone):
            self._table = self._rebuilt()

    def _is_overridden(self, price: Price) -> bool:
        return any((o.provider, o.model.lower()) == (price.provider, price.model) for o in self.overrides())

    def _check_provider(self, provider: str) -> None:
        known = self.providers()
        if provider not in known:
            raise Refusal("unknown_id", f"There is no provider {provider[:64]!r}", suggest(provider, known))


def _check_rates(override: PriceOverride) -> None:
    rates = (override.input, override.output, override.cache_read or 0, override.cache_write or 0)
    if not all(0 <= rate <= MAX_RATE_PICO for rate in rates):
        raise Refusal("invalid_input", "A rate is between $0 and $1 per token", 'Write --input "$2.50" per million')
    if any(0 < rate < MIN_RATE_PICO for rate in (override.input, override.output)):
        message = "A rate below $0.001 per million tokens is none that is listed: was it by the token?"
        raise Refusal("invalid_input", message, 'Write --input "$2.50" per million, or "$0" for what is free')
    if not override.model.strip() or len(override.model) > 200 or not override.model.isprintable():
        raise Refusal("invalid_input", "The price needs the name of a model", "bursar prices set PROVIDER/MODEL ...")
    if any(count is not None and count <= 0 for count in (override.context_window, override.max_output)):
        raise Refusal("invalid_input", "A number of tokens is positive", "Leave it out when it is unknown")

"""Stage 7: which ways there are to serve the call, what each can cost at most and what is expected.

Ways are looked up once per (team, dialect, model, purpose) and directory version: the hot path finds them in a dict.
"""

from collections.abc import Iterator

import msgspec

from bursar.core.calls import Call, Ceiling
from bursar.core.ceiling import ceiling, unbounded_reason
from bursar.core.content import content_of
from bursar.core.controls import would_refuse
from bursar.core.directory import ProviderKey
from bursar.core.errors import Refusal
from bursar.core.policy import KeyPlan, unpriced_refusal
from bursar.core.prices import Band, Price
from bursar.core.routing import EMULATOR_ENVIRONMENT, address_parts, rank_keys, usable_keys
from bursar.gateway.flight import Flight
from bursar.gateway.node import Node, Option
from bursar.gateway.observing import own_ways, presented_ways
from bursar.gateway.own import bound_ways
from bursar.gateway.served import served
from bursar.gateway.shadow import note_shadow

_NOTHING = Ceiling(0, 0, 0, 0, 0, 0)  # what counting tokens can cost: providers do it for free


class Priced(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A way with its price, its ceiling and the budgets that it counts against."""

    option: Option
    price: Price
    ceiling: Ceiling
    budgets: tuple[str, ...]
    strict: bool  # one of them is hard


def find_options(node: Node, flight: Flight) -> list[Option]:
    """Every way to serve the call, best first. Raises Refusal(model_not_found | no_provider_key | key_invalid)."""
    call, plan = flight.call, flight.plan
    assert call is not None
    assert plan is not None
    observed = plan.observed
    if observed is not None and not observed.secret_id:
        return presented_ways(node, flight)
    name = (plan.team_id, call.dialect, call.model, call.purpose)
    found = node.options.find(name, node.tenants.version)
    if found is None:
        found = list(_options(node, call, plan.team_id))
        if found:
            node.options.keep(name, found)
        else:
            raise _nobody(node, call)
    if observed is not None:
        found = own_ways(node, observed, found)
    return found if flight.bound is None else bound_ways(node, flight.bound, found)


def _options(node: Node, call: Call, team_id: str) -> Iterator[Option]:
    keys = usable_keys(node.tenants.provider_keys.values())
    for provider in node.providers:
        if provider.dialect.name != call.dialect:
            continue
        model, priced_as = served(provider, call.model)
        if not model:
            continue
        if provider.auth == "none":
            yield Option(provider=provider, key=no_key(provider.name), upstream_model=model, priced_as=priced_as)
            continue
        for key in rank_keys(keys, provider.name, priced_as, team_id, call.purpose, node.tenants.use_grants):
            emulated = address_parts(key.address)[3] == EMULATOR_ENVIRONMENT
            reached = provider.twin if emulated else provider
            if reached is not None:
                yield Option(provider=reached, key=key, upstream_model=model, priced_as=priced_as)


def no_key(provider: str) -> ProviderKey:
    """Stands where a provider takes no key (a local server, say): nothing is stored, released or sent."""
    return ProviderKey(id="", version=0, address=f"{provider}/*/none/*/*", billing_owner="")


def _nobody(node: Node, call: Call) -> Refusal:
    if any(served(p, call.model)[0] for p in node.providers if p.dialect.name == call.dialect):
        return Refusal(
            "no_provider_key",
            f"No provider key may be used for {call.purpose} with the model {call.model[:100]!r} by this team",
            "Whoever runs this broker can store or tag one: `bursar secrets put`,"
            f" `bursar secrets tag ID purpose=inference,{call.purpose}`"
            if call.purpose != "inference"
            else "Whoever runs this broker can store or tag one: `bursar secrets put`, `bursar secrets tag`",
        )
    return Refusal("model_not_found", f"No provider serves the model {call.model[:100]!r} here", "See GET /v1/models")


def price_of(node: Node, plan: KeyPlan, option: Option) -> Price | None:
    """The price in force; for an unpriced model the provider's dearest, where policy says so."""
    now = node.clock.now()
    found = node.prices.find(option.provider.prices, option.priced_as, now)
    if found is None and plan.assume_dearest:
        found = node.prices.dearest(option.provider.prices, now)
    return found


def listed_price(node: Node, option: Option) -> Price | None:
    """The price in force of the model itself."""
    return node.prices.find(option.provider.prices, option.priced_as, node.clock.now())


def price(node: Node, flight: Flight, options: list[Option]) -> list[Priced]:
    """The ways with their ceilings, without those that a hard budget cannot bound.

    Raises Refusal(unbounded_request | unpriced_model) when none is left.
    """
    priced: list[Priced] = []
    refused: Refusal | None = None
    assert flight.call is not None
    flight.call.content = content_of(flight.call)
    for option in options:
        try:
            priced.append(_price_way(node, flight, option, first=option is options[0]))
        except Refusal as refusal:
            refused = refused or refusal
    if not priced:
        assert refused is not None
        raise refused
    return priced


def _price_way(node: Node, flight: Flight, option: Option, *, first: bool) -> Priced:
    """Raises Refusal(unbounded_request | unpriced_model)."""
    call, allowed, plan = flight.call, flight.allowed, flight.plan
    assert call is not None
    assert allowed is not None
    assert plan is not None
    budgets = plan.budget_set(call.model, allowed.billed_as, flight.user, option.key.id)
    found = allowed.price if first else price_of(node, plan, option)
    if found is None:
        if budgets.hard or plan.enforced.refuses_unpriced:
            raise unpriced_refusal(call)
        dearest = None if option.presented else node.prices.dearest(option.provider.prices, node.clock.now())
        found = dearest or free_price(option)
    elif first and budgets.tried and not budgets.hard and unbounded_reason(call, found, allowed.output_cap):
        note_shadow(node, flight, would_refuse("budgets", "hard", "unbounded_request"))
    top = (
        _NOTHING
        if call.route == "count_tokens"
        else ceiling(
            call,
            found,
            allowed.output_cap,
            node.estimate,
            budgets.hard,
            allow_unknown=allowed.allow_unknown,
            tool_cap=allowed.edits.tool_uses_cap,
            key_id=plan.key_id,
        )
    )
    return Priced(option=option, price=found, ceiling=top, budgets=budgets.ids, strict=budgets.hard)


def free_price(option: Option) -> Price:
    """For a provider of whose models none has a price (a local server, say), or an observed call of a model that has
    none, and whom no hard budget minds: nothing.

    Its id says so in every ledger row.
    """
    nothing = Band(
        above=0,
        input=0,
        output=0,
        cache_read=0,
        cache_write_5m=0,
        cache_write_1h=0,
        reasoning=0,
        audio_input=0,
        audio_output=0,
        image_input=0,
        cached_media=0,
    )
    model = option.priced_as
    return Price(
        id=f"{option.provider.name}/{model}@unpriced",
        digest="",
        source="no price is known",
        provider=option.provider.name,
        model=model,
        bands=(nothing,),
        worst={"": (nothing,), "*": (nothing,)},
    )

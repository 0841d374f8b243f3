"""Observe mode: an application keeps its provider key and changes only the base URL; its calls are metered by key.

Stages 2, 7 and 9 come here only for credentials that are not ours. The presented key is read from the headers of its
own call, lives there as a `Secret`, and goes up to the one provider whose key it is. The directory hears of it when the
provider has taken it: what the provider refuses leaves nothing but its voided hold.
"""

import msgspec

from bursar.core.directory import KeySecret, Observed, ProviderKey, VirtualKey
from bursar.core.errors import Refusal
from bursar.core.key_shapes import provider_of
from bursar.core.observing import key_id_of, presented_id
from bursar.core.policy import KeyPlan
from bursar.core.secret import Secret
from bursar.gateway.flight import Flight, Presented
from bursar.gateway.node import Node, Option, Provider
from bursar.gateway.served import own_name, served

# ---- stage 2


def plan_of_stranger(node: Node, text: str, digest: bytes) -> KeyPlan | None:
    """The plan of a provider key that the directory does not know; None for what is none, or not observed here.

    Raises Refusal(key_invalid | key_expired | overloaded).
    """
    observing, tenants = node.observing, node.tenants
    if not observing.team or not (vendor := provider_of(text)):
        return None
    key_id = key_id_of(digest)
    if key_id in tenants.keys:
        raise _swapped(key_id)
    provider = _provider_of(node, vendor)
    team = tenants.teams.get(observing.team)
    owner = tenants.owners.get(team.owner_id) if team is not None else None
    if provider is None:
        hint = f"Its provider is set up as providers.{vendor} in bursar.yaml"
        raise Refusal("key_invalid", f"This is a provider key of {vendor}, which is no provider here", hint)
    if team is None or owner is None:
        message = f"This is not a Bursar key, and the team {observing.team!r} for provider keys is not there"
        raise Refusal("key_invalid", message, f"bursar teams create --id {observing.team} ...; or restart the node")
    observing.let_in(key_id, len(tenants.observed), tenants.keys, node.clock.monotonic())
    secret = KeySecret(digest=digest, provider=True)
    observed = Observed(provider=provider.name, since=node.clock.now())
    return tenants.compiled(
        VirtualKey(id=key_id, name="", team_id=team.id, secrets=(secret,), observed=observed), team, owner
    )


def present(node: Node, flight: Flight, text: str, digest: bytes) -> None:
    """Keep the key that was presented for this call. Raises Refusal(key_invalid) where observe mode is off by now."""
    if not node.observing.team:
        raise Refusal(
            "key_invalid",
            "This is a provider key that was observed here, and observe mode is off",
            "Get a Bursar key for it: `bursar observe seal ID`; or set observe.enabled in bursar.yaml",
        )
    flight.presented = Presented(Secret(text), digest)


def refused_provider_key(node: Node, text: str) -> Refusal:
    """What is told to whoever presents no key of ours where that is not observed."""
    hint = "Applications hold a Bursar key (bsr_...), never a provider key; get one with `bursar keys create`"
    if not node.observing.team and provider_of(text):
        hint += ", or let it call with its own for a while: observe.enabled in bursar.yaml (docs/observe.md)"
    return Refusal("key_invalid", "This is not a Bursar key", hint)


def _swapped(key_id: str) -> Refusal:
    return Refusal(
        "key_expired",
        "This provider key was swapped for a Bursar key, and is taken here no longer",
        f"Use the Bursar key; a new text of it: bursar keys rotate {key_id}",
    )


def _provider_of(node: Node, vendor: str) -> Provider | None:
    """The provider to which its keys go: of that name, else the only one that is priced as it. One takes keys."""
    taking = [provider for provider in node.providers if provider.auth != "none"]
    named = [provider for provider in taking if provider.name == vendor]
    found = named or [provider for provider in taking if provider.prices == vendor]
    return found[0] if len(found) == 1 else None


# ---- stage 7

_OTHER = "Send the key of the right provider, or a Bursar key (bsr_...)"


def presented_ways(node: Node, flight: Flight) -> list[Option]:
    """The one way there is for a call that came with a provider key. Raises Refusal(key_invalid | model_not_found)."""
    call, plan = flight.call, flight.plan
    assert call is not None
    assert plan is not None
    way = presented_way(node, flight)
    provider, asked = way.provider, call.model
    model, priced_as = served(provider, asked)
    if provider.dialect.name != call.dialect or (not model and _others(node, provider, call.dialect, asked)):
        raise Refusal(
            "key_invalid",
            f"This is a provider key of {provider.name}, which does not serve the model {asked[:100]!r} by this route",
            _OTHER,
        )
    model = model or own_name(provider, asked)  # in no list: whether there is such a model, its provider knows
    return [msgspec.structs.replace(way, upstream_model=model, priced_as=priced_as or model)]


def presented_way(node: Node, flight: Flight, route: str = "") -> Option:
    """Where the presented key goes, whatever it asks for. Raises Refusal(key_invalid)."""
    plan = flight.plan
    assert plan is not None
    observed = plan.observed
    assert observed is not None
    provider = next((one for one in node.providers if one.name == observed.provider and one.auth != "none"), None)
    if provider is None or flight.presented is None:
        told = "its provider is not set up here" if provider is None else "only the provider key itself is taken for it"
        hint = f"Seal it for a Bursar key: bursar observe seal {plan.key_id}"
        raise Refusal("key_invalid", f"The key {plan.key_id} is observed only, and {told}", hint)
    if route and route not in provider.targets:
        raise Refusal("key_invalid", f"This is a provider key of {provider.name}, which has no such route", _OTHER)
    key = ProviderKey(
        id=presented_id(plan.key_id), version=0, address=f"{provider.name}/*/api_key/observed/*", billing_owner=""
    )
    return Option(provider=provider, key=key, upstream_model="", priced_as="", presented=True)


def is_own(node: Node, observed: Observed, provider: str, secret_id: str) -> bool:
    """Whether a sealed key's calls may go so: at its provider with the very provider key that was swapped for it, as
    long as the vault has it.
    """
    gone = observed.secret_id not in node.tenants.provider_keys
    return gone or provider != observed.provider or secret_id == observed.secret_id


def own_ways(node: Node, observed: Observed, ways: list[Option]) -> list[Option]:
    """Of a sealed key's ways those that are its own. Raises Refusal(no_provider_key)."""
    own = [way for way in ways if is_own(node, observed, way.provider.name, way.key.id)]
    if own:
        return own
    raise Refusal(
        "no_provider_key",
        f"The provider key {observed.secret_id} that this key was swapped for may not serve this call",
        f"See it with `bursar secrets show {observed.secret_id}`",
    )


def _others(node: Node, provider: Provider, dialect: str, asked: str) -> bool:
    """Whether the model is another provider's."""
    return any(served(one, asked)[0] for one in node.providers if one.dialect.name == dialect and one is not provider)


# ---- stage 9


def value_of(flight: Flight) -> Secret:
    """What goes up with a call whose way is that of the key it came with."""
    assert flight.presented is not None, "such a way is made for such calls only"
    return flight.presented.value


def note_taken(node: Node, flight: Flight) -> None:
    """The provider has taken the presented key: the directory shall know it."""
    plan, presented = flight.plan, flight.presented
    assert plan is not None
    if plan.observed is not None and presented is not None and plan.key_id not in node.tenants.keys:
        node.observing.told(plan.key_id, presented.digest, plan.observed.provider, node.clock.monotonic())

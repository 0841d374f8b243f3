"""`GET /v1/models`: what this key may use, in the shape of the SDK that asks. Nothing is sent to a provider."""

import msgspec

from bursar.core.deployments import models_by_name
from bursar.core.routing import rank_keys, usable_keys
from bursar.gateway.answer import header_lines, id_fields
from bursar.gateway.flight import Flight
from bursar.gateway.node import Node, Provider
from bursar.gateway.routes import Route
from bursar.gateway.served import served

_CREATED = 0  # neither price table nor configuration knows when a model was made
_PURPOSES = ("inference", "embedding")
_CREATED_TEXT = "1970-01-01T00:00:00Z"


def list_models(node: Node, flight: Flight, route: Route) -> None:
    """Anthropic's shape for a caller who names its API version, else OpenAI's. At Azure's paths: the deployments."""
    anthropic = "anthropic-version" in flight.exchange.headers and not route.azure
    flight.dialect = "anthropic" if anthropic else "openai"
    names = usable_models(node, flight)
    if route.azure:
        assert flight.plan is not None
        models = models_by_name(node.tenants.deployments, flight.plan.team_id)
        names = {name: names[model] for name, model in models.items() if model in names}
    body = msgspec.json.encode(_anthropic_list(names) if anthropic else _openai_list(names))
    fields = [("content-type", "application/json"), *id_fields(flight.dialect, flight.request_id)]
    flight.status = 200
    flight.exchange.respond(200, header_lines(fields).encode(), body)


def usable_models(node: Node, flight: Flight) -> dict[str, str]:
    """Model -> provider, for every priced or configured name that the key, and some provider key, allow."""
    plan = flight.plan
    assert plan is not None
    keys = usable_keys(node.tenants.provider_keys.values())
    found: dict[str, str] = {}
    observed = plan.observed
    own = observed.provider if observed is not None and not observed.secret_id else ""
    for provider in node.providers:
        if own not in ("", provider.name):
            continue
        for model in _names(node, provider):
            if model not in found and plan.allows_model(model) and served(provider, model)[0]:
                priced_as = served(provider, model)[1]
                asked = provider.name, priced_as, plan.team_id
                if (
                    own
                    or provider.auth == "none"
                    or any(rank_keys(keys, *asked, purpose, node.tenants.use_grants) for purpose in _PURPOSES)
                ):
                    found[model] = provider.name
    return found


def _names(node: Node, provider: Provider) -> list[str]:
    exact = [pattern for pattern in provider.models if not set(pattern) & set("*?[")]
    return [*node.prices.models(provider.prices), *exact, *provider.deployments]


def _openai_list(names: dict[str, str]) -> dict[str, object]:
    rows = [{"id": m, "object": "model", "created": _CREATED, "owned_by": p} for m, p in names.items()]
    return {"object": "list", "data": rows}


def _anthropic_list(names: dict[str, str]) -> dict[str, object]:
    rows = [{"type": "model", "id": m, "display_name": m, "created_at": _CREATED_TEXT} for m in names]
    ends = {"first_id": rows[0]["id"] if rows else None, "last_id": rows[-1]["id"] if rows else None}
    return {"data": rows, "has_more": False, **ends}

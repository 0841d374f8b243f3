"""Which provider serves a model, and under which name."""

from fnmatch import fnmatchcase

from bursar.gateway.node import Provider


def served(provider: Provider, asked: str) -> tuple[str, str]:
    """The upstream's own name for a model and the one it is priced by; ("", "") when the provider does not serve it.

    `provider/model` names the provider explicitly.
    """
    model = own_name(provider, asked)
    if model in provider.deployments:
        return model, provider.deployments[model]
    if any(fnmatchcase(model, pattern) for pattern in provider.models):
        return model, model
    return "", ""


def own_name(provider: Provider, asked: str) -> str:
    """A model without the provider's name before it."""
    prefix, _, rest = asked.partition("/")
    return rest if rest and prefix == provider.name else asked

"""Which provider key may serve a call: addresses narrow, tags bind. Deterministic; no health, no clock in it yet."""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from bursar.core.access import granted
from bursar.core.directory import AccessGrant, ProviderKey

EMULATOR_ENVIRONMENT = "emulator"  # address part of the keys that only the built-in emulator takes


def address_parts(address: str) -> tuple[str, str, str, str, str]:
    """provider, model, key_type, environment, team of an address. ValueError unless it has five parts."""
    provider, model, key_type, environment, team = address.split("/")
    return provider, model, key_type, environment, team


def key_serves(key: ProviderKey, provider: str, team_id: str, purpose: str, grants: Sequence[AccessGrant] = ()) -> bool:
    """Whether a team may use the entry for this at all, whatever the model."""
    its_provider, _, _, _, its_team = address_parts(key.address)
    return (
        not key.disabled
        and its_provider == provider
        and (its_team in ("*", team_id) or _is_granted(grants, team_id, key))
        and purpose in key.purposes
    )


def key_fits(
    key: ProviderKey, provider: str, model: str, team_id: str, purpose: str, grants: Sequence[AccessGrant] = ()
) -> bool:
    """Whether the entry's address covers the call and its tags allow it. `grants`: those to use keys of others."""
    its_model = address_parts(key.address)[1]
    return (
        key_serves(key, provider, team_id, purpose, grants)
        and (its_model == "*" or fnmatchcase(model, its_model))
        and any(pattern == "*" or fnmatchcase(model, pattern) for pattern in key.allowed_models)
    )


def rank_keys(
    keys: Iterable[ProviderKey],
    provider: str,
    model: str,
    team_id: str,
    purpose: str,
    grants: Sequence[AccessGrant] = (),
) -> list[ProviderKey]:
    """The keys that fit, the most specific address first, then by id so that the choice is stable."""
    fitting = [key for key in keys if key_fits(key, provider, model, team_id, purpose, grants)]
    return sorted(fitting, key=lambda key: (-_specificity(key), key.id))


def _is_granted(grants: Sequence[AccessGrant], team_id: str, key: ProviderKey) -> bool:
    if not grants:
        return False
    tags = {**key.tags, "billing_owner": key.billing_owner, "purpose": ",".join(key.purposes)}
    return granted(grants, {f"team/{team_id}"}, "use", key.address, tags, 0)  # a grant to use has no end of its own


def _specificity(key: ProviderKey) -> int:
    """A key for this team beats one for this model, which beats a general one."""
    _, model, _, _, team = address_parts(key.address)
    return (2 if team != "*" else 0) + (1 if model != "*" else 0)


def usable_keys(keys: Iterable[ProviderKey]) -> list[ProviderKey]:
    """Emulator keys count only while there is nothing real: production never gets a made-up answer by accident."""
    alive = list(keys)
    real = [key for key in alive if address_parts(key.address)[3] != EMULATOR_ENVIRONMENT]
    return real or alive

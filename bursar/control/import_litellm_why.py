"""Why a setting of LiteLLM has no counterpart, and what to do instead. Each is told in the report; none is dropped."""

import re

KNOWN_PROVIDERS = frozenset({"openai", "anthropic"})
"""Those that a node knows without naming them in bursar.yaml."""

QUIET = frozenset(
    """created_at updated_at created_by updated_by last_refreshed_at budget_reset_at last_active key_rotation_at spend
    rotation_count token_id litellm_budget_table team_memberships members members_count model_spend object_permission_id
    last_rotation_at""".split()  # noqa: SIM905 - easier to read
)
"""Bookkeeping of LiteLLM's own: no settings."""

_SECRET = re.compile(r"key|token|secret|password|salt|url|dsn|credential", re.ASCII | re.IGNORECASE)
_PRICES = "bursar prices set PROVIDER MODEL, in USD per million tokens; prices ship for what providers list"
_ROUTING = "routing is by price and health here, with nothing to choose"
_WHY: dict[str, str] = {
    "master_key": "the admin API has a token of its own: admin.token in the data folder; `bursar admins` for people",
    "database_url": "an embedded store, or PostgreSQL: store.kind in bursar.yaml",
    "salt_key": "provider keys are sealed by the node's own wrapping key",
    "alerting": "owners are told in log, metrics and audit; channels are not there yet",
    "success_callback": "calls are in the ledger, metrics and audit; nothing is called per request",
    "failure_callback": "calls are in the ledger, metrics and audit; nothing is called per request",
    "callbacks": "calls are in the ledger, metrics and audit; nothing is called per request",
    "cache": "there is no response cache",
    "cache_params": "there is no response cache",
    "drop_params": "fields that a provider does not know are passed on as they are",
    "num_retries": "each attempt is a hold of its own; candidates are walked without a number",
    "request_timeout": "providers.NAME.timeouts in bursar.yaml",
    "timeout": "providers.NAME.timeouts in bursar.yaml",
    "stream_timeout": "providers.NAME.timeouts in bursar.yaml",
    "fallbacks": "a call goes to providers of its own model only; no other model is put in its place",
    "context_window_fallbacks": "no other model is put in its place",
    "content_policy_fallbacks": "no other model is put in its place",
    "routing_strategy": _ROUTING,
    "model_group_alias": "names are the providers' own; `bursar models map` gives others to the Azure paths",
    "allowed_fails": _ROUTING,
    "cooldown_time": _ROUTING,
    "redis_host": "rates: {kind: redis} in bursar.yaml and BURSAR_RATES_URL",
    "redis_port": "rates: {kind: redis} in bursar.yaml and BURSAR_RATES_URL",
    "redis_password": "rates: {kind: redis} in bursar.yaml and BURSAR_RATES_URL",
    "input_cost_per_token": _PRICES,
    "output_cost_per_token": _PRICES,
    "rpm": "limits are on keys, teams and users, not on an upstream: provider keys have budgets, not rates",
    "tpm": "limits are on keys, teams and users, not on an upstream: provider keys have budgets, not rates",
    "weight": _ROUTING,
    "guardrails": "detectors are not there yet",
    "aliases": "a key asks for models by the providers' names",
    "model_max_budget": "write a budget on model/NAME, or a key of its own for the model",
    "permissions": "the role of whoever administers: `bursar admins`",
    "organization_id": "name the billing owner with --owner; one import has one",
    "user_id": "keys are of teams; a call names its user",
    "members_with_roles": "people are not kept here: `bursar admins`, or log in by OpenID Connect",
    "admins": "people are not kept here: `bursar admins`, or log in by OpenID Connect",
    "budget_id": "shared budgets: write one on team/ID or owner/ID, which many keys spend from",
    "allowed_routes": "every metered route is open to a key; policy.purposes narrows them",
    "allowed_cache_controls": "there is no response cache",
    "user_role": "`bursar admins` says who may administer",
    "set_verbose": "log.level in bursar.yaml",
}


def why_left(name: str, value: object) -> str:
    """With the value where it cannot be a secret."""
    told = _WHY.get(name, "this importer does not know it: look whether it is needed")
    plain = isinstance(value, bool | int) or (isinstance(value, str) and len(value) <= 40 and value.isprintable())
    shown = str(value) if plain and not _SECRET.search(name) and not _looks_secret(value) else "***"
    return f"{shown}: {told}"


def _looks_secret(value: object) -> bool:
    return isinstance(value, str) and (len(value) > 24 or value.startswith(("sk-", "Bearer ")) or "://" in value)

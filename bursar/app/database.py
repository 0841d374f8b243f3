"""From the settings of the store to the way to the database: the URL is read here, at the start of each process."""

from collections.abc import Mapping
from pathlib import Path

from bursar.app.spec import NodeSpec
from bursar.config import Store
from bursar.config.store_url import faults_of_url
from bursar.core.errors import Refusal
from bursar.core.secret import Secret
from bursar.stores.postgres import Address


def address_of(spec: NodeSpec, env: Mapping[str, str], process: str) -> Address:
    """Raises Refusal(invalid_input) when there is no URL, or none that can be used. It is never repeated."""
    store = spec.config.store
    where, url = _url(store, env)
    for message, hint in faults_of_url(url, may_hold_password=not store.url):
        raise Refusal("invalid_input", f"The URL of {where} {message}", hint)
    return Address(
        url=Secret(url),
        schema=store.schema,
        connections=store.connections,
        pooler=store.pooler == "transaction",
        connect_timeout=store.connect_timeout,
        statement_timeout=store.statement_timeout,
        application=f"bursar {process} {spec.node}"[:63],  # as long as PostgreSQL keeps it
    )


def _url(store: Store, env: Mapping[str, str]) -> tuple[str, str]:
    """(which setting gave it, the URL)."""
    if store.url:
        return "store.url", store.url
    if store.url_file:
        try:
            return "store.url_file", Path(store.url_file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as fault:
            why = f"store.url_file cannot be read: {type(fault).__name__}"
            raise Refusal("invalid_input", why, "Give a file that holds the URL alone") from None
    if not env.get(store.url_env):
        raise Refusal("invalid_input", f"{store.url_env} is not set", "Set it to the URL of the PostgreSQL database")
    return f"store.url_env ({store.url_env})", env[store.url_env]

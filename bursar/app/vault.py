"""The vault of control: the sealed file, opened with the node's wrapping keys, and Bursar's own secrets in it."""

from collections.abc import MutableMapping
from pathlib import Path
from typing import NamedTuple

from bursar.app.wrapping import choose_wrapper
from bursar.config import Config
from bursar.core.secret import Secret
from bursar.core.tokens import PEPPER_BYTES, mint
from bursar.ports import Clock, Entropy
from bursar.secrets.embedded import EmbeddedStore


class Vault(NamedTuple):
    """What control takes out of it at start."""

    store: EmbeddedStore
    pepper: bytes
    admin_token: Secret
    audit_seed: Secret
    people_secret: Secret  # what the audit's keys of people are sealed under

    def __repr__(self) -> str:
        return "Vault(***)"


async def open_vault(
    config: Config, folder: Path, env: MutableMapping[str, str], clock: Clock, entropy: Entropy
) -> Vault:
    """Raises SealError, Refusal(secrets_unavailable)."""
    database = folder / "secrets.db"
    wrapper = choose_wrapper(config, folder, database, env, entropy)
    store = await EmbeddedStore.open(database, [wrapper], clock, entropy)
    random = entropy.token_bytes
    pepper = await store.internal("pepper", lambda: Secret(random(PEPPER_BYTES).hex()))
    return Vault(
        store,
        bytes.fromhex(pepper.reveal()),
        await store.internal("admin-token", lambda: mint(entropy, "admin")[1]),
        await store.internal("audit-signing-key", lambda: Secret(random(32).hex())),
        await store.internal("audit-people-key", lambda: Secret(random(32).hex())),
    )

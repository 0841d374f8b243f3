"""The vault of control: the sealed file, opened with the node's wrapping keys, and Bursar's own secrets in it."""

from collections.abc import MutableMapping, Sequence
from pathlib import Path
from typing import NamedTuple

from bursar.app.wrapping import open_ring
from bursar.config import Config
from bursar.control.wrapping_keys import RECOVERY_NAME
from bursar.core.errors import Refusal
from bursar.core.secret import Secret
from bursar.core.tokens import PEPPER_BYTES, mint
from bursar.ports import Clock, Entropy, KeyWrapper
from bursar.secrets.embedded import EmbeddedStore
from bursar.secrets.values import Fingerprint
from bursar.secrets.wrap.recovery import RecoveryWrapper


class Vault(NamedTuple):
    """What control takes out of it at start."""

    store: EmbeddedStore
    pepper: bytes
    admin_token: Secret
    audit_seed: Secret
    people_secret: Secret  # what the audit's keys of people are sealed under
    fingerprint: Fingerprint

    def __repr__(self) -> str:
        return "Vault(***)"


async def open_vault(
    config: Config,
    folder: Path,
    env: MutableMapping[str, str],
    clock: Clock,
    entropy: Entropy,
    besides: Sequence[KeyWrapper] = (),
) -> Vault:
    """`besides`: see `open_ring`. Raises SealError, Refusal(secrets_unavailable)."""
    ring = await open_ring(config, folder, env, entropy, besides)
    store = await EmbeddedStore.open(folder / "secrets.db", [ring.sealing], clock, entropy, ring.opening)
    await _enrol_recovery(store)
    random = entropy.token_bytes
    pepper = await store.internal("pepper", lambda: Secret(random(PEPPER_BYTES).hex()))
    return Vault(
        store,
        bytes.fromhex(pepper.reveal()),
        await store.internal("admin-token", lambda: mint(entropy, "admin")[1]),
        await store.internal("audit-signing-key", lambda: Secret(random(32).hex())),
        await store.internal("audit-people-key", lambda: Secret(random(32).hex())),
        Fingerprint(await store.internal("store-fingerprint-key", lambda: Secret(random(32).hex()))),
    )


async def _enrol_recovery(store: EmbeddedStore) -> None:
    """Which recovery key to seal under is itself sealed: who can write the file cannot name one of his own."""
    try:
        known = await store.internal(RECOVERY_NAME)
    except Refusal as refusal:
        if refusal.word != "secret_not_found":
            raise
        return
    store.recover_by(RecoveryWrapper(known.reveal()))

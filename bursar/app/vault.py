"""The vault of control: the sealed store, opened with the node's wrapping keys, and Bursar's own secrets in it."""

from collections.abc import Callable, MutableMapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from bursar.app.wrapping import open_ring
from bursar.config import Config
from bursar.control.wrapping_keys import RECOVERY_NAME, SealedFile
from bursar.core.errors import Refusal
from bursar.core.secret import Secret
from bursar.core.tokens import PEPPER_BYTES, mint
from bursar.ports import Clock, Entropy, KeyWrapper, SecretStore
from bursar.secrets.embedded import EmbeddedStore
from bursar.secrets.sealed_file import sealed_under
from bursar.secrets.values import Fingerprint
from bursar.secrets.wrap.recovery import RecoveryWrapper


class SealedStore(SecretStore, SealedFile, Protocol):
    """A secret store of Bursar's own: what it holds is sealed under the node's wrapping keys."""

    async def internal(self, name: str, create: Callable[[], Secret] | None = None) -> Secret: ...

    def close(self) -> None: ...


class Place(Protocol):
    """Where the sealed store lies."""

    async def under(self) -> frozenset[tuple[str, ...]]:
        """By which wrapping keys its values open, each combination once."""
        ...

    async def open(
        self, wrappers: Sequence[KeyWrapper], clock: Clock, entropy: Entropy, opening: Sequence[KeyWrapper]
    ) -> SealedStore: ...


class InFolder:
    """In the data folder: one node's own."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "secrets.db"

    async def under(self) -> frozenset[tuple[str, ...]]:
        return sealed_under(self._path)

    async def open(
        self, wrappers: Sequence[KeyWrapper], clock: Clock, entropy: Entropy, opening: Sequence[KeyWrapper]
    ) -> SealedStore:
        return await EmbeddedStore.open(self._path, wrappers, clock, entropy, opening)


class Vault(NamedTuple):
    """What control takes out of it at start."""

    store: SealedStore
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
    place: Place | None = None,
) -> Vault:
    """`besides`: see `open_ring`. `place` None: the data folder. Raises SealError, Refusal(secrets_unavailable)."""
    place = place or InFolder(folder)
    ring = await open_ring(config, folder, env, entropy, await place.under(), besides)
    store = await place.open([ring.sealing], clock, entropy, ring.opening)
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


async def _enrol_recovery(store: SealedStore) -> None:
    """Which recovery key to seal under is itself sealed: who can write the file cannot name one of his own."""
    try:
        known = await store.internal(RECOVERY_NAME)
    except Refusal as refusal:
        if refusal.word != "secret_not_found":
            raise
        return
    store.recover_by(RecoveryWrapper(known.reveal()))

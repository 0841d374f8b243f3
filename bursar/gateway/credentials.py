"""Every secret that is accepted, by its digest; what its key may do is compiled when the secret is first shown."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from bursar.core.directory import VirtualKey
from bursar.core.ledger_records import OBSERVED
from bursar.core.observing import swapped
from bursar.core.policy import KeyPlan


class Credential(msgspec.Struct, frozen=True):
    """One accepted secret of a key, and what the key may do."""

    plan: KeyPlan
    expires_at: int | None  # ns: the end of an overlap rotation


class Credentials(Mapping[bytes, Credential]):
    """`plan_of` compiles; None for a key that is not served."""

    def __init__(self, plan_of: Callable[[VirtualKey], KeyPlan | None]) -> None:
        self._plan_of = plan_of
        self._keys: dict[bytes, VirtualKey] = {}
        self._made: dict[bytes, Credential] = {}

    def get(self, digest: bytes, default: Any = None) -> Any:
        found = self._made.get(digest)
        if found is None and digest in self._keys:
            found = self._make(digest)
        return default if found is None else found

    def __getitem__(self, digest: bytes) -> Credential:
        found: Credential | None = self.get(digest)
        if found is None:
            raise KeyError(digest)
        return found

    def __iter__(self) -> Iterator[bytes]:
        return (digest for digest in self._keys if self.get(digest) is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def add(self, keys: Sequence[VirtualKey]) -> None:
        self._keys.update({secret.digest: key for key in keys for secret in key.secrets})

    def remove(self, key: VirtualKey) -> None:
        for secret in key.secrets:
            self._keys.pop(secret.digest, None)
            self._made.pop(secret.digest, None)

    def forget(self, key: VirtualKey) -> None:
        """What was compiled of the key; it is made anew when it is asked for."""
        for secret in key.secrets:
            self._made.pop(secret.digest, None)

    def forget_all(self) -> None:
        self._made.clear()

    def clear(self) -> None:
        self._keys.clear()
        self._made.clear()

    def _make(self, digest: bytes) -> Credential | None:
        key = self._keys[digest]
        plan = self._plan_of(key)
        if plan is None:
            return None
        (secret,) = (secret for secret in key.secrets if secret.digest == digest)
        if plan.credential == OBSERVED and not secret.provider:
            return None  # its calls go up with the key that they come with, and this is none
        if plan.credential != OBSERVED and secret.provider:
            plan = swapped(plan)
        made = self._made[digest] = Credential(plan, secret.expires_at)
        return made

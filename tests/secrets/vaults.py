"""A Vault store on the fake, with a clock that is moved together with the fake's."""

from collections.abc import Callable
from typing import Any

from bursar.core.layout import Layout
from bursar.core.secret import Secret
from bursar.ports import Web
from bursar.secrets.values import Fingerprint
from bursar.secrets.vault import VaultPlace, VaultStore
from bursar.secrets.vault_api import VaultApi
from bursar.secrets.vault_leases import DynamicSecret, DynamicSecrets
from bursar.secrets.vault_login import VaultClient, VaultLogin
from tests.vault.fake import FakeVault


class Times:
    """The store's clock and the fake's, moved as one."""

    def __init__(self, vault: FakeVault) -> None:
        self._vault = vault

    def now(self) -> int:
        return int(self._vault.clock() * 1e9)

    def monotonic(self) -> float:
        return self._vault.clock()


class Opened:
    """A store, and what it is made of."""

    def __init__(
        self,
        vault: FakeVault,
        web: Web,
        bootstrap: Callable[[], Secret] | None = None,
        *,
        place: VaultPlace | None = None,
        dynamic: tuple[DynamicSecret, ...] = (),
        url: str = "",
        namespace: str = "",
        seconds: float = 5.0,
        **login: Any,
    ) -> None:
        self.clock = Times(vault)
        self.api = VaultApi(web, "corp", url or vault.url, namespace, seconds)
        self.login = VaultLogin(self.api, self.clock, bootstrap or (lambda: Secret(vault.root)), **login)
        self.client = VaultClient(self.api, self.login)
        self.dynamic = DynamicSecrets(self.client, dynamic, self.clock)
        self.store = VaultStore(
            self.client, place or VaultPlace(), self.clock, Fingerprint(Secret("test")), self.dynamic
        )


ADOPTED = VaultPlace(
    layout=Layout(path="llm/{team}/{key_type}", address={"provider": "openai"}), value_field="value", tags_in="data"
)

"""Every secret store, opened for one test."""

import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from bursar.app.web import WireWeb
from bursar.core.secret import Secret
from bursar.secrets.embedded import EmbeddedStore
from bursar.secrets.sealed_postgres import SealedPostgres
from bursar.secrets.values import Fingerprint
from bursar.secrets.vault import TagsIn, VaultPlace, VaultStore
from bursar.secrets.vault_api import VaultApi
from bursar.secrets.vault_login import VaultClient, VaultLogin
from bursar.secrets.wrap.local import LocalWrapper
from bursar.stores.postgres import Address, Postgres
from bursar.stores.postgres_schema import migrate
from tests.conformance.stands import Stand, writable
from tests.vault.fake import FakeVault

STORES = ("embedded", "postgres", "vault", "vault-data")


class SystemEntropy:
    def token_bytes(self, count: int) -> bytes:
        return os.urandom(count)


class SystemClock:
    def now(self) -> int:
        return time.time_ns()

    def monotonic(self) -> float:
        return time.monotonic()


@pytest.fixture
def vault() -> Iterator[FakeVault]:
    with FakeVault() as running:
        yield running


@pytest.fixture
async def web() -> AsyncIterator[WireWeb]:
    made = WireWeb()
    yield made
    await made.close()


def vault_store(vault: FakeVault, web: WireWeb, tags_in: TagsIn) -> VaultStore:
    api = VaultApi(web, "corp", vault.url)
    login = VaultLogin(api, SystemClock(), lambda: Secret(vault.root))
    return VaultStore(
        VaultClient(api, login), VaultPlace(tags_in=tags_in), SystemClock(), Fingerprint(Secret("conformance"))
    )


@pytest.fixture(params=STORES)
async def stand(request: pytest.FixtureRequest, tmp_path: Path, vault: FakeVault, web: WireWeb) -> AsyncIterator[Stand]:
    if request.param == "embedded":
        entropy = SystemEntropy()
        wrapper = LocalWrapper("test:one", os.urandom(32), entropy)
        store = await EmbeddedStore.open(tmp_path / "secrets.db", [wrapper], SystemClock(), entropy)
        yield writable(store)
        store.close()
    elif request.param == "postgres":
        way = Postgres(Address(url=Secret(request.getfixturevalue("database"))))
        await migrate(way, "secrets")
        entropy = SystemEntropy()
        wrapper = LocalWrapper("test:one", os.urandom(32), entropy)
        yield writable(await SealedPostgres.open(way, [wrapper], SystemClock(), entropy))
        await way.close()
    else:
        yield writable(vault_store(vault, web, "data" if request.param == "vault-data" else "custom_metadata"))

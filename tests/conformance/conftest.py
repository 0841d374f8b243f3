"""Every secret store, opened for one test."""

import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bursar.app.web import WireWeb
from bursar.core.secret import Secret
from bursar.secrets.aws import AwsPlace, AwsStore
from bursar.secrets.cache import CachedStore
from bursar.secrets.embedded import EmbeddedStore
from bursar.secrets.sealed_postgres import SealedPostgres
from bursar.secrets.values import Fingerprint
from bursar.secrets.vault import TagsIn, VaultPlace, VaultStore
from bursar.secrets.vault_api import VaultApi
from bursar.secrets.vault_login import VaultClient, VaultLogin
from bursar.secrets.wrap.local import LocalWrapper
from bursar.stores.postgres import Address, Postgres
from bursar.stores.postgres_schema import migrate
from tests.conformance.clouds import forget, moto_running
from tests.conformance.stands import Stand, environment, mounted, writable
from tests.vault.fake import FakeVault

WRITABLE = ("embedded", "postgres", "vault", "vault-data", "vault-cached", "aws", "aws-json")
READ_ONLY = ("mounted", "mounted-json", "environment")


class SystemEntropy:
    def token_bytes(self, count: int) -> bytes:
        return os.urandom(count)


class SystemClock:
    def now(self) -> int:
        return time.time_ns()

    def monotonic(self) -> float:
        return time.monotonic()


@pytest.fixture(scope="session")
def moto_server() -> Iterator[str]:
    with moto_running() as url:
        yield url


@pytest.fixture
def moto(moto_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """AWS, empty; with credentials in the environment, where boto3 looks first."""
    forget(moto_server)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    return moto_server


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


@asynccontextmanager
async def opened(name: str, request: pytest.FixtureRequest, folder: Path, web: WireWeb) -> AsyncIterator[Stand]:
    given, clock, entropy = request.getfixturevalue, SystemClock(), SystemEntropy()
    wrapper = LocalWrapper("test:one", os.urandom(32), entropy)
    if name == "embedded":
        store = await EmbeddedStore.open(folder / "secrets.db", [wrapper], clock, entropy)
        yield writable(store)
        store.close()
    elif name == "postgres":
        way = Postgres(Address(url=Secret(given("database"))))
        await migrate(way, "secrets")
        yield writable(await SealedPostgres.open(way, [wrapper], clock, entropy))
        await way.close()
    elif name.startswith("vault"):
        vault = vault_store(given("vault"), web, "data" if name == "vault-data" else "custom_metadata")
        yield writable(CachedStore(vault, clock) if name == "vault-cached" else vault)
    elif name.startswith("aws"):
        place = AwsPlace(region="eu-central-1", endpoint=given("moto"), value_field="value" if "json" in name else "")
        aws = AwsStore("cloud", place, Fingerprint(Secret("conformance")))
        yield writable(aws, destroys_versions=False)
    elif name.startswith("mounted"):
        yield mounted(folder, "json" if name == "mounted-json" else "text")
    else:
        yield environment()


@pytest.fixture(params=WRITABLE + READ_ONLY)
async def stand(request: pytest.FixtureRequest, tmp_path: Path, web: WireWeb) -> AsyncIterator[Stand]:
    async with opened(request.param, request, tmp_path, web) as one:
        yield one


@pytest.fixture(params=WRITABLE)
async def written(request: pytest.FixtureRequest, tmp_path: Path, web: WireWeb) -> AsyncIterator[Stand]:
    async with opened(request.param, request, tmp_path, web) as one:
        yield one


@pytest.fixture(params=READ_ONLY)
async def fixed(request: pytest.FixtureRequest, tmp_path: Path, web: WireWeb) -> AsyncIterator[Stand]:
    async with opened(request.param, request, tmp_path, web) as one:
        yield one

"""deploy/vault, applied to the fake by hvac as its README says: what the roles may, and what they may not."""

import json
import re
from collections.abc import AsyncIterator, Awaitable, Iterator
from pathlib import Path

import hvac
import pytest

from bursar.app.web import WireWeb
from bursar.core.errors import Refusal
from bursar.core.layout import Layout
from bursar.core.secret import Secret
from bursar.secrets.vault import VaultPlace
from bursar.secrets.vault_leases import DynamicSecret
from tests.secrets.vaults import Opened
from tests.vault.fake import Dynamic, FakeVault
from tests.vault.logins import Machine

VAULT = Path(__file__).parents[2] / "deploy/vault"
POLICIES = {path.stem: path.read_text() for path in sorted((VAULT / "policies").glob("*.hcl"))}
ROLES = {path.stem: json.loads(path.read_text()) for path in sorted((VAULT / "roles").glob("*.json"))}
ADDRESS = "openai/*/api_key/prod/alpha"
TAGS = {"billing_owner": "ann"}
ADOPTED = VaultPlace(layout=Layout(path="llm/{team}/{key_type}", address={"provider": "openai"}), tags_in="data")


def apply(vault: FakeVault, cluster: Machine) -> hvac.Client:
    """What the README's commands do."""
    root = hvac.Client(vault.url, vault.root)
    for name, policy in POLICIES.items():
        root.sys.create_or_update_policy(name, policy)
    root.sys.enable_auth_method("approle")
    root.write_data("auth/approle/role/bursar", data=ROLES["approle-bursar"])
    root.sys.enable_auth_method("kubernetes")
    root.write_data("auth/kubernetes/config", data={"kubernetes_host": "https://k", "pem_keys": [cluster.pem]})
    for name in ("bursar", "bursar-mounted"):
        root.write_data(f"auth/kubernetes/role/{name}", data=ROLES[f"kubernetes-{name}"])
    engine = vault.spaces[""].engines["openai"] = Dynamic(vault)
    engine.ttl = 90
    return root


@pytest.fixture
def cluster() -> Machine:
    return Machine()


@pytest.fixture
def vault(cluster: Machine) -> Iterator[FakeVault]:
    with FakeVault() as running:
        apply(running, cluster)
        yield running


@pytest.fixture
async def web() -> AsyncIterator[WireWeb]:
    made = WireWeb()
    yield made
    await made.close()


async def word_of(doing: Awaitable[object]) -> str:
    with pytest.raises(Refusal) as refused:
        await doing
    return refused.value.word


def by_approle(vault: FakeVault, web: WireWeb, **more: object) -> Opened:
    root = hvac.Client(vault.url, vault.root)
    role_id = root.auth.approle.read_role_id("bursar")["data"]["role_id"]
    secret_id = root.auth.approle.generate_secret_id("bursar")["data"]["secret_id"]
    return Opened(vault, web, lambda: Secret(secret_id), method="approle", role=role_id, **more)  # type: ignore[arg-type]


def by_pod(vault: FakeVault, web: WireWeb, token: str, **more: object) -> Opened:
    return Opened(vault, web, lambda: Secret(token), method="kubernetes", role="bursar", **more)  # type: ignore[arg-type]


async def keep_everything(opened: Opened, vault: FakeVault, canary: str) -> None:
    """All that Bursar does to entries of its own, with no more than its policies allow."""
    store = opened.store
    secret_id, _ = await store.put(ADDRESS, Secret("sk-first"), TAGS)
    assert await store.put_version(secret_id, Secret(canary)) == 2
    await store.tag(secret_id, {"purpose": "inference"})
    await store.set_disabled(secret_id, True)
    await store.set_disabled(secret_id, False)
    assert [entry.id for entry in await store.entries()] == [secret_id]
    assert await store.get(secret_id) == Secret(canary)
    await store.destroy(secret_id, 1)
    assert vault.kv().keys["bursar/openai/_/api_key/prod/alpha"].versions[1].destroyed
    await store.destroy(secret_id)
    assert vault.kv().keys == {}


async def test_an_approle_may_keep_what_is_bursars_and_nothing_else(vault: FakeVault, web: WireWeb) -> None:
    await keep_everything(by_approle(vault, web), vault, "sk-second")
    elsewhere = VaultPlace(layout=Layout(path="other/{provider}"))
    vault.write("other/openai", {"value": "sk-theirs"})
    store = by_approle(vault, web, place=elsewhere).store
    assert await word_of(store.entries()) == "store_denied"
    assert await word_of(store.put("openai/*/*/*/*", Secret("sk-x1"), TAGS)) == "store_denied"


async def test_a_pod_may_the_same_and_only_this_pod(vault: FakeVault, web: WireWeb, cluster: Machine) -> None:
    later = vault.clock() + 600
    await keep_everything(
        by_pod(vault, web, cluster.service_account("bursar", "llm", "vault", later)), vault, "sk-second"
    )
    for name, namespace, audience in (
        ("default", "llm", "vault"),
        ("bursar", "dev", "vault"),
        ("bursar", "llm", "api"),
    ):
        token = cluster.service_account(name, namespace, audience, later)
        assert await word_of(by_pod(vault, web, token).store.entries()) == "store_login_failed"


async def test_an_adopted_layout_is_read_and_not_written(vault: FakeVault, web: WireWeb) -> None:
    vault.write("llm/team-alpha/api-key", {"value": "sk-theirs", "billing_owner": "ann"})
    store = by_approle(vault, web, place=ADOPTED).store
    (entry,) = await store.entries()
    assert await store.get(entry.id) == Secret("sk-theirs")
    assert await word_of(store.put_version(entry.id, Secret("sk-ours"))) == "store_denied"
    assert await word_of(store.destroy(entry.id)) == "store_denied"


async def test_leased_credentials_are_borrowed_renewed_and_given_back(vault: FakeVault, web: WireWeb) -> None:
    leased = DynamicSecret(path="openai/creds/inference", address=ADDRESS)
    opened = by_approle(vault, web, dynamic=(leased,))
    (entry,) = await opened.store.entries()
    assert entry.fault == ""
    vault.advance(61)
    await opened.store.tend()
    (lease,) = vault.lives.leases.values()
    assert lease.expires > vault.clock() + 80
    await opened.store.close()
    assert lease.revoked


def test_no_policy_is_wider_than_it_must_be() -> None:
    for name, policy in POLICIES.items():
        for path in re.findall(r'path "([^"]+)"', policy):
            assert path.startswith(("secret/", "openai/creds/", "sys/leases/", "sys/internal/ui/mounts/secret")), name
            assert not path.startswith("secret/*"), name
        assert "sudo" not in policy


def test_the_readme_names_every_file_and_no_other() -> None:
    readme = (VAULT / "README.md").read_text()
    there = {path.relative_to(VAULT).as_posix() for path in VAULT.rglob("*") if path.suffix in (".hcl", ".json")}
    for path in there - {f"policies/{name}.hcl" for name in POLICIES}:
        assert f"@{path}" in readme
    assert set(re.findall(r"`(policies/[\w.-]+\.hcl)`", readme)) == {f"policies/{name}.hcl" for name in POLICIES}
    listed = re.search(r"for name in ([\w -]+);", readme)
    assert listed is not None
    assert set(listed[1].split()) == set(POLICIES)

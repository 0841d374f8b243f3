"""deploy/kubernetes: what the manifests say fits together and works, with the operators played by hand."""

import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import hvac
import pytest
import yaml

from bursar.app.web import WireWeb
from bursar.config import Config
from bursar.config.load import load
from bursar.core.layout import Layout
from bursar.core.provider_keys import provider_key_of
from bursar.core.secret import Secret
from bursar.secrets.mounted import MountedStore
from tests.conformance.stands import Mount
from tests.deploy.test_vault import ROLES, apply, by_pod
from tests.vault.fake import FakeVault
from tests.vault.logins import Machine

FOLDER = Path(__file__).parents[2] / "deploy/kubernetes"
FILES = ("bursar.yaml", "csi.yaml", "external-secrets.yaml")
KINDS = {
    "Namespace": "v1",
    "ServiceAccount": "v1",
    "ConfigMap": "v1",
    "PersistentVolumeClaim": "v1",
    "Service": "v1",
    "Deployment": "apps/v1",
    "SecretProviderClass": "secrets-store.csi.x-k8s.io/v1",
    "SecretStore": "external-secrets.io/v1",
    "ExternalSecret": "external-secrets.io/v1",
}
Manifest = dict[str, Any]


def manifests() -> list[Manifest]:
    """Of the broker and its keys; what applications run is another's matter."""
    return [one for name in FILES for one in yaml.safe_load_all((FOLDER / name).read_text())]


def of(kind: str) -> Manifest:
    (found,) = [one for one in manifests() if one["kind"] == kind]
    return found


def pod() -> Manifest:
    spec: Manifest = of("Deployment")["spec"]["template"]["spec"]
    return spec


def settings(tmp_path: Path) -> Config:
    """The ConfigMap's bursar.yaml, as Bursar itself reads it."""
    path = tmp_path / "bursar.yaml"
    path.write_text(of("ConfigMap")["data"]["bursar.yaml"])
    return load(path, {})


@pytest.fixture
def cluster() -> Machine:
    return Machine()


@pytest.fixture
def vault(cluster: Machine) -> Iterator[FakeVault]:
    with FakeVault() as running:
        apply(running, cluster)
        lies = {"value": "sk-openai", "billing_owner": "ann", "allowed_models": "gpt-4o,o1*"}
        running.write("llm/platform/openai", lies)
        running.write("llm/platform/anthropic", {"value": "sk-anthropic"})
        yield running


@pytest.fixture
async def web() -> AsyncIterator[WireWeb]:
    made = WireWeb()
    yield made
    await made.close()


def test_every_manifest_is_of_a_known_kind_in_one_namespace() -> None:
    for one in manifests():
        assert one["apiVersion"] == KINDS[one["kind"]]
        assert set(one) <= {"apiVersion", "kind", "metadata", "spec", "data", "automountServiceAccountToken"}
        if one["kind"] != "Namespace":
            assert one["metadata"]["namespace"] == "llm"


def test_no_token_and_no_key_stands_in_them() -> None:
    text = "".join((FOLDER / name).read_text() for name in FILES)
    assert not re.search(r"hvs\.|sk-[A-Za-z0-9]|stringData|kind: Secret$", text, re.MULTILINE)
    assert "env" not in pod()["containers"][0]


def test_the_pod_is_locked_down() -> None:
    container = pod()["containers"][0]
    assert pod()["automountServiceAccountToken"] is False
    assert of("ServiceAccount")["automountServiceAccountToken"] is False
    assert pod()["securityContext"]["runAsNonRoot"] is True
    security = container["securityContext"]
    assert (security["readOnlyRootFilesystem"], security["allowPrivilegeEscalation"]) == (True, False)
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert of("Deployment")["spec"]["strategy"] == {"type": "Recreate"}


def test_paths_ports_and_names_fit_together(tmp_path: Path) -> None:
    config, container = settings(tmp_path), pod()["containers"][0]
    mounts = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
    volumes = {one["name"]: one for one in pod()["volumes"]}
    assert set(mounts) == set(volumes)
    assert mounts["config"] == container["command"][-1]
    vault = config.secrets.vault["vault"]
    (token,) = volumes["vault-token"]["projected"]["sources"]
    assert vault.login.file == f"{mounts['vault-token']}/{token['serviceAccountToken']['path']}"
    assert vault.ca_file.startswith(mounts["vault-ca"] + "/")
    assert config.secrets.mounted["csi"].folder == mounts["llm-keys"]
    assert config.data == mounts["data"]
    ports = {one["name"]: one["containerPort"] for one in container["ports"]}
    assert ports == {"data": config.listen.data.port, "metrics": config.listen.metrics.port}
    assert config.listen.admin.host == "127.0.0.1"
    driver = volumes["llm-keys"]["csi"]
    assert driver["volumeAttributes"]["secretProviderClass"] == of("SecretProviderClass")["metadata"]["name"]
    store, external = of("SecretStore"), of("ExternalSecret")
    assert external["spec"]["secretStoreRef"] == {"kind": "SecretStore", "name": store["metadata"]["name"]}
    assert f"secretName: {external['spec']['target']['name']}" in (FOLDER / "bursar.yaml").read_text()


def test_the_roles_of_vault_know_this_pod(tmp_path: Path) -> None:
    role = ROLES["kubernetes-bursar"]
    (token,) = next(one for one in pod()["volumes"] if one["name"] == "vault-token")["projected"]["sources"]
    assert role["bound_service_account_names"] == [pod()["serviceAccountName"]]
    assert role["bound_service_account_namespaces"] == [of("Deployment")["metadata"]["namespace"]]
    assert role["audience"] == token["serviceAccountToken"]["audience"]
    assert settings(tmp_path).secrets.vault["vault"].login.role == "bursar"
    assert of("SecretProviderClass")["spec"]["parameters"]["roleName"] == "bursar-mounted"
    kubernetes = of("SecretStore")["spec"]["provider"]["vault"]["auth"]["kubernetes"]
    assert kubernetes["role"] == "bursar-mounted"
    assert ROLES["kubernetes-bursar-mounted"]["audience"] in kubernetes["serviceAccountRef"]["audiences"]


async def test_with_the_projected_token_bursars_own_client_keeps_keys(
    vault: FakeVault, web: WireWeb, cluster: Machine
) -> None:
    token = cluster.service_account("bursar", "llm", "vault", vault.clock() + 600)
    store = by_pod(vault, web, token).store
    secret_id, _ = await store.put("openai/*/api_key/prod/*", Secret("sk-new"), {"billing_owner": "ann"})
    assert await store.get(secret_id) == Secret("sk-new")


def mounted_client(vault: FakeVault, cluster: Machine) -> hvac.Client:
    """What the provider and the operator log in as: the pod's service account, for the role that they name."""
    client = hvac.Client(vault.url)
    client.auth.kubernetes.login(
        "bursar-mounted", cluster.service_account("bursar", "llm", "vault", vault.clock() + 600)
    )
    return client


def mounted_store(tmp_path: Path, folder: Path) -> MountedStore:
    csi = settings(tmp_path).secrets.mounted["csi"]
    return MountedStore("csi", folder, Layout(path=csi.path, address=csi.address, tags=csi.tags), kind=csi.format)


async def test_what_the_csi_provider_mounts_are_entries(vault: FakeVault, cluster: Machine, tmp_path: Path) -> None:
    client, mount = mounted_client(vault, cluster), Mount(tmp_path / "mount")
    files: dict[str, bytes | None] = {}
    for one in yaml.safe_load(of("SecretProviderClass")["spec"]["parameters"]["objects"]):
        files[one["objectName"]] = client.read(one["secretPath"])["data"]["data"][one["secretKey"]].encode()
    mount.set(files)
    store = mounted_store(tmp_path, mount.folder)
    entries = await store.entries()
    assert [entry.address for entry in entries] == ["anthropic/*/api_key/prod/*", "openai/*/api_key/prod/*"]
    assert {entry.tags["billing_owner"] for entry in entries} == {"platform"}
    assert [await store.get(entry.id) for entry in entries] == [Secret("sk-anthropic"), Secret("sk-openai")]


async def test_what_external_secrets_writes_are_entries_with_tags(
    vault: FakeVault, cluster: Machine, tmp_path: Path
) -> None:
    client, mount = mounted_client(vault, cluster), Mount(tmp_path / "mount")
    spec, provider = of("ExternalSecret")["spec"], of("SecretStore")["spec"]["provider"]["vault"]
    assert provider["version"] == "v2"
    fetched = {}
    for one in spec["data"]:
        told = client.secrets.kv.v2.read_secret_version(
            one["remoteRef"]["key"], mount_point=provider["path"], raise_on_deleted_version=True
        )
        fetched[one["secretKey"]] = told["data"]["data"][one["remoteRef"]["property"]]
    template = spec["target"]["template"]["data"]
    mount.set(
        {
            name: re.sub(r"\{\{ \.(\w+) \}\}", lambda match: fetched[match[1]], text).encode()
            for name, text in template.items()
        }
    )
    store = mounted_store(tmp_path, mount.folder)
    (entry,) = await store.entries()
    key = provider_key_of(entry)
    assert (entry.address, key.billing_owner, key.allowed_models) == (
        "openai/*/api_key/prod/*",
        "ann",
        ("gpt-4o", "o1*"),
    )
    assert await store.get(entry.id) == Secret("sk-openai")


def test_the_mounted_role_reads_values_of_its_team_only(vault: FakeVault, cluster: Machine) -> None:
    client = mounted_client(vault, cluster)
    vault.write("llm/other/openai", {"value": "sk-other"})
    for path in ("secret/data/llm/other/openai", "secret/metadata/llm/platform/openai", "secret/data/bursar/x"):
        with pytest.raises(hvac.exceptions.Forbidden):
            client.read(path)


def test_the_readme_names_every_manifest() -> None:
    readme = (FOLDER / "README.md").read_text()
    assert set(re.findall(r"`([\w-]+\.yaml)`", readme)) == {path.name for path in FOLDER.glob("*.yaml")}

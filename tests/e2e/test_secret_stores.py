"""A call is served with a key that lies in a Vault, in AWS, in a mounted directory or in the environment."""

import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest

from bursar.providers.emulator.bill import digest
from tests.conformance.clouds import moto_running
from tests.conformance.stands import Mount
from tests.e2e.broker import Broker
from tests.providers.emulated import Emulated
from tests.vault.fake import FakeVault

POLICY = 'path "secret/*" { capabilities = ["create", "read", "update", "patch", "delete", "list"] }'
MODELS = ("vault", "cloud", "disk", "env", "own")


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulated]:
    running = Emulated(tmp_path_factory.mktemp("upstream"))
    yield running
    running.stop()


@pytest.fixture
def vault() -> Iterator[FakeVault]:
    with FakeVault() as running:
        yield running


def providers(url: str) -> dict[str, Any]:
    """One provider a place where its key lies."""
    return {
        name: {
            "dialect": "openai",
            "base_url": f"{url}/v1",
            "models": [f"{name}-model"],
            "deployments": {f"{name}-model": "gpt-4o-mini"},
            "prices": "openai",
            "allow_private": True,
        }
        for name in MODELS
    }


def ask(broker: Broker, name: str) -> httpx.Response:
    body = {"model": f"{name}-model", "messages": [{"role": "user", "content": "Hi"}]}
    headers = {"authorization": f"Bearer {broker.demo_key}"}
    return httpx.post(f"{broker.url}/v1/chat/completions", json=body, headers=headers, timeout=30)


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)


def used(upstream: Emulated, key: str) -> bool:
    return digest(key) in upstream.report()["credentials"]


def new_key() -> str:
    return "sk-lying-" + secrets.token_urlsafe(24)


def test_keys_of_every_store_serve_calls(
    make_broker: Callable[..., Broker], upstream: Emulated, vault: FakeVault, tmp_path: Path
) -> None:
    keys = {name: new_key() for name in MODELS}
    role_id, secret_id = vault.approle("bursar", POLICY, token_ttl="1h")
    secret_file = tmp_path / "secret-id"
    secret_file.write_text(secret_id)
    vault.write("llm/vault/any", {"value": keys["vault"], "billing_owner": "demo", "purpose": "inference"})
    mount = Mount(tmp_path / "mount")
    mount.set({"disk": keys["disk"].encode()})
    with moto_running() as cloud:
        aws = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_REGION": "eu-central-1"}
        client = boto3.client(
            "secretsmanager",
            endpoint_url=cloud,
            region_name="eu-central-1",
            aws_access_key_id="testing",
            aws_secret_access_key="testing",
        )
        client.create_secret(Name="llm/cloud", SecretString=keys["cloud"])
        config = {
            "providers": providers(upstream.url),
            "secrets": {
                "refresh": "250ms",
                "vault": {
                    "corp": {
                        "url": vault.url,
                        "path": "llm/{provider}/{key_type}",
                        "tags_in": "data",
                        "login": {"method": "approle", "role": role_id, "file": str(secret_file)},
                        "cache": {"ttl": "500ms", "negative_ttl": "100ms"},
                    }
                },
                "aws": {"amazon": {"endpoint": cloud, "path": "llm/{provider}", "tags": {"billing_owner": "demo"}}},
                "mounted": {"csi": {"folder": str(mount.folder), "tags": {"billing_owner": "demo"}}},
                "environment": {"process": {"variables": {"KEPT_BY_CONTROL": {"address": "env/*/*/*/*"}}}},
            },
        }
        broker = make_broker(config=config, env={**aws, "KEPT_BY_CONTROL": keys["env"]}).start()
        body = {"address": "own/*/api_key/prod/*", "value": keys["own"], "tags": {"billing_owner": "demo"}}
        assert broker.admin("POST", "/v1/admin/provider-keys", json=body).status_code == 201
        listed = {e["address"].split("/")[0]: e for e in broker.admin("GET", "/v1/admin/provider-keys").json()["items"]}
        for name in MODELS:
            assert name in listed, (listed, broker.admin("GET", "/v1/admin/secret-stores").text)
            answer = ask(broker, name)
            assert answer.status_code == 200, (name, answer.text)
            assert used(upstream, keys[name]), f"the key that lies in {name} was really used"
        stores = {name: entry["store"] for name, entry in listed.items() if name in MODELS}
        assert stores == {"vault": "corp", "cloud": "amazon", "disk": "csi", "env": "process", "own": "embedded"}
        gateway = Path(f"/proc/{broker.pids()['gateway']}/environ").read_bytes()
        assert keys["env"].encode() not in gateway

        # changed where they lie, past Bursar: the next calls go out with the new ones
        rotated = {name: new_key() for name in ("vault", "disk")}
        vault.write("llm/vault/any", {"value": rotated["vault"], "billing_owner": "demo"})
        mount.set({"disk": rotated["disk"].encode()})
        for name, key in rotated.items():
            wait_for(lambda name=name, key=key: ask(broker, name).status_code == 200 and used(upstream, key))

        # moved by the command line, out of the Vault into the node's own store
        moved = broker.cli("secrets", "move", listed["vault"]["id"], "embedded")
        assert "moved from corp to embedded" in moved.stdout
        assert vault.kv().keys == {}
        assert ask(broker, "vault").status_code == 200
        told = broker.cli("secrets", "stores").stdout
        assert all(name in told for name in ("embedded", "corp", "amazon", "csi", "process"))
        assert broker.stop() == 0
    look_for(broker, [*keys.values(), *rotated.values(), secret_id, vault.root])


def look_for(broker: Broker, hidden: list[str]) -> None:
    for path in [*broker.data.rglob("*"), broker.out]:
        if path.is_file() and not path.is_socket():
            data = path.read_bytes()
            assert not [text for text in hidden if text.encode() in data], path


def test_an_outage_stops_what_is_new_and_nothing_that_lives(
    make_broker: Callable[..., Broker], upstream: Emulated, vault: FakeVault
) -> None:
    """Sealed: a live lease goes on; stale serves for a while; then what is new is refused by a stable word."""
    keys = {name: new_key() for name in ("vault", "cloud", "disk")}
    for name, key in keys.items():
        vault.write(f"llm/{name}/any", {"value": key, "billing_owner": "demo"})
    config = {
        "providers": providers(upstream.url),
        "secrets": {
            "refresh": "250ms",
            "vault": {
                "corp": {
                    "url": vault.url,
                    "path": "llm/{provider}/{key_type}",
                    "tags_in": "data",
                    "cache": {"ttl": "200ms", "negative_ttl": "100ms", "stale": "4s"},
                }
            },
        },
    }
    broker = make_broker(config=config, env={"VAULT_TOKEN": vault.token(POLICY)}).start()
    assert ask(broker, "vault").status_code == 200
    vault.sealed = True
    since = time.monotonic()
    wait_for(lambda: "corp" in str(broker.admin("GET", "/v1/admin/status").json()["warnings"]))
    assert ask(broker, "vault").status_code == 200, "the lease is live"
    wait_for(lambda: time.monotonic() - since > 5)
    refused = ask(broker, "cloud")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "store_sealed")
    assert ask(broker, "vault").status_code == 200, "the lease still is"
    entries = broker.admin("GET", "/v1/admin/secret-stores").json()["items"]
    assert {e["name"]: e["fault"] for e in entries} == {"embedded": "", "corp": "store_sealed"}
    vault.sealed = False
    wait_for(lambda: ask(broker, "cloud").status_code == 200)
    assert used(upstream, keys["cloud"])


def test_a_vault_that_hangs_stops_neither_start_nor_stop(
    make_broker: Callable[..., Broker], upstream: Emulated, vault: FakeVault
) -> None:
    vault.delay = 20
    config = {
        "providers": providers(upstream.url),
        "secrets": {"vault": {"corp": {"url": vault.url, "timeout": "1s"}}},
    }
    broker = make_broker(config=config, env={"VAULT_TOKEN": "hvs.any"}).start()
    key = new_key()
    body = {"address": "own/*/api_key/prod/*", "value": key, "tags": {"billing_owner": "demo"}}
    assert ask(broker, "own").status_code == 503, "no made-up answer while it is not known what lies in the Vault"
    assert broker.admin("POST", "/v1/admin/provider-keys", json=body).status_code == 201
    assert ask(broker, "own").status_code == 200
    assert used(upstream, key)
    since = time.monotonic()
    assert broker.stop() == 0
    assert time.monotonic() - since < 15
    vault.delay = 0


@pytest.mark.parametrize("allowed", [False, True])
def test_reading_in_clear_is_off_unless_the_node_allows_it(make_broker: Callable[..., Broker], allowed: bool) -> None:
    key = new_key()
    broker = make_broker(config={"secrets": {"reveal": allowed}}).start()
    body = {"address": "openai/*/api_key/*/*", "value": key, "tags": {"billing_owner": "demo"}}
    assert broker.admin("POST", "/v1/admin/provider-keys", json=body).status_code == 201
    got = broker.cli("secrets", "get", "openai", "--reason", "lost at the provider", check=False)
    if allowed:
        assert got.stdout.strip() == key
    else:
        assert got.returncode != 0
        assert key not in got.stdout + got.stderr
        assert "secrets.reveal" in got.stderr
    acts = broker.admin("GET", "/v1/admin/audit?limit=20").json()["items"]
    (act,) = [line for line in acts if line["action"] == "secret.reveal"]
    assert act["outcome"] == ("allowed" if allowed else "refused")
    assert act["facts"]["reason"] == "lost at the provider"

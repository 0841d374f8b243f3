"""Secrets that nobody else in the world has: planted where they are used, looked for everywhere else."""

import asyncio
import base64
import contextlib
import json
import random
import secrets
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from bursar.core.secret import Secret
from bursar.faces.admin_observe import ObservedSeal
from bursar.faces.admin_routes import ROUTES
from bursar.faces.admin_secrets import SecretPut, SecretShown
from bursar.faces.admin_shapes import KeyMinted, KeyView
from bursar.gateway.flight import Presented
from bursar.gateway.lease import Lease
from bursar.providers.emulator.bill import digest
from tests.core.key_samples import samples
from tests.e2e.broker import Broker
from tests.e2e.tenants import Tenants
from tests.faults.books import until
from tests.faults.caller import ask, asking, script
from tests.providers.emulated import Emulated
from tests.vault.fake import FakeVault
from tests.vault.logins import AppRole


def canary(name: str) -> str:
    return f"canary-{name}-{secrets.token_hex(16)}"


def forms(secret: str) -> dict[str, bytes]:
    """A secret as it could be written down: plain, in hex, quoted, in base64 wherever it begins there."""
    raw = secret.encode()
    found = {"plain": raw, "hex": raw.hex().encode(), "HEX": raw.hex().upper().encode()}
    found |= {"quoted": quote(secret, safe="").encode(), "utf-16": secret.encode("utf-16-le")}
    found["backwards"] = raw[::-1]
    for before in range(3):
        text = base64.b64encode(b"\0" * before + raw)[(before * 8 + 5) // 6 :][:-4]
        found |= {f"base64 {before}": text, f"base64url {before}": text.translate(bytes.maketrans(b"+/", b"-_"))}
    return found


def test_the_search_finds_what_it_looks_for() -> None:
    secret = canary("self")
    for before in range(5):
        hidden = base64.b64encode(b"u" * before + secret.encode() + b":tail")
        assert any(form in hidden for form in forms(secret).values())
    assert not any(form in base64.b64encode(secrets.token_bytes(300)) for form in forms(secret).values())


class Canaries:
    """What is planted, and every place that was looked at."""

    def __init__(self) -> None:
        names = ("provider", "environment", "proxy", "prompt", "answer")
        names += ("vault_token", "secret_id", "in_vault", "in_mount")
        self.planted = {name: canary(name) for name in names}
        self.planted["presented"] = samples(random.SystemRandom())["openai-key"]  # its application's own

    def seen_in(self, data: bytes) -> list[str]:
        return [
            f"{name} ({form})"
            for name, secret in self.planted.items()
            for form, bytes_ in forms(secret).items()
            if bytes_ in data
        ]

    def absent(self, place: str, data: bytes | str) -> None:
        found = self.seen_in(data.encode() if isinstance(data, str) else data)
        assert not found, f"{place} holds {found}"


@pytest.fixture(scope="module")
def canaries() -> Canaries:
    return Canaries()


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulated]:
    running = Emulated(tmp_path_factory.mktemp("upstream"))
    yield running
    running.stop()


@pytest.fixture(scope="module")
def picky(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulated]:
    running = Emulated(tmp_path_factory.mktemp("picky"), "--require-key", "another")
    yield running
    running.stop()


@pytest.fixture(scope="module")
def secret_stores(tmp_path_factory: pytest.TempPathFactory, canaries: Canaries) -> Iterator[dict[str, Any]]:
    """Settings of a Vault by token, the same by AppRole, and a mounted directory: each with what must not be seen."""
    folder = tmp_path_factory.mktemp("stores")
    with FakeVault() as vault:
        token = vault.lives.find(vault.token('path "secret/*" { capabilities = ["read", "list"] }'))
        vault.lives.tokens[canaries.planted["vault_token"]] = token
        role_id, secret_id = vault.approle("bursar", 'path "secret/*" { capabilities = ["read", "list"] }')
        login = vault.spaces[""].logins["approle"]
        assert isinstance(login, AppRole)
        login.secret_ids[canaries.planted["secret_id"]] = login.secret_ids[secret_id]
        (folder / "secret-id").write_text(canaries.planted["secret_id"])
        vault.write("llm/vaulted/key", {"value": canaries.planted["in_vault"], "billing_owner": "demo"})
        (folder / "mount").mkdir()
        (folder / "mount/mounted").write_text(canaries.planted["in_mount"])
        lies = {"url": vault.url, "path": "llm/{provider}/{key_type}", "tags_in": "data"}
        by_role = {"method": "approle", "role": role_id, "file": str(folder / "secret-id")}
        yield {
            "vault": {"corp": lies, "other": {**lies, "path": "none/{provider}", "login": by_role}},
            "mounted": {"disk": {"folder": str(folder / "mount"), "tags": {"billing_owner": "demo"}}},
        }


@pytest.fixture(scope="module")
def planted(
    tmp_path_factory: pytest.TempPathFactory,
    canaries: Canaries,
    upstream: Emulated,
    picky: Emulated,
    secret_stores: dict[str, Any],
) -> Iterator[Broker]:
    """A broker with a provider key of its own for providers that answer, refuse it, are away, or are behind a proxy."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        closed = nobody.getsockname()[1]
    models = {"fine": upstream.url, "picky": picky.url, "away": f"http://127.0.0.1:{closed}"}
    models |= {"vaulted": upstream.url, "mounted": upstream.url}
    providers: dict[str, Any] = {
        name: {
            "dialect": "openai",
            "base_url": f"{url}/v1",
            "models": [f"{name}-model"],
            "deployments": {f"{name}-model": "gpt-4o-mini"},
            "prices": "openai",
            "allow_private": True,
            "timeouts": {"head": "700ms", "between_bytes": "700ms"},
        }
        for name, url in models.items()
    }
    providers["proxied"] = providers["fine"] | {
        "base_url": "https://api.bursar.invalid/v1",
        "models": ["proxied-model"],
        "deployments": {"proxied-model": "gpt-4o-mini"},
    }
    providers["openai"] = {"base_url": f"{upstream.url}/v1", "allow_private": True, "timeouts": {"head": "700ms"}}
    env = {
        "OPENAI_API_KEY": canaries.planted["environment"],
        "HTTPS_PROXY": f"http://user:{canaries.planted['proxy']}@127.0.0.1:{closed}",
        "VAULT_TOKEN": canaries.planted["vault_token"],
    }
    config = {"providers": providers, "secrets": secret_stores, "observe": {"enabled": True}}
    running = Broker(tmp_path_factory.mktemp("planted"), config=config, env=env)
    try:
        running.start()
        for name in set(providers) - {"vaulted", "mounted", "openai"}:
            put = {"address": f"{name}/*/api_key/prod/*", "value": canaries.planted["provider"]}
            put |= {"tags": {"billing_owner": "demo", "purpose": "inference"}, "allow_duplicate": True}
            answer = running.admin("POST", "/v1/admin/provider-keys", json=put)
            assert answer.status_code == 201, answer.text
            canaries.absent("the answer to a stored key", answer.content)
        canaries.planted["admin"] = running.admin_token
        canaries.planted["demo"] = running.demo_key
        yield running
    finally:
        running.close()


def calls(canaries: Canaries) -> dict[str, dict[str, Any]]:
    """Calls that end in every way, each with the planted prompt, most with the planted answer."""
    said: dict[str, dict[str, Any]] = {
        "fine": {},
        "slow": {"stall": "head"},
        "cut": {"disconnect": "before_head"},
        "broken": {"disconnect": "mid_stream"},
        "failing": {"status": 500},
        "busy": {"status": 429},
        "lying": {"usage": "negative"},
        "garbage": {"sse": "garbage_event"},
    }
    found = {}
    for name, fields in said.items():
        text = canaries.planted["prompt"] + script(text=canaries.planted["answer"], **fields)
        found[name] = asking("openai", text, model="fine-model", stream=name in ("broken", "garbage"))
    prompt = canaries.planted["prompt"]
    for model in ("vaulted-model", "mounted-model", "picky-model", "away-model", "proxied-model", "no-such-model"):
        found[model] = asking("openai", prompt, model=model)
    found["invalid"] = asking("openai", prompt, model="fine-model", max_tokens=-1)
    found["unbounded"] = asking("openai", prompt, model="fine-model", background=True)
    found["malformed"] = asking("openai", prompt, model="fine-model", messages=prompt)
    return found


def test_no_caller_is_told(planted: Broker, canaries: Canaries, upstream: Emulated) -> None:
    tenants = Tenants(planted)
    minted = tenants.key(policy={"max_prompt_chars": 100_000}, budget={"limit_usd": "5"})
    canaries.planted["virtual"] = minted.text
    own = {name: secret for name, secret in canaries.planted.items() if name not in ("prompt", "answer")}

    async def all_calls() -> dict[str, Any]:
        answers = {n: ask(planted.data_port, minted.text, body) for n, body in calls(canaries).items()}
        answers["wrong key"] = ask(planted.data_port, minted.text[:-1] + "~", asking("openai", "Hi"))
        for about, body in calls(canaries).items():
            answers[f"estimate of {about}"] = ask(planted.data_port, minted.text, body, path="/v1/estimate")
        answers["cut off"] = ask(planted.data_port, minted.text, b'{"model": "' + canaries.planted["prompt"].encode())
        return dict(zip(answers, await asyncio.gather(*answers.values()), strict=True))

    answers = asyncio.run(all_calls())
    assert (answers["fine"].status, answers["picky-model"].word) == (200, "upstream_key_refused")
    for name in ("provider", "in_vault", "in_mount"):
        assert digest(canaries.planted[name]) in upstream.report()["credentials"], "the key was really used"
    assert answers["estimate of fine"].json["decision"] == "run"
    assert (answers["away-model"].word, answers["proxied-model"].word) == ("upstream_unreachable",) * 2
    looking = Canaries()
    looking.planted = own
    for name, answer in answers.items():
        looking.absent(f"the answer to {name}", json.dumps(answer.headers).encode() + answer.body)
        if name.startswith("estimate"):
            canaries.absent(f"the {name}", json.dumps(answer.headers).encode() + answer.body)
        if answer.status >= 400:
            canaries.absent(f"the refusal of {name}", json.dumps(answer.headers).encode() + answer.body)
    rotated = tenants.post(f"/keys/{minted.id}/rotate", overlap_s=60)
    canaries.planted["rotated"] = rotated["text"]
    guess = httpx.get(f"{planted.admin_url}/v1/admin/teams", headers={"authorization": f"Bearer {minted.text}"})
    assert guess.status_code == 401
    canaries.absent("the refusal of a wrong admin token", guess.content)


def test_a_provider_key_at_the_door_is_told_to_nobody(planted: Broker, canaries: Canaries, upstream: Emulated) -> None:
    """Observed, refused, sealed, closed: it went to its provider, and stands nowhere else, as the next tests see."""
    text = canaries.planted["presented"]
    bodies = {name: {**body, "model": "gpt-4o-mini"} for name, body in calls(canaries).items()}

    async def all_calls() -> dict[str, Any]:
        answers = {name: ask(planted.data_port, text, body) for name, body in bodies.items()}
        answers["foreign"] = ask(planted.data_port, text, {**bodies["fine"], "model": "fine-model"})
        return dict(zip(answers, await asyncio.gather(*answers.values()), strict=True))

    assert asyncio.run(ask(planted.data_port, text, bodies["fine"])).status == 200
    answers = asyncio.run(all_calls())
    assert answers["foreign"].word == "key_invalid"
    for name, answer in answers.items():
        told = json.dumps(answer.headers).encode() + answer.body
        assert not [form for form in forms(text).values() if form in told], name
    assert digest(text) in {charge.key for charge in upstream.bill()}
    until(lambda: planted.admin("GET", "/v1/admin/observed").json()["items"], told="an observed key")
    (one,) = planted.admin("GET", "/v1/admin/observed").json()["items"]
    for value, status in (("sk-another", 400), (text, 200)):
        done = planted.admin("POST", f"/v1/admin/observed/{one['id']}/seal", json={"value": value})
        assert done.status_code == status, done.text
        canaries.absent("the answer to a sealed key", done.content)
    canaries.planted["swapped"] = done.json()["text"]
    closed = planted.admin("POST", f"/v1/admin/observed/{one['id']}/close")
    canaries.absent("the answer to a closed key", closed.content)

    def refusal() -> Any:
        answer = asyncio.run(ask(planted.data_port, text, bodies["fine"]))
        return answer if answer.word == "key_expired" else None

    until(refusal, told="a closed key to be refused")
    canaries.absent("the refusal of a closed key", refusal().body)


def test_no_page_tells(planted: Broker, canaries: Canaries) -> None:
    canaries.absent("the metrics", planted.metrics())
    mapped = planted.admin("POST", "/v1/admin/deployments", json={"name": "chat-prod", "model": "gpt-4o-mini"})
    assert mapped.status_code == 201, mapped.text
    canaries.absent("the answer to a mapped deployment", mapped.content)
    documents = {"owners": {"kept": {"name": "Kept in files", "managed_by": "git"}}}
    shown: dict[str, Any] = {}
    for path in ("/policy-plans", "/plans", "/applies"):
        body = {"documents": documents, **shown}
        done = planted.admin("POST", f"/v1/admin{path}", json=body)
        assert done.status_code == 200, done.text
        canaries.absent(path, done.content)
        shown = {name: done.json()[name] for name in ("plan", "version")} if path == "/plans" else {}
    read: dict[str, int] = {}
    for route in [route for route in ROUTES if route.method == "GET"]:
        for path in paths(planted, route.path):
            answer = planted.admin("GET", f"/v1/admin{path}")
            assert answer.status_code == 200, (path, answer.text)
            canaries.absent(path, answer.content)
            read[route.path] = read.get(route.path, 0) + 1
    assert len(read) > 15
    assert read["/decisions/{id}"] >= 10, "each of them an explanation"
    assert read.keys() >= {"/shadow", "/replay", "/manifests", "/managed", "/deployments", "/checklist", "/decisions"}
    for command in (
        ["secrets", "list"],
        ["secrets", "stores"],
        ["keys", "list"],
        ["usage"],
        ["status"],
        ["audit", "verify"],
        ["checklist"],
        ["export"],
        ["models", "list"],
        ["observe", "list"],
    ):
        done = planted.cli(*command, check=command != ["checklist"])  # which tells by its code that not all passes
        canaries.absent(" ".join(command), done.stdout + done.stderr)


def paths(broker: Broker, path: str) -> list[str]:
    """A route's path with what is there in the place of its parameter."""
    if path == "/policy-export":
        return [f"{path}?target=vault"]
    if "{" not in path:
        return [path]
    if path.startswith("/prices"):
        return ["/prices/openai"]
    folder = path.split("/{", maxsplit=1)[0]
    return [f"{folder}/{item['id']}" for item in broker.admin("GET", f"/v1/admin{folder}").json()["items"]]


def test_nothing_that_runs_shows_more_than_it_must(planted: Broker, canaries: Canaries) -> None:
    """Command lines show nothing; only control, which may seal it, has the environment's provider key."""
    for name, pid in planted.pids().items():
        canaries.absent(f"the command line of {name}", Path(f"/proc/{pid}/cmdline").read_bytes())
        held = canaries.seen_in(Path(f"/proc/{pid}/environ").read_bytes())
        allowed = {"proxy"} if name in ("gateway", "emulator") else {"proxy", "environment", "vault_token"}
        assert {place.split()[0] for place in held} <= allowed, name


def test_no_file_holds_them(planted: Broker, canaries: Canaries) -> None:
    """While it runs, after kill -9 of everything, and after the next start."""
    look_at_files(planted, canaries)
    for name in ("gateway", "control"):
        planted.wait_replaced(name, planted.kill(name, signal.SIGSEGV))  # type: ignore[arg-type]
    look_at_files(planted, canaries)
    assert planted.stop() == 0
    look_at_files(planted, canaries)


def look_at_files(broker: Broker, canaries: Canaries) -> None:
    looked = set()
    for path in [*broker.data.rglob("*"), broker.out]:
        if not path.is_file() or path.is_socket():
            continue
        data = path.read_bytes()
        looked.add(path.name)
        if path.name == "admin.token":
            data = data.replace(broker_token(broker), b"")
        if path == broker.out:  # the first start shows the demo key, once
            assert data.count(broker.demo_key.encode()) <= 3
            data = data.replace(broker.demo_key.encode(), b"")
        canaries.absent(str(path), data)
    assert {"secrets.db", "directory.db", "audit.db", "audit.jsonl", "ledger.db", "out.txt"} <= looked
    assert any(name.startswith("journal-") for name in looked)


def broker_token(broker: Broker) -> bytes:
    return broker.admin_token.encode()


def test_no_repr_shows_them() -> None:
    secret = canary("repr")
    view = KeyView(id="k", name="", team="", policy={}, tags=(), state="active", expires_at=None, overlap_until=None)
    shown = [
        Secret(secret),
        Lease("id", 1, Secret(secret), 0, 0),
        SecretPut(address="openai/*/api_key/*/*", value=secret),
        SecretShown(id="sec_x", value=secret),
        KeyMinted(key=view, text=secret),
        ObservedSeal(value=secret),
        Presented(Secret(secret), b""),
    ]
    for value in shown:
        for text in (repr(value), str(value), f"{value}", repr([value]), f"{value!r:>20}"):
            assert secret not in text
    with contextlib.suppress(TypeError):
        assert secret not in json.dumps(shown[0], default=str)


@pytest.mark.parametrize(
    "config",
    [
        {"providers": {"mine": {"dialect": "openai", "base_url": "https://user:{}@host/v1"}}},
        {"providers": {"mine": {"dialect": "openai", "base_url": "https://host/v1?key={}"}}},
        {"providers": {"mine": {"dialect": "openai", "base_url": "https://host/v1", "api_key": "{}"}}},
        {"providers": {"mine": {"dialect": "openai", "base_url": "https://host", "headers": {"authorization": "{}"}}}},
        {"providers": "{}"},
        {"listen": {"data": {"port": "{}"}}},
    ],
)
def test_a_secret_in_the_wrong_place_of_the_configuration_is_not_repeated(
    make_broker: Callable[..., Broker], config: dict[str, Any]
) -> None:
    secret = canary("config")
    broker = make_broker(config=json.loads(json.dumps(config).replace("{}", secret)))
    where = ("--config", str(broker.config_file), "--data", str(broker.data))
    for done in (broker.cli("check", check=False), broker.cli("up", *where, check=False)):
        assert done.returncode != 0
        for form in forms(secret).values():
            assert form not in (done.stdout + done.stderr).encode()

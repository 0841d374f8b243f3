"""Tokens end to end: real processes, the official SDK with a callable, real issuers, control killed meanwhile."""

import base64
import json
import re
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import oidc_provider_mock
import pytest
from openai import AsyncOpenAI, OpenAI

from bursar.client import TokenSource, environment_key, file_subject, github_subject
from bursar.client.exchange import GRANT
from bursar.client.httpx_auth import BursarAuth
from tests.control.issuers import jwk, mint, rsa_key
from tests.e2e.broker import Broker
from tests.e2e.tenants import Tenants

MODEL = "gpt-4o-mini"
ASK: Any = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 20}
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"


class Issuer:
    """An issuer on this machine with a discovery document and RSA keys; `minted` makes a token as a CI would."""

    def __init__(self) -> None:
        pages = self._pages

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                page = pages(self.path, dict(self.headers))
                self.send_response(200 if page is not None else 404)
                self.end_headers()
                self.wfile.write(json.dumps(page).encode())

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def _pages(self, path: str, headers: dict[str, str]) -> Any:
        parts = urlsplit(path)
        if parts.path == "/.well-known/openid-configuration":
            return {"issuer": self.url, "jwks_uri": f"{self.url}/keys"}
        if parts.path == "/keys":
            return {"keys": [jwk(rsa_key(), "k1", use="sig")]}
        if parts.path == "/job" and headers.get("authorization") == "Bearer of-the-job":
            return {"value": self.minted(parse_qs(parts.query)["audience"][0])}
        return None

    def minted(self, audience: str, **changes: Any) -> str:
        now = int(time.time())
        claims = {"iss": self.url, "aud": audience, "sub": "repo:octo/app:ref:refs/heads/main", "iat": now}
        claims |= {"exp": now + 300, "jti": f"j{time.monotonic_ns()}", "repository": "octo/app"}
        return mint(claims | changes)

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    made = Issuer()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    made = Broker(tmp_path_factory.mktemp("tokens"), config={"tokens": {"http_loopback": True}})
    yield made.start()
    made.close()


@pytest.fixture(scope="module")
def tenants(here: Broker) -> Tenants:
    return Tenants(here)


def key_source(here: Broker, key: str, **more: Any) -> TokenSource:
    return TokenSource(here.url, environment_key("K", {"K": key}), **more)


def call(here: Broker, token: str, **changes: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {token}"}
    return httpx.post(f"{here.url}/v1/chat/completions", headers=headers, json=ASK | changes, timeout=20)


def test_the_openai_sdk_asks_for_its_key(here: Broker, tenants: Tenants) -> None:
    source = key_source(here, tenants.key().text, scope=f"model:{MODEL} caller:sdk")
    with OpenAI(base_url=f"{here.url}/v1", api_key=source.api_key, max_retries=0) as client:
        for _ in range(2):
            assert client.chat.completions.create(**ASK).usage is not None
        assert client.chat.completions.create(**ASK, stream=True).response.status_code == 200


async def test_the_async_sdk_too(here: Broker, tenants: Tenants) -> None:
    source = key_source(here, tenants.key().text)
    async with AsyncOpenAI(base_url=f"{here.url}/v1", api_key=source.async_api_key, max_retries=0) as client:
        assert (await client.chat.completions.create(**ASK)).usage is not None


def test_httpx_sends_it_and_renews_one_that_was_revoked(here: Broker, tenants: Tenants) -> None:
    source = key_source(here, tenants.key().text)
    with httpx.Client(auth=BursarAuth(source), base_url=here.url, timeout=20) as client:
        assert client.post("/v1/chat/completions", json=ASK).status_code == 200
        first = source.api_key()
        assert httpx.post(f"{here.url}/oauth/revoke", data={"token": first}).status_code == 200
        assert call(here, first).json()["error"]["code"] == "token_revoked"
        assert client.post("/v1/chat/completions", json=ASK).status_code == 200


async def test_the_async_client_of_httpx_too(here: Broker, tenants: Tenants) -> None:
    source = key_source(here, tenants.key().text)
    async with httpx.AsyncClient(auth=BursarAuth(source), base_url=here.url, timeout=20) as client:
        async with httpx.AsyncClient() as bare:
            await bare.post(f"{here.url}/oauth/revoke", data={"token": await source.async_api_key()})
        assert (await client.post("/v1/chat/completions", json=ASK)).status_code == 200


def test_a_job_becomes_a_token_and_dies_with_its_rule(here: Broker, tenants: Tenants, issuer: Issuer) -> None:
    team = tenants.team()
    add = ("trust", "add", "deploy", "--team", team, "--kind", "github", "--issuer", issuer.url)
    here.cli(*add, "--match", "repository=octo/app", "--set", f"models={MODEL}", "--life", "5m")
    env = {"ACTIONS_ID_TOKEN_REQUEST_URL": f"{issuer.url}/job?x=1", "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "of-the-job"}
    source = TokenSource(here.url, github_subject(here.url, env))
    token = source.token()
    assert call(here, token.text).status_code == 200
    assert call(here, token.text, model="gpt-4o").json()["error"]["code"] == "model_not_allowed"
    here.cli("trust", "disable", "deploy")
    assert call(here, token.text).json()["error"]["code"] == "key_disabled"
    here.cli("trust", "enable", "deploy")
    assert call(here, token.text).status_code == 200
    here.cli("trust", "remove", "deploy")
    assert call(here, token.text).json()["error"]["code"] == "token_revoked"


def test_the_test_of_a_token_says_why(here: Broker, tenants: Tenants, issuer: Issuer, tmp_path: Path) -> None:
    add = ("trust", "add", "why", "--team", tenants.team(), "--issuer", issuer.url)
    here.cli(*add, "--match", "repository=octo/app", "--match", "environment=prod")
    file = tmp_path / "token"
    file.write_text(issuer.minted(here.url) + "\n")
    tested = here.cli_json("trust", "test", str(file))
    verdict = next(rule for rule in tested["rules"] if rule["rule"] == "why")
    assert (verdict["fits"], verdict["why"]) == (False, "environment: the token has no such claim")
    assert tested["claims"]["repository"] == "octo/app"
    shown = here.cli("trust", "test", str(file)).stdout
    assert "subject_not_trusted" in shown
    assert file.read_text().strip() not in shown
    here.cli("trust", "remove", "why")


def test_an_identity_of_another_providers_making(here: Broker, tenants: Tenants) -> None:
    """`oidc-provider-mock`: its discovery, its keys, an ID token by the authorization code flow."""
    with oidc_provider_mock.run_server_in_thread() as server:
        url = f"http://localhost:{server.server_port}"
        add = ("trust", "add", "people", "--team", tenants.team(), "--issuer", url, "--audience", "app")
        here.cli(*add, "--match", "sub=alice@example.org")
        ask = {"client_id": "app", "response_type": "code", "scope": "openid", "redirect_uri": "https://app.example/cb"}
        with httpx.Client(base_url=url) as browser:
            back = browser.post("/oauth2/authorize", params=ask, data={"sub": "alice@example.org"})
            code = parse_qs(urlsplit(back.headers["location"]).query)["code"][0]
            form = {"grant_type": "authorization_code", "code": code, "redirect_uri": ask["redirect_uri"]}
            told = browser.post("/oauth2/token", data=form, auth=("app", "secret")).json()
        source = TokenSource(here.url, lambda: str(told["id_token"]))
        assert call(here, source.api_key()).status_code == 200
    here.cli("trust", "remove", "people")


def test_tokens_go_on_working_while_control_is_away(here: Broker, tenants: Tenants) -> None:
    key = tenants.key().text
    used, unused = key_source(here, key).api_key(), key_source(here, key).api_key()
    assert call(here, used).status_code == 200
    pid = here.pids()["control"]
    here.kill("control", signal.SIGSTOP)
    try:
        assert call(here, used).status_code == 200
        assert call(here, unused).status_code == 200
    finally:
        here.kill("control", signal.SIGCONT)
    assert here.pids()["control"] == pid


def test_usage_tells_keys_from_tokens(here: Broker, tenants: Tenants) -> None:
    key = tenants.key()
    source = key_source(here, key.text, scope="budget_usd:0.10 caller:share")
    for credential in (key.text, source.api_key(), source.api_key(), source.api_key()):
        assert call(here, credential).status_code == 200
    deadline = time.monotonic() + 10
    rows: dict[str, Any] = {}
    while time.monotonic() < deadline and len(rows) < 2:
        lines = here.cli_json("usage", "--by", "credential")
        rows = {line["group"]: line["attempts"] for line in lines if line["group"].startswith(f"{key.team}/")}
    assert rows == {f"{key.team}/key": 1, f"{key.team}/token": 3}
    shown = here.cli("usage", "--by", "credential").stdout
    assert re.search(rf"{key.team}\s+token\s+3\s+75\.0 %", shown), shown


def test_a_token_on_stdout_and_one_kept_in_a_file(here: Broker, tenants: Tenants, tmp_path: Path) -> None:
    key, file = tenants.key().text, tmp_path / "token"
    env = {**here.env, "BURSAR_API_KEY": key, "BURSAR_URL": here.url}
    once = subprocess.run(here.command("token", "--model", MODEL), env=env, capture_output=True, text=True, check=True)
    assert call(here, once.stdout.strip()).status_code == 200
    assert once.stderr == ""
    watching = subprocess.Popen(
        here.command("token", "--watch", str(file), "--budget", "$1"), env=env, stderr=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 20
        while not file.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        text = file.read_text().strip()
        assert call(here, text).status_code == 200
    finally:
        watching.send_signal(signal.SIGTERM)
        _, told = watching.communicate(timeout=20)
    assert watching.returncode == 0
    assert "wrote a token for 900 s" in told
    assert text not in told
    assert key not in told


@pytest.mark.parametrize(
    ("arguments", "changes", "code", "word"),
    [
        ((), {"BURSAR_API_KEY": "bsr_nonsense"}, 1, "key_invalid"),
        ((), {"BURSAR_API_KEY": ""}, 1, "subject_missing"),
        (("--subject-file", "/nonexistent"), {}, 1, "subject_missing"),
        (("--github",), {}, 1, "subject_missing"),
        (("--model", "gpt-4o", "--max-tokens", "5", "--url", "http://127.0.0.1:9"), {}, 3, "not_reachable"),
        (("--caller", "a b"), {}, 1, "scope_invalid"),
        (("--subject-env", "A", "--subject-file", "B"), {}, 2, "failed"),
    ],
)
def test_what_is_wrong_is_said(
    here: Broker, arguments: tuple[str, ...], changes: dict[str, str], code: int, word: str
) -> None:
    env = {**here.env, "BURSAR_API_KEY": here.demo_key, "BURSAR_URL": here.url, **changes}
    done = subprocess.run(
        here.command("token", *arguments, "--json"), env=env, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (code, "")
    assert json.loads(done.stderr)["code"] == word


def test_the_signing_key_is_rotated_under_load(here: Broker, tenants: Tenants, tmp_path: Path) -> None:
    key = tenants.key().text
    before = key_source(here, key).api_key()
    rotated = here.cli_json("tokens", "rotate-signing-key")
    assert [k["state"] for k in rotated].count("signs") == 1
    assert call(here, before).status_code == 200
    assert call(here, key_source(here, key).api_key()).status_code == 200
    here.cli("tokens", "jwks", "--out", str(tmp_path / "jwks.json"))
    exported = json.loads((tmp_path / "jwks.json").read_text())
    assert exported == httpx.get(f"{here.url}/oauth/jwks").json()
    here.cli("tokens", "rotate-signing-key", "--at-once", "--yes")
    assert call(here, before).json()["error"]["code"] == "token_revoked"  # also one that was remembered


def test_a_token_is_revoked_by_its_id(here: Broker, tenants: Tenants) -> None:
    token = key_source(here, tenants.key().text).api_key()
    jti = json.loads(_decoded(token.split(".")[1]))["jti"]
    here.cli("tokens", "revoke", jti)
    assert call(here, token).json()["error"]["code"] == "token_revoked"
    assert here.cli("tokens", "revoke", token, check=False).returncode == 2


def test_no_token_is_anywhere_but_in_answers(here: Broker, tenants: Tenants, issuer: Issuer) -> None:
    add = ("trust", "add", "canary", "--team", tenants.team(), "--issuer", issuer.url)
    here.cli(*add, "--match", "repository=octo/app", "--single-use")
    subject = issuer.minted(here.url)
    form = {"grant_type": GRANT, "subject_token_type": ACCESS_TOKEN, "subject_token": subject}
    token = httpx.post(f"{here.url}/oauth/token", data=form).json()["access_token"]
    answers = [
        httpx.post(f"{here.url}/oauth/token", data=form).text,  # replayed
        httpx.post(f"{here.url}/oauth/token", data=form | {"scope": "nonsense"}).text,
        httpx.post(f"{here.url}/oauth/introspect", data={"token": token}).text,
        call(here, token + "x").text,
        call(here, token[:-3] + "AAA").text,
        call(here, token, model="no-such-model").text,
    ]
    assert call(here, token).status_code == 200
    httpx.post(f"{here.url}/oauth/revoke", data={"token": token})
    answers.append(call(here, token).text)
    time.sleep(1.5)
    answers += [here.printed(), here.metrics(), here.admin("GET", "/v1/admin/audit").text]
    answers += [here.admin("GET", "/v1/admin/trust").text]
    files = [path for path in here.data.rglob("*") if path.is_file() and path.suffix != ".key"]
    assert len(files) > 5
    parts = [part.encode() for text in (subject, token) for part in (text.split(".")[2], text.split(".")[1])]
    for part in parts:
        assert not [answer for answer in answers if part.decode() in answer]
        assert not [file for file in files if part in file.read_bytes()]
    here.cli("trust", "remove", "canary")


def test_a_subject_in_a_file_is_read_anew(here: Broker, tenants: Tenants, issuer: Issuer, tmp_path: Path) -> None:
    add = ("trust", "add", "pod", "--team", tenants.team(), "--kind", "kubernetes", "--issuer", issuer.url)
    here.cli(*add, "--match", "kubernetes.io/namespace=shop", "--single-use")
    file = tmp_path / "projected"
    pod = {"kubernetes.io": {"namespace": "shop"}, "sub": "system:serviceaccount:shop:web"}
    source = TokenSource(here.url, file_subject(file))
    for _ in range(2):  # as the kubelet does it
        file.write_text(issuer.minted(here.url, **pod))
        assert call(here, source.renew().text).status_code == 200
    here.cli("trust", "remove", "pod")


def _decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "==") if part else b""

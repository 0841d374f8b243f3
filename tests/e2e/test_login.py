"""`bursar login` end to end: a real node, `oidc-provider-mock` as the issuer, an HTTP client as the browser."""

import json
import os
import re
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import oidc_provider_mock
import pytest

from tests.e2e.broker import Broker

SECRET = "canary-client-secret"
USERS = (("ann@example.org", ["platform"]), ("eve@example.org", ["visitors"]), ("root@example.org", ["bursar-admins"]))


@pytest.fixture(scope="module")
def issuer() -> Iterator[str]:
    people = [oidc_provider_mock.User(sub=sub, claims={"groups": groups}) for sub, groups in USERS]
    with oidc_provider_mock.run_server_in_thread(user_claims=people) as server:
        yield f"http://localhost:{server.server_port}"


@pytest.fixture(scope="module")
def here(issuer: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    oidc = {"issuer": issuer, "client_id": "bursar", "client_secret_env": "LOGIN_CLIENT", "session": "1h"}
    roles = {"bursar-admins": "admin", "platform": "operator"}
    config = {"admin": {"oidc": {**oidc, "roles": roles}}, "tokens": {"http_loopback": True}}
    broker = Broker(tmp_path_factory.mktemp("login"), config=config, env={"LOGIN_CLIENT": SECRET})
    try:
        yield broker.start()
    finally:
        broker.close()


class Somebody:
    """A user with a configuration folder of his own and no data folder of a node."""

    def __init__(self, broker: Broker, folder: Path) -> None:
        self.broker = broker
        self.home = folder / "home"
        self.seen: list[str] = []  # codes and tickets that went through the browser
        away = {"BURSAR_DATA": str(folder / "nowhere"), "BURSAR_ADMIN_URL": broker.admin_url}
        self.env = {**broker.env, **away, "XDG_CONFIG_HOME": str(self.home)}

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = self.broker.command(*arguments)
        return subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=60, check=False)

    @contextmanager
    def beginning(self) -> Iterator[tuple[subprocess.Popen[str], str]]:
        """`bursar login` while it waits, and the address that it prints."""
        command = self.broker.command("login", "--no-browser", "--wait", "60", "--json")
        with subprocess.Popen(
            command, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as waiting:
            try:
                assert waiting.stderr is not None
                assert "browser" in waiting.stderr.readline()
                yield waiting, waiting.stderr.readline().strip()
            finally:
                waiting.kill()

    def login(self, name: str, action: str = "") -> tuple[int, dict[str, Any]]:
        """Exit code and what was told: on stdout when let in, on stderr when refused."""
        with self.beginning() as (waiting, url), httpx.Client(timeout=20) as browser:
            page = browser.get(url)
            assert page.status_code == 302, page.text
            form = {"sub": name, **({"action": action} if action else {})}
            back = browser.post(page.headers["location"], data=form)
            answer = back.headers["location"]
            if "state=" not in answer:  # the issuer at hand forgets it in an error, against RFC 6749 §4.1.2.1
                answer += f"&state={parse_qs(urlsplit(page.headers['location']).query)['state'][0]}"
            end = browser.get(answer)
            assert end.status_code == 302, end.text
            assert httpx.get(re.sub(r"/[^/]*\?", "/other?", end.headers["location"])).status_code == 404
            assert "can be closed" in browser.get(end.headers["location"]).text
            for place in (back, end):
                query = parse_qs(urlsplit(place.headers["location"]).query)
                self.seen += [value for key, values in query.items() if key != "error" for value in values]
            again = browser.get(answer)
            assert again.json()["code"] == "login_unknown"
            out, err = waiting.communicate(timeout=30)
        return waiting.returncode, json.loads(out or err)


@pytest.fixture
def somebody(here: Broker, tmp_path: Path) -> Somebody:
    return Somebody(here, tmp_path)


def test_a_person_logs_in_works_and_logs_out(here: Broker, somebody: Somebody) -> None:
    code, told = somebody.login("ann@example.org")
    assert (code, told["actor"], told["role"]) == (0, "oidc:ann@example.org", "operator")
    assert "text" not in told
    kept = Path(told["file"])
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    token = json.loads(kept.read_text())["text"]
    shown = json.loads(somebody.cli("whoami", "--json").stdout)
    assert (shown["actor"], shown["session"]) == ("oidc:ann@example.org", told["session"])
    refused = somebody.cli("admins", "list")
    assert (refused.returncode, "role_not_allowed" in refused.stderr) == (1, True)
    assert told["session"] in here.cli("sessions", "list").stdout
    assert somebody.cli("logout").returncode == 0
    assert not kept.exists()
    gone = httpx.get(f"{here.admin_url}/v1/admin/whoami", headers={"authorization": f"Bearer {token}"})
    assert gone.json()["code"] == "admin_token_invalid"
    assert somebody.cli("whoami").returncode == 3
    told_of = here.cli_json("audit", "search", "--act", "login.*")
    assert {record["action"] for record in told_of} >= {"login.granted", "login.ended"}
    nothing_of(here, [*somebody.seen, token])


def test_who_has_no_role_is_told_so_and_recorded(here: Broker, somebody: Somebody) -> None:
    code, told = somebody.login("eve@example.org")
    assert (code, told["code"]) == (1, "login_no_role")
    assert not (somebody.home / "bursar").exists()
    refused = here.cli_json("audit", "search", "--act", "login.refused")
    assert "login_no_role" in {record["facts"]["word"] for record in refused}
    nothing_of(here, somebody.seen)


def test_a_refusal_at_the_issuer_reaches_the_terminal(here: Broker, somebody: Somebody) -> None:
    code, told = somebody.login("ann@example.org", action="deny")
    assert (code, told["code"]) == (1, "login_denied")
    nothing_of(here, somebody.seen)


def test_another_browser_cannot_bring_the_answer(somebody: Somebody) -> None:
    with somebody.beginning() as (_, url), httpx.Client(timeout=20) as browser:
        page = browser.get(url)
        back = browser.post(page.headers["location"], data={"sub": "root@example.org"})
        other = httpx.get(back.headers["location"], timeout=20)
        assert other.json()["code"] == "login_unknown"
        assert httpx.head(back.headers["location"], timeout=20).status_code == 405  # a look uses nothing up
        assert browser.get(back.headers["location"]).status_code == 302


def test_the_clients_secret_is_not_given_to_the_gateway(here: Broker) -> None:
    pids = here.pids()
    assert SECRET.encode() in Path(f"/proc/{pids['control']}/environ").read_bytes()
    assert SECRET.encode() not in Path(f"/proc/{pids['gateway']}/environ").read_bytes()


def test_an_admin_ends_a_session(here: Broker, somebody: Somebody) -> None:
    code, told = somebody.login("root@example.org")
    assert (code, told["role"]) == (0, "admin")
    assert somebody.cli("admins", "list").returncode == 0
    here.cli("sessions", "end", told["session"])
    ended = somebody.cli("whoami")
    assert (ended.returncode, "admin_token_invalid" in ended.stderr) == (1, True)
    assert here.cli("sessions", "end", told["session"], check=False).returncode == 1


def test_a_node_without_an_issuer_says_so(make_broker: Any, tmp_path: Path) -> None:
    broker = make_broker().start()
    told = httpx.get(f"{broker.admin_url}/login", timeout=20)
    assert (told.status_code, told.json()["code"]) == (404, "login_off")
    foreign = httpx.get(f"{broker.admin_url}/login", headers={"host": "evil.example"}, timeout=20)
    assert foreign.json()["code"] == "host_not_allowed"


def nothing_of(broker: Broker, secrets: list[str]) -> None:
    """Neither in what was printed nor in any file of the node; the client's secret neither."""
    assert secrets
    texts = [broker.printed().encode()]
    for folder, _, files in os.walk(broker.data):
        texts += [path.read_bytes() for name in files if (path := Path(folder) / name).is_file()]
    for secret in [*secrets, SECRET]:
        assert not any(secret.encode() in text for text in texts)

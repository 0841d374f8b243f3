"""A node that hears nothing of the directory and still reaches the money refuses what was revoked elsewhere."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from bursar.client.exchange import GRANT
from tests.e2e.broker import Broker
from tests.e2e.tenants import Tenants
from tests.fleet.harness import Fleet

ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with Fleet(tmp_path, ("a", "b"), {"tokens": {"issuer": "https://bursar.test"}}) as running:
        running.start()
        yield running


def token_of(node: Broker, key: str) -> str:
    form = {"grant_type": GRANT, "subject_token": key, "subject_token_type": ACCESS_TOKEN}
    answer = httpx.post(f"{node.url}/oauth/token", data=form, timeout=20)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["access_token"])


def test_a_token_revoked_on_one_is_refused_by_a_node_that_hears_nothing_of_it(fleet: Fleet) -> None:
    a, b = fleet.nodes
    key = Tenants(a).key(budget={"limit_usd": "1.00"})
    token, other = token_of(a, key.text), token_of(a, key.text)
    for text in (token, other, key.text):
        fleet.calls_until(b, text, lambda answer: answer.status_code == 200, 30)
    deaf = b.kill("control", signal.SIGSTOP)  # what follows the directory, by NOTIFY and by asking
    try:
        assert httpx.post(f"{a.url}/oauth/revoke", data={"token": token}, timeout=20).status_code == 200
        answer = fleet.call(b, token)
        assert (answer.status_code, answer.headers["x-bursar-word"]) == (401, "token_revoked")
        assert fleet.call(b, other).status_code == 200
        assert fleet.call(b, key.text).status_code == 200
        assert fleet.call(a, token).headers["x-bursar-word"] == "token_revoked"
    finally:
        os.kill(deaf, signal.SIGCONT)
    assert fleet.call(b, token).headers["x-bursar-word"] == "token_revoked"

"""`bursar adopt` against a running broker: the key that was sealed serves the key that was made, and both go."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from bursar.providers.emulator.bill import digest
from tests.e2e.broker import Broker
from tests.providers.emulated import Emulated

KEY = "made-up-provider-key-0123456789"
BODY = {"model": "own-model", "max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[Emulated]:
    running = Emulated(tmp_path)
    yield running
    running.stop()


def test_from_a_file_to_a_call_and_back(make_broker: Callable[..., Broker], upstream: Emulated, tmp_path: Path) -> None:
    own = {
        "dialect": "openai",
        "base_url": f"{upstream.url}/v1",
        "models": ["own-model"],
        "deployments": {"own-model": "gpt-4o-mini"},
        "prices": "openai",
        "allow_private": True,
    }
    broker = make_broker(config={"providers": {"own": own}}).start()
    file = tmp_path / "key"
    file.write_text(KEY + "\n")
    words = ("adopt", "search", "--provider", "own", "--from-file", str(file), "--try", "own-model", "--yes")
    told = broker.cli_json(*words)
    assert told["tried"]["cost_usd"].startswith("$0.0")
    assert told["base_url"] == f"{broker.url}/v1"
    assert told["metrics"] == broker.metrics_url
    headers = {"authorization": f"Bearer {told['key']['text']}"}
    answer = httpx.post(f"{told['base_url']}/chat/completions", json=BODY, headers=headers, timeout=30)
    assert answer.status_code == 200, answer.text
    assert {charge.key for charge in upstream.bill()} == {digest(KEY)}
    demo = {"authorization": f"Bearer {broker.demo_key}"}  # of another team: the adopted key is not for it
    assert httpx.post(f"{told['base_url']}/chat/completions", json=BODY, headers=demo, timeout=30).status_code >= 400
    assert len(upstream.bill()) == 2
    broker.cli(*told["undo"].split()[1:], "--yes")
    assert not [entry for entry in broker.cli_json("secrets", "list") if "/adopted/" in entry["address"]]
    deadline = time.monotonic() + 20  # until the gateway has heard
    while httpx.post(f"{told['base_url']}/chat/completions", json=BODY, headers=headers, timeout=30).status_code != 401:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    everything = b"".join(p.read_bytes() for p in (tmp_path / "broker").rglob("*") if p.is_file())
    assert KEY.encode() not in everything

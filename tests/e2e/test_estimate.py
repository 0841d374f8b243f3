"""`bursar estimate` against a running broker, and that what a gateway learned outlives kill -9."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import httpx

from tests.e2e.broker import Broker

CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Tell me about Rome"}], "max_tokens": 50}


def bursar(broker: Broker, *words: str, body: str = "", key: str = "") -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "BURSAR_API_KEY": key or broker.demo_key, "COLUMNS": "120"}
    env["BURSAR_URL"] = f"http://127.0.0.1:{broker.data_port}"
    command = [sys.executable, "-m", "bursar.app.main", "estimate", *words]
    return subprocess.run(command, env=env, input=body, capture_output=True, text=True, timeout=60, check=False)


def asked(broker: Broker, path: str, body: Any) -> httpx.Response:
    url = f"http://127.0.0.1:{broker.data_port}{path}"
    return httpx.post(url, json=body, headers={"authorization": f"Bearer {broker.demo_key}"}, timeout=30)


def test_the_command_says_what_the_call_does(make_broker: Callable[..., Broker]) -> None:
    broker = make_broker().start()
    shown = bursar(broker, "-", body=json.dumps(CHAT))
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "would run" in shown.stdout
    told = json.loads(bursar(broker, "-", "--json", body=json.dumps(CHAT)).stdout)
    assert told["tokens"]["output"]["ceiling"] == 50
    assert asked(broker, "/v1/chat/completions", CHAT).status_code == 200
    dear = {**CHAT, "max_tokens": 16_000, "n": 120, "model": "gpt-4o"}
    refused = bursar(broker, "-", body=json.dumps(dear))
    assert refused.returncode == 1
    assert "can_never_fit" in refused.stdout
    assert asked(broker, "/v1/chat/completions", dear).json()["error"]["code"] == "can_never_fit"
    claude = json.loads(bursar(broker, "--model", "claude-sonnet-4-6", "--prompt", "Hello", "--json").stdout)
    assert (claude["model"], claude["tokens"]["output"]["ceiling"]) == ("claude-sonnet-4-6", 1024)


def test_bad_input_ends_with_what_to_do(make_broker: Callable[..., Broker]) -> None:
    broker = make_broker().start()
    for words, body, code, word in (
        (["-"], "{", 1, "malformed_request"),
        (["no-such-file"], "", 2, "No such file"),
        ([], "", 2, "--prompt"),
        (["-", "--url", "http://127.0.0.1:1"], "{}", 3, "not_reachable"),
    ):
        done = bursar(broker, *words, body=body)
        assert done.returncode == code, done.stderr
        assert word in done.stderr
    wrong = bursar(broker, "-", body=json.dumps(CHAT), key="bsr_wrong")
    assert (wrong.returncode, "key_invalid" in wrong.stderr) == (1, True)


def test_what_was_learned_outlives_a_crash(make_broker: Callable[..., Broker]) -> None:
    broker = make_broker().start()
    for _ in range(12):
        assert asked(broker, "/v1/chat/completions", CHAT).status_code == 200
    kept = broker.data / "estimates.json"
    deadline = time.monotonic() + 60
    while not kept.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    before = kept.read_bytes()
    broker.wait_replaced("gateway", broker.kill("gateway"))
    broker.wait_ready()
    told = asked(broker, "/v1/estimate", CHAT).json()
    assert told["tokens"]["learned_from"]["output"] >= 1
    assert b"gpt-4o-mini" in before

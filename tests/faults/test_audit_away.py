"""A required sink of the audit that goes away under a running broker: nothing is released, live leases go on."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from tests.e2e.broker import Broker

HELLO = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}
KEY = "hook-" + "k" * 20


class Hook:
    """A receiver that answers while `well` is set and otherwise keeps the caller waiting."""

    def __init__(self) -> None:
        self.well = threading.Event()
        self.well.set()
        self.bodies: list[bytes] = []
        hook = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                hook.well.wait(60)
                hook.bodies.append(body)
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def hook() -> Iterator[Hook]:
    running = Hook()
    yield running
    running.well.set()
    running.server.shutdown()
    running.server.server_close()


def call(broker: Broker) -> httpx.Response:
    headers = {"authorization": f"Bearer {broker.demo_key}"}
    return httpx.post(f"{broker.url}/v1/chat/completions", json=HELLO, headers=headers, timeout=30)


def eventually(what: str, truth: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 40
    while not truth():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def test_nothing_is_released_while_a_required_sink_hangs_and_the_rest_goes_on(
    make_broker: Callable[..., Broker], hook: Hook
) -> None:
    sink = {"name": "hook", "kind": "webhook", "url": hook.url, "allow_private": True, "required": True}
    sink |= {"secret_env": "TEST_HOOK", "timeout": "700ms"}
    broker = make_broker(config={"audit": {"sinks": [sink]}}, env={"TEST_HOOK": KEY}).start()
    assert call(broker).status_code == 200
    hook.well.clear()
    refused = broker.admin("POST", "/v1/admin/owners", json={"name": "Late"})
    assert (refused.status_code, refused.json()["code"]) == (503, "audit_unavailable")
    assert "hook" in refused.json()["detail"]
    began = time.monotonic()
    for _ in range(20):
        assert call(broker).status_code == 200  # the lease is alive
    assert broker.admin("GET", "/v1/admin/status").status_code == 200
    assert 'bursar_audit_sink_up{sink="hook"} 0' in broker.metrics()
    assert time.monotonic() - began < 15
    broker.wait_replaced("gateway", broker.kill("gateway"))
    broker.wait_ready()
    answer = call(broker)  # without a lease
    assert (answer.status_code, answer.headers["x-bursar-word"]) == (503, "audit_unavailable")
    assert broker.admin("GET", "/v1/admin/owners").json()["items"] != []
    hook.well.set()
    eventually("calls are served again", lambda: call(broker).status_code == 200)
    assert broker.admin("POST", "/v1/admin/owners", json={"name": "Late"}).status_code == 201
    assert broker.stop() == 0
    own = (broker.data / "audit.jsonl").read_bytes().splitlines()
    got = b"".join(hook.bodies)
    assert all(line in got for line in own)
    assert KEY.encode() not in got
    assert KEY not in broker.printed()


def test_a_sink_without_its_credential_stops_the_start_with_one_line(make_broker: Callable[..., Broker]) -> None:
    sink = {"name": "hook", "kind": "webhook", "url": "https://siem.example/", "secret_env": "TEST_HOOK"}
    broker = make_broker(config={"audit": {"sinks": [sink]}})
    with pytest.raises(AssertionError, match="TEST_HOOK is not set"):
        broker.start()


def test_retention_takes_what_is_over_at_the_start_and_the_audit_proves(make_broker: Callable[..., Broker]) -> None:
    broker = make_broker().start()
    assert broker.admin("POST", "/v1/admin/owners", json={"name": "Kept"}).status_code == 201
    assert call(broker).status_code == 200
    assert broker.stop() == 0
    config = json.loads(broker.config_file.read_text())
    config["audit"] = {"retention": {"uses": "1ms", "releases": "1ms"}}
    broker.config_file.write_text(json.dumps(config))
    broker.start()
    eventually("retention has run", lambda: broker.cli_json("audit", "search", "--act", "audit.prune") != [])
    eventually("what is over is gone", lambda: broker.cli_json("audit", "search", "--act", "secret.release") == [])
    assert broker.cli_json("audit", "search", "--act", "owner.create", "--actor", "admin") != []
    assert broker.stop() == 0
    proven = broker.cli_json("audit", "verify")
    assert proven["ok"]
    assert proven["pruned"] >= 2

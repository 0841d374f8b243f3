"""A real node puts on record what it decided, and explains it."""

import json
import re
import socket
import sqlite3
import time
from contextlib import closing

import httpx

from bursar.core.decisions import Decision, decode
from tests.e2e.broker import Broker
from tests.e2e.tenants import Tenants

CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "a prompt nobody keeps"}]}


def ask(broker: Broker, key: str, **changes: object) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"}
    return httpx.post(f"{broker.url}/v1/chat/completions", headers=headers, json=CHAT | changes, timeout=10)


def record(broker: Broker, request_id: str, seconds: float = 20) -> Decision:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with closing(sqlite3.connect(f"file:{broker.data}/explain.db?mode=ro", uri=True)) as db:
            found = db.execute("SELECT record FROM decision WHERE request_id = ?", (request_id,)).fetchone()
        if found is not None:
            return decode(found[0])
        time.sleep(0.05)
    raise AssertionError(f"{request_id} is not on record in {seconds} s")


def test_what_was_refused_is_on_record_at_control(broker: Broker) -> None:
    tenants = Tenants(broker)
    poor = tenants.key(budget={"limit_usd": "0.000000000001"})
    answer = ask(broker, poor.text)
    assert answer.json()["error"]["code"] == "can_never_fit"
    found = record(broker, answer.headers["x-bursar-request-id"])
    assert (found.word, found.key_id, found.team_id) == ("can_never_fit", poor.id, poor.team)
    assert found.binding is not None
    assert found.binding.rule == poor.budgets[0]


def test_a_refusal_at_the_door_has_an_id_and_is_on_record(broker: Broker) -> None:
    with socket.create_connection(("127.0.0.1", broker.data_port), timeout=10) as raw:
        raw.sendall(b"GET /v1/models HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n")
        answer = b"".join(iter(lambda: raw.recv(65_536), b"")).decode()
    assert answer.startswith("HTTP/1.1 400")
    (request_id,) = re.findall(r"\r\nx-bursar-request-id: (\S+)\r\n", answer)
    assert json.loads(answer.partition("\r\n\r\n")[2])["bursar"]["request_id"] == request_id
    assert record(broker, request_id).word == "malformed_request"


def test_an_ordinary_call_is_on_record_as_well(broker: Broker) -> None:
    answer = ask(broker, broker.demo_key)
    assert answer.status_code == 200
    found = record(broker, answer.headers["x-bursar-request-id"])
    assert found.ordinary
    assert found.outcome == "allowed"
    assert found.cost_pico

"""Explanations under faults: control away, a store that cannot be written, kill -9, a flood. Calls never notice."""

import json
import os
import re
import signal
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import httpx

from tests.e2e.broker import Broker
from tests.e2e.tenants import MadeKey, Tenants

CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}
MAKES = Callable[..., Broker]


def ask(broker: Broker, key: str, client: httpx.Client | None = None) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"}
    post = httpx.post if client is None else client.post
    return post(f"{broker.url}/v1/chat/completions", headers=headers, json=CHAT, timeout=20)


def refused(broker: Broker, key: MadeKey) -> str:
    answer = ask(broker, key.text)
    assert answer.json()["error"]["code"] == "model_not_allowed"
    return answer.headers["x-bursar-request-id"]


def kept(broker: Broker) -> set[str]:
    """Ids that are on record."""
    path = broker.data / "explain.db"
    if not path.exists():
        return set()
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        if not db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'decision'").fetchone()[0]:
            return set()  # it is being made
        return {request_id for (request_id,) in db.execute("SELECT request_id FROM decision")}


def until_kept(broker: Broker, wanted: set[str], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not wanted <= kept(broker):
        assert time.monotonic() < deadline, f"missing: {wanted - kept(broker)}"
        time.sleep(0.05)


def metric(broker: Broker, name: str, label: str = "") -> float:
    found = re.findall(rf"^{name}(?:{{[^}}]*{label}[^}}]*}})? ([\d.e+]+)$", broker.metrics(), re.MULTILINE)
    return sum(map(float, found))


def forbidden(broker: Broker) -> MadeKey:
    return Tenants(broker).key({"models": ["gpt-4.1"]})


def test_while_control_stands_still_calls_go_on_and_records_wait(make_broker: MAKES) -> None:
    broker = make_broker().start()
    key = forbidden(broker)
    first = refused(broker, key)
    assert ask(broker, broker.demo_key).status_code == 200  # a provider key is on loan from here on
    until_kept(broker, {first})
    control = broker.pids()["control"]
    os.kill(control, signal.SIGSTOP)
    try:
        meanwhile = {refused(broker, key) for _ in range(5)}
        assert ask(broker, broker.demo_key).status_code == 200
        assert not meanwhile & kept(broker)
    finally:
        os.kill(control, signal.SIGCONT)
    until_kept(broker, meanwhile)


def test_control_killed_and_gateway_killed_lose_no_record_that_was_shipped(make_broker: MAKES) -> None:
    broker = make_broker().start()
    key = forbidden(broker)
    shipped = {refused(broker, key) for _ in range(3)}
    until_kept(broker, shipped)
    broker.wait_replaced("control", broker.kill("control", signal.SIGKILL))
    later = {refused(broker, key)}
    until_kept(broker, shipped | later)
    broker.wait_replaced("gateway", broker.kill("gateway", signal.SIGKILL))
    broker.wait_ready()
    last = {refused(broker, key)}
    until_kept(broker, shipped | later | last)


def test_a_store_that_cannot_be_used_is_told_and_costs_no_call(make_broker: MAKES) -> None:
    broker = make_broker()
    broker.data.mkdir(mode=0o700)
    (broker.data / "explain.db").write_bytes(b"not a database at all " * 400)
    broker.start()
    key = forbidden(broker)
    refused(broker, key)
    assert ask(broker, broker.demo_key).status_code == 200
    deadline = time.monotonic() + 30
    while not metric(broker, "bursar_decisions_lost_total"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    warnings = broker.admin("GET", "/v1/admin/status").json()["warnings"]
    assert any("decisions are not kept: explain.db" in warning for warning in warnings)
    answer = broker.admin("GET", "/v1/admin/decisions")
    assert (answer.status_code, answer.json()["code"]) == (503, "decisions_unavailable")
    (broker.data / "explain.db").unlink()  # as the hint says
    until_kept(broker, {refused(broker, key)})
    status = broker.admin("GET", "/v1/admin/status").json()
    assert not any("decisions" in warning for warning in status["warnings"])


def test_of_a_flood_so_much_is_kept_and_the_rest_is_counted(make_broker: MAKES) -> None:
    broker = make_broker(config={"explain": {"record": {"refused": 3, "in_all": 5}}}).start()
    key = forbidden(broker)
    began = time.monotonic()
    with httpx.Client() as client, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: ask(broker, key.text, client), range(400)))
    assert {answer.status_code for answer in answers} == {403}
    lasted = time.monotonic() - began
    deadline = time.monotonic() + 30
    while (dropped := metric(broker, "bursar_decisions_dropped_total", "flood")) + len(kept(broker)) < 400:
        assert time.monotonic() < deadline, (dropped, len(kept(broker)))
        time.sleep(0.1)
    assert dropped + len(kept(broker)) == 400
    assert len(kept(broker)) <= 3 * (lasted + 3)  # by the second, and the seconds are those of the gateway's own beat
    missing = next(
        a.headers["x-bursar-request-id"] for a in answers if a.headers["x-bursar-request-id"] not in kept(broker)
    )
    told = broker.admin("GET", f"/v1/admin/decisions/{missing}")
    assert told.status_code == 404
    assert f"{int(dropped)} decisions of that time were counted and not recorded" in json.dumps(told.json())

"""A real node puts on record what it decided, and explains it."""

import json
import re
import shlex
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing

import httpx
import pytest

from bursar.core.decisions import Decision, decode
from bursar.core.units import pico_to_usd, usd_to_pico
from tests.e2e.broker import Broker
from tests.e2e.tenants import Tenants

CHAT: dict[str, object] = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "a prompt nobody keeps"}]}


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


# ---- explained -------------------------------------------------------------------------------------------------------


def explained(broker: Broker, request_id: str, *arguments: str) -> str:
    """`bursar explain` as a person sees it."""
    given = [request_id] if request_id else []
    command = broker.command("explain", *given, "--config", str(broker.config_file), *arguments)
    env = {**broker.env, "BURSAR_DATA": str(broker.data), "COLUMNS": "130", "NO_COLOR": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_as_told(broker: Broker, line: str) -> None:
    """A command as it was printed."""
    words = shlex.split(line)
    assert words[0] == "bursar"
    command = [*broker.command(*words[1:]), "--config", str(broker.config_file)]
    env = {**broker.env, "BURSAR_DATA": str(broker.data)}
    subprocess.run(command, capture_output=True, text=True, env=env, timeout=30, check=True)


def until_served(broker: Broker, key: str, **changes: object) -> None:
    deadline = time.monotonic() + 15
    while (answer := ask(broker, key, **changes)).status_code != 200:
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("policy", "budget", "word"),
    [
        ({}, {"limit_usd": "0.000001"}, "can_never_fit"),
        ({"models": ["gpt-4.1"]}, None, "model_not_allowed"),
        ({"max_tokens_cap": 5, "over_max_tokens": "refuse"}, None, "max_tokens_exceeded"),
        ({"max_prompt_chars": 3}, None, "prompt_too_large"),
        ({"user_header": "x-user"}, None, "user_required"),
        ({"networks": ["10.0.0.0/8"]}, None, "network_not_allowed"),
    ],
)
def test_the_command_that_is_told_lifts_the_refusal(
    broker: Broker, policy: dict[str, object], budget: dict[str, object] | None, word: str
) -> None:
    key = Tenants(broker).key(policy, budget)
    answer = ask(broker, key.text, max_tokens=50)
    assert answer.json()["error"]["code"] == word
    request_id = answer.headers["x-bursar-request-id"]
    assert request_id in answer.json()["error"]["message"]  # where to look it up
    said = explained(broker, request_id)
    assert word in said
    told = re.findall(r"^\s+(bursar .*)$", said, re.MULTILINE)
    run_as_told(broker, told[0])
    until_served(broker, key.text, max_tokens=50)


def test_a_key_that_was_switched_off_is_switched_on_as_told(broker: Broker) -> None:
    tenants = Tenants(broker)
    key = tenants.key()
    until_served(broker, key.text)
    tenants.disable(key)
    deadline = time.monotonic() + 15
    while (answer := ask(broker, key.text)).status_code == 200:
        assert time.monotonic() < deadline
    said = explained(broker, answer.headers["x-bursar-request-id"])
    (command,) = re.findall(r"^\s+(bursar keys enable .*)$", said, re.MULTILINE)
    run_as_told(broker, command)
    until_served(broker, key.text)


def test_who_holds_what_in_flight_is_told(broker: Broker) -> None:
    """A slow stream holds the budget; a second call is refused by what it holds."""
    tenants = Tenants(broker)
    script = json.dumps({"output": 40, "chunk_ms": 100})
    slow = CHAT | {"max_tokens": 4000, "stream": True}
    slow["messages"] = [{"role": "user", "content": f"Hello [[emulator {script}]]"}]
    most = tenants.worst_case(slow)
    key = tenants.key(budget={"limit_usd": pico_to_usd(most * 3 // 2)})
    headers = {"authorization": f"Bearer {key.text}"}
    with httpx.stream("POST", f"{broker.url}/v1/chat/completions", headers=headers, json=slow, timeout=20) as stream:
        events = stream.iter_raw()
        next(events)
        answer = ask(broker, key.text, max_tokens=4000)
        assert answer.json()["error"]["code"] == "held_by_requests_in_flight"
        said = json.loads(explained(broker, answer.headers["x-bursar-request-id"], "--json"))
        assert list(events)
    (holder,) = said["holding"]["oldest"]
    assert holder["request"] == stream.headers["x-bursar-request-id"]
    assert (holder["key"], usd_to_pico(holder["held_usd"])) == (key.id, most)
    assert said["holding"]["keys"][0]["calls"] == 1
    assert said["stands"]["budget"] == key.budgets[0]
    assert said["decision"]["binding"] == f"budgets/{key.budgets[0]}"


def test_an_ordinary_call_is_explained_from_the_ledger_where_no_record_is_kept(
    make_broker: Callable[..., Broker],
) -> None:
    broker = make_broker(config={"explain": {"record": {"ordinary": 0}}}).start()
    answer = ask(broker, broker.demo_key)
    said = json.loads(explained(broker, answer.headers["x-bursar-request-id"], "--json"))
    assert not said["recorded"]
    assert said["told"] == "allowed"
    (attempt,) = said["attempts"]
    assert (attempt["state"], attempt["exact"], attempt["outcome"]) == ("POSTED", True, "ok")
    assert float(attempt["cost_usd"]) > 0
    assert said["team_name"]


def test_an_id_that_nobody_knows_is_told_in_clear_words(broker: Broker) -> None:
    command = broker.command("explain", "req_none", "--config", str(broker.config_file))
    env = {**broker.env, "BURSAR_DATA": str(broker.data)}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=30, check=False)
    assert done.returncode == 1
    assert "Nothing is known of 'req_none': records are kept for 7d" in done.stderr


def test_the_newest_refusals_are_listed(broker: Broker) -> None:
    key = Tenants(broker).key({"models": ["gpt-4.1"]})
    answer = ask(broker, key.text)
    record(broker, answer.headers["x-bursar-request-id"])
    listed = explained(broker, "", "--of", f"key/{key.id}")
    assert answer.headers["x-bursar-request-id"] in listed
    assert "model_not_allowed" in listed

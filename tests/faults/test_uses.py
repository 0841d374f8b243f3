"""Uses of a leased provider key reach the audit within ten seconds, each once, whatever dies or leaves meanwhile."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from bursar.control.verify_audit import verify_file
from tests.e2e.broker import Broker
from tests.faults.caller import script
from tests.faults.test_audit_away import HELLO, call, eventually


def recorded(broker: Broker) -> int:
    """Uses on record, each flush counted once."""
    path: Path = broker.data / "audit.jsonl"
    records = [
        json.loads(line)["record"] for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")
    ]
    uses = {(r["facts"]["flush"], r["target"]): r["facts"]["uses"] for r in records if r["action"] == "secret.use"}
    return sum(uses.values())


def calls(broker: Broker, count: int) -> None:
    for _ in range(count):
        assert call(broker).status_code == 200


def test_uses_are_on_record_within_ten_seconds(make_broker: Callable[..., Broker]) -> None:
    broker = make_broker().start()
    calls(broker, 7)
    done = time.monotonic()
    eventually("uses are on record", lambda: recorded(broker) == 7)
    assert time.monotonic() - done < 10
    calls(broker, 2)
    assert broker.stop() == 0
    assert recorded(broker) == 9  # a stop flushes what is left


def test_a_control_that_dies_with_uses_in_hand_gets_them_again(make_broker: Callable[..., Broker]) -> None:
    broker = make_broker().start()
    for round_ in range(1, 4):
        calls(broker, 5)
        time.sleep(1.5 * round_)  # at another place between two flushes each time
        broker.wait_replaced("control", broker.kill("control"))
        calls(broker, 1)
    eventually("uses are on record", lambda: recorded(broker) == 18)
    assert broker.stop() == 0
    assert recorded(broker) == 18
    assert verify_file(broker.data / "audit.jsonl", broker.data / "audit-checkpoints.jsonl").fault == ""


def test_a_gateway_that_dies_loses_no_use_that_was_on_its_way(make_broker: Callable[..., Broker]) -> None:
    broker = make_broker().start()
    calls(broker, 6)
    eventually("uses are on record", lambda: recorded(broker) == 6)
    broker.wait_replaced("gateway", broker.kill("gateway"))
    broker.wait_ready()
    calls(broker, 3)
    eventually("uses are on record", lambda: recorded(broker) == 9)


def test_a_call_that_its_caller_leaves_is_a_use_all_the_same(make_broker: Callable[..., Broker]) -> None:
    broker = make_broker().start()
    headers = {"authorization": f"Bearer {broker.demo_key}"}
    slow = {**HELLO, "messages": [{"role": "user", "content": script(latency_ms=2000)}]}
    calls(broker, 1)
    for _ in range(3):
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{broker.url}/v1/chat/completions", json=slow, headers=headers, timeout=0.3)
    eventually("uses are on record", lambda: recorded(broker) == 4)

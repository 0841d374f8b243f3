"""Backup and restore, rehearsed: yesterday's backup neither revives a revoked key nor reopens a spent budget."""

import json
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.broker import Broker
from tests.e2e.tenants import MadeKey, Tenants

MESSAGE = {"model": "gpt-4o-mini", "max_tokens": 16, "messages": [{"role": "user", "content": "Hello"}]}


def ask(broker: Broker, key: str) -> tuple[int, str]:
    """Status, and the word of a refusal."""
    headers = {"authorization": f"Bearer {key}"}
    told = httpx.post(f"{broker.url}/v1/chat/completions", headers=headers, json=MESSAGE, timeout=20)
    return told.status_code, told.headers.get("x-bursar-word", "")


class Node:
    """A node that keeps a second copy of its audit elsewhere, and its wrapping key too."""

    def __init__(self, make_broker: Callable[..., Broker], tmp_path: Path) -> None:
        self.elsewhere = tmp_path / "elsewhere"
        self.elsewhere.mkdir(mode=0o700)
        self.sink = self.elsewhere / "audit.jsonl"
        self.make_broker = make_broker
        self.settings: dict[str, Any] = {
            "wrapper": {"path": str(self.elsewhere / "wrapping.key")},
            "audit": {"files": [{"path": str(self.sink)}]},
        }
        self.broker = make_broker("first", config=self.settings).start()
        self.tenants = Tenants(self.broker)
        self.backup = tmp_path / "yesterday.backup"

    def elsewhere_node(self, name: str) -> Broker:
        """Another machine, with another sink of its own so that the first one's stays as it was."""
        return self.make_broker(name, config={**self.settings, "audit": {"files": []}})


@pytest.fixture
def node(make_broker: Callable[..., Broker], tmp_path: Path) -> Node:
    return Node(make_broker, tmp_path)


def budget_for(tenants: Tenants, calls: int) -> str:
    """Dollars for so many calls at their worst, and not one more."""
    return f"{tenants.worst_case(MESSAGE) * calls / 10**12:.12f}"


def spend_all(broker: Broker, key: MadeKey) -> None:
    while ask(broker, key.text)[0] == 200:
        pass
    assert ask(broker, key.text) in [(429, "budget_exhausted"), (429, "held_by_requests_in_flight")]


def test_yesterdays_backup_revives_no_revoked_key_and_reopens_no_spent_budget(node: Node) -> None:
    broker, tenants = node.broker, node.tenants
    revoked, kept, rotated = tenants.key(), tenants.key(), tenants.key()
    poor = tenants.key(budget={"limit_usd": budget_for(tenants, 3), "window": {"kind": "lifetime"}})
    assert [ask(broker, key.text)[0] for key in (revoked, kept, rotated, poor)] == [200] * 4
    broker.cli("backup", str(node.backup))

    tenants.disable(revoked)
    tenants.post(f"/keys/{rotated.id}/rotate", overlap_s=0)
    spend_all(broker, poor)
    assert broker.stop() == 0
    spent = tenants_balance(broker, poor)

    again = node.elsewhere_node("again")
    assert "paused" in again.cli("restore", str(node.backup)).stdout
    again.start()
    for key in (revoked, kept, rotated, poor):
        assert ask(again, key.text) == (503, "restore_unacknowledged")
    assert again.cli_json("restore", "status")["paused"] is True
    assert "restored from a backup" in json.dumps(again.cli_json("status")["warnings"])
    again.stop()

    fresh = node.elsewhere_node("fresh")
    replayed = fresh.cli_json("restore", str(node.backup), "--replay", str(node.sink), "--yes")
    assert replayed["released"] is True
    assert {f"key {revoked.id} (disable)", f"key {rotated.id} (rotate)"} == set(replayed["off"])
    fresh.start()
    assert ask(fresh, revoked.text) == (403, "key_disabled")
    assert ask(fresh, rotated.text) == (403, "key_disabled")
    assert ask(fresh, poor.text)[1] in ("budget_exhausted", "held_by_requests_in_flight")
    assert ask(fresh, kept.text)[0] == 200
    assert tenants_balance(fresh, poor) == spent
    fresh.stop()
    assert fresh.cli("ledger", "verify").returncode == 0
    assert fresh.cli("audit", "verify").returncode == 0


def tenants_balance(broker: Broker, key: MadeKey) -> int:
    """What the ledger, proven from the raw journal, says was posted to the key's budget."""
    told = broker.cli_json("ledger", "verify")
    return int(float(told[f"budget {key.budgets[0]}"].split(" posted")[0]) * 10**12)


def test_a_person_may_acknowledge_what_is_missing(node: Node) -> None:
    broker, key = node.broker, node.tenants.key()
    broker.cli("backup", str(node.backup))
    broker.stop()
    again = node.elsewhere_node("again")
    again.cli("restore", str(node.backup))
    again.start()
    assert ask(again, key.text) == (503, "restore_unacknowledged")
    refused = again.cli("restore", "ack", check=False)
    assert refused.returncode == 2, "nobody was asked"
    again.cli("restore", "ack", "--yes")
    assert again.cli_json("restore", "status")["paused"] is False
    deadline = 100
    while ask(again, key.text)[0] != 200 and (deadline := deadline - 1):
        pass
    assert ask(again, key.text)[0] == 200
    assert "restore.acknowledge" in [record["action"] for record in again.cli_json("audit", "tail", "-n", "50")]
    again.stop()
    again.start()
    assert ask(again, key.text)[0] == 200


def test_a_backup_under_load_is_whole_and_holds_no_key(node: Node) -> None:
    broker, key = node.broker, node.tenants.key()
    stop = threading.Event()
    served: list[int] = []

    def call() -> None:
        while not stop.is_set():
            served.append(ask(broker, key.text)[0])

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for number in range(2):
            broker.cli("backup", f"{node.backup}.{number}")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert set(served) == {200}
    secret = (node.elsewhere / "wrapping.key").read_text().split()[-1]
    for number in range(2):
        path = Path(f"{node.backup}.{number}")
        assert path.stat().st_mode & 0o077 == 0
        assert secret.encode() not in path.read_bytes()
        with tarfile.open(path) as tar:
            assert not {name for name in tar.getnames() if "key" in name or "token" in name}
        copy = node.elsewhere_node(f"copy{number}")
        copy.cli("restore", str(path))
        assert copy.cli("ledger", "verify").returncode == 0
        assert copy.cli("audit", "verify").returncode == 0


def test_a_folder_that_is_not_empty_is_kept_unless_told_and_then_moved_aside(node: Node) -> None:
    broker, key = node.broker, node.tenants.key()
    broker.cli("backup", str(node.backup))
    assert broker.cli("backup", str(node.backup), check=False).returncode == 1, "a backup replaces nothing"
    in_use = broker.cli("restore", str(node.backup), "--replace", "--yes", check=False)
    assert "in use" in in_use.stderr
    broker.stop()
    refused = broker.cli("restore", str(node.backup), check=False)
    assert "folder_not_empty" in refused.stderr
    asked = broker.cli("restore", str(node.backup), "--replace", check=False)
    assert asked.returncode == 2
    assert "Move aside" in asked.stderr
    done = broker.cli_json("restore", str(node.backup), "--replace", "--yes")
    assert (Path(done["moved aside"]) / "audit.db").exists()
    broker.start()
    assert ask(broker, key.text) == (503, "restore_unacknowledged")

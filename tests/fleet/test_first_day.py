"""The first day on a fleet: files, a replay, an import and a promotion are said on one node, and hold on the other."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.broker import Broker
from tests.faults.books import until
from tests.fleet.harness import Fleet

DIRECTORY = """\
managed_by: git
owners: {search: {name: Search}}
teams:
  search:
    name: Search
    owner: search
    policy: {models: ["gpt-4o*"]}
keys: {app: {team: search, name: app}}
budgets: {search-month: {subject: team/search, limit_usd: "5.00"}}
"""
NARROWER = "team/search: {policy: {models: [gpt-4o]}}\n"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with Fleet(tmp_path_factory.mktemp("fleet"), ("a", "b")) as running:
        running.start()
        yield running


def bursar(node: Broker, *words: str, code: int = 0) -> str:
    """The command line, asked at one node."""
    where = ("--config", str(node.config_file), "--data", str(node.data))
    done = subprocess.run(
        node.command(*words, *where), env=node.env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def asked(node: Broker, *words: str) -> Any:
    return json.loads(bursar(node, *words, "--json"))


def test_what_one_node_is_told_holds_on_the_other(fleet: Fleet, tmp_path: Path) -> None:
    a, b = fleet.nodes
    files, keys, changed = tmp_path / "directory.yaml", tmp_path / "keys.jsonl", tmp_path / "changed.yaml"
    files.write_text(DIRECTORY)
    changed.write_text(NARROWER)

    bursar(a, "apply", "-f", str(files), "--keys-to", str(keys), "--yes")
    until(lambda: any(team["id"] == "search" for team in asked(b, "teams", "list")), 30)
    assert asked(b, "plan", "-f", str(files))["steps"] == []
    bursar(b, "teams", "update", "search", "--name", "Other", code=1)  # managed by files, on every node

    key = json.loads(keys.read_text().splitlines()[0])["text"]
    for node in (a, b):
        fleet.calls_until(node, key, lambda answer: answer.status_code == 200, 30)
    until(lambda: _replayed(a, changed) >= 2, 60)  # calls of both nodes are history for either
    until(lambda: _replayed(b, changed) >= 2, 60)

    bursar(b, "demote", "team/search", "--control", "models", "--break-glass", "a look at it first")
    until(lambda: _models_of(a) == "shadow", 30)
    bursar(a, "promote", "team/search", "--control", "models", "--break-glass", "it was looked at")
    until(lambda: _models_of(b) == "enforce", 30)


def test_an_import_on_one_node_is_known_and_taken_back_on_the_other(fleet: Fleet, tmp_path: Path) -> None:
    a, b = fleet.nodes
    file = tmp_path / ".env"
    file.write_text("OPENAI_API_KEY=made-up-key-0123456789ab\nANTHROPIC_API_KEY=made-up-key-ba9876543210\n")
    before = {entry["id"] for entry in asked(a, "secrets", "list")}
    version = asked(a, "import", "dotenv", str(file), "--yes")["version"]
    until(lambda: len({entry["id"] for entry in asked(b, "secrets", "list")} - before) == 2, 30)
    until(lambda: asked(b, "status")["directory_version"] >= version, 30)
    assert len(asked(b, "import", "undo", str(version), "--yes")["addresses"]) == 2
    until(lambda: {entry["id"] for entry in asked(a, "secrets", "list")} == before, 30)


def test_adopted_on_one_node_called_on_the_other(fleet: Fleet, tmp_path: Path) -> None:
    a, b = fleet.nodes
    file = tmp_path / "key"
    file.write_text("OPENAI_API_KEY=made-up-key-aabbccddeeff\n")
    told = asked(a, "adopt", "adopters", "--from-file", str(file), "--yes")
    until(lambda: _known(b, told["key"]["text"]), 30)
    until(lambda: asked(b, "status")["directory_version"] >= told["version"], 30)
    bursar(b, "adopt", "--undo", str(told["version"]), "--yes")
    until(lambda: not _known(a, told["key"]["text"]), 30)


def _replayed(node: Broker, changed: Path) -> int:
    """Calls that the narrower rules would have refused, as this node has it."""
    found = asked(node, "policy", "test", str(changed), "--last", "1h")
    return sum(row["calls"] for row in found["lines"] if row["change"] == "newly refused")


def _models_of(node: Broker) -> str:
    modes = asked(node, "teams", "show", "search")["policy"].get("modes", {})
    return str(modes.get("models", "enforce"))


def _known(node: Broker, key: str) -> bool:
    answer = httpx.get(f"{node.url}/v1/models", headers={"authorization": f"Bearer {key}"}, timeout=30)
    return answer.status_code == 200

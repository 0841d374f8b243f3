"""The official Node SDKs, unmodified, where npm is present: OpenAI, Anthropic and Azure OpenAI.

What they are asked stands in tests/e2e/clients/node. Where `.ci/run` expects npm, a machine without it is a failure.
"""

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.broker import ROOT, Broker
from tests.e2e.tenants import Tenants

pytestmark = pytest.mark.timeout(600)  # the packages are installed once

PROJECT = Path(__file__).parent / "clients/node"
CACHE = ROOT / ".env-node"
EXPECTED = "BURSAR_NPM"  # "expected": set by .ci/run


@pytest.fixture(scope="module")
def installed() -> Path:
    """The folder in which the locked packages lie; installed anew when the lock changes."""
    npm = shutil.which("npm")
    if npm is None:
        assert os.environ.get(EXPECTED) != "expected", "npm is missing although it is expected here"
        pytest.skip("npm is not installed on this machine")
    lock = hashlib.sha256((PROJECT / "package-lock.json").read_bytes()).hexdigest()
    made = CACHE / "made"
    if not made.exists() or made.read_text() != lock:
        shutil.rmtree(CACHE, ignore_errors=True)
        CACHE.mkdir()
        for name in ("package.json", "package-lock.json"):
            shutil.copy(PROJECT / name, CACHE / name)
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(command, cwd=CACHE, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        made.write_text(lock)
    return CACHE


@pytest.fixture(scope="module")
def seen(broker: Broker, installed: Path) -> dict[str, Any]:
    Tenants(broker).post("/deployments", name="chat-prod", model="gpt-4o-mini")
    shutil.copy(PROJECT / "sdks.mjs", installed / "sdks.mjs")
    env = {name: text for name, text in os.environ.items() if not name.startswith(("OPENAI_", "ANTHROPIC_", "AZURE_"))}
    env |= {"BURSAR_URL": broker.url, "BURSAR_KEY": broker.demo_key}
    done = subprocess.run(
        ["node", "sdks.mjs"], cwd=installed, env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_chat_stream_tools_and_refusals(seen: dict[str, Any], provider: str) -> None:
    told = seen[provider]
    assert told["chat"].strip()
    assert told["stream"].strip()
    assert told["tool"] == "weather"
    assert told["usage"]
    assert told["refusal"] == {"class": "AuthenticationError", "status": 401, "code": "key_invalid"}


def test_embeddings(seen: dict[str, Any]) -> None:
    assert seen["openai"]["embeddings"] == [16, 16]


def test_azure(seen: dict[str, Any]) -> None:
    assert seen["azure"]["chat"].strip()
    assert seen["azure"]["model"] == "gpt-4o-mini"
    assert seen["azure"]["refusal"] == {"class": "NotFoundError", "status": 404, "code": "deployment_unknown"}


def test_the_lock_names_no_registry() -> None:
    packages = json.loads((PROJECT / "package-lock.json").read_text())["packages"]
    for name, package in packages.items():
        assert "resolved" not in package, name
        assert not name or package["integrity"].startswith("sha512-"), name

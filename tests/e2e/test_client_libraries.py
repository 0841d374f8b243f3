"""LangChain, LlamaIndex and Pydantic AI, unmodified and in an environment of their own, against Bursar.

What they are asked stands in tests/e2e/clients; each prints what it saw.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.broker import ROOT, Broker
from tests.faults.books import Books

pytestmark = pytest.mark.timeout(900)  # the environment is made once, from 95 packages

SCRIPTS = Path(__file__).parent / "clients"
CHATS = [
    ("langchain", "openai", ("langchain_openai", "OpenAIAuthenticationError")),
    ("langchain", "anthropic", ("langchain_anthropic", "AnthropicAuthenticationError")),
    ("llama_index", "openai", ("openai", "AuthenticationError")),
    ("pydantic_ai", "openai", ("pydantic_ai", "ModelHTTPError")),
    ("pydantic_ai", "anthropic", ("pydantic_ai", "ModelHTTPError")),
]


@pytest.fixture(scope="module")
def interpreter() -> Path:
    """That of the libraries' environment, made first where `make test` has not done it."""
    made = subprocess.run(
        ["make", "-s", ".env-clients/made", f"PYTHON={sys.executable}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    return ROOT / ".env-clients/bin/python"


@pytest.fixture(scope="module")
def seen(broker: Broker, interpreter: Path) -> dict[str, Any]:
    """What each library saw; all run beside one another."""
    env = {name: text for name, text in os.environ.items() if not name.startswith(("OPENAI_", "ANTHROPIC_", "PYTHON"))}
    env |= {"BURSAR_URL": broker.url, "BURSAR_KEY": broker.demo_key, "LANGSMITH_TRACING": "false"}
    libraries = ("langchain", "llama_index", "pydantic_ai")
    running = {
        name: subprocess.Popen(
            [interpreter, SCRIPTS / f"{name}_clients.py"],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in libraries
    }
    found = {}
    for name, process in running.items():
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, f"{name}:\n{err}"
        found[name] = json.loads(out)
    return found


@pytest.mark.parametrize(("library", "provider", "refused"), CHATS)
def test_chat_stream_tools_and_refusals(
    seen: dict[str, Any], library: str, provider: str, refused: tuple[str, str]
) -> None:
    told = seen[library][provider]
    assert told["chat"].strip()
    assert told["stream"].strip()
    assert told["tool"] in ("weather", "Weather")
    assert told["arguments"] == {"city": "text", "days": 7}
    assert min(count for name, count in told["usage"].items() if name.endswith("_tokens")) > 0
    assert (told["refusal"]["module"], told["refusal"]["class"]) == refused, "the library's own class"
    assert "key_invalid" in told["refusal"]["text"]


@pytest.mark.parametrize("library", ["langchain", "llama_index"])
def test_embeddings(seen: dict[str, Any], library: str) -> None:
    assert seen[library]["embeddings"] == [16, 16]


def test_every_call_of_theirs_is_settled_exactly(broker: Broker, seen: dict[str, Any]) -> None:
    assert seen
    calls = len(broker.bill())
    assert calls >= 5 * 3 + 2
    rows = Books(broker.data).settled("", calls)
    assert all(row.exact and row.outcome == "ok" and not row.overage for row in rows)
    assert len(rows) == calls


def test_the_guide_names_the_versions_that_are_tried() -> None:
    told = (ROOT / "docs/clients.md").read_text()
    locks = "".join((ROOT / f"requirements/{name}.lock").read_text() for name in ("test", "clients"))
    node = json.loads((SCRIPTS / "node/package.json").read_text())["dependencies"]
    rows = re.findall(r"^\| .+? \| `(\S+)` (\S+) \|", told, re.MULTILINE)
    assert len(rows) >= 9
    for name, version in rows:
        assert f"\n{name}=={version} " in "\n" + locks or node.get(name) == version, f"{name} {version}"

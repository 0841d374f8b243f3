"""The peers as their packages ship them, each with quick documented settings, in front of the bench's upstream."""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from bench.load import chat_body
from bench.rows import SMALL
from bench.targets import OUT, Target, free_ports, spawn

ENVIRONMENT = Path(__file__).parents[2] / ".env-peers"
_MASTER = "sk-bench-0123456789abcdef0123456789abcdef"  # of the stand alone; nothing real answers to it

_LITELLM = """
model_list:
  - model_name: gpt-4o-mini
    litellm_params: {{model: openai/gpt-4o-mini, api_base: "{upstream}/v1", api_key: sk-bench-not-a-real-key{budget}}}
litellm_settings: {{num_retries: 0}}
"""


def litellm(upstream: str, *, budget_usd: str = "", name: str = "LiteLLM") -> Target:
    """One worker, no database, quiet logs; with a budget for the deployment if one is given."""
    (port,) = free_ports(1)
    budget = f", max_budget: {budget_usd}, budget_duration: 1d" if budget_usd else ""
    config = OUT / f"{name.replace(' ', '-')}.yaml"
    config.write_text(_LITELLM.format(upstream=upstream, budget=budget))
    env = os.environ | {
        "LITELLM_MASTER_KEY": _MASTER,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # its price list from the package, not from the network
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_LOG": "ERROR",
    }
    program = str(ENVIRONMENT / "bin" / "litellm")
    address = ("--host", "127.0.0.1", "--port", str(port), "--telemetry", "False")
    process = spawn(name.replace(" ", "-"), program, "--config", str(config), *address, env=env)
    seconds = _until_answered(process, f"http://127.0.0.1:{port}/health/liveliness")
    url = f"http://127.0.0.1:{port}"
    headers = {"authorization": f"Bearer {_MASTER}"}
    return Target(name, process, url, stream_url=url, headers=headers, facts={"start": f"{seconds:.1f}"})


def portkey(upstream: str) -> Target:
    (port,) = free_ports(1)
    server = ENVIRONMENT / "node_modules/@portkey-ai/gateway/build/start-server.js"
    env = os.environ | {"TRUSTED_CUSTOM_HOSTS": "127.0.0.1", "NODE_ENV": "production"}
    process = spawn("portkey", "node", str(server), "--headless", f"--port={port}", env=env)
    seconds = _until_answered(process, f"http://127.0.0.1:{port}/")
    url = f"http://127.0.0.1:{port}"
    headers = {
        "authorization": "Bearer sk-bench-not-a-real-key",
        "x-portkey-provider": "openai",
        "x-portkey-custom-host": f"{upstream}/v1",
    }
    return Target("Portkey", process, url, stream_url=url, headers=headers, facts={"start": f"{seconds:.1f}"})


def versions() -> dict[str, str]:
    """What was measured, as the packages themselves say."""
    python = str(ENVIRONMENT / "bin" / "python")
    ask = "import importlib.metadata; print(importlib.metadata.version('litellm'))"
    told = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True).stdout.strip()
    package = json.loads((ENVIRONMENT / "node_modules/@portkey-ai/gateway/package.json").read_text())
    node = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    return {"LiteLLM": told, "Portkey": f"{package['version']} on Node {node}", "Python": sys.version.split()[0]}


def warm(target: Target) -> None:
    """A few calls that count for nothing: the first one of a peer may take seconds."""
    headers = target.headers | {"content-type": "application/json"}
    for _ in range(5):
        ask = urllib.request.Request(f"{target.url}/v1/chat/completions", chat_body(SMALL), headers)
        with urllib.request.urlopen(ask, timeout=60) as answer:
            answer.read()


def streams(target: Target) -> bool:
    """Whether it streams at all here: a version of a peer may not get on with a version of its runtime."""
    headers = target.headers | {"content-type": "application/json"}
    ask = urllib.request.Request(f"{target.url}/v1/chat/completions", chat_body(SMALL, stream=True, events=3), headers)
    try:
        with urllib.request.urlopen(ask, timeout=60) as answer:
            return b"data: " in answer.read()
    except urllib.error.HTTPError as error:
        target.facts["streams"] = f"{error.code}"
        return False


def _until_answered(process: subprocess.Popen[bytes], url: str, most: float = 120.0) -> float:
    """Seconds from the command to its first answer, whatever that says."""
    begin = time.monotonic()
    while time.monotonic() - begin < most:
        if process.poll() is not None:
            raise RuntimeError(f"a peer ended at start with {process.returncode}; see its log in {OUT}")
        try:
            with urllib.request.urlopen(url, timeout=2):
                return time.monotonic() - begin
        except urllib.error.HTTPError:
            return time.monotonic() - begin
        except OSError:
            time.sleep(0.05)
    process.kill()
    raise RuntimeError(f"a peer did not answer within {most:.0f} s; see its log in {OUT}")

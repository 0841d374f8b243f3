"""The first minute: a fresh copy of the tree, `make run`, and what it printed pasted; then Ctrl-C."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.broker import ROOT, free_ports

_HOST_ENV = ("BURSAR_", "VIRTUAL_ENV", "PYTHONPATH", "MAKE")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a clone would hold: the tracked files as they stand in the work tree."""
    folder = tmp_path_factory.mktemp("checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in listed.decode().split("\0"):
        source = ROOT / name
        if name and source.is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, folder / name)
    return folder


def bare() -> dict[str, str]:
    """The environment of somebody who has never heard of Bursar, nor of this test environment's programs."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(_HOST_ENV)}
    env = {name: value for name, value in env.items() if not name.endswith("_API_KEY")}
    own = str(Path(sys.executable).parent)
    return {**env, "PATH": os.pathsep.join(place for place in env["PATH"].split(os.pathsep) if place != own)}


@pytest.fixture
def started(checkout: Path) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """`make run` under way, its output piped."""
    ports = free_ports(3)
    env = bare()
    names = ("DATA", "ADMIN", "METRICS")
    env |= {f"BURSAR_LISTEN__{name}__PORT": str(port) for name, port in zip(names, ports, strict=True)}
    process = subprocess.Popen(
        ["make", "run", f"PYTHON={sys.executable}"],
        cwd=checkout,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    yield process, ports
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def banner(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    printed = ""
    for line in process.stdout:
        printed += line
        if "Ctrl-C" in line:
            return printed
    raise AssertionError(f"make run ended without a banner:\n{printed}")


@pytest.mark.timeout(300)
def test_make_run_starts_from_nothing(started: tuple[subprocess.Popen[str], list[int]], checkout: Path) -> None:
    process, ports = started
    printed = banner(process)
    assert str(ports[0]) in printed
    (curl,) = re.findall(r"^(curl .*?[^\\])$", printed, re.MULTILINE | re.DOTALL)
    pasted = subprocess.run(["bash", "-c", curl], capture_output=True, text=True, timeout=60, check=True)
    assert '"choices"' in pasted.stdout
    (snippet,) = re.findall(r"^(from openai .*?^print.*?)$", printed, re.MULTILINE | re.DOTALL)
    answered = subprocess.run([sys.executable, "-c", snippet], capture_output=True, text=True, timeout=60, check=True)
    assert answered.stdout.strip()
    (path,) = re.findall(r"^  (export PATH=.*)$", printed, re.MULTILINE)
    typed = f"{path}; bursar usage --by model --url http://127.0.0.1:{ports[1]}; bursar scan ."
    after = subprocess.run(
        ["bash", "-c", typed], cwd=checkout, env=bare(), capture_output=True, text=True, timeout=60, check=False
    )
    assert "attempts" in after.stdout or "nothing yet" in after.stdout
    assert after.returncode == 0, after.stdout + after.stderr  # the node's own token is no leak
    assert (checkout / "bursar-data").is_dir()
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: make and what it started get it
    process.wait(20)
    assert process.stdout is not None
    assert "Traceback" not in process.stdout.read()


@pytest.mark.timeout(60)
def test_the_second_time_nothing_is_made(started: tuple[subprocess.Popen[str], list[int]]) -> None:
    began = time.monotonic()
    process, _ = started
    printed = banner(process)
    assert "making" not in printed
    assert time.monotonic() - began < 30

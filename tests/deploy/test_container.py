"""The container file, as far as it can be tried without a container: its steps make a Bursar that answers."""

import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import yaml

from tests.e2e.broker import ROOT, free_ports

FOLDER = ROOT / "deploy/container"
FILE = (FOLDER / "Containerfile").read_text()


def lines(word: str) -> list[str]:
    return [line.removeprefix(word).strip() for line in FILE.splitlines() if line.startswith(word + " ")]


def test_it_runs_as_nobody_in_particular_and_keeps_to_the_lock() -> None:
    assert lines("USER") == ["10001"]
    assert "--require-hashes" in FILE
    assert not re.search(r"https?://(?!127\.0\.0\.1)", FILE)


def test_what_is_copied_is_there() -> None:
    for line in lines("COPY"):
        *sources, _ = line.split()
        if not sources[0].startswith("--from"):
            assert all((ROOT / source).exists() for source in sources), line


@pytest.mark.timeout(240)
def test_its_steps_make_a_node_that_answers(tmp_path: Path) -> None:
    """The RUN lines of the first stage, with /bursar and /src as folders of this test."""
    source, made, data = tmp_path / "src", tmp_path / "bursar", tmp_path / "data"
    source.mkdir()
    first_stage = FILE.split("\nFROM ")[0]
    for line in first_stage.splitlines():
        word, _, rest = line.partition(" ")
        if word == "COPY":
            *sources, target = rest.split()
            for name in sources:
                _copy(ROOT / name, source / target if target != "./" else source, folder=len(sources) > 1)
        elif word == "RUN":
            command = rest.replace("/bursar", str(made)).replace("python -m", f"{sys.executable} -m", 1)
            done = subprocess.run(command, shell=True, cwd=source, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr[-2000:]
    config = yaml.safe_load((FOLDER / "bursar.yaml").read_text())
    ports = dict(zip(("data", "admin", "metrics"), free_ports(3), strict=True))
    config["data"] = str(data)
    config["listen"] = {name: {"host": "127.0.0.1", "port": port} for name, port in ports.items()}
    (tmp_path / "bursar.yaml").write_text(yaml.safe_dump(config))
    env = {"PATH": f"{made / 'bin'}:{os.environ['PATH']}", "BURSAR_CONFIG": str(tmp_path / "bursar.yaml")}
    log = (tmp_path / "log").open("wb")
    with subprocess.Popen(["bursar", "up"], env=env, cwd=tmp_path, stdout=log, stderr=log) as node:
        try:
            _until_ready(f"http://127.0.0.1:{ports['data']}/readyz")
            status = subprocess.run(["bursar", "status"], env=env, cwd=tmp_path, capture_output=True, check=False)
            assert status.returncode == 0, status.stderr
        finally:
            node.terminate()
            assert node.wait(60) == 0


def _copy(source: Path, target: Path, *, folder: bool) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        return
    if folder or target.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        target = target / source.name
    shutil.copy(source, target)


def _until_ready(url: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            assert time.monotonic() < deadline, "the node did not become ready"
            time.sleep(0.1)

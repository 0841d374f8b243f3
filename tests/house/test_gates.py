"""The gates of `make check` that are our own: they pass on the tree, and they catch what they are for."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def gate(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / script), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_core_is_pure() -> None:
    done = gate("check_core.py")
    assert done.returncode == 0, done.stdout


def test_sizes_hold() -> None:
    done = gate("check_sizes.py")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "line",
    [
        "import time",
        "import random",
        "from os import path",
        "import socket, json",
        "import bursar.ports",
        "from bursar.gateway import pipeline",
        "when = datetime.datetime.now()",
        "text = open('x').read()",
        "async def decide(): ...",
    ],
)
def test_an_impure_core_is_caught(tmp_path: Path, line: str) -> None:
    (tmp_path / "planted.py").write_text(line + "\n")
    done = gate("check_core.py", str(tmp_path))
    assert done.returncode == 1
    assert "planted.py:1" in done.stdout


def test_a_long_body_is_caught_and_a_docstring_is_not_counted(tmp_path: Path) -> None:
    doc = '    """' + "\n".join(["words"] * 80) + '"""\n'
    (tmp_path / "fits.py").write_text("def f():\n" + doc + "    x = 1\n" * 60)
    assert gate("check_sizes.py", str(tmp_path)).returncode == 0
    (tmp_path / "long.py").write_text("def g():\n" + "    x = 1\n" * 61)
    done = gate("check_sizes.py", str(tmp_path))
    assert done.returncode == 1
    assert "long.py:1: g has a body of 61 lines" in done.stdout


def test_a_long_file_is_caught(tmp_path: Path) -> None:
    (tmp_path / "big.py").write_text("x = 1\n" * 401)
    assert "401 lines" in gate("check_sizes.py", str(tmp_path)).stdout

"""The bench itself: it runs, fails on a broken answer, and its page holds every row."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.system


@pytest.mark.timeout(300)
def test_a_quick_bench_fills_every_row() -> None:
    command = [sys.executable, "-m", "bench", "--quick"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for row in ("F1", "F2", "F3", "F4", "F5", "T"):
        assert f"## {row}:" in done.stdout
    assert "Bursar ÷ nginx" in done.stdout
    assert (ROOT / "bench/out/cpu.svg").read_text().startswith("<svg")

"""The bench itself: it runs, fails on a broken answer, and its page holds every row."""

import subprocess
import sys
from pathlib import Path

import pytest

from bench import targets
from bench.broker import ShippedBroker
from bench.peers.race import BUDGET_USD, CALLERS, race

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
    assert "keys, one of a fleet" in done.stdout
    assert "## F6: a whole request" in done.stdout
    assert (ROOT / "bench/out/cpu.svg").read_text().startswith("<svg")


@pytest.mark.timeout(120)
def test_a_thousand_callers_race_for_a_budget_of_ten_and_it_holds(
    tmp_path: Path,
) -> None:
    targets.OUT.mkdir(parents=True, exist_ok=True)
    upstream = targets.upstream()
    broker = ShippedBroker(tmp_path / "race", upstream.url, {})
    try:
        broker.start(limit_usd=str(BUDGET_USD))
        outcome = race(broker.target(), upstream)
    finally:
        broker.stop()
        upstream.stop()
    assert outcome.spent <= BUDGET_USD
    assert outcome.ran >= 1
    assert sum(outcome.answers.values()) == CALLERS
    assert set(outcome.answers) == {200, 429}

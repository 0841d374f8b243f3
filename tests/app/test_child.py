"""One supervised process: told what it is, heard when it serves, started again with growing patience, ended."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bursar.app.child import Child
from bursar.app.spec import NodeSpec, Ready
from bursar.config import Config

ROOT = Path(__file__).parents[2]
SPEC = NodeSpec(config=Config(), data="/data", node="n1")


@pytest.fixture
def children() -> Iterator[list[Child]]:
    made: list[Child] = []
    yield made
    for child in made:
        child.stop(signal.SIGKILL, 5)


def make(children: list[Child], behaviour: str) -> Child:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    child = Child("restless", ["tests.app.restless", behaviour], env, [])
    children.append(child)
    return child


def await_death(child: Child) -> int:
    for _ in range(2000):
        status = child.died()
        if status is not None:
            return status
        time.sleep(0.005)
    raise AssertionError("it lives")


def test_it_is_told_what_it_is_and_says_when_it_serves(children: list[Child]) -> None:
    child = make(children, "serve")
    child.start(SPEC)
    assert child.pid > 0
    assert child.wait_ready(10) == Ready(name="n1", problem="/data")
    assert child.ready_fd == -1
    assert child.died() is None
    assert child.stop(signal.SIGTERM, 5)
    assert child.pid == 0
    assert child.stop(signal.SIGTERM, 5)  # nothing to stop


def test_one_that_ends_without_a_word_is_not_ready(children: list[Child]) -> None:
    child = make(children, "mute")
    child.start(SPEC)
    assert child.wait_ready(10) is None
    assert await_death(child) == 0


def test_one_that_takes_too_long_is_not_ready(children: list[Child]) -> None:
    child = make(children, "slow")
    child.start(SPEC)
    assert child.wait_ready(0.05) is None


def test_one_that_does_not_end_by_itself_is_killed(children: list[Child]) -> None:
    child = make(children, "stubborn")
    child.start(SPEC)
    assert child.wait_ready(10) is not None
    assert not child.stop(signal.SIGTERM, 0.05)
    assert child.pid == 0


def test_the_first_death_is_forgiven_at_once_further_ones_with_growing_pauses(children: list[Child]) -> None:
    child = make(children, "die")
    pauses = []
    for _ in range(5):
        assert not child.failing
        child.start(None)
        assert await_death(child) == 3
        pauses.append(child.start_at - time.monotonic())
        assert child.died() is None  # told once
    assert pauses[0] <= 0
    assert 0.3 < pauses[1] < pauses[2] < pauses[3] <= pauses[4] <= 5
    assert child.failing


def test_a_death_after_a_life_is_forgiven_at_once(children: list[Child], monkeypatch: pytest.MonkeyPatch) -> None:
    child = make(children, "die")
    child.start(None)
    await_death(child)
    child.start(None)
    child._started -= 60  # it has lived
    await_death(child)
    assert child.start_at <= time.monotonic()
    assert not child.failing


def test_a_signal_is_told_as_one(children: list[Child]) -> None:
    child = make(children, "killed")
    child.start(None)
    assert await_death(child) == -signal.SIGKILL
    child.signal(signal.SIGTERM)  # nobody there: harmless


def test_started_again_it_gets_a_pipe_of_its_own(children: list[Child]) -> None:
    child = make(children, "serve")
    child.start(SPEC)
    os.kill(child.pid, signal.SIGKILL)
    await_death(child)
    child.start(SPEC)
    assert child.wait_ready(10) is not None

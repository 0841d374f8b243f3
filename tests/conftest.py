"""Shared by all tests: a real broker on request. One serves a whole file of tests unless a test wounds it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.broker import Broker


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A running Bursar with the emulator behind it, shared by the tests of one file."""
    running = Broker(tmp_path_factory.mktemp("broker"))
    try:
        yield running.start()
    finally:
        running.close()


@pytest.fixture
def make_broker(tmp_path: Path) -> Iterator[Callable[..., Broker]]:
    """Brokers of a test's own, not yet started; whatever the test leaves running is stopped."""
    made: list[Broker] = []

    def make(name: str = "broker", **settings: Any) -> Broker:
        made.append(Broker(tmp_path / name, **settings))
        return made[-1]

    yield make
    for one in made:
        one.close()

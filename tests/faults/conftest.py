"""A broker whose providers may be slow for a moment only, its tenants, and the two accounts."""

from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from tests.e2e.broker import Broker
from tests.e2e.tenants import Tenants
from tests.faults.books import Books

PATIENCE = {"connect": "2s", "head": "800ms", "first_byte": "2s", "between_bytes": "800ms", "total": "20s"}
IMPATIENT: dict[str, Any] = {
    "providers": {"openai": {"timeouts": PATIENCE}, "anthropic": {"timeouts": PATIENCE}},
    "wire": {"head_timeout": "1s", "body_timeout": "1s"},
    "breaker": {"mode": "off"},  # one fault after the other, and each has to reach its caller
}


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A running Bursar that waits for nobody longer than a second."""
    running = Broker(tmp_path_factory.mktemp("impatient"), config=IMPATIENT)
    try:
        yield running.start()
    finally:
        running.close()


@pytest.fixture(scope="module")
def tenants(impatient: Broker) -> Tenants:
    return Tenants(impatient)


@pytest.fixture(scope="module")
def books(impatient: Broker) -> Books:
    return Books(impatient.data)


@pytest.fixture(scope="module")
def numbers() -> Iterator[int]:
    """Input token counts that no two calls of a file share: by them the two accounts are compared call by call."""
    return count(301)

"""The gateway's own ground, and one running broker for all files of this folder."""

from collections.abc import Iterator

import pytest

from tests.e2e.broker import Broker
from tests.e2e.tenants import Tenants
from tests.faults.books import Books
from tests.gateway.conftest import make_stand

__all__ = ["make_stand"]


@pytest.fixture(scope="package")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A running Bursar with the emulator behind it."""
    running = Broker(tmp_path_factory.mktemp("complaints"))
    try:
        yield running.start()
    finally:
        running.close()


@pytest.fixture(scope="package")
def tenants(broker: Broker) -> Tenants:
    return Tenants(broker)


@pytest.fixture(scope="package")
def books(broker: Broker) -> Books:
    return Books(broker.data)

"""Shared by all tests: a real broker, a real PostgreSQL and a real Redis on request.

A broker serves a whole file of tests unless a test wounds it; the PostgreSQL serves all of them, a database a test.
"""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bursar.core.secret import Secret
from bursar.stores.postgres import Address, Postgres
from tests.e2e.broker import Broker
from tests.postgres import PostgresServer
from tests.redis_server import RedisServer


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


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One PostgreSQL for the whole run. A test that stops it makes its own."""
    server = PostgresServer()
    try:
        yield server.start()
    finally:
        server.close()


@pytest.fixture
def database(postgres_server: PostgresServer) -> str:
    """The URL of an empty database of this test's own."""
    return postgres_server.new_database()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """One Redis for the whole run; who uses it empties it first. A test that wounds it makes its own."""
    server = RedisServer()
    try:
        yield server.start()
    finally:
        server.close()


@pytest.fixture
async def store(database: str) -> AsyncIterator[Postgres]:
    """The way to an empty database; nothing is migrated yet."""
    opened = Postgres(Address(url=Secret(database)))
    yield opened
    await opened.close()

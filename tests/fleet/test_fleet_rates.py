"""A limit of three brokers over one PostgreSQL and one Redis: counted once for all, and shared out where Redis is gone.

Nobody tells the nodes here how many they are (`rates.nodes` stays 1): that comes from the registry of those that live.
"""

from collections.abc import Iterator

import pytest

from tests.e2e.broker import Broker
from tests.e2e.tenants import Tenants
from tests.faults.books import until
from tests.fleet.harness import Fleet
from tests.redis_server import RedisServer


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    server = RedisServer()
    try:
        yield server.start()
    finally:
        server.close()


def granted(fleet: Fleet, key: str, rounds: int) -> list[int]:
    """Of so many calls on each node, taking turns, those that each one let in."""
    counts = [0] * len(fleet.nodes)
    for _ in range(rounds):
        for place, node in enumerate(fleet.nodes):
            answer = fleet.call(node, key)
            assert answer.status_code in (200, 429), answer.text
            counts[place] += answer.status_code == 200
    return counts


def limited_key(fleet: Fleet) -> str:
    """Nine requests an hour, known to every node."""
    limit = {"id": "nine", "unit": "requests", "amount": 9, "per_seconds": 36_000}
    key = Tenants(fleet.nodes[0]).key({"limits": [limit]})
    version = fleet.nodes[0].cli_json("status")["directory_version"]
    for node in fleet.nodes:
        until(lambda node=node: node.cli_json("status")["directory_version"] >= version)  # type: ignore[misc]
    return key.text


def shown(node: Broker, line: str) -> bool:
    return line in node.metrics().splitlines()


def test_a_limit_is_one_for_all_and_without_redis_each_live_node_grants_its_share(
    tmp_path_factory: pytest.TempPathFactory, own_server: RedisServer
) -> None:
    settings = {"rates": {"kind": "redis", "url": own_server.url}}
    with Fleet(tmp_path_factory.mktemp("fleet-rates"), settings=settings) as fleet:
        fleet.start()
        for node in fleet.nodes:
            until(lambda node=node: shown(node, "bursar_rates_shared 1"))  # type: ignore[misc]
            until(lambda node=node: shown(node, "bursar_breakers_shared 1"))  # type: ignore[misc]

        key = limited_key(fleet)
        assert sum(granted(fleet, key, 5)) == 9
        with own_server.admin as admin:
            admin.flushall()  # one window of rate is what that costs, and no more
        assert sum(granted(fleet, key, 5)) == 9

        own_server.kill()
        for node in fleet.nodes:
            until(lambda node=node: shown(node, "bursar_rates_shared 0"))  # type: ignore[misc]
            until(lambda node=node: shown(node, "bursar_rates_nodes 3"))  # type: ignore[misc]
        assert granted(fleet, limited_key(fleet), 5) == [3, 3, 3]
        for node in fleet.nodes:
            assert any("grants its share of limits" in warning for warning in node.cli_json("status")["warnings"])

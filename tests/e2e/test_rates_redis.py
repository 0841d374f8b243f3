"""Two brokers over one Redis, each `bursar up` as it ships: limits hold across both, and without Redis they say so."""

import time
from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.e2e.broker import Broker
from tests.e2e.tenants import Tenants
from tests.redis_server import SHIPPED, RedisServer

SECRET = "canary-of-redis"
ASK = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 16}


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    server = RedisServer(SHIPPED, *("--user", "bursar", "on", f">{SECRET}", "~*", "&*", "+@all"))
    try:
        yield server.start()
    finally:
        server.close()


def ask(broker: Broker, key: str) -> httpx.Response:
    return httpx.post(f"{broker.url}/v1/chat/completions", json=ASK, headers={"authorization": f"Bearer {key}"})


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_node_limit_is_one_for_both_brokers(make_broker: Callable[..., Broker], own_server: RedisServer) -> None:
    """Each broker has its own directory here: what they share is the limit of the node's scope."""
    env = {"BURSAR_RATES_URL": f"redis://bursar:{SECRET}@127.0.0.1:{own_server.port}/0"}
    config = {"rates": {"kind": "redis", "nodes": 2}}
    brokers = [make_broker(name, config=config, env=env).start() for name in ("one", "two")]
    limit = {"id": "all", "unit": "requests", "amount": 6, "per_seconds": 3600, "scope": "node"}
    keys = [Tenants(broker).key({"limits": [limit]}).text for broker in brokers]
    statuses = [ask(brokers[n % 2], keys[n % 2]).status_code for n in range(8)]
    assert statuses == [200] * 6 + [429] * 2
    until(lambda: all("bursar_rates_shared 1" in broker.metrics() for broker in brokers))
    own_server.kill()
    until(lambda: all("bursar_rates_shared 0" in broker.metrics() for broker in brokers))
    statuses = [ask(brokers[n % 2], keys[n % 2]).status_code for n in range(10)]
    assert statuses == [200] * 6 + [429] * 4  # a window of rate, each node its half
    until(lambda: "bursar_rates_alone_total" in brokers[0].metrics())
    warnings = brokers[0].cli_json("status")["warnings"]
    assert any("grants its share of limits" in warning for warning in warnings)
    own_server.start()
    until(lambda: all("bursar_rates_shared 1" in broker.metrics() for broker in brokers))
    assert not any("grants its share" in warning for warning in brokers[0].cli_json("status")["warnings"])
    for broker in brokers:
        assert SECRET not in broker.printed() + broker.metrics()

"""F6, what a whole request costs more where money lies in PostgreSQL and rates in Redis, over all in the data folder.

Both brokers are as shipped, stand beside each other and take turns in one run under the same load: 16 in flight, 2 kB.
CPU is that of all of Bursar's processes; what the database and Redis use themselves is not in it.
"""

from collections.abc import Mapping
from typing import Any

from bench.broker import ShippedBroker
from bench.rows import SMALL, Case, Figures, f1_cpu
from bench.targets import OUT
from tests.postgres import PostgresServer
from tests.redis_server import RedisServer, system_redis

CASE = Case(16, SMALL)
EMBEDDED, SHARED = "data folder", "PostgreSQL and Redis"


def measure(upstream: str, rounds: int, seconds: float) -> dict[str, Figures]:
    """By where money and rates lie."""
    postgres = PostgresServer(settings={"fsync": "on", "shared_buffers": "256MB", "max_wal_size": "2GB"})
    redis = RedisServer(system_redis())
    brokers: list[ShippedBroker] = []
    try:
        store = {"kind": "postgres", "url": postgres.start().new_database()}
        rates = {"kind": "redis", "url": redis.start().url}
        configs: dict[str, Mapping[str, Any]] = {EMBEDDED: {}, SHARED: {"store": store, "rates": rates}}
        brokers = [ShippedBroker(OUT / name.replace(" ", "-"), upstream, configs[name]) for name in configs]
        targets = [broker.start().target(name) for name, broker in zip(configs, brokers, strict=True)]
        return f1_cpu(CASE, targets, rounds, min(seconds, 2.0))
    finally:
        for broker in brokers:
            broker.stop()
        redis.close()
        postgres.close()

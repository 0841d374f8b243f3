"""What one broker learns of a provider all leave alone, through Redis; without it each goes by what it sees itself."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from bursar.providers.emulator import read_bill
from tests.e2e.broker import Broker
from tests.e2e.tenants import Tenants
from tests.faults.books import until
from tests.faults.caller import script
from tests.fleet.harness import Fleet
from tests.redis_server import RedisServer

TEAMS = 4  # what only one team's calls meet with may be owed to what that team asks
LONG = 3600  # seconds that a circuit stays open: nothing here is over by itself
SETTINGS = {"breaker": {"failures": 6, "open": LONG, "longest": LONG}}


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    server = RedisServer()
    try:
        yield server.start()
    finally:
        server.close()


def failing(fleet: Fleet, node: Broker, keys: list[str]) -> None:
    """Calls that the provider of this one node answers with 503, until the node leaves it alone."""
    ask = {"messages": [{"role": "user", "content": script(status=503)}]}

    def round_of_calls() -> bool:
        words = [word(fleet.call(node, key, **ask)) for key in keys]
        return words[-1] == "upstream_unavailable"

    until(round_of_calls, 60, "the node to leave its provider alone")


def word(answer: httpx.Response) -> str:
    return answer.headers.get("x-bursar-word", "")


def charges(node: Broker) -> int:
    return len(read_bill(node.data / "emulator" / "bill.jsonl"))


def test_failures_of_one_node_make_another_refuse_and_only_through_redis(
    tmp_path: Path, own_server: RedisServer
) -> None:
    rates = {"kind": "redis", "url": own_server.url}
    with Fleet(tmp_path, ("a", "b"), {**SETTINGS, "rates": rates}) as fleet:
        a, b = fleet.start()
        tenants = Tenants(a)
        keys = [tenants.key(budget={"limit_usd": "5.00"}) for _ in range(TEAMS)]
        texts = [key.text for key in keys]
        for node in (a, b):
            until(lambda node=node: "bursar_breakers_shared 1" in node.metrics().splitlines())  # type: ignore[misc]
            for text in texts:
                fleet.calls_until(node, text, lambda answer: answer.status_code == 200, 30)

        failing(fleet, a, texts)
        fleet.calls_until(b, texts[0], lambda answer: word(answer) == "upstream_unavailable", 30)
        until(lambda: all(fleet.books(key.budgets[0]).held == 0 for key in keys))
        before = charges(b)
        for text in texts:
            refused = fleet.call(b, text)
            assert (refused.status_code, word(refused)) == (503, "upstream_unavailable")
            assert 1 <= int(refused.headers["retry-after"]) <= LONG
        assert charges(b) == before, "refused before it was sent: b's own provider has answered every call"
        until(lambda: all(fleet.books(key.budgets[0]).held == 0 for key in keys))

        with own_server.admin as admin:
            admin.flushall()  # as if the time were over: what is not on the board is well
        for node in (a, b):
            fleet.calls_until(node, texts[0], lambda answer: answer.status_code == 200, 30)

        own_server.kill()
        for node in (a, b):
            until(lambda node=node: "bursar_breakers_shared 0" in node.metrics().splitlines())  # type: ignore[misc]
        failing(fleet, a, texts)
        for text in texts:
            assert fleet.call(b, text).status_code == 200

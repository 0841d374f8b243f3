"""Two whole brokers that reach PostgreSQL only through a pooler in transaction mode: nothing they do needs more."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.tenants import Tenants
from tests.faults.books import until
from tests.fleet.harness import Fleet
from tests.fleet.test_fleet import word, works
from tests.pooler import Pooler

CONNECTIONS = 6  # to the server, for all that both do


@contextmanager
def pooled(port: int, database: str) -> Iterator[Pooler]:
    """A pooler in a thread of its own, for other processes."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="pooler", daemon=True)
    thread.start()
    pooler = Pooler(port, database, CONNECTIONS)
    try:
        asyncio.run_coroutine_threadsafe(pooler.__aenter__(), loop).result(30)
        yield pooler
    finally:
        asyncio.run_coroutine_threadsafe(pooler.__aexit__(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def test_a_fleet_behind_a_pooler_is_one_bursar(tmp_path: Path) -> None:
    with Fleet(tmp_path, names=("a", "b"), settings={"store": {"pooler": "transaction"}}) as fleet:
        name = fleet.url.rpartition("/")[2]
        with pooled(fleet.server.port, name) as pooler:
            fleet.url = pooler.url
            try:
                a, b = fleet.start()
                key = Tenants(a).key(budget={"limit_usd": "0.004"})
                other = Tenants(a).key(budget={"limit_usd": "1.00"})
                for node in (a, b):
                    fleet.calls_until(node, key.text, works, 60)
                    fleet.calls_until(node, other.text, works, 60)
                answers = fleet.load(key.text, calls=300, at_once=16)
                words = {word(answer) for answer in answers if answer.status_code != 200}
                assert any(map(works, answers))
                assert words & {"budget_exhausted", "held_by_requests_in_flight"}, "the budget was never reached"
                assert words <= {"budget_exhausted", "held_by_requests_in_flight", "can_never_fit"}, words
                Tenants(b).disable(other)
                refused = fleet.call(a, other.text)
                assert (refused.status_code, word(refused)) == (403, "key_disabled")
                until(lambda: fleet.books(key.budgets[0]).held == 0)
                books = fleet.books(key.budgets[0])
                assert books.posted <= books.limit
                assert b.cli("ledger", "verify").returncode == 0
                assert a.cli("audit", "verify").returncode == 0
                assert [node["live"] for node in b.cli_json("nodes")] == [True, True]
                assert pooler.lent > 300
            finally:
                for node in fleet.nodes:
                    node.close()

"""Three brokers over PostgreSQL and Redis, under load, while any process, stores included, is killed at random.

Afterwards everything is there again by itself, and the books are in order. BURSAR_CHAOS_SECONDS and BURSAR_CHAOS_SEED
make it longer, or choose the same misfortunes again.
"""

import asyncio
import os
import random
import time
from collections import Counter
from pathlib import Path

import pytest

from bursar.providers.emulator import read_bill
from tests.e2e.tenants import Tenants
from tests.faults.books import until
from tests.fleet.chaos import PATIENCE, SPENDABLE, Crowd, Killer, books_of, covered, made_keys
from tests.fleet.harness import Fleet
from tests.redis_server import RedisServer

SECONDS = float(os.environ.get("BURSAR_CHAOS_SECONDS", "40"))
SEED = os.environ.get("BURSAR_CHAOS_SEED") or str(random.SystemRandom().randrange(10**6))


@pytest.mark.timeout(300 + SECONDS * 3)
def test_any_process_is_killed_and_the_books_are_in_order(tmp_path: Path) -> None:
    redis = RedisServer()
    with Fleet(tmp_path, settings={"rates": {"kind": "redis", "url": redis.url, "nodes": 3}}) as fleet:
        try:
            redis.start()
            _story(fleet, redis)
        except BaseException as fault:
            fault.add_note(f"to have the same misfortunes again: BURSAR_CHAOS_SEED={SEED}")
            raise
        finally:
            redis.close()


def _story(fleet: Fleet, redis: RedisServer) -> None:
    fleet.start()
    keys, tight = made_keys(Tenants(fleet.nodes[0]))
    crowd = Crowd(fleet.nodes, keys, SEED)
    killer = Killer(fleet, redis, crowd, tight, random.Random(SEED))
    crowd.start()
    try:
        until(lambda: crowd.seen["whole"] >= 20, PATIENCE, "a first few calls to be served")
        killer.run(SECONDS)
    finally:
        crowd.stop()
    told = f"seed {SEED}, killed: {killer.done}, answers: {dict(crowd.seen)}"
    assert not crowd.strange, f"{told}\n" + "\n".join(crowd.strange[:5])
    assert crowd.seen["budget_exhausted"] + crowd.seen["held_by_requests_in_flight"], f"nothing was tight: {told}"
    _all_serve_again(fleet, crowd, told)
    until(lambda: fleet.psql("SELECT count(*) FROM bursar.ledger_hold") == "0", PATIENCE, f"no open hold; {told}")
    _look(fleet, crowd, killer, told)


def _all_serve_again(fleet: Fleet, crowd: Crowd, told: str) -> None:
    """Every node every key, or says that its budget is spent, as only the store can know."""

    async def serves(name: str, node: int) -> None:
        deadline = time.monotonic() + PATIENCE
        found = ""
        enough = {"whole", "budget_exhausted"} if name in SPENDABLE else {"whole"}
        while found not in enough:
            assert time.monotonic() < deadline, f"{name} is not served by {node} but told {found}; {told}"
            found = await crowd.call(fleet.nodes[node], crowd.keys[name], leaves=False)
            await asyncio.sleep(0.05)

    for name in crowd.keys:
        for node in range(len(fleet.nodes)):
            asyncio.run(serves(name, node))
    assert not crowd.strange, f"{told}\n" + "\n".join(crowd.strange[:5])


def _look(fleet: Fleet, crowd: Crowd, killer: Killer, told: str) -> None:
    tight, raised = killer.tight, killer.raised
    report, attempts = books_of(fleet)
    ends = Counter(row.outcome for row in attempts)
    told = f"{told}, ends: {dict(ends)}, tight raised {raised} times"
    print(told)
    assert report.ok, f"{report.problem}; {told}"
    assert ends["unreconciled"], f"nothing was ever left open: the test proves nothing; {told}"
    assert raised, f"the directory was never changed: the test proves nothing; {told}"
    assert report.open_holds == 0, told
    charges = [charge for node in fleet.nodes for charge in read_bill(node.data / "emulator" / "bill.jsonl")]
    for name, key in crowd.keys.items():
        ours = [row for row in attempts if row.key_id == key.id]
        try:
            covered(ours, [charge for charge in charges if crowd.key_of[charge.input] == key.id])
        except AssertionError as fault:
            fault.add_note(f"key {name}; {told}")
            raise
    books = fleet.books(tight)
    (total,) = (row for row in report.budgets if row.id == tight)
    assert books.posted - total.overage <= books.limit, f"{books} {total}; {told}"
    for node in fleet.nodes:
        assert node.admin("GET", "/v1/admin/audit/verify").json()["fault"] == "", told

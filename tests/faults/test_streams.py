"""Many open streams at once: each costs little, and once they have ended nothing of them is left."""

import asyncio
import resource
from collections.abc import Callable
from pathlib import Path

from tests.e2e.broker import Broker
from tests.e2e.tenants import Tenants
from tests.faults.books import Books, until
from tests.faults.caller import Answer, ask, asking, script

STREAMS = 600
PER_STREAM = 40 * 1024  # bytes: 10,000 open streams within 400 MB
LEFT_OVER = 12 * 2**20  # bytes: what an allocator keeps for the next crowd
POOL = 64  # idle connections to a provider that are kept


def gateway(broker: Broker) -> Path:
    return Path(f"/proc/{broker.pids()['gateway']}")


def resident(broker: Broker) -> int:
    lines = (gateway(broker) / "status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def descriptors(broker: Broker) -> int:
    return sum(1 for _ in (gateway(broker) / "fd").iterdir())


def threads(broker: Broker) -> int:
    return sum(1 for _ in (gateway(broker) / "task").iterdir())


def test_open_streams_cost_little_and_leave_nothing(make_broker: Callable[..., Broker]) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 20_000), hard))
    broker = make_broker().start()
    books, key = Books(broker.data), Tenants(broker).key(budget={"limit_usd": "1000"})
    sizes: dict[str, list[int]] = {"resident": [], "descriptors": [], "threads": []}

    def measure() -> None:
        sizes["resident"].append(resident(broker))
        sizes["descriptors"].append(descriptors(broker))
        sizes["threads"].append(threads(broker))

    async def crowd(streams: int, leaving: bool) -> list[Answer]:
        body = asking("openai", script(input=30, output=12, stall="mid_stream", stall_s=2.5), stream=True)
        leave = [5 if leaving and at % 2 else None for at in range(streams)]
        calls = [asyncio.create_task(ask(broker.data_port, key.text, body, leave_after=after)) for after in leave]
        wanted = 2 * streams * 0.95 if not leaving else streams
        await asyncio.to_thread(until, lambda: descriptors(broker) > wanted, 20, "all streams to be open")
        measure()
        return await asyncio.gather(*calls)

    assert all(answer.whole for answer in asyncio.run(crowd(STREAMS // 4, leaving=False)))  # all is warm after these
    until(lambda: descriptors(broker) < POOL + 40)
    sizes = {name: [] for name in sizes}
    measure()
    for leaving in (False, True, False):
        answers = asyncio.run(crowd(STREAMS, leaving))
        assert all(answer.status == 200 and (answer.whole or answer.left) for answer in answers)
        until(lambda: not books.proven().open_holds)
        until(lambda: descriptors(broker) <= sizes["descriptors"][0] + POOL, 10, "connections to be closed")
    measure()
    begin, opened, left = sizes["resident"][0], sizes["resident"][1], sizes["resident"][-1]
    assert (opened - begin) / STREAMS < PER_STREAM
    assert left - opened < LEFT_OVER, "three crowds take what one takes"
    assert sizes["threads"][-1] <= sizes["threads"][0] + 1
    rows = books.settled(key.id, 3 * STREAMS)
    assert all(row.exact for row in rows)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

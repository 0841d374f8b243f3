"""A batch in a fleet: its node dies, what it held is booked by another, which follows the batch on and corrects."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import pytest

from bursar.core.secret import Secret
from bursar.gateway import batch_jobs
from bursar.gateway.batch_jobs import CLAIM_S, take_up
from bursar.gateway.node import BatchRoom
from bursar.gateway.tenants import Tenants
from bursar.stores.postgres import Address, Postgres
from bursar.stores.postgres_made_ids import PostgresMadeIds
from bursar.stores.postgres_money import PostgresMoney
from bursar.stores.postgres_schema import migrate
from tests.gateway.answers import IN, OUT, plain
from tests.gateway.fakes import FakeResponse
from tests.gateway.ground import PLENTY, Stand, budget
from tests.gateway.test_batches import CHAT, GOOD, KEY, PATH, TOP, batch, file_of, line, lined, own_file, result


class Member:
    """One node of the fleet: the parts of a stand, its money and ids in the database."""

    def __init__(self, folder: Path, url: str, boot: str) -> None:
        self.stand = Stand(folder / boot, provider_keys=[KEY], budgets=[budget(PLENTY)])
        self.store = Postgres(Address(url=Secret(url)))
        self.money = PostgresMoney(self.store, boot, lease_s=1.0)
        self.node = self.stand.node
        self.node.boot = boot
        self.node.batches = BatchRoom(alone=False)

    async def start(self) -> "Member":
        for part in ("directory", "money", "made_ids"):
            await migrate(self.store, part)
        await self.money.start()
        self.node.money = self.money
        self.node.made_ids = self.stand.made_ids = PostgresMadeIds(  # type: ignore[assignment]
            self.store, self.stand.clock, most_of_team=100
        )
        self.node.tenants = Tenants(self.money.define)
        self.node.tenants.replace(self.stand.snapshot)
        return self

    async def die(self) -> None:
        """As with kill -9: nothing is said to anybody."""
        for task in [*self.node.followed, *self.money._tasks]:
            task.cancel()
        await asyncio.gather(*self.node.followed, *self.money._tasks, return_exceptions=True)
        self.money._runner.stop()
        await self.store.close()
        self.stand.close()

    async def close(self) -> None:
        await self.money.close()
        await self.store.close()
        self.stand.close()

    async def balance(self) -> tuple[int, int]:
        (found,) = await self.money.balances()
        return found.posted_pico, found.held_pico


@pytest.fixture
async def members(tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[Member]]:
    monkeypatch.setattr(batch_jobs, "FIRST_S", 0.01)
    monkeypatch.setattr(batch_jobs, "LONGEST_S", 0.1)
    async with AsyncExitStack() as stack:
        made = []
        for boot in ("one", "two", "three"):
            made.append(await Member(tmp_path, database, boot).start())
            if boot != "one":
                stack.push_async_callback(made[-1].close)
        yield made


async def test_another_node_follows_it_on(members: list[Member]) -> None:
    first, *others = members
    await own_file(first.stand)
    waiting = FakeResponse([], 503, {})
    first.stand.upstream.will(file_of(line(), line()), plain(batch()), *[waiting] * 1000)
    body = {"input_file_id": "file-in", "endpoint": CHAT, "completion_window": "24h"}
    exchange = first.stand.exchange(PATH, body)
    await first.stand.pipeline.serve(exchange)
    assert exchange.status == 200
    assert await others[0].balance() == (0, 2 * TOP)
    for other in others:
        shown = other.stand.exchange(PATH, b"", method="GET")
        await other.stand.pipeline.serve(shown)
        assert [row["id"] for row in shown.json["data"]] == ["batch_1"]
        await take_up(other.node)
        assert not other.node.followed, "its node lives"
    await first.die()
    told = batch("completed", output_file_id="file-out", request_counts={"completed": 2})
    for other in others:
        other.stand.clock.advance(CLAIM_S + 1)
        other.stand.upstream.will(plain(told), FakeResponse([lined(result(), result())], 200, {}))
    async with asyncio.timeout(120):
        await asyncio.gather(*(take_up(other.node) for other in others))
        assert sum(len(other.node.followed) for other in others) == 1, "one of them"
        await asyncio.gather(*(task for other in others for task in other.node.followed))
    assert await others[0].balance() == (2 * GOOD, 0)
    assert GOOD == 10 * IN + 5 * OUT
    for other in others:
        other.stand.clock.advance(CLAIM_S + 1)
        await take_up(other.node)
        assert not other.node.followed, "it is settled"
    made = await others[1].node.made_ids.find("team-1", "file", "file-out")
    assert made is not None
    assert msgspec.json.decode(made.about)["purpose"] == "batch_output"

"""Where a gateway counts rates, by configuration: what cannot be is one clear line, how they stand is said once."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from bursar.app.rates import CannotServe, RatesDesk
from bursar.config import Rates
from bursar.stores.memory_rates import MemoryRates
from bursar.stores.share_rates import ShareRates
from tests.redis_server import RedisServer


class Told:
    def __init__(self) -> None:
        self.alone: list[str] = []
        self.happened: list[tuple[str, dict[str, Any]]] = []

    def desk(self, **settings: Any) -> RatesDesk:
        return RatesDesk(
            Rates(**settings), "s1", self.alone.append, lambda word, _who, facts: self.happened.append((word, facts))
        )


async def test_one_node_counts_by_itself_and_says_nothing() -> None:
    told = Told()
    desk = told.desk()
    await desk.run()
    assert type(desk.doorway) is MemoryRates
    assert (desk.shared, desk.live_nodes(), told.happened) == (True, 1, [])


async def test_several_nodes_without_redis_take_shares_and_say_so() -> None:
    told = Told()
    desk = told.desk(nodes=3)
    await desk.run()
    assert isinstance(desk.doorway, ShareRates)
    assert not desk.shared
    assert told.happened == [("rates_alone", {"why": "no store of rates is configured", "nodes": 3})]


@pytest.mark.parametrize(
    "url",
    [
        *("", "http://h/0", "redis:///0", "redis://h/x", "redis://h:port/0", "redis+sentinel://h", "redis://h/0?x=1"),
        "redis://:hush@/0",
    ],
)
async def test_a_url_that_cannot_be_is_told_and_not_shown(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("BURSAR_RATES_URL", url)
    with pytest.raises(CannotServe) as fault:
        Told().desk(kind="redis")
    assert "rates" in str(fault.value)
    assert "hush" not in str(fault.value)


async def test_a_url_file(tmp_path: Path, redis_server: RedisServer) -> None:
    (tmp_path / "url").write_text(redis_server.url + "\n")
    told = Told()
    desk = told.desk(kind="redis", url_file=str(tmp_path / "url"), nodes=4)
    life = asyncio.create_task(desk.run())
    await desk.begun()
    assert desk.shared
    assert desk.live_nodes() == 4
    assert told.happened == [("rates_shared", {})]
    life.cancel()
    await asyncio.gather(life, return_exceptions=True)
    with pytest.raises(CannotServe, match="url_file"):
        told.desk(kind="redis", url_file=str(tmp_path / "none"))


async def test_a_redis_that_never_answers_is_told_once(redis_server: RedisServer) -> None:
    told = Told()
    desk = told.desk(kind="redis", url="redis://127.0.0.1:1/0", nodes=2)
    life = asyncio.create_task(desk.run())
    await desk.begun()  # a second, several attempts
    assert [word for word, _ in told.happened] == ["rates_alone"]
    assert told.happened[0][1]["nodes"] == 2
    life.cancel()
    await asyncio.gather(life, return_exceptions=True)

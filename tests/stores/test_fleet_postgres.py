"""Who is in a fleet, and whose turn it is: one node a name, one node a turn, whatever happens at the same time."""

import asyncio

import pytest

from bursar.core.errors import Refusal
from bursar.stores.fleet_postgres import FleetPostgres, Identity
from bursar.stores.postgres import Postgres
from bursar.stores.postgres_schema import migrate


@pytest.fixture
async def way(store: Postgres) -> Postgres:
    await migrate(store, "fleet")
    return store


def node(way: Postgres, name: str, identity: str = "", lease_s: float = 60.0) -> FleetPostgres:
    me = Identity(name=name, identity=identity or f"folder of {name}", version="1.2.3", host=f"{name}.example")
    return FleetPostgres(way, me, lease_s)


async def test_nodes_see_one_another(way: Postgres) -> None:
    a, b = node(way, "a"), node(way, "b")
    await a.join()
    await b.join()
    assert await b.beat(17, 1)
    seen = await a.nodes()
    assert [(n.name, n.host, n.version, n.directory_version, n.gateways, n.live) for n in seen] == [
        ("a", "a.example", "1.2.3", 0, 0, True),
        ("b", "b.example", "1.2.3", 17, 1, True),
    ]
    await b.leave()
    assert [n.name for n in await a.nodes()] == ["a"]


async def test_a_second_node_of_the_name_is_refused_and_told_why(way: Postgres) -> None:
    await node(way, "a").join()
    with pytest.raises(Refusal, match=r"seen on a\.example") as refused:
        await node(way, "a", "another folder").join()
    assert refused.value.word == "node_name_taken"
    assert "node:" in refused.value.hint


async def test_the_same_node_comes_back_at_once(way: Postgres) -> None:
    await node(way, "a").join()
    again = node(way, "a")
    await again.join()
    assert await again.beat(1, 1)


async def test_a_silent_nodes_name_is_taken_over_and_it_learns_of_it(way: Postgres) -> None:
    silent = node(way, "a", lease_s=0.3)
    await silent.join()
    heir = node(way, "a", "another folder")
    await heir.join(patience_s=20)
    assert not await silent.beat(1, 1)
    assert await heir.beat(1, 1)
    await silent.leave()  # says nothing about the heir
    assert [n.live for n in await heir.nodes()] == [True]


async def test_a_node_that_was_silent_and_not_replaced_goes_on(way: Postgres) -> None:
    a = node(way, "a", lease_s=0.05)
    await a.join()
    await asyncio.sleep(0.1)
    assert [n.live for n in await a.nodes()] == [False]
    assert await a.beat(3, 1)


async def test_of_many_one_gets_the_turn(way: Postgres) -> None:
    nodes = [node(way, f"n{number}") for number in range(8)]
    assert sum(await asyncio.gather(*(n.take_turn("daily", 60) for n in nodes))) == 1
    assert sum(await asyncio.gather(*(n.take_turn("hourly", 60) for n in nodes))) == 1


async def test_alone_is_alone(way: Postgres) -> None:
    inside = 0

    async def work(one: FleetPostgres) -> None:
        nonlocal inside
        async with one.alone("start"):
            inside += 1
            assert inside == 1
            await asyncio.sleep(0.01)
            inside -= 1

    await asyncio.gather(*(work(node(way, f"n{number}")) for number in range(4)))


async def test_a_node_that_died_in_its_turn_does_not_hold_it_for_ever(way: Postgres) -> None:
    assert await node(way, "dead").take_turn("start", 0.3)
    async with asyncio.timeout(20):
        async with node(way, "b").alone("start"):
            pass

"""The stores of provider-made ids: one contract, the file of one node and the PostgreSQL of a fleet."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bursar.core.made_ids import KINDS, MadeId, MadeKind
from bursar.core.secret import Secret
from bursar.ports import MadeIds
from bursar.stores.made_ids_file import MadeIdsFile
from bursar.stores.postgres import Address, Postgres
from bursar.stores.postgres_made_ids import PostgresMadeIds
from bursar.stores.postgres_schema import migrate
from tests.gateway.fakes import NOON, FakeClock

MOST = 12  # ids of one team
HOUR = 3600 * 10**9


class Side:
    """A store, and the way to meet it again as another process would."""

    def __init__(self, clock: FakeClock, again: Callable[[], Awaitable[MadeIds]]) -> None:
        self.clock = clock
        self.again = again


@pytest.fixture(params=["file", "postgres"])
async def side(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Side]:
    clock = FakeClock()
    opened: list[MadeIdsFile] = []
    ways: list[Postgres] = []
    url = request.getfixturevalue("database") if request.param == "postgres" else ""

    async def file() -> MadeIds:
        for before in opened:  # a data folder has one process: nobody else renames the file
            await asyncio.gather(*filter(None, [before._renewing]), return_exceptions=True)
        opened.append(MadeIdsFile(tmp_path / "made-ids.log", clock, most_of_team=MOST, most=4 * MOST, spare=5))
        return opened[-1]

    async def postgres() -> MadeIds:
        ways.append(Postgres(Address(url=Secret(url))))
        await migrate(ways[-1], "made_ids")
        return PostgresMadeIds(ways[-1], clock, most_of_team=MOST, every=1)

    yield Side(clock, file if request.param == "file" else postgres)
    for store in opened:
        await store.close()
    for way in ways:
        await way.close()


def made(made_id: str, team: str = "team-1", kind: MadeKind = "response", at: int = NOON, life: int = HOUR) -> MadeId:
    return MadeId(
        team=team,
        kind=kind,
        id=made_id,
        key="key-1",
        provider="openai",
        secret="sec_1",
        made_at=at,
        expires_at=at + life,
    )


async def test_what_is_kept_is_found_by_its_team_and_kind_alone(side: Side) -> None:
    store = await side.again()
    one = made("resp_1")
    await store.keep([one])
    assert await store.find("team-1", "response", "resp_1") == one
    assert await store.find("team-2", "response", "resp_1") is None
    assert await store.find("team-1", "file", "resp_1") is None
    assert await store.find("team-1", "response", "resp_2") is None


async def test_another_process_knows_it_at_once_and_after_a_kill(side: Side) -> None:
    """Nothing is closed: what was kept must not wait for anything."""
    one = made("resp_1")
    await (await side.again()).keep([one, made("msg_1", kind="item")])
    other = await side.again()
    assert await other.find("team-1", "response", "resp_1") == one
    assert await other.find("team-1", "item", "msg_1") is not None


async def test_it_expires(side: Side) -> None:
    store = await side.again()
    await store.keep([made("resp_1")])
    side.clock.advance(3599)
    assert await store.find("team-1", "response", "resp_1") is not None
    side.clock.advance(2)
    assert await store.find("team-1", "response", "resp_1") is None
    assert await (await side.again()).find("team-1", "response", "resp_1") is None


async def test_two_teams_may_be_given_the_same_id_and_each_keeps_its_own(side: Side) -> None:
    """Another provider, or one that lies: nobody takes an id away from another team by it."""
    store = await side.again()
    await store.keep([made("resp_1")])
    await store.keep([made("resp_1", team="team-2", life=2 * HOUR)])
    assert await store.find("team-1", "response", "resp_1") == made("resp_1")
    await store.forget("team-2", "response", "resp_1")
    assert await store.find("team-1", "response", "resp_1") == made("resp_1")


async def test_what_is_forgotten_stays_so(side: Side) -> None:
    store = await side.again()
    await store.keep([made("conv_1", kind="conversation")])
    await store.forget("team-1", "conversation", "conv_1")
    await store.forget("team-1", "conversation", "conv_1")
    assert await store.find("team-1", "conversation", "conv_1") is None
    assert await (await side.again()).find("team-1", "conversation", "conv_1") is None
    await store.keep([made("conv_1", kind="conversation")])
    assert await store.find("team-1", "conversation", "conv_1") is not None


async def test_a_team_crowds_out_its_own_oldest_and_nobody_elses(side: Side) -> None:
    store = await side.again()
    await store.keep([made("resp_a", team="team-2")])
    for number in range(3 * MOST):
        await store.keep([made(f"resp_{number}", at=NOON + number)])
    known = [n for n in range(3 * MOST) if await store.find("team-1", "response", f"resp_{n}") is not None]
    assert known == [*range(2 * MOST, 3 * MOST)]
    assert await store.find("team-2", "response", "resp_a") is not None
    again = await side.again()
    assert await again.find("team-1", "response", f"resp_{3 * MOST - 1}") is not None
    assert await again.find("team-2", "response", "resp_a") is not None


async def test_a_listing_is_of_the_team_and_kind_in_the_order_of_making_page_by_page(side: Side) -> None:
    store = await side.again()
    wanted = [made(f"file_{n}", kind="file", at=NOON + n // 2) for n in range(7)]  # two at a time made at once
    await store.keep([*reversed(wanted), made("resp_1"), made("file_x", team="team-2", kind="file")])
    await store.keep([made("file_old", kind="file", life=1)])
    side.clock.advance(1)
    for again in (store, await side.again()):
        for most in (1, 2, 3, 7, 8):
            for newest_first in (True, False):
                found: list[MadeId] = []
                while page := await again.listed(
                    "team-1", "file", most=most, after=found[-1] if found else None, newest_first=newest_first
                ):
                    assert len(page) <= most
                    found += page
                assert found == (wanted[::-1] if newest_first else wanted)
        assert await again.listed("team-3", "file", most=5) == []
    await store.forget("team-1", "file", "file_3")
    left = await store.listed("team-1", "file", most=9, after=wanted[3], newest_first=False)
    assert left == wanted[4:], "what was deleted meanwhile is still a place in the order"


async def test_of_several_who_swap_one_wins(side: Side) -> None:
    store = await side.again()
    old = made("job_1", kind="job", team="")
    one, other = (msgspec.structs.replace(old, about=text) for text in ("a", "b"))
    assert not await store.swap(old, one), "it is not known"
    await store.keep([old])
    done = await asyncio.gather(*(store.swap(old, new) for new in (one, other) * 4))
    assert done.count(True) == 1
    for again in (store, await side.again()):
        assert await again.find("", "job", "job_1") == (one, other)[done.index(True) % 2]
    assert not await store.swap(old, one)
    await store.forget("", "job", "job_1")
    assert not await store.swap(one, other)
    assert await store.find("", "job", "job_1") is None


async def test_many_at_once(side: Side) -> None:
    store = await side.again()
    await asyncio.gather(*(store.keep([made(f"resp_{n}", team=f"team-{n % 4}")]) for n in range(40)))
    found = await asyncio.gather(*(store.find(f"team-{n % 4}", "response", f"resp_{n}") for n in range(40)))
    assert all(found)


TEAMS = st.sampled_from(["team-1", "team-2"])
IDS = st.sampled_from(["a", "b", "c"])
ACTS = st.lists(
    st.tuples(st.sampled_from(["keep", "forget", "wait", "again"]), TEAMS, st.sampled_from(KINDS[:3]), IDS),
    max_size=24,
)


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(acts=ACTS)
async def test_any_history_against_a_dict(side: Side, acts: list[tuple[str, str, MadeKind, str]]) -> None:
    store = await side.again()
    mine = f"{side.clock.now()}-"  # each history has ids of its own
    side.clock.advance(1)
    model: dict[tuple[str, MadeKind, str], MadeId] = {}
    for act, team, kind, name in acts:
        made_id = mine + name
        if act == "keep":
            one = made(made_id, team, kind, at=side.clock.now(), life=10**9)
            model[one.team, one.kind, one.id] = one
            await store.keep([one])
        elif act == "forget":
            model.pop((team, kind, made_id), None)
            await store.forget(team, kind, made_id)
        elif act == "wait":
            side.clock.advance(0.6)
        else:
            store = await side.again()
        expected = model.get((team, kind, made_id))
        if expected is not None and expected.expires_at <= side.clock.now():
            expected = None
        assert await store.find(team, kind, made_id) == expected
        alive = {(it.team, it.id) for it in model.values() if it.expires_at > side.clock.now()}
        foreign = {it for maker, it in alive if maker != team and (team, it) not in alive}
        for asked in ([], [mine + "a"], [mine + "b", mine + "c", mine + "none"]):
            assert await store.any_foreign(team, asked) == bool(foreign & {*asked})

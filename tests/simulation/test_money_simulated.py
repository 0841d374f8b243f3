"""Thousands of histories of three nodes over one database, in virtual time: safety and liveness of money.

Each seed is one history: kills, partitions, outages, slow and lost messages, acts carried out after they were given up.
The store's real code runs; the database is the reference (see `database.py`). A failure names its seed, and
`BURSAR_SIM_SEED=n pytest tests/simulation` plays it again; `BURSAR_SIM_SEEDS=n` plays more.
"""

import os
from collections import Counter
from collections.abc import Callable

import pytest

from bursar.stores import postgres_money_runner
from tests.simulation.database import Database, fake_act
from tests.simulation.virtual import Stuck, run
from tests.simulation.world import World

SEEDS = int(os.environ.get("BURSAR_SIM_SEEDS", "2000"))
PARTS = 10
ONE = os.environ.get("BURSAR_SIM_SEED")


@pytest.fixture(autouse=True)
def model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_money_runner, "act", fake_act)


async def history(seed: int) -> World:
    world = World(seed)
    for name in world.names:
        await world.start(name)
    await world.storm()
    await world.calm()
    world.check_words()
    world.check_safety()
    world.check_money()
    await world.check_liveness()
    return world


def played(seed: int) -> World:
    try:
        return run(history(seed))
    except (AssertionError, Stuck) as fault:
        raise AssertionError(f"seed {seed}: {fault}") from fault


@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", range(PARTS))
def test_no_history_breaks_the_promise(part: int) -> None:
    seeds = [int(ONE)] if ONE else range(part, SEEDS, PARTS)
    words: Counter[str] = Counter()
    killed = 0
    for seed in seeds:
        world = played(seed)
        words += world.words
        killed += len(world.dead)
    if len(seeds) >= 50:  # the histories are not so tame that nothing happened in them
        assert killed > len(seeds) // 2
        assert {"store_unavailable", "budget_exhausted", "held_by_requests_in_flight"} <= set(words)


def test_a_seed_is_one_history() -> None:
    first, again = played(7), played(7)
    assert first.database.records == again.database.records
    assert first.words == again.words
    assert first.database.records != played(8).database.records


def no_tombstone(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Database, "bury", lambda *_: None)


def no_end_of_sessions(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Database, "is_over", lambda *_: False)


def no_giving_up(patch: pytest.MonkeyPatch) -> None:
    close = postgres_money_runner.Runner._close_money

    def forgetful(runner: postgres_money_runner.Runner, why: str) -> None:
        flying, runner._flying = runner._flying, []
        runner._waiting.extendleft(flying)
        close(runner, why)

    patch.setattr(postgres_money_runner.Runner, "_close_money", forgetful)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("without", [no_tombstone, no_end_of_sessions, no_giving_up], ids=lambda rule: rule.__name__)
def test_without_one_of_its_rules_the_promise_is_seen_to_break(
    without: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The histories are hard enough: each rule that keeps the promise is needed in one of them."""
    without(monkeypatch)

    def play_all() -> None:
        for seed in range(1000):
            played(seed)

    with pytest.raises(AssertionError, match="seed"):
        play_all()

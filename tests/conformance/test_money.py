"""The money stores against the pure reference: any history, the same answers, the same words, the same balances."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings

from bursar.control.verify_ledger_rows import RowsReport, verify_rows
from tests.conformance.money import HISTORIES, Hands, JournalSide, Play, PostgresSide, Reference
from tests.postgres import PostgresServer
from tests.stores.journal_kit import proven


class Sides:
    """The stores, opened once: each history has budgets of its own in them."""

    def __init__(self, folder: Path, url: str) -> None:
        self.url = url
        self.clock = Hands()
        self.loop = asyncio.Runner()
        self.reference = Reference(self.clock)
        self.journal = JournalSide(folder, self.clock)
        self.postgres = self.loop.run(PostgresSide.open(url, self.clock))
        self.runs = 0
        self.words: set[str] = set()

    def play(self, history: list[tuple[Any, ...]]) -> None:
        self.runs += 1
        play = Play(self.runs, self.clock, [self.reference, self.journal, self.postgres])
        self.loop.run(play.all(history))
        self.words |= play.words

    def verify(self) -> RowsReport:
        async def verified() -> RowsReport:
            await self.postgres.money.settled()
            db = await asyncpg.connect(self.url)
            try:
                return await verify_rows(db)
            finally:
                await db.close()

        return self.loop.run(verified())

    def close(self) -> None:
        self.loop.run(self.postgres.close())
        self.journal.journal.close()
        self.loop.close()


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer) -> Iterator[Sides]:
    opened = Sides(tmp_path_factory.mktemp("journal"), postgres_server.new_database())
    yield opened
    opened.close()


LATE = [("hold", 300, 0, ("life",)), ("window", "life", "day"), ("hold", 50, 0, ("life",))]
"""A hold in a window of an earlier definition, which counts beside the present one."""
NAMED = [
    [("hold", 400, 0, ("day", "life")), ("wait", 30 * 3600), ("post", 0, 450), ("hold", 300, 0, ("day",))],
    [("hold", 450, 0, ("roll",)), ("post", 0, 450), ("wait", 600), ("hold", 200, 0, ("roll",)), ("wait", 5 * 3600)],
    [("hold", 2000, 0, ("life", "day")), ("hold", 450, 1, ("life",)), ("hold", 200, 1, ("life", "soft"))],
    [("hold", 400, 0, ("shadow",)), ("hold", 400, 0, ("life", "off", "shadow")), ("post", 0, 400), ("post", 0, 9)],
    [*LATE, ("shrink", 0, 100), ("hold", 350, 0, ("life",)), ("post", 0, 20), ("hold", 450, 0, ("life",))],
    [*LATE, ("post", 0, 310), ("hold", 1, 0, ("life",)), ("window", "life", "week"), ("hold", 1, 0, ("life",))],
    [
        *LATE,
        ("void", 0),
        ("correct", 0, 460),
        ("hold", 1, 0, ("life",)),
        ("limit", "life", 900),
        ("hold", 1, 0, ("life",)),
    ],
    [
        ("hold", 300, 0, ("life",)),
        ("shrink", 0, 300),
        ("shrink", 0, 100),
        ("shrink", 0, 200),
        ("again", 0, 5),
        ("void", 0),
    ],
    [
        ("hold", 300, 200, ("soft", "life")),
        ("post", 0, 490),
        ("hold", 0, 20, ("soft",)),
        ("hold", 20, 0, ("soft", "life")),
    ],
]


@pytest.mark.parametrize("history", NAMED)
def test_every_store_answers_as_the_reference_does_in(sides: Sides, history: list[tuple[Any, ...]]) -> None:
    sides.play(history)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(history=HISTORIES)
def test_every_store_answers_as_the_reference_does(sides: Sides, history: list[tuple[Any, ...]]) -> None:
    sides.play(history)


def test_what_the_histories_left_is_proven_by_the_independent_readers(sides: Sides) -> None:
    sides.play([("hold", 900, 0, ("life",)), ("hold", 900, 0, ("life",)), ("post", 0, 950), ("hold", 1, 0, ("life",))])
    report = sides.verify()
    assert report.problem is None, report.problem
    assert report.counts.holds > 0
    assert sides.words >= {"held", "held_by_requests_in_flight", "budget_exhausted"}
    sides.journal.journal.flush()
    proven(sides.journal.folder)

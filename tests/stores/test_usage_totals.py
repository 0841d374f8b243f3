"""However usage is split, its sums are those of the ledger, to the last digit."""

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bursar.core.directory import WindowDef
from bursar.core.ledger_records import JOINT, UsageBy, UsageRow
from bursar.stores.journal import Journal
from bursar.stores.projection import HOUR_NS
from bursar.stores.projection_view import LedgerView
from tests.conformance.money import Hands
from tests.stores.journal_kit import asking, budget, settled

KNOWN: tuple[UsageBy, ...] = get_args(UsageBy)
CALLS = st.lists(
    st.tuples(
        st.integers(0, 2**62),  # cost: two of them pass 63 bits
        st.integers(0, 40),  # hours after the one before
        st.sampled_from(("a", "b", "a/b", "")),
        st.sampled_from(("m1", "m2")),
        st.sampled_from(("posted", "voided", "corrected")),
    ),
    min_size=1,
    max_size=12,
)
SPLITS = st.lists(st.sampled_from(KNOWN), min_size=1, max_size=4, unique=True)
ZONES = st.sampled_from(("UTC", "Europe/Berlin", "Asia/Kolkata", "America/St_Johns", "Pacific/Kiritimati"))


def summed(rows: Sequence[UsageRow]) -> tuple[int, int, int]:
    return sum(row.cost_pico for row in rows), sum(row.attempts for row in rows), sum(row.input_tokens for row in rows)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(CALLS, SPLITS, SPLITS, ZONES)
def test_every_split_has_the_same_sum(calls: list[Any], by: list[UsageBy], other: list[UsageBy], zone: str) -> None:
    async def play(folder: Path) -> None:
        clock = Hands()
        journal = Journal.open(folder / "journal", clock)
        journal.define(budget(2**62, thresholds=(), window=WindowDef(kind="lifetime"), hard=False, mode="shadow"))
        cost = posted = 0
        for pico, hours, team, model, end in calls:
            clock.wall += hours * HOUR_NS
            hold = await journal.hold(asking(500, "b", team_id=team, model=model))
            if end == "voided":
                journal.void(hold.hold_id, "unsent")
                continue
            journal.post(hold.hold_id, settled(pico))
            cost, posted = cost + pico, posted + 1
            if end == "corrected":
                await journal.correct(hold.hold_id, -(pico // 3), "invoice")
                cost -= pico // 3
        journal.close()
        view = LedgerView(folder / "journal", folder / "ledger.db", clock)
        await view.catch_up()
        always = (0, clock.wall + HOUR_NS, 10**6, "")
        rows = await view.usage(by, *always, zone)
        assert summed(rows)[:2] == (cost, posted)
        assert summed(await view.usage(other, *always, zone)) == summed(rows)
        assert all(row.group.count(JOINT) == len(by) - 1 for row in rows)
        paged: list[UsageRow] = []
        while page := await view.usage(by, 0, clock.wall + HOUR_NS, 2, paged[-1].group or "\0" if paged else "", zone):
            paged += page
        assert paged == rows
        view.close()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(play(Path(folder)))

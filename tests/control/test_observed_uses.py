"""What observed keys were used for, as the list tells it: from the ledger's sums, over pages and teams."""

from collections.abc import Sequence

import pytest

from bursar.control import observed_uses
from bursar.control.observed_uses import ObservedUses
from bursar.control.usage import UsageReport
from bursar.core.directory import Observed, VirtualKey
from bursar.core.ledger_records import JOINT, UsageBy, UsageRow

HOUR = 3600 * 10**9
NOW = 1_000 * HOUR


def key(key_id: str, team: str = "observed", since: int = NOW, secret: str = "") -> VirtualKey:
    about = Observed(provider="openai", since=since, secret_id=secret)
    return VirtualKey(id=key_id, name=key_id, team_id=team, secrets=(), observed=about)


def row(team: str, key_id: str, credential: str, model: str, attempts: int, cost: int) -> UsageRow:
    group = JOINT.join((team, key_id, credential, model))
    return UsageRow(group=group, attempts=attempts, input_tokens=0, output_tokens=0, cached_tokens=0, cost_pico=cost)


class Ledger:
    """Sums in their order, in pages as the real ones give them."""

    def __init__(self, *rows: UsageRow) -> None:
        self.rows = sorted(rows, key=lambda one: one.group)
        self.spans: list[tuple[int, int]] = []

    async def report(self, by: tuple[UsageBy, ...], since: int, until: int, limit: int, after: str) -> UsageReport:
        assert since < until
        self.spans.append((since, until))
        found: Sequence[UsageRow] = [one for one in self.rows if one.group > after][:limit]
        return UsageReport(since_ns=since, until_ns=until, by=by, rows=list(found))

    async def last_uses(self) -> dict[str, int]:
        return {"presented-a": 5 * HOUR, "sec-b": 9 * HOUR, "presented-b": 7 * HOUR}


@pytest.mark.parametrize("page", [1, 2, 3, 5000])
async def test_sums_over_teams_models_and_pages(page: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observed_uses, "_PAGE", page)
    ledger = Ledger(
        row("observed", "a", "observed", "small", 3, 30),
        row("observed", "a", "observed", "large", 1, 90),
        row("observed", "b", "observed", "small", 2, 20),
        row("observed", "stranger", "observed", "small", 9, 0),
        row("observed-2", "a", "observed", "small", 99, 99),  # of no team in question
        row("search", "b", "key", "small", 4, 40),
        row("search", "b", "swapped", "small", 5, 50),
        row("search", "other", "key", "small", 99, 99),
        row("ads", "x", "key", "small", 99, 99),
    )
    uses = ObservedUses(ledger, ledger)  # type: ignore[arg-type]  # the one question that is asked of it
    found = await uses.read([key("a"), key("b", "search", secret="sec-b"), key("c")], {"observed"}, NOW)
    a, b, c = found["a"], found["b"], found["c"]
    assert (a.calls, a.cost_pico, a.old_calls, a.models, a.last_ns) == (4, 120, 0, ("large", "small"), 5 * HOUR)
    assert (b.calls, b.cost_pico, b.old_calls, b.models, b.last_ns) == (11, 110, 5, ("small",), 9 * HOUR)
    assert (c.calls, c.cost_pico, c.models, c.last_ns) == (0, 0, (), None)


@pytest.mark.parametrize("since", [NOW - 5 * HOUR, NOW, NOW + 3 * HOUR])
async def test_the_first_call_counts_though_it_was_held_in_the_hour_before(since: int) -> None:
    """A node whose clock is ahead may have said when the key was seen first."""
    ledger = Ledger()
    await ObservedUses(ledger, ledger).read([key("a", since=since)], (), NOW)  # type: ignore[arg-type]
    assert ledger.spans
    assert all(begin <= min(since, NOW) - HOUR for begin, _ in ledger.spans)


async def test_nothing_is_asked_where_nothing_is_observed() -> None:
    ledger = Ledger()
    assert await ObservedUses(ledger, ledger).read([], {"observed"}, NOW) == {}  # type: ignore[arg-type]
    assert ledger.spans == []

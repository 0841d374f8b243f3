"""`bursar usage`: split as asked, summed to the last digit, for eyes, spreadsheets and programs."""

import csv
import io
import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.core.ledger_records import JOINT, UsageRow
from bursar.faces.cli_terminal import REFUSED, USAGE
from bursar.faces.cli_usage import added, bar, sparkline
from tests.faces.stand import Stand, standing
from tests.faces.test_cli import Cli


def row(*groups: str, cost: int = 10**12, attempts: int = 1) -> UsageRow:
    counts = {"attempts": attempts, "input_tokens": 10, "output_tokens": 5, "cached_tokens": 0}
    return UsageRow(group=JOINT.join(groups), cost_pico=cost, **counts)


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    with standing(tmp_path_factory.mktemp("node")) as one:
        yield one


@pytest.fixture
def cli(stand: Stand) -> Cli:
    return Cli(stand)


@pytest.fixture
def written(cli: Cli, stand: Stand) -> Iterator[Cli]:
    stand.ledger.rows = [
        row("search", "=cmd()", cost=1),
        row("search", "gpt-4o", cost=3 * 10**12, attempts=4),
        row("ads", "gpt-4o", cost=10**12, attempts=9),
    ]
    yield cli
    stand.ledger.rows = []


def test_what_was_asked_reaches_the_ledger(cli: Cli, stand: Stand) -> None:
    cli("usage", "--by", "team,model,day", "--since", "2025-11-01", "--until", "2025-11-02", "--zone", "Europe/Berlin")
    by, since, until = stand.ledger.asked[-1]
    assert by == ("team", "model", "day")
    assert (until - since) == 24 * 3_600 * 10**9
    assert since % (24 * 3_600 * 10**9) == 23 * 3_600 * 10**9, "midnight in Berlin"


def test_rows_are_sorted_and_the_total_is_exact(written: Cli) -> None:
    lines = written("usage", "--by", "team,model").stdout.splitlines()
    assert [line.split()[0] for line in lines[2:6]] == ["search", "ads", "search", "total"]
    assert "$4.00" in lines[5]
    assert "█" in lines[2]
    by_attempts = written.json("usage", "--by", "team,model", "--sort", "attempts")
    assert [it["attempts"] for it in by_attempts] == [9, 4, 1]


def test_the_others_are_summed_in_one_row(written: Cli) -> None:
    rows = written.json("usage", "--by", "team,model", "--top", "1")
    assert [it["groups"] for it in rows] == [["search", "gpt-4o"], ["(2 others)", ""]]
    assert rows[1]["cost_usd"] == "1.000000000001"


def test_csv_is_read_back_and_holds_no_formula(written: Cli, tmp_path: Path) -> None:
    out = tmp_path / "usage.csv"
    written("usage", "--by", "team,model", "--csv", "--out", str(out))
    text = out.read_text()
    assert written("usage", "--by", "team,model", "--csv").stdout.replace("\r", "") == text.replace("\r", "")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert {it["model"] for it in rows} == {"gpt-4o", "'=cmd()"}
    assert sum(Decimal(it["cost_usd"]) for it in rows) == Decimal("4.000000000001")
    assert (
        "cannot be written"
        in written("usage", "--by", "team,model", "--csv", "--out", str(tmp_path / "no" / "x"), code=REFUSED).stderr
    )


def test_json_goes_to_a_file_too(written: Cli, tmp_path: Path) -> None:
    out = tmp_path / "usage.json"
    written("usage", "--by", "team,model", "--out", str(out))
    assert len(json.loads(out.read_text())) == 3


def test_days_are_in_order_with_a_line_below(cli: Cli, stand: Stand) -> None:
    stand.ledger.rows = [row("2025-11-01", cost=8), row("2025-11-04", cost=4), row("2025-11-02", cost=10**12)]
    lines = cli("usage", "--by", "day").stdout.splitlines()
    assert [line.split()[0] for line in lines[2:6]] == ["2025-11-01", "2025-11-02", "2025-11-04", "total"]
    assert "2025-11-01 ▁█·▁ 2025-11-04" in lines[-1]
    stand.ledger.rows = []


def test_wrong_wishes_say_what_to_write(cli: Cli) -> None:
    assert "credential" in cli("usage", "--by", "team,planet", code=USAGE).stderr
    assert "twice" in cli("usage", "--by", "team,team", code=USAGE).stderr
    assert "Europe/Berlin" in cli("usage", "--zone", "Moon/Base", code=REFUSED).stderr
    assert "Europe/Berlin" in cli("usage", "--zone", "../x", code=REFUSED).stderr


PICO = st.integers(0, 2**70)


@given(st.lists(PICO, max_size=20))
def test_sums_lose_no_digit(costs: list[int]) -> None:
    blank = dict.fromkeys(("attempts", "input_tokens", "output_tokens", "cached_tokens", "inexact"), 0)
    rows = [blank | {"cost_usd": f"{Decimal(cost).scaleb(-12):f}", "overage_usd": "0.00"} for cost in costs]
    assert Decimal(added(rows)["cost_usd"]).scaleb(12) == sum(costs)


@given(st.lists(PICO, min_size=1, max_size=40))
def test_charts_are_as_wide_as_they_should_be(values: list[int]) -> None:
    amounts = [Decimal(value) for value in values]
    most = max(amounts)
    bars = [bar(value, most) for value in amounts]
    assert {len(it) for it in bars} == {12}
    assert all(bool(it.strip()) == (value > 0) for it, value in zip(bars, amounts, strict=True))
    assert len(sparkline(amounts)) == len(amounts)

"""`bursar shadow report`, `promote` and `demote` against a control with real stores."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from bursar.core.decisions import HOUR_NS, Batch, ShadowSum
from bursar.core.units import PICO_PER_USD
from tests.control.tenants import START_NS
from tests.faces.stand import Stand, standing
from tests.faces.test_cli import Cli

HOUR = START_NS // HOUR_NS


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    with standing(tmp_path) as made:
        yield made


@pytest.fixture
def cli(stand: Stand) -> Cli:
    made = Cli(stand)
    made("owners", "create", "ACME", "--id", "acme", "--contact", "pay@acme.test")
    sets = ("--set", "models=gpt-*", "--set", "modes.models=shadow", "--set", "modes.max_tokens=shadow")
    made("teams", "create", "Search", "--owner", "acme", *sets, "--set", "max_tokens_cap=9")
    return made


def told(control: str, calls: int, hours_ago: int, **more: object) -> ShadowSum:
    given = {"team_id": "search", "key_id": "k-1", "rule": control, "verdict": "refuses", "word": "w"} | more
    amounts = {"cost_pico": calls * PICO_PER_USD, "saved_pico": calls * PICO_PER_USD // 2}
    return ShadowSum(hour=HOUR - hours_ago, control=control, calls=calls, **(amounts | given))  # type: ignore[arg-type]


def record(stand: Stand, *sums: ShadowSum) -> None:
    stand.run(stand.decisions.take("main", Batch(session="s", number=1, at_ns=START_NS, sums=list(sums))))


SUMS = (
    told("models", 3, 2, word="model_not_allowed"),
    told("models", 4, 50, word="model_not_allowed"),
    told("models", 100, 24 * 20, word="model_not_allowed"),
    told("max_tokens", 5, 3, rule="max_tokens_cap", verdict="clamps", word=""),
    told("limits", 2, 3, team_id="other", rule="rpm<b>"),
)


def test_a_report_adds_up_what_is_in_its_span(stand: Stand, cli: Cli) -> None:
    record(stand, *SUMS)
    found = cli.json("shadow", "report")
    lines = {(it["team"], it["control"], it["verdict"]): (it["calls"], it["saved_usd"]) for it in found["lines"]}
    assert lines == {
        ("search", "models", "refuses"): (7, "3.50"),
        ("search", "max_tokens", "clamps"): (5, "2.50"),
        ("other", "limits", "refuses"): (2, "1.00"),
    }
    assert sum(day["calls"] for day in found["days"]) == 14
    assert cli.json("shadow", "report", "--last", "30d", "--control", "models")["lines"][0]["calls"] == 107
    assert {it["team"]: it["calls"] for it in cli.json("shadow", "report", "--by", "team", "--team", "other")["lines"]}
    out = cli("shadow", "report").stdout
    assert re.search(r"models +refuse +model_not_allowed", out)
    assert max(map(len, out.splitlines())) <= 100


def test_nothing_recorded_says_what_to_type(cli: Cli) -> None:
    assert "bursar demote" in cli("shadow", "report").stdout
    assert cli.json("shadow", "report")["lines"] == []


class Tags(HTMLParser):
    """What a page is made of, and whether each tag that is opened is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.values: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.values += [value or "" for _, value in attrs]
        if tag not in ("meta",):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("recorded", [True, False])
def test_the_page_stands_by_itself_and_quotes_what_it_shows(
    stand: Stand, cli: Cli, tmp_path: Path, recorded: bool
) -> None:
    if recorded:
        record(stand, *SUMS)
    file = tmp_path / "shadow.html"
    cli("shadow", "report", "--html", str(file))
    text = file.read_text()
    tags = Tags(text)
    assert tags.open == []
    assert not {"script", "link", "img", "iframe", "b-"} & set(tags.seen)
    assert not re.search(r"https?://|url\(|@import", text)
    assert ("svg" in tags.seen) == recorded
    assert ("rpm&lt;b&gt;" in text) == recorded


def test_a_page_that_cannot_be_written_is_told(cli: Cli, tmp_path: Path) -> None:
    assert "cannot be written" in cli("shadow", "report", "--html", str(tmp_path / "no" / "x.html"), code=1).stderr


def test_promotion_is_previewed_made_and_taken_back(stand: Stand, cli: Cli) -> None:
    record(stand, *SUMS)
    shown = cli("promote", "team/search", "--preview").stdout
    assert "model_not_allowed" in shown
    assert "modes.models" in shown
    previewed = cli.json("promote", "team/search", "--control", "models", "--preview", "--last", "30d")
    assert [(it["control"], it["calls"]) for it in previewed["would"]] == [("models", 107)]
    assert cli.json("teams", "show", "search")["policy"]["modes"] == {"models": "shadow", "max_tokens": "shadow"}
    done = cli("promote", "team/search").stdout
    assert "models, max_tokens enforced" in done
    (undo,) = re.findall(r"undo: (bursar undo \d+)", done)
    assert "modes" not in cli.json("teams", "show", "search")["policy"]
    cli(*undo.split()[1:])
    assert cli.json("teams", "show", "search")["policy"]["modes"] == {"models": "shadow", "max_tokens": "shadow"}
    assert "nothing to demote" in cli("demote", "team/search").stdout
    assert cli.json("promote", "team/search", "--control", "max_tokens")["moved"] == ["max_tokens"]
    assert cli.json("demote", "team/search")["moved"] == ["max_tokens"]


@pytest.mark.parametrize(
    ("subject", "more", "word"),
    [
        ("owner/acme", (), "invalid_input"),
        ("team/none", (), "unknown_id"),
        ("team/search", ("--control", "model"), "did"),
    ],
)
def test_what_cannot_be_promoted_says_why(cli: Cli, subject: str, more: tuple[str, ...], word: str) -> None:
    assert word in cli("promote", subject, *more, code=1).stderr

"""What the README and docs/ show works as shown; every link leads somewhere; the promise is quoted word for word."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.docs.grounds import ground_of
from tests.docs.pages import FOR_THE_EYE, Reader, blocks, matches, runnable
from tests.e2e.broker import ROOT, Broker
from tests.fleet.harness import Fleet

PAGES = ["README.md", *(path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").rglob("*.md")))]
MANY_NODES = "docs/many-nodes.md"
RUNNABLE = [page for page in PAGES if any(runnable(page))]

PROMISE = (
    "For a hard budget, posted + held ≤ limit at every instant, and nothing is dispatched before its cost ceiling is "
    "held. Only overage can pass it: a provider charging more than the ceiling, a late adjustment, or a limit that was "
    "lowered. Overage is booked in full as its own line, counts at once, closes the budget, and pages the owner. "
    "This holds under any concurrency, on any number of nodes, through kill -9, cancelled streams and store outage, "
    "as long as the store keeps what it acknowledged."
)


def test_the_page_on_many_nodes_works_as_shown(tmp_path: Path) -> None:
    """Its first node is the page's broker; the second one has the ports 4100 and 4101."""
    with Fleet(tmp_path / "fleet", names=("a", "b")) as fleet:
        first, second = fleet.start()
        besides = {"127.0.0.1:4100": second.data_port, "127.0.0.1:4101": second.admin_port}
        reader = Reader(first, tmp_path / "reader", {shown: f"127.0.0.1:{port}" for shown, port in besides.items()})
        for block in runnable(MANY_NODES):
            reader.run(block)


@pytest.mark.parametrize("page", [page for page in RUNNABLE if page != MANY_NODES])
def test_a_page_works_as_shown(page: str, make_broker: Callable[..., Broker], tmp_path: Path) -> None:
    with ground_of(page) as ground:
        reader = Reader(make_broker(**ground).start(), tmp_path / "reader")
        for block in runnable(page):
            reader.run(block)


@pytest.mark.parametrize("page", PAGES)
def test_blocks_are_of_a_kind_that_is_known(page: str) -> None:
    assert {block.language for block in blocks(page)} <= FOR_THE_EYE | {"bash", "python"}
    assert len(re.findall(r"^```", (ROOT / page).read_text(), re.MULTILINE)) == 2 * sum(
        1 + bool(block.prints) for block in blocks(page)
    ), "a fence without a language, or one that is not closed"


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = re.sub(r"^```.*?^```$", "", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}, target


def test_each_guarantee_names_the_test_that_shows_it() -> None:
    """Or says that there is none, and whose promise it is then."""
    _, _, below = (ROOT / MANY_NODES).read_text().partition("### What is guaranteed, and by which test\n")
    table = below.strip().split("\n\n")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
    assert len(rows) > 8
    for row in rows:
        assert len(row) == 5, row
        named = re.findall(r"`(tests/[\w/]+\.py)`", row[4])
        assert named or "test" in row[4], row
        assert all((ROOT / path).is_file() for path in named), row


def test_the_money_promise_stands_in_the_readme_word_for_word() -> None:
    """The docs of vercel and those of cloudflare say openly that their caps are soft. These say what holds."""
    readme = re.sub(r"\s+", " ", (ROOT / "README.md").read_text().replace("\n> ", " "))
    assert PROMISE in readme


@pytest.mark.parametrize(
    ("said", "printed", "fits"),
    [
        ("", "anything", True),
        ("a … c", "before\na b c\nafter", True),
        ("a\nb", "a\nx\nb", True),
        ("a\nb", "b\na", False),
        ("spent  1.00", "spent 1.00", True),
        ("spent 1.00", "spent 2.00", False),
    ],
)
def test_the_comparison_of_output_can_fail(said: str, printed: str, fits: bool) -> None:
    assert matches(said, printed) is fits

"""docs/complaints.md is complete, and each test that it names exists and names the threads that it answers.

`THREADS` are those of the peer study from which the project began (its sections 3.1 to 3.8), by repository.
"""

import ast
import re
from functools import cache
from typing import NamedTuple

import pytest

from tests.e2e.broker import ROOT

THREADS = {
    "3.1": """litellm: 34732 40095 26672 23714 11083 PR-25374 34238 10973; bifrost: 3547 2873 5673 5925 PR-5932 PR-2363;
        new-api: 6607 6609; one-api: 2440; CliRelay: 1045; membrane/api-gateway: 3210; langwatch: 421; higress: 2464;
        envoyproxy/ai-gateway: 680 2394; vercel: docs; cloudflare: docs""",
    "3.2": """litellm: 27639 PR-29493 40050 33923 35569 PR-27021 PR-36592 PR-38111 20615 22726; otari: 128 742""",
    "3.3": """litellm: 37923 36168 42663 40100 11789 16341 12313 30725 13882 13731 13732 13733 11359 35904 39501
        PR-35913 27588; litellm-docs: PR-894; bifrost: 904 3451 5243 2292 3559; stakgraph: PR-1688; agentgateway: 3228;
        wso2/api-platform: 2932; obot: 7557 7511""",
    "3.4": """litellm: 14457 13245 35958 PR-37558 PR-33736 PR-30630 PR-36008 33872 35531 19163 PR-34887;
        bifrost: 3357 PR-4575; new-api: 5235""",
    "3.5": """litellm: 18730 PR-27001 40291 27736 13202 18518 2730 PR-28805 29193 34728 20256 17323 27955 PR-28160 16011
        27900 35533 39309; tensorzero: 3648; envoyproxy/ai-gateway: 1754; kserve: 4595; apisix: 12482; higress: 1080;
        Helicone: 2217; agentgateway: 1398 2171""",
    "3.6": """litellm: 8364 5651 7129 16057 32245 34270 v1.100.3; terraform-provider-litellm: PR-113""",
    "3.7": """litellm: 12685 6404 15128 21908 38193 27954 13805 worker-recycling post-httpx-client 13546 9491 14681
        21046 38689; Kong: 14425""",
    "3.8": """litellm: 18708 14325 6895 docs-db_deadlocks.md 26886 35766 16582 PR-11683 post-redis_circuit_breaker;
        Team-Commonly: PR-468""",
}
PAGE = (ROOT / "docs/complaints.md").read_text()


class Row(NamedTuple):
    section: str
    threads: tuple[str, ...]
    tests: tuple[str, ...]
    shown: str

    @property
    def applies(self) -> bool:
        return not self.shown.startswith("does not apply: ")


def rows() -> list[Row]:
    found = []
    section = ""
    for line in PAGE.splitlines():
        if heading := re.match(r"## (3\.\d) ", line):
            section = heading[1]
        if line.startswith("| `"):
            threads, _, shown = line.strip("| ").split(" | ")
            tests = tuple(re.findall(r"`(tests/[\w/]+\.py::\w+)`", shown))
            found.append(Row(section, tuple(re.findall(r"`([^`]+)`", threads)), tests, shown))
    return found


ROWS = rows()


def spelled(number: str) -> str:
    """PR-12 is written "PR 12" on the page."""
    kind, dash, rest = number.partition("-")
    return f"{kind} {rest}" if dash and kind in ("PR", "post", "docs") else number


@cache
def cited_in(path: str) -> dict[str, str]:
    """The tests of a file, those in classes too: their decorators, signature and docstring."""
    source = (ROOT / path).read_text()
    found = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            parts = [ast.get_source_segment(source, one) or "" for one in node.decorator_list]
            found[node.name] = " ".join([*parts, ast.get_docstring(node) or ""])
    return found


@pytest.mark.parametrize("section", THREADS)
def test_every_thread_has_a_row(section: str) -> None:
    wanted = set()
    for group in THREADS[section].split(";"):
        repository, _, numbers = group.strip().partition(": ")
        wanted |= {f"{repository} {spelled(number)}" for number in numbers.split()}
    listed = {thread for row in ROWS if row.section == section for thread in row.threads}
    assert listed == wanted


@pytest.mark.parametrize("row", ROWS, ids=[f"{row.section} {row.threads[0]}" for row in ROWS])
def test_a_row_names_tests_that_name_its_threads(row: Row) -> None:
    assert row.tests if row.applies else len(row.shown) > 40, "a test, or the reason why there is none"
    for named in row.tests:
        path, _, name = named.partition("::")
        cited = cited_in(path).get(name)
        assert cited is not None, f"{named} is not there"
        for thread in row.threads:
            assert all(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", cited) for word in thread.split()), (named, thread)


def test_every_test_written_for_a_complaint_is_on_the_page() -> None:
    here = {
        f"{path.relative_to(ROOT).as_posix()}::{name}"
        for path in sorted((ROOT / "tests/complaints").glob("test_*.py"))
        if path.name != "test_index.py"
        for name, cited in cited_in(path.relative_to(ROOT).as_posix()).items()
        if re.search(r"\d{2,}", cited)
    }
    assert here == {named for row in ROWS for named in row.tests if named.startswith("tests/complaints/")}

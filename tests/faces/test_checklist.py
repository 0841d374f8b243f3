"""The checklist: every line can fail and pass, and what it says to type makes it pass."""

import re
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bursar.control.checklist import CHECKS
from bursar.core.ledger_records import UsageRow
from bursar.core.secret import Secret
from bursar.faces.cli_checklist import checklist_page
from bursar.faces.cli_terminal import NOT_VERIFIED
from bursar.faces.client import AdminClient
from tests.faces.stand import Stand, standing
from tests.faces.test_cli import Cli

CHOSEN = {"OWNER": "ann", "NAME": "Nora", "NAME@EXAMPLE.COM": "ann@example.com"}


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    with standing(tmp_path) as one:
        yield one


@pytest.fixture
def api(stand: Stand) -> AdminClient:
    return AdminClient(stand.url, stand.token)


def lines_of(api: AdminClient) -> dict[str, dict[str, Any]]:
    return {line["id"]: line for line in api.call("GET", "/checklist")["lines"]}


def verdicts(api: AdminClient) -> dict[str, str]:
    return {name: line["verdict"] for name, line in lines_of(api).items()}


def stored(stand: Stand, address: str, value: str, **tags: str) -> str:
    secret_id, _ = stand.run(stand.secrets.put(address, Secret(value), tags, True))
    return str(secret_id)


@pytest.fixture
def untidy(stand: Stand, api: AdminClient) -> None:
    """A node on which every line that can fail does, but for those that no command mends."""
    api.call("POST", "/owners", {"id": "ann", "name": "Ann"})
    api.call("POST", "/teams", {"id": "alpha", "name": "Alpha", "owner": "ann"})
    api.call("POST", "/keys", {"name": "ci", "team": "alpha"})
    stored(stand, "openai/*/api_key/prod/alpha", "sk-canary-one")


def test_what_a_line_says_to_type_makes_it_pass(stand: Stand, api: AdminClient, untidy: None) -> None:
    stand.clock.ns = time.time_ns()  # the command line says 90 days by the clock on the wall
    cli = Cli(stand)
    before = lines_of(api)
    mended = {"owned", "keys-end", "rates", "preflight", "caps", "contacts", "admins"}
    assert {name for name in mended if before[name]["verdict"] == "fail"} == mended
    for name in mended:
        for typed in before[name]["mend"]:
            words = [CHOSEN.get(word, word) for word in shlex.split(typed.replace("=OWNER", "=ann"))]
            cli(*words[1:])
    after = verdicts(api)
    assert {name for name in mended if after[name] == "pass"} == mended


def test_no_line_of_an_empty_node_passes_for_having_nothing_to_look_at_but_the_inventory(api: AdminClient) -> None:
    lines = lines_of(api)
    assert lines["vault"]["verdict"] == "fail"
    assert lines["tokens"]["verdict"] == "unseen"
    assert len(lines) == len(CHECKS)


def test_values_in_the_environment_are_not_in_a_vault(stand: Stand, api: AdminClient, untidy: None) -> None:
    assert verdicts(api)["vault"] == "pass"
    stand.services.checklist._open_stores = frozenset({"embedded"})  # as if it were one
    assert verdicts(api)["vault"] == "fail"


def test_twins_are_told_by_the_inventory(stand: Stand, api: AdminClient, untidy: None) -> None:
    assert verdicts(api)["inventory"] == "pass"
    stored(stand, "openai/*/api_key/prod/beta", "sk-canary-one", billing_owner="ann")
    line = lines_of(api)["inventory"]
    assert line["verdict"] == "fail"
    assert "duplicate" in line["told"]
    assert "no team" in line["told"]


@pytest.mark.parametrize(
    ("calls", "verdict"), [({"alpha/token": 9}, "pass"), ({"alpha/token": 9, "alpha/key": 1}, "fail"), ({}, "unseen")]
)
def test_one_call_with_the_key_itself_is_told(
    stand: Stand, api: AdminClient, calls: dict[str, int], verdict: str
) -> None:
    rows = [
        UsageRow(group=name, attempts=count, input_tokens=1, output_tokens=1, cached_tokens=0, cost_pico=1)
        for name, count in calls.items()
    ]
    stand.ledger.rows = rows
    assert verdicts(api)["tokens"] == verdict


@pytest.mark.parametrize(
    ("policy", "verdict"),
    [
        ({"limits": [{"unit": "requests", "amount": 9}, {"unit": "output_tokens", "amount": 9}]}, "pass"),
        ({"limits": [{"unit": "requests", "amount": 9}]}, "fail"),
        ({"limits": [{"unit": "requests", "amount": 9}, {"unit": "tokens", "amount": 9, "mode": "shadow"}]}, "fail"),
        (
            {
                "limits": [{"unit": "requests", "amount": 9}, {"unit": "tokens", "amount": 9}],
                "modes": {"limits": "shadow"},
            },
            "fail",
        ),
    ],
)
def test_what_is_in_shadow_limits_nobody(
    api: AdminClient, untidy: None, policy: dict[str, object], verdict: str
) -> None:
    api.call("PATCH", "/teams/alpha", {"policy": policy})
    assert verdicts(api)["rates"] == verdict


@pytest.mark.parametrize(
    ("budget", "verdict"),
    [
        ({"subject_kind": "owner", "subject": "ann", "limit_usd": "5"}, "pass"),
        ({"subject_kind": "team", "subject": "alpha", "limit_usd": "5", "hard": False}, "fail"),
        ({"subject_kind": "team", "subject": "alpha", "limit_usd": "5", "mode": "shadow"}, "fail"),
        ({"subject_kind": "model", "subject": "gpt-4o", "limit_usd": "5"}, "fail"),
    ],
)
def test_only_an_enforced_hard_budget_over_every_call_counts(
    api: AdminClient, untidy: None, budget: dict[str, object], verdict: str
) -> None:
    api.call("POST", "/budgets", budget)
    assert verdicts(api)["preflight"] == verdict


def test_keys_that_serve_nobody_are_not_asked_about(api: AdminClient, untidy: None) -> None:
    assert verdicts(api)["keys-end"] == "fail"
    api.call("POST", "/teams/alpha/disable")
    assert verdicts(api)["keys-end"] == "pass"


def test_a_copy_of_the_audit_is_one_outside_of_its_database(stand: Stand, api: AdminClient) -> None:
    assert verdicts(api)["audit"] == "fail"
    stand.services.checklist._copies = ("siem",)  # of the configuration
    assert verdicts(api)["audit"] == "pass"


def test_the_exit_code_and_the_page(stand: Stand, api: AdminClient, untidy: None, tmp_path: Path) -> None:
    cli = Cli(stand)
    shown = cli("checklist", code=NOT_VERIFIED).output
    assert re.search(r"✗ A hard budget stands over each key.*\n +bursar budgets create team/alpha", shown)
    page = tmp_path / "evidence.html"
    cli("checklist", "--html", str(page), code=NOT_VERIFIED)
    assert "bursar budgets create team/alpha" in page.read_text()
    assert "<script" not in page.read_text()
    evil = {"title": "<img src=x>", "verdict": "fail", "told": "&", "mend": ["<b>"], "id": "x"}
    assert "<img" not in checklist_page({"node": "<i>", "at": "2026-11-24T00:00:00Z", "failing": 1, "lines": [evil]})

"""`bursar policy test FILE` against a control with real stores and a history that is told."""

import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bursar.control.replay_feed import End, Holder, Start, Tried
from bursar.core.decisions import Batch, CallFacts, Decision, encode
from bursar.core.directory import BudgetDef, LimitDef, Owner, Policy, Team, VirtualKey
from bursar.core.replay import Past
from bursar.core.units import NS_PER_S, PICO_PER_USD
from bursar.faces.cli_replay import Replay
from bursar.faces.policy_file import Changed
from bursar.stores.catalogue import load as load_catalogue
from tests.control.tenants import START_NS
from tests.faces.stand import Stand, standing
from tests.faces.test_cli import Cli
from tests.faces.test_shadow_cli import Tags

MODEL = "gpt-4o-mini"


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    with standing(tmp_path) as made:
        yield made


@pytest.fixture
def cli(stand: Stand) -> Cli:
    made = Cli(stand)
    made("owners", "create", "ACME", "--id", "acme", "--contact", "pay@acme.test")
    made("teams", "create", "Search", "--owner", "acme", "--set", "models=gpt-*")
    made("budgets", "create", "team/search", "--id", "month", "--limit", "$100")
    return made


@pytest.fixture
def key(cli: Cli) -> str:
    return str(cli.json("keys", "create", "--team", "search", "--name", "nightly")["key"]["id"])


def past(key: str, seconds_ago: int, **more: Any) -> Past:
    at = START_NS - seconds_ago * NS_PER_S
    told = {"request_id": f"r{seconds_ago}", "key_id": key, "team_id": "search", "t_ns": at, "ended_ns": at + NS_PER_S}
    told |= {"provider": "openai", "model": MODEL, "price_id": f"openai/{MODEL}@2024-07-18", "cost": PICO_PER_USD}
    return Past(**(told | {"held": PICO_PER_USD, "input_tokens": 100, "output_tokens": 300} | more))  # type: ignore[arg-type]


def recorded(stand: Stand, *decisions: Decision) -> None:
    batch = Batch(session="s", number=1, at_ns=START_NS, records=[encode(it) for it in decisions])
    stand.run(stand.decisions.take("main", batch))


def file_of(tmp_path: Path, text: str) -> str:
    path = tmp_path / "changed.yaml"
    path.write_text(text)
    return str(path)


def test_who_would_have_been_refused_and_what_it_saves(stand: Stand, cli: Cli, key: str, tmp_path: Path) -> None:
    stand.ledger.pasts = [past(key, 4000 - i) for i in range(10)]
    file = file_of(tmp_path, "budget/month: {limit_usd: '3.50'}\n")
    found = cli.json("policy", "test", file)
    (line,) = found["lines"]
    assert (line["change"], line["word"], line["rule"], line["calls"]) == (
        "newly refused",
        "budget_exhausted",
        "month",
        7,
    )
    assert (line["key_name"], line["example"], line["saved_usd"]) == ("nightly", "r3997", "7.00")
    assert (found["calls"], found["cost_usd"], found["saved_usd"]) == (10, "10.00", "7.00")
    out = cli("policy", "test", file, width=100).stdout
    assert "newly refused" in out
    assert max(map(len, out.splitlines())) <= 100
    assert cli.json("budgets", "list")[0]["limit_usd"] == "100.00", "nothing was changed"


def test_each_kind_of_subject_can_be_changed(stand: Stand, cli: Cli, key: str, tmp_path: Path) -> None:
    stand.ledger.pasts = [past(key, 4000 - i) for i in range(6)]

    def words(text: str) -> set[tuple[str, str, int]]:
        lines = cli.json("policy", "test", file_of(tmp_path, text))["lines"]
        return {(line["change"], line["word"], line["calls"]) for line in lines}

    assert words(f"key/{key}:\n  policy: {{max_input_tokens: 50}}\n") == {("newly refused", "prompt_too_large", 6)}
    assert words("team/search: {policy: {models: ['gpt-4.1*']}}\n") == {("newly refused", "model_not_allowed", 6)}
    limits = "{policy: {limits: [{unit: requests, amount: 2, per_seconds: 3600}]}}"
    assert words(f"key/{key}: {limits}\n") == {("newly refused", "rate_limited", 4)}
    assert words("team/search: {policy: {max_tokens_cap: 100}}\n") == {("newly cut", "", 6)}
    assert words("budget/new: {subject_kind: team, subject: search, limit_usd: '1'}\n") == {
        ("newly refused", "budget_exhausted", 5)
    }
    assert words("budget/month: null\n") == set()
    assert "nobody would have noticed" in cli("policy", "test", file_of(tmp_path, "budget/month: null\n")).stdout


def test_recorded_decisions_tell_more_than_rows(stand: Stand, cli: Cli, key: str, tmp_path: Path) -> None:
    facts = CallFacts(route="chat", dialect="openai", model=MODEL, input_bytes=400, messages=1, max_tokens=5000)
    told = {"key_id": key, "team_id": "search", "call": facts, "model": MODEL, "price_id": f"openai/{MODEL}@2024-07-18"}
    at = START_NS - 500 * NS_PER_S
    recorded(
        stand,
        Decision(request_id="r600", at_ns=at, outcome="allowed", **told),
        Decision(request_id="no-1", at_ns=at, outcome="refused", word="max_tokens_exceeded", **told),
    )
    stand.ledger.pasts = [past(key, 600), past(key, 590)]
    cli("teams", "update", "search", "--set", "max_tokens_cap=1000", "--set", "over_max_tokens=refuse")
    found = cli.json("policy", "test", file_of(tmp_path, "team/search: {policy: {max_tokens_cap: 8000}}\n"))
    assert {(it["change"], it["word"], it["calls"]) for it in found["lines"]} == {
        ("newly allowed", "max_tokens_exceeded", 2)
    }
    assert (found["calls"], found["guessed"], found["refused_today"]) == (3, 1, 2)


FAULTY = """
team/search:
  policy:
    models: gpt-4o
    max_tokens_cap: -5
    max_tokens_cup: 7
    networks: [nowhere]
    modes: {limit: shadow, models: sometimes}
    limits: [{unit: requests, amount: 0}, {unit: apples, amount: 3}]
team/none: {policy: {}}
budget/month: {limit_usd: 12}
budget/other: {limit_usd: '1'}
owner/acme: {}
key/none: 5
"""


def test_a_file_with_ten_faults_tells_all_ten_with_their_paths(cli: Cli, tmp_path: Path) -> None:
    before = cli.json("history")
    problem = msgspec.json.decode(cli("policy", "test", file_of(tmp_path, FAULTY), "--json", code=5).stderr)
    paths = [fault["path"] for fault in problem["faults"]]
    assert len(paths) >= 10
    for wanted in (
        "team/search.policy.models",
        "team/search.policy.max_tokens_cup",
        "team/search.policy.modes",
        "team/search.policy.limits",
        "team/none",
        "budget/month.limit_usd",
        "budget/other",
        "owner/acme",
        "key/none",
    ):
        assert any(path.startswith(wanted) for path in paths), (wanted, paths)
    assert all("changed.yaml" in fault["message"] for fault in problem["faults"])
    assert any("changed.yaml:4)" in fault["message"] for fault in problem["faults"]), "the line of models"
    assert cli.json("history") == before, "nothing is lost, and nothing was changed"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("a: [", "not YAML"),
        ("team/search: {}\nteam/search: {}\n", "twice"),
        ("a: &x 1\nb: *x\n", "a: "),
        ("- 1\n", "subjects"),
        ("", "subjects"),
        ("teams: {none-such: {name: X, owner: nobody}}\n", "teams.none-such"),
    ],
)
def test_a_file_that_is_none_is_refused(cli: Cli, tmp_path: Path, text: str, word: str) -> None:
    assert word in cli("policy", "test", file_of(tmp_path, text), code=5).stderr


def test_a_file_that_is_not_there_is_told(cli: Cli, tmp_path: Path) -> None:
    assert "cannot be read" in cli("policy", "test", str(tmp_path / "none.yaml"), code=5).stderr


def test_a_file_of_apply_is_taken_as_it_is(stand: Stand, cli: Cli, key: str, tmp_path: Path) -> None:
    stand.ledger.pasts = [past(key, 4000 - i) for i in range(6)]
    team = "teams:\n  search: {name: Search, owner: acme, policy: {models: [gpt-4.1]}}\n"
    (line,) = cli.json("policy", "test", file_of(tmp_path, team))["lines"]
    assert (line["change"], line["word"], line["calls"]) == ("newly refused", "model_not_allowed", 6)
    whole = tmp_path / "whole.yaml"
    whole.write_text(cli("export").stdout)
    assert cli.json("policy", "test", str(whole))["lines"] == [], "the directory as it is changes nothing"


def test_the_page_stands_by_itself(stand: Stand, cli: Cli, key: str, tmp_path: Path) -> None:
    stand.ledger.pasts = [past(key, 4000 - i) for i in range(10)]
    page = tmp_path / "replay.html"
    cli("policy", "test", file_of(tmp_path, "budget/month: {limit_usd: '3.50'}\n"), "--html", str(page))
    tags = Tags(page.read_text())
    assert tags.open == []
    assert not {"script", "link", "img"} & set(tags.seen)
    assert "budget_exhausted" in page.read_text()


# ---- long histories


def told(count: int) -> Iterator[bytes]:
    encode_line = msgspec.json.Encoder().encode
    start = START_NS - count * NS_PER_S
    budget = BudgetDef(id="b", version=1, subject_kind="team", subject="search", limit_pico=10**21)
    yield encode_line(Start(start, START_NS, [budget], [])) + b"\n"
    holder = VirtualKey(id="k", name="k", team_id="search", secrets=())
    yield encode_line(Holder(holder, Team(id="search", name="s", owner_id="o"), Owner(id="o", name="o"))) + b"\n"
    for i in range(count):
        line = encode_line(Tried(past("k", count - i, user=f"u{i}")))
        yield line[:20]  # pieces end where they will
        yield line[20:] + b"\n"
    yield encode_line(End(0)) + b"\n"


def test_memory_does_not_grow_with_the_history() -> None:
    limit = LimitDef(id="rpm", unit="requests", amount=30)
    changed = Changed(teams=[Team(id="search", name="s", owner_id="o", policy=Policy(limits=(limit,)))])
    prices = load_catalogue()

    def most(count: int) -> int:
        played, steps = Replay(changed, prices), list[float]()
        tracemalloc.start()
        played.run(told(count), steps.append)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert played.findings.calls == count
        assert steps == sorted(steps)
        assert 0 <= min(steps, default=0) <= max(steps, default=1) <= 1
        return peak

    most(500)
    short, long = most(1_000), most(10_000)
    assert long < short + 1_500_000

"""`bursar plan`, `apply`, `export`, `rollback`, `managed` against a live control."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from bursar.core.tokens import KEY_PATTERN
from bursar.faces.cli_terminal import CONFIG_FAULTS, OK, PENDING, REFUSED, USAGE
from tests.faces.stand import Stand, balance, standing
from tests.faces.test_cli import Cli

FILE = """\
managed_by: git:platform
owners:
  acme: {name: ACME Inc.}
teams:
  search: {name: Search, owner: acme, policy: {models: ["gpt-4o*"]}}
keys:
  nightly: {team: search, name: Nightly jobs}
budgets:
  search-month: {subject: team/search, limit_usd: 100}
"""


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    with standing(tmp_path) as one:
        yield one


@pytest.fixture
def cli(stand: Stand) -> Cli:
    return Cli(stand)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "files" / "platform.yaml"
    path.parent.mkdir()
    path.write_text(FILE)
    return path


def test_a_plan_is_shown_and_carried_out_and_then_there_is_nothing_to_do(cli: Cli, file: Path) -> None:
    shown = cli("plan", "-f", str(file), "--detailed-exitcode", code=PENDING).stdout
    assert "+ key/nightly  git:platform" in shown
    assert "new hard budget of $100.00" in shown
    assert "Plan: 4 to create" in shown
    assert cli.json("owners", "list") == []
    done = cli("apply", "-f", str(file), "--yes")
    assert len(re.findall(KEY_PATTERN, done.stdout)) == 1
    assert "undo: bursar undo 1" in done.stdout
    assert (
        "nothing to change; 4 unchanged" in cli("plan", "-f", str(file.parent), "--detailed-exitcode", code=OK).stdout
    )
    cli("undo", "1")
    assert cli.json("owners", "list") == []


def test_texts_of_new_keys_go_to_a_file_of_their_own_and_never_into_git(cli: Cli, file: Path, tmp_path: Path) -> None:
    (tmp_path / "files" / ".git").mkdir()
    cli("apply", "-f", str(file), "--yes", "--keys-to", str(file.parent / "keys"), code=USAGE)
    taken = tmp_path / "taken"
    taken.write_text("mine")
    cli("apply", "-f", str(file), "--yes", "--keys-to", str(taken), code=USAGE)
    assert taken.read_text() == "mine"
    place = tmp_path / "keys.jsonl"
    done = cli("apply", "-f", str(file), "--yes", "--json", "--keys-to", str(place))
    assert not re.search(KEY_PATTERN, done.output)
    (line,) = place.read_text().splitlines()
    assert re.fullmatch(KEY_PATTERN, json.loads(line)["text"])
    assert place.stat().st_mode & 0o777 == 0o600


def test_without_a_yes_nothing_is_done(cli: Cli, file: Path, tmp_path: Path) -> None:
    cli("apply", "-f", str(file), code=USAGE)
    assert cli.json("owners", "list") == []
    assert cli.json("history") == []


def test_faults_are_told_with_file_and_line_all_at_once(cli: Cli, file: Path) -> None:
    file.write_text(FILE.replace("owner: acme", "owner: nobody").replace("name: Nightly jobs", "name: N, colour: red"))
    (file.parent / "more.yml").write_text("teams: {search: {name: Again}}\n")
    assert "duplicate" in cli("plan", "-f", str(file.parent), "--json", code=CONFIG_FAULTS).stderr
    (file.parent / "more.yml").unlink()
    told = cli("apply", "-f", str(file.parent), "--yes", code=CONFIG_FAULTS).stderr
    assert "the files have 2 faults" in told
    assert f"teams.search.owner: There is no owner 'nobody' ({file}:5)" in told
    assert f"keys.nightly.colour: unknown key ({file}:7)" in told
    assert cli.json("history") == []


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("owners: &a {x: {name: A}}\nteams: *a\n", "anchor"),
        ("owners: {a: {name: A}, a: {name: B}}\n", "written twice"),
        ("owners: !!python/object:os.system {}\n", "tag"),
        ("a: [", "not YAML"),
        ("[1, 2]", "no mapping"),
        ("teems: {}\n", "did you mean `teams`"),
        ("owners: [a]\n", "no mapping of names"),
        ("owners:\n" + "".join(f"{'  ' * i}a{i}:\n" for i in range(1, 30)) + "  " * 30 + "x: 1\n", "nested too deeply"),
    ],
)
def test_what_is_no_file_of_ours_is_refused_before_anybody_is_asked(cli: Cli, file: Path, text: str, word: str) -> None:
    file.write_text(text)
    assert word in cli("plan", "-f", str(file), "--url", "http://127.0.0.1:9", code=CONFIG_FAULTS).stderr


def test_a_bomb_of_aliases_costs_nothing(cli: Cli, file: Path) -> None:
    lines = ["a0: &a0 [x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 30)]
    file.write_text("\n".join(lines))
    assert "anchor or alias (line 1)" in cli("plan", "-f", str(file), code=CONFIG_FAULTS).stderr


def test_money_is_told_with_what_it_means(cli: Cli, stand: Stand, file: Path) -> None:
    cli("apply", "-f", str(file), "--yes")
    stand.ledger.standing = [balance("search-month", "100", "40", "15")]
    file.write_text(FILE.replace("limit_usd: 100", "limit_usd: 50"))
    shown = cli("plan", "-f", str(file)).stdout
    assert "limit_usd: 100.00 → 50.00" in shown
    assert "lowered by $50.00" in shown
    assert "posted $40.00 + held $15.00 is not below the new limit: it closes at once" in shown


def test_drift_is_told_with_who_did_it(cli: Cli, file: Path) -> None:
    cli("apply", "-f", str(file), "--yes")
    refused = cli("teams", "update", "search", "--name", "Mine", code=REFUSED).stderr
    assert "managed_by_git" in refused
    assert "git:platform, in platform.yaml (last applied by admin" in refused
    cli("teams", "update", "search", "--name", "Mine", "--break-glass", "prod burns")
    assert "drifted: changed past the files by admin, team.update, version 2" in cli("plan", "-f", str(file)).stdout
    (found,) = cli.json("audit", "search", "--act", "team.update")
    assert found["facts"]["break_glass"] == "prod burns"


def test_an_export_is_a_file_that_changes_nothing(cli: Cli, file: Path, tmp_path: Path) -> None:
    cli("apply", "-f", str(file), "--yes")
    for out, more in ((tmp_path / "all.yaml", []), (tmp_path / "all.json", ["--json"])):
        cli("export", "--out", str(out), *more)
        assert cli.json("plan", "-f", str(out))["steps"] == []
        assert "nightly" in out.read_text()
        assert not re.search(KEY_PATTERN, out.read_text())
    assert cli("export", "--managed-by", "git:other").stdout == ""


def test_managed_objects_are_listed_and_released(cli: Cli, file: Path) -> None:
    cli("apply", "-f", str(file), "--yes")
    assert len(cli.json("managed", "list")) == 4
    assert "platform.yaml" in cli("managed", "list").stdout
    cli("managed", "release", "team/search")
    cli("teams", "update", "search", "--name", "Mine")
    cli("managed", "release", "team/search", code=REFUSED)


def test_a_rollback_is_shown_done_and_undone(cli: Cli, file: Path) -> None:
    cli("apply", "-f", str(file), "--yes")
    file.write_text(FILE.replace("limit_usd: 100", "limit_usd: 500").replace("name: Search", "name: Find"))
    cli("apply", "-f", str(file), "--yes")
    shown = cli("rollback", "1", "--preview").stdout
    assert "lowered by $400.00" in shown
    assert cli.json("teams", "show", "search")["name"] == "Find"
    cli("rollback", "1", "--yes")
    assert cli.json("teams", "show", "search")["name"] == "Search"
    assert "nothing to change" in cli("rollback", "1").stdout
    cli("undo", "3")
    assert cli.json("budgets", "show", "search-month")["limit_usd"] == "500.00"

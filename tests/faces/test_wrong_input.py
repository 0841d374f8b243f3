"""Wrong input at the command line: each error says what is wrong in a stable word, and ends with what to type next."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from bursar.faces.cli_terminal import CONFIG_FAULTS, NOT_REACHABLE, NOT_VERIFIED, REFUSED, USAGE
from tests.faces.stand import Stand, standing
from tests.faces.test_cli import Cli

CODES = (REFUSED, USAGE, NOT_REACHABLE, NOT_VERIFIED, CONFIG_FAULTS)


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    with standing(tmp_path_factory.mktemp("node")) as one:
        cli = Cli(one)
        cli("owners", "create", "ACME", "--id", "acme")
        cli("teams", "create", "Search", "--id", "search", "--owner", "acme")
        cli("keys", "create", "--team", "search", "--name", "one")
        cli("budgets", "create", "team/search", "--id", "month", "--limit", "$100")
        yield one


@pytest.fixture
def cli(stand: Stand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.chdir(tmp_path)
    Path("bad.json").write_text("{bad")
    Path("bad.env").write_text("nonsense line\n")
    Path("bad.csv").write_text("a,b\n1,2\n")
    Path("bad.yaml").write_text("teams:\n  x: {ownr: acme}\nfoo: 1\n")
    Path("other.yaml").write_text("services: {web: {image: nginx}}\n")
    return Cli(stand)


WRONG = [
    "keys show nope",
    "keys create --team nope --name x",
    "keys create --team search --name x --set modles=gpt-4o",
    "keys create --team search --name x --limit requests=abc",
    "keys create --team search --name x --expires yesterday",
    "keys update nope --expires 90d",
    "keys rotate nope",
    "teams create x --owner nope",
    "teams create x --id A_! --owner acme",
    "teams remove search",
    "teams show nope",
    "owners remove acme",
    "owners create X --id acme",
    "budgets create team/nope --limit $5",
    "budgets create search --limit $5",
    "budgets create team/search --limit 5x",
    "budgets create team/search --limit $5 --window fortnight",
    "budgets create team/search --limit $5 --zone Mars/Phobos",
    "budgets raise month $5",
    "budgets raise nope $5",
    "secrets put openai",
    "secrets show nope",
    "secrets tag nope owner=ann",
    "secrets move nope vault",
    "secrets destroy nope --yes",
    "explain nope",
    "usage --by colour",
    "usage --by team,team",
    "usage --since 7x",
    "usage --zone Nope/Zone",
    "undo 99999",
    "undo 1",
    "plan -f bad.yaml",
    "plan -f nowhere.yaml",
    "apply -f bad.yaml --yes",
    "apply -f other.yaml --yes",
    "rollback 99999 --yes",
    "import env --tag nonsense",
    "import dotenv bad.env --yes",
    "import dotenv nowhere.env --yes",
    "import csv bad.csv --yes",
    "import litellm other.yaml --yes",
    "import litellm nowhere.yaml --yes",
    "adopt",
    "adopt search --from-file nowhere",
    "adopt search --from-env NOWHERE",
    "adopt --undo 4242 --yes",
    "scan nowhere",
    "scan . --baseline nowhere",
    "scan . --history",
    "promote team/nope",
    "promote team/search --control colours",
    "demote nonsense",
    "policy test nowhere.yaml",
    "policy test bad.yaml",
    "models unmap nope",
    "checklist --html nowhere/page.html",
    "estimate",
    "estimate nowhere.json",
    "prices set openai/x --input abc",
    "trust show nope",
    "admins disable nope",
    "restore nowhere.bak",
    "restore --replay nowhere.log",
    "managed release nope/nope",
    "token",
    "login --no-browser --wait 1",
    "status --url http://127.0.0.1:1",
    "usage --url nonsense",
]


@pytest.mark.parametrize("words", WRONG)
def test_each_error_ends_with_what_to_type_next(cli: Cli, words: str) -> None:
    ended = cli.ended(*words.split(), stdin="")
    told = ended.stderr
    assert ended.exit_code in CODES, (ended.output, ended.exception)
    assert isinstance(ended.exception, SystemExit), ended.exception
    assert "→" in told or "Try 'bursar" in told, told
    if "Try 'bursar" in told:
        return  # wrong usage is told before `--json` is read
    problem = json.loads(cli.ended(*words.split(), "--json", stdin="").stderr.strip().splitlines()[-1])
    assert problem["code"]
    assert problem.get("hint") or any(fault["hint"] for fault in problem["faults"]), problem


def test_all_that_is_wrong_with_files_is_told_at_once(cli: Cli) -> None:
    """What is wrong with their form hides nothing that only the node can tell."""
    told = cli("plan", "-f", "bad.yaml", code=CONFIG_FAULTS).stderr
    assert "4 faults" in told
    assert "foo: no objects are called so (bad.yaml)" in told
    assert "did you mean `owner`?" in told
    cli("plan", "-f", "bad.yaml", "--url", "http://127.0.0.1:1", code=CONFIG_FAULTS)


def test_what_is_no_configuration_of_litellm_makes_nothing(cli: Cli) -> None:
    told = cli("import", "litellm", "other.yaml", "--yes", code=REFUSED).stderr
    assert "Nothing of LiteLLM was found in other.yaml" in told
    assert [owner["id"] for owner in cli.json("owners", "list")] == ["acme"]

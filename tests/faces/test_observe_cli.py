"""`bursar observe` at the terminal: lists, names, previews, asks, and never shows a provider key."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bursar.core.observing import key_id_of
from bursar.core.tokens import digest
from bursar.faces.cli_terminal import REFUSED, USAGE
from tests.core.key_samples import samples
from tests.faces.stand import PEPPER, Stand, standing
from tests.faces.test_cli import Cli

KEY = samples(random.Random(41))["openai-key"]
DIGEST = digest(KEY, PEPPER)
ID = key_id_of(DIGEST)


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    with standing(tmp_path) as one:
        yield one


@pytest.fixture
def cli(stand: Stand) -> Cli:
    """With one key that was seen."""

    async def see() -> None:
        await stand.services.observing.make_team()
        await stand.services.observing.see("node:main", ID, DIGEST, "openai")

    stand.run(see())
    return Cli(stand)


def test_an_empty_list_says_how_to_begin(stand: Stand) -> None:
    assert "observe.enabled" in Cli(stand)("observe", "list").stdout
    assert Cli(stand).json("observe", "list") == []


def test_lists_by_state(cli: Cli) -> None:
    shown = cli("observe", "list", width=80).stdout
    assert ID in shown
    assert "observed openai 1" in shown
    assert [one["id"] for one in cli.json("observe", "list", "--state", "observed")] == [ID]
    assert cli.json("observe", "list", "--state", "sealed") == []
    assert "One of observed" in cli("observe", "list", "--state", "open", code=USAGE).stderr
    assert "unknown (billed to observed)" in cli("observe", "show", ID).stdout
    assert "bursar keys list" in cli("observe", "show", "nobody", code=REFUSED).stderr


def test_names_with_preview_and_undo(cli: Cli) -> None:
    assert "Nothing is said" in cli("observe", "name", ID, code=USAGE).stderr
    shown = cli("observe", "name", ID, "robot", "--purpose", "mail", "--preview").stdout
    assert "robot" in shown
    assert cli.json("observe", "show", ID)["name"] == "observed openai 1"
    done = cli("observe", "name", ID, "robot", "--owner", "observed").stdout
    assert "undo: bursar undo" in done
    assert cli.json("observe", "show", ID)["owner"] == "observed"
    cli("undo", str(cli.json("status")["directory_version"]))
    assert cli.json("observe", "show", ID)["name"] == "observed openai 1"
    assert "unknown_id" in cli("observe", "name", ID, "--owner", "nobody", code=REFUSED).stderr


def test_enforcing_asks_and_can_be_previewed(cli: Cli) -> None:
    assert "no terminal" in cli("observe", "enforce", code=USAGE).stderr
    assert "modes" in cli("observe", "enforce", "--preview").stdout
    assert cli.json("teams", "show", "observed")["policy"]["modes"]["limits"] == "shadow"
    done = cli.json("observe", "enforce", "--control", "limits", "--yes")
    assert (done["subject"], done["way"]) == ("team/observed", "promote")
    assert "limits" not in cli.json("teams", "show", "observed")["policy"]["modes"]
    assert cli.json("observe", "enforce", ID, "--yes")["moved"] == []
    assert "names no control" in cli("observe", "enforce", "--control", "limit", "--yes", code=REFUSED).stderr


def test_a_key_as_an_argument_is_refused_unread(cli: Cli) -> None:
    told = cli("observe", "seal", KEY, code=USAGE)
    assert "as an argument" in told.stderr
    assert KEY not in told.output


@pytest.mark.parametrize("stdin", ["sk-another\n", KEY[:-1]])
def test_another_key_is_not_sealed(cli: Cli, stdin: str) -> None:
    told = cli("observe", "seal", ID, stdin=stdin, code=REFUSED)
    assert "invalid_" in told.stderr
    assert cli.json("observe", "show", ID)["state"] == "observed"
    assert cli.json("secrets", "list") == []


@pytest.mark.parametrize("stdin", ["", " \n"])
def test_nothing_is_not_sealed(cli: Cli, stdin: str) -> None:
    told = cli("observe", "seal", ID, stdin=stdin, code=USAGE).stderr
    assert f"bursar observe seal {ID} < " in told


def test_sealed_closed_and_taken_back(cli: Cli) -> None:
    told = cli("observe", "seal", ID, stdin=f"  {KEY}\n").stdout
    assert KEY not in told
    assert f"bsr_{ID}_" in told
    assert "base_url=" in told
    assert f"bursar observe close {ID}" in told
    again = cli("observe", "seal", ID, stdin=KEY, code=REFUSED).stderr
    assert "already_exists" in again
    assert f"bursar keys rotate {ID}" in again
    assert "old key unused" in cli("observe", "list").stdout
    cli("observe", "close", ID, "--preview")
    assert cli.json("observe", "show", ID)["state"] == "sealed"
    assert "refused from now on" in cli("observe", "close", ID).stdout  # nobody uses it: nothing is asked
    assert cli.json("observe", "show", ID)["state"] == "closed"
    (line,) = [one for one in _checklist(cli) if one["id"] == "swapped"]
    assert line["verdict"] == "pass"
    assert "no terminal" in cli("observe", "seal", ID, "--undo", code=USAGE).stderr
    cli("observe", "seal", ID, "--undo", "--yes")
    assert cli.json("observe", "show", ID)["state"] == "observed"
    assert cli.json("secrets", "list") == []
    assert "no_undo" in cli("observe", "seal", ID, "--undo", "--yes", code=REFUSED).stderr


def test_a_key_that_is_another_teams_in_the_vault_is_said_so(cli: Cli) -> None:
    cli("secrets", "put", "openai/*/api_key/prod/search", stdin=KEY)
    told = cli("observe", "seal", ID, stdin=KEY, code=REFUSED).stderr
    assert "duplicate_secret" in told
    assert cli.json("observe", "show", ID)["state"] == "observed"


def test_a_missing_file_is_told(cli: Cli, tmp_path: Path) -> None:
    assert "No such file" in cli("observe", "seal", ID, "--from-file", str(tmp_path / "none"), code=USAGE).stderr


def _checklist(cli: Cli) -> list[dict[str, Any]]:
    return list(json.loads(cli.ended("checklist", "--json").stdout)["lines"])

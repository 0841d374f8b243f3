"""What holds for every command there is, however many are added: JSON, words that help, a place in the list."""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from bursar.faces.cli import Offline, build_cli
from bursar.faces.cli_panels import PANELS

PAGE = (Path(__file__).parents[2] / "docs/cli.md").read_text()
WITHOUT_JSON = {("up",)}  # it runs in the foreground, and prints a banner


def app() -> typer.Typer:
    def nothing(*_: Any) -> Any:
        raise AssertionError("nobody is asked to do anything")

    return build_cli(Offline(**dict.fromkeys((field.name for field in dataclasses.fields(Offline)), nothing)))


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


EVERY = list(commands(typer.main.get_command(app())))


@pytest.mark.parametrize(("path", "command"), EVERY, ids=[" ".join(path) for path, _ in EVERY])
def test_each_command_takes_json_and_says_what_it_and_its_options_do(path: tuple[str, ...], command: Any) -> None:
    options = {name: one for one in command.params for name in one.opts}
    assert ("--json" in options) == (path not in WITHOUT_JSON)
    assert command.help
    assert [name for name, one in options.items() if name.startswith("-") and not one.help] == []


def test_each_command_is_under_a_head_and_on_the_page() -> None:
    names = {path[0] for path, _ in EVERY}
    assert sorted(name for shown in PANELS.values() for name in shown) == sorted(names)
    table = PAGE[: PAGE.index("## Exit codes")]
    assert {name for name in names if not re.search(rf"(`|bursar ){name}\b", table)} == set()


@pytest.mark.parametrize("width", [80, 120])
def test_the_list_of_commands_has_its_heads_in_their_order(width: int) -> None:
    shown = CliRunner().invoke(app(), ["--help"], env={"COLUMNS": str(width), "NO_COLOR": "1"}).output
    places = [shown.index(head) for head in PANELS]
    assert places == sorted(places)
    assert max(map(len, shown.splitlines())) <= width


def test_the_shell_completes_commands_and_options() -> None:
    def completed(words: str, count: int) -> str:
        asked = {"_BURSAR_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(count)}
        return CliRunner().invoke(app(), [], prog_name="bursar", env=asked).output

    assert completed("bursar imp", 1).split() == ["import"]
    assert "dotenv" in completed("bursar import ", 2).split()
    assert "--preview" in completed("bursar import dotenv --pre", 3).split()

"""`bursar scan` as a person and as CI meet it."""

import dataclasses
import fcntl
import json
import random
import re
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from bursar.core.key_shapes import SHAPES
from bursar.faces.cli import Offline, build_cli
from bursar.faces.cli_terminal import NOT_VERIFIED, OK, USAGE, Place
from tests.core.key_samples import samples

KEYS = samples(random.Random(11))
ROOT = Path(__file__).parents[2]


def run(*arguments: str, code: int = OK, stdin: bytes | None = None) -> Result:
    def nothing(*_: Any) -> Any:
        raise AssertionError("a scan needs no node")

    parts: dict[str, Any] = dict.fromkeys((field.name for field in dataclasses.fields(Offline)), nothing)
    offline = Offline(**{**parts, "locate": lambda *_: Place(Path(), "")})
    result = CliRunner().invoke(build_cli(offline), ["scan", *arguments], input=stdin, env={"COLUMNS": "200"})
    assert result.exit_code == code, (result.output, result.exception)
    for text in KEYS.values():
        assert text[-24:-2] not in result.output
    return result


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/.env").write_text(f"A=1\nOPENAI_API_KEY={KEYS['openai-key']}\n")
    (tmp_path / "tree/copy.txt").write_text(KEYS["openai-key"])
    return tmp_path / "tree"


def test_found_by_a_person(tree: Path) -> None:
    shown = run(str(tree), code=NOT_VERIFIED).output
    assert ".env:2:16" in shown
    assert "1 key in 2 places" in shown
    assert "bursar secrets put" in shown


def test_what_mends_it_is_told_by_whose_key_it_is(tree: Path) -> None:
    (tree / "config").write_text(f"{KEYS['bursar-key']}\n{KEYS['bursar-admin-token']}\n")
    shown = run(str(tree), code=NOT_VERIFIED).output
    for told in ("secrets put PROVIDER", "bursar keys rotate ID --overlap 0", "bursar admins remove ID"):
        assert shown.count(told) == 1


def test_the_token_of_a_running_node_is_no_leak_and_that_of_a_copied_folder_is(tree: Path, tmp_path: Path) -> None:
    node = tmp_path / "node"
    (node / "run").mkdir(parents=True)
    (node / "admin.token").write_text(KEYS["bursar-admin-token"])
    with (node / "run" / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "no key" in run(str(node)).output
        shutil.copytree(node, tree / "copied")
        assert "copied/admin.token:1:1" in run(str(tree), code=NOT_VERIFIED).output
    assert "admin.token:1:1" in run(str(node), code=NOT_VERIFIED).output


def test_nothing_found(tmp_path: Path) -> None:
    (tmp_path / "clean").write_text("nothing here")
    assert "no key" in run(str(tmp_path / "clean")).output
    assert run(str(tmp_path / "clean"), "--json").output.strip() == "[]"


def test_found_by_ci(tree: Path, tmp_path: Path) -> None:
    rows = json.loads(run(str(tree), "--json", "--sarif", str(tmp_path / "out.sarif"), code=NOT_VERIFIED).stdout)
    assert [(row["path"], row["rule"]) for row in rows] == [(".env", "openai-key"), ("copy.txt", "openai-key")]
    report = json.loads((tmp_path / "out.sarif").read_text())
    (ran,) = report["runs"]
    assert report["version"] == "2.1.0"
    assert [rule["id"] for rule in ran["tool"]["driver"]["rules"]] == ["openai-key"]
    assert all(result["ruleId"] == "openai-key" for result in ran["results"])
    assert KEYS["openai-key"][20:60] not in (tmp_path / "out.sarif").read_text()
    known = tmp_path / "known.json"
    known.write_text(json.dumps(rows))
    assert "no key besides 1 that are known" in run(str(tree), "--baseline", str(known)).output


def test_a_log_on_standard_input() -> None:
    shown = run("-", stdin=f"line\n{KEYS['bursar-key']}\n".encode(), code=NOT_VERIFIED).output
    assert "-:2:1" in shown
    assert "bsr_***" in shown


def test_wrong_input(tmp_path: Path) -> None:
    assert "Name a file" in run(str(tmp_path / "nowhere"), code=USAGE).output
    assert "git" in run(str(tmp_path), "--history", code=USAGE).output
    (tmp_path / "bad.json").write_text("{}]")
    assert "no list of findings" in run(str(tmp_path), "--baseline", str(tmp_path / "bad.json"), code=USAGE).output


def test_the_rule_file_is_the_table_and_finds_what_we_find() -> None:
    printed = run("--rules").stdout
    assert (ROOT / "deploy/scanners/gitleaks.toml").read_text() == printed, "make it anew: bursar scan --rules"
    rules = {rule["id"]: rule for rule in tomllib.loads(printed)["rules"]}
    assert list(rules) == [shape.id for shape in SHAPES]
    for name, text in KEYS.items():
        rule = rules[name]
        match = re.search(rule["regex"], f"x {text}\n")  # RE2's syntax is a part of Python's
        assert match is not None, name
        assert any(keyword in text.lower() for keyword in rule["keywords"])
        assert match[rule["secretGroup"]] in text

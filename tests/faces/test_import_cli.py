"""`bursar import`: what is there is shown, asked for, sealed or applied; no key is printed."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from bursar.faces.cli_terminal import CONFIG_FAULTS, REFUSED, USAGE
from tests.control.test_import_litellm import CANARY, CONFIG, KEYS, TEAMS, USERS
from tests.core.key_samples import samples
from tests.faces.stand import Stand, standing
from tests.faces.test_cli import Cli

SAMPLES = samples(random.Random(7))
OPENAI, ANTHROPIC = SAMPLES["openai-key"], SAMPLES["anthropic-key"]


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    with standing(tmp_path) as one:
        yield one


@pytest.fixture
def cli(stand: Stand) -> Cli:
    made = Cli(stand)
    made("owners", "create", "Ann", "--id", "ann")
    return made


def test_a_dotenv_file_is_sealed_and_the_lines_to_delete_are_told(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text(f"DEBUG=1\nOPENAI_API_KEY={OPENAI}\nANTHROPIC_API_KEY={ANTHROPIC}\n")
    sheet = tmp_path / "tags.csv"
    sheet.write_text("address,allowed_models\nopenai/*/api_key/from-env/*,gpt-4o\n")
    shown = cli("import", "dotenv", str(file), "--preview").output
    assert "line 2 OPENAI_API_KEY" in shown
    assert cli.json("secrets", "list") == []
    cli("import", "dotenv", str(file), code=USAGE)
    done = cli("import", "dotenv", str(file), "--tag", "billing_owner=ann", "--tags", str(sheet), "--yes").output
    assert f"{file}:2 OPENAI_API_KEY" in done
    assert not any(key in shown + done for key in (OPENAI, ANTHROPIC))
    tags = {entry["address"].partition("/")[0]: entry["tags"] for entry in cli.json("secrets", "list")}
    assert tags["openai"]["allowed_models"] == "gpt-4o"
    assert {tag["billing_owner"] for tag in tags.values()} == {"ann"}
    assert "is there" in cli("import", "dotenv", str(file), "--yes").output


def test_what_cannot_be_sealed_is_told_and_the_rest_is_sealed(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "keys.csv"
    file.write_text(
        f"address,value,billing_owner\nopenai/*/api_key/prod/*,{OPENAI},ann\n"
        f"openai/*/api_key/dev/*,{OPENAI},ann\nnobody/*/api_key/prod/*,{ANTHROPIC},ann\n"
    )
    result = cli("import", "csv", str(file), "--yes", "--json", code=REFUSED)
    told = json.loads(result.stdout)
    assert told["sealed"] == ["openai/*/api_key/prod/*"]
    assert {one["code"] for one in told["failed"]} == {"duplicate_secret", "invalid_address"}
    assert told["delete"] == [f"{file}:2 openai/*/api_key/prod/*"]
    assert OPENAI not in result.output
    file.write_text("value,address\n")
    assert "line 1" in cli("import", "csv", str(file), code=CONFIG_FAULTS).stderr


def test_the_environment_is_looked_through(cli: Cli) -> None:
    cli.env = {"OPENAI_API_KEY": OPENAI}
    told = cli.json("import", "env", "--yes", "--tag", "billing_owner=ann")
    assert told["sealed"] == ["openai/*/api_key/from-env/*"]
    assert told["delete"] == ["OPENAI_API_KEY"]


def test_a_litellm_proxy_is_taken_over_in_one_change_that_can_be_undone(cli: Cli, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(CONFIG))
    answers = []
    for name, answer in (("keys", KEYS), ("teams", TEAMS), ("users", USERS)):
        (tmp_path / f"{name}.json").write_text(json.dumps(answer))
        answers += ["--answer", str(tmp_path / f"{name}.json")]
    before = cli.json("status")["directory_version"]
    out = tmp_path / "out.yaml"
    cli("import", "litellm", str(config), *answers, "--owner", "ann", "--out", str(out))
    assert CANARY not in out.read_text()
    assert cli.json("status")["directory_version"] == before
    keys = tmp_path / "new-keys.jsonl"
    done = cli("import", "litellm", str(config), *answers, "--owner", "ann", "--keys-to", str(keys), "--yes").output
    assert "approximated" in done
    assert "bursar secrets put 'openai/*/api_key/litellm/*'" in done
    assert CANARY not in done
    assert f"undo: bursar undo {before + 1}" in done
    assert {json.loads(line)["name"] for line in keys.read_text().splitlines()} >= {"nightly"}
    (entry,) = cli.json("secrets", "list")
    assert entry["tags"]["allowed_models"] == "claude-sonnet-4-6"
    assert cli.json("plan", "-f", str(out))["steps"] == []
    assert cli.json("owners", "show", "ann")["name"] == "Ann"
    cli("undo", str(before + 1))
    assert cli.json("teams", "list") == []


def test_a_config_with_anchors_or_none_at_all_is_refused(cli: Cli, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("a: &x 1\nb: *x\n")
    assert "anchor" in cli("import", "litellm", str(config), code=CONFIG_FAULTS).stderr
    cli("import", "litellm", str(tmp_path / "none.yaml"), code=CONFIG_FAULTS)

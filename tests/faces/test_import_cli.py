"""`bursar import`: what is there is shown, asked for, sealed or applied; no key is printed."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from bursar.core.errors import Refusal
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
    assert "address taken" in cli("import", "dotenv", str(file), "--yes").output


def state(cli: Cli) -> object:
    return [(entry["address"], entry["version"], entry["tags"]) for entry in cli.json("secrets", "list")]


def test_one_that_cannot_be_sealed_leaves_all_unsealed(cli: Cli, tmp_path: Path) -> None:
    """Everything that is wrong is told, with its line, and how to go on without it."""
    file = tmp_path / "keys.csv"
    good = [f"openai/*/api_key/{n}/*,{OPENAI}-{n},ann,\n" for n in range(8)]
    bad = [f"nobody/*/api_key/prod/*,{ANTHROPIC},ann,\n", f"openai/*/api_key/x/*,{ANTHROPIC}-x,zoe,\n"]
    file.write_text("".join(["address,value,billing_owner,purpose\n", *good[:4], *bad, *good[4:]]))
    for words in ((), ("--preview",)):
        told = cli("import", "csv", str(file), "--yes", *words, code=CONFIG_FAULTS).stderr
        assert "line 6 nobody/*/api_key/prod/*" in told
        assert "line 7 openai/*/api_key/x/*: There is no owner 'zoe'" in told
        assert "nothing was sealed" in told
        assert OPENAI not in told
    assert state(cli) == []
    without = [word for row in bad for word in ("--without", row.partition(",")[0])]
    assert all(word in told for word in without)
    assert len(cli.json("import", "csv", str(file), "--yes", *without)["sealed"]) == 8
    file.write_text("value,address\n")
    assert "line 1" in cli("import", "csv", str(file), code=CONFIG_FAULTS).stderr


def test_a_store_that_fails_in_the_middle_has_none_of_them(
    cli: Cli, stand: Stand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / ".env"
    file.write_text("".join(f"OPENAI_API_KEY_{n}={OPENAI}-{n}\n" for n in range(10)))
    write, written = stand.secrets._write_version, []

    def failing(*args: object) -> None:
        written.append(args[0])
        if len(written) == 5:
            raise Refusal("secrets_unavailable", "The disk is full", "Make room")
        write(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(stand.secrets, "_write_version", failing)
    told = cli("import", "dotenv", str(file), "--yes", code=REFUSED).stderr
    assert "The disk is full; nothing was sealed" in told
    assert len(written) == 5
    assert state(cli) == []
    monkeypatch.undo()
    assert len(cli.json("import", "dotenv", str(file), "--yes")["sealed"]) == 10


def test_an_import_is_one_change_and_is_taken_back_whole(cli: Cli, tmp_path: Path) -> None:
    cli("secrets", "put", "openai/*/api_key/from-env/*", "--tag", "billing_owner=ann", stdin=OPENAI)
    before = state(cli)
    file = tmp_path / ".env"
    file.write_text(f"OPENAI_API_KEY={OPENAI}-new\nANTHROPIC_API_KEY={ANTHROPIC}\n")
    version = cli.json("status")["directory_version"]
    assert "address taken; --replace" in cli("import", "dotenv", str(file), "--preview").output
    assert "a new value; its tags stay" in cli("import", "dotenv", str(file), "--preview", "--replace").output
    told = cli.json("import", "dotenv", str(file), "--replace", "--yes")
    assert told["version"] == version + 1 == cli.json("status")["directory_version"]
    assert told["undo"] == f"bursar import undo {version + 1}"
    tags = {entry["address"]: entry["tags"] for entry in cli.json("secrets", "list")}
    assert tags["openai/*/api_key/from-env/*"]["billing_owner"] == "ann"
    assert told["undo"] in cli("undo", str(version + 1), code=REFUSED).stderr
    assert "no import" in cli("import", "undo", str(version), "--yes", code=REFUSED).stderr
    cli("import", "undo", str(version + 1), "--yes")
    ((address, number, kept),) = state(cli)  # type: ignore[misc]
    assert (address, kept) == (before[0][0], before[0][2])  # type: ignore[index]
    assert number == 3
    again = cli("secrets", "put", "openai/*/api_key/other/*", stdin=OPENAI, code=REFUSED).stderr
    assert "duplicate_secret" in again
    cli("import", "undo", str(version + 1), "--yes")  # said again, it has nothing left to do
    cli("secrets", "tag", address, "purpose=embedding")
    cli("import", "dotenv", str(file), "--replace", "--yes")


def test_what_was_changed_after_an_import_is_not_taken_back(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text(f"OPENAI_API_KEY={OPENAI}\nANTHROPIC_API_KEY={ANTHROPIC}\n")
    version = cli.json("import", "dotenv", str(file), "--yes")["version"]
    cli("secrets", "tag", "openai/*/api_key/from-env/*", "billing_owner=ann")
    assert "changed_since" in cli("import", "undo", str(version), "--yes", code=REFUSED).stderr
    assert len(cli.json("secrets", "list")) == 2


def test_a_value_that_is_stored_already_is_left_alone(cli: Cli, tmp_path: Path) -> None:
    cli("secrets", "put", "openai/*/api_key/prod/*", stdin=OPENAI)
    file = tmp_path / ".env"
    file.write_text(f"OPENAI_API_KEY={OPENAI}\nANTHROPIC_API_KEY={ANTHROPIC}\nANTHROPIC_API_KEY_TWO={ANTHROPIC}\n")
    shown = cli("import", "dotenv", str(file), "--preview").output
    assert "stored already: openai/*/api_key/prod/*" in shown
    assert "stored already: anthropic/*/api_key/from-env/*" in shown
    assert cli.json("import", "dotenv", str(file), "--yes")["sealed"] == ["anthropic/*/api_key/from-env/*"]


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

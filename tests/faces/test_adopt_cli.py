"""`bursar adopt`: one command from a provider key to a virtual key behind a budget, one command back."""

import random
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from bursar.core.tokens import parse
from bursar.faces.cli_terminal import NOT_REACHABLE, REFUSED, USAGE
from tests.core.key_samples import samples
from tests.faces.stand import Stand, standing
from tests.faces.test_cli import Cli

SAMPLES = samples(random.Random(11))
OPENAI, ANTHROPIC = SAMPLES["openai-key"], SAMPLES["anthropic-key"]


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    with standing(tmp_path) as one:
        yield one


@pytest.fixture
def cli(stand: Stand) -> Cli:
    return Cli(stand)


def state(cli: Cli) -> tuple[Any, ...]:
    """Everything that an adoption makes."""
    return tuple(cli.json(group, "list") for group in ("owners", "teams", "keys", "budgets", "secrets"))


def test_one_command_there_and_one_command_back(cli: Cli) -> None:
    before = state(cli)
    words = ("adopt", "search", "--owner", "ann", "--models", "gpt-4o*", "--purpose", "inference,embedding")
    shown = cli(*words, "--preview", stdin=OPENAI).output
    assert "openai/*/api_key/adopted/search" in shown
    assert "$10.00" in shown
    assert state(cli) == before
    version = cli.json("status")["directory_version"]
    done = cli(*words, "--yes", stdin=OPENAI + "\n").output
    assert OPENAI not in shown + done
    (sealed,) = cli.json("secrets", "list")
    assert sealed["tags"]["billing_owner"] == "ann"
    assert sealed["tags"]["purpose"] == "inference,embedding"
    assert sealed["tags"]["allowed_models"] == "gpt-4o*"
    (team,) = cli.json("teams", "list")
    assert {(limit["unit"], limit["amount"]) for limit in team["policy"]["limits"]} == {
        ("requests", 60),
        ("tokens", 100_000),
    }
    (budget,) = cli.json("budgets", "list")
    assert (budget["subject_kind"], budget["subject"], budget["hard"]) == ("team", "search", True)
    (key,) = cli.json("keys", "list")
    assert key["id"] in done
    assert "base_url=" in done
    assert [e["action"] for e in cli.json("history") if e["version"] > version and e["action"] == "apply"] == ["apply"]
    number = sealed["tags"]["adopted_at"]
    assert f"bursar adopt --undo {number}" in done
    cli("adopt", "--undo", number, "--yes")
    assert state(cli) == before
    assert "No provider key" in cli("adopt", "--undo", number, "--yes", code=REFUSED).stderr


def test_twice_is_told_and_not_doubled(cli: Cli) -> None:
    told = cli.json("adopt", "search", "--yes", stdin=OPENAI)
    assert parse(told["key"]["text"]) is not None
    before = state(cli)
    again = cli.json("adopt", "search", "--yes", stdin=OPENAI)
    assert (again["adopted"], again["secret"], again["undo"]) == (False, told["secret"], told["undo"])
    assert "adopted already" in cli("adopt", "search", "--yes", stdin=OPENAI).output
    held = cli("adopt", "other", "--yes", stdin=OPENAI, code=REFUSED).stderr
    assert "duplicate_secret" in held
    assert "nothing was changed" in held
    assert state(cli) == before


def test_a_team_that_is_there_keeps_its_rules_and_its_callers(cli: Cli) -> None:
    cli("owners", "create", "Ann", "--id", "ann")
    cli("teams", "create", "Search", "--id", "search", "--owner", "ann")
    team = cli.json("teams", "list")
    told = cli.json("adopt", "search", "--yes", "--limit", "$2.50", stdin=ANTHROPIC)
    assert cli.json("teams", "list") == team
    (budget,) = cli.json("budgets", "list")
    assert (budget["subject_kind"], budget["subject"]) == ("key", told["key"]["id"])
    (key,) = cli.json("keys", "list")
    assert {limit["scope"] for limit in key["policy"]["limits"]} == {"key"}
    assert "from anthropic import" in told["snippet"]
    second = cli.json("adopt", "search", "--yes", stdin=OPENAI)  # another provider, another virtual key
    assert second["key"]["id"] != told["key"]["id"]
    assert "is of ann" in cli("adopt", "search", "--owner", "bob", "--yes", stdin=OPENAI, code=USAGE).stderr


@pytest.mark.parametrize(
    ("words", "stdin", "word"),
    [
        (("search",), "no-key-at-all", "invalid_secret"),
        (("search",), "", "invalid_secret"),
        (("search", "--provider", "openai"), "two words", "invalid_secret"),
        (("search", "--provider", "anthropic"), OPENAI, "invalid_secret"),
        (("search",), SAMPLES["bursar-key"], "invalid_secret"),
        (("search",), f"A_API_KEY={OPENAI}\nB_API_KEY={ANTHROPIC}", "dotenv"),
        ((OPENAI,), "", "given as an argument"),
        ((), OPENAI, "Whose key"),
        (("search", "--from-env", "NOT_SET"), "", "empty or not set"),
        (("search", "--from-file", "no-such-file"), "", "No such file"),
        (("search",), OPENAI, "--yes"),
    ],
)
def test_wrong_use_changes_nothing_and_shows_no_key(cli: Cli, words: tuple[str, ...], stdin: str, word: str) -> None:
    before = state(cli)
    result = cli("adopt", *words, stdin=stdin, code=USAGE)
    assert word in result.stderr
    assert OPENAI not in result.output
    assert state(cli) == before


def test_a_provider_that_the_node_does_not_know_is_refused_before_anything_is_made(cli: Cli) -> None:
    before = state(cli)
    result = cli("adopt", "search", "--provider", "nobody", "--yes", stdin="made-up-key-0123456789", code=REFUSED)
    assert "invalid_address" in result.stderr
    assert "nothing was changed" in result.stderr
    assert state(cli) == before


def test_it_says_which_place_still_holds_the_key(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text(f"DEBUG=1\nOPENAI_API_KEY={OPENAI}\n")
    keys = tmp_path / "keys.jsonl"
    told = cli.json("adopt", "search", "--from-file", str(file), "--keys-to", str(keys), "--yes")
    assert told["delete"] == f"{file}:2 OPENAI_API_KEY"
    assert told["key"]["text"] == "***"
    assert "bsr_" in keys.read_text()
    cli.env = {"MY_KEY": ANTHROPIC}
    assert "MY_KEY" in cli.json("adopt", "more", "--from-env", "MY_KEY", "--yes")["delete"]


class Cutting:
    """A way to the node that breaks off at the first call of a path: before the node hears of it, or after."""

    def __init__(self, url: str, path: str, *, heard: bool) -> None:
        cut = [path]

        class Handler(BaseHTTPRequestHandler):
            def do_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                breaks = bool(cut) and self.command == "POST" and self.path.partition("?")[0].endswith(cut[0])
                if breaks:
                    cut.clear()
                if breaks and not heard:
                    self.close_connection = True
                    return
                kept = {"authorization": self.headers["authorization"], "content-type": "application/json"}
                answer = httpx.request(self.command, url + self.path, content=body, headers=kept, timeout=30)
                if breaks:
                    self.close_connection = True
                    return
                self.send_response(answer.status_code)
                for name in ("bursar-undo", "content-type"):
                    if name in answer.headers:
                        self.send_header(name, answer.headers[name])
                self.send_header("content-length", str(len(answer.content)))
                self.end_headers()
                self.wfile.write(answer.content)

            do_GET = do_POST = do_DELETE = do_any  # noqa: N815 - the base class says so

            def log_message(self, *_: object) -> None:
                """A test's output is its own."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.mark.parametrize("heard", [False, True])
@pytest.mark.parametrize("path", ["/provider-keys", "/applies", "/tags"])
def test_what_breaks_off_goes_on_with_the_same_command(cli: Cli, stand: Stand, path: str, heard: bool) -> None:
    way = Cutting(stand.url, path, heard=heard)
    try:
        code = NOT_REACHABLE if path != "/tags" else REFUSED
        broken = cli("adopt", "search", "--yes", "--url", way.url, stdin=OPENAI, code=code)
    finally:
        way.close()
    assert OPENAI not in broken.output
    cli("adopt", "search", "--yes", stdin=OPENAI)
    (sealed,) = cli.json("secrets", "list")
    assert sealed["tags"]["billing_owner"] == "search"
    assert [len(cli.json(group, "list")) for group in ("teams", "keys", "budgets")] == [1, 1, 1]
    again = cli("adopt", "search", "--yes", stdin=OPENAI).output
    assert "adopted already" in again
    assert f"bursar adopt --undo {sealed['tags']['adopted_at']}" in again
    cli("adopt", "--undo", sealed["tags"]["adopted_at"], "--yes")
    assert not any(state(cli))

"""`bursar trust` and `bursar tokens` against a live control: what people type, what they are told, what never shows."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from bursar.core.ledger_records import UsageRow
from bursar.faces.cli_terminal import REFUSED, USAGE
from tests.control.issuers import AUDIENCE, claims, jwk, mint, rsa_key
from tests.faces.stand import Stand, standing
from tests.faces.test_cli import Cli


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    with standing(tmp_path_factory.mktemp("node")) as one:
        yield one


@pytest.fixture
def cli(stand: Stand) -> Cli:
    made = Cli(stand)
    if not made.json("teams", "list"):
        made("owners", "create", "ACME", "--id", "acme")
        made("teams", "create", "Search", "--id", "search", "--owner", "acme", "--set", "models=gpt-*")
    return made


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"keys": [jwk(rsa_key(), "k1")]}))
    return path


def test_a_rule_is_added_seen_switched_and_removed(cli: Cli, keys: Path) -> None:
    add = ("trust", "add", "ci", "--team", "search", "--kind", "github", "--jwks", f"@{keys}")
    made = cli.json(*add, "--match", "repository=octo/app", "--match", "ref=main", "--match", "ref=release-*")
    assert made["issuer"] == "https://token.actions.githubusercontent.com"
    assert made["audience"] == AUDIENCE
    assert made["match"] == {"repository": ["octo/app"], "ref": ["main", "release-*"]}
    assert json.loads(made["jwks"])["keys"][0]["kid"] == "k1"
    shown = cli("trust", "list").stdout
    assert "repository=octo/app, ref=main or release-*" in shown
    assert "in the rule" in cli("trust", "show", "ci").stdout
    assert "disabled" in cli("trust", "disable", "ci", "--preview").stdout
    assert cli.json("trust", "show", "ci")["state"] == "active"
    assert "bursar trust enable ci" in cli("trust", "disable", "ci").stdout
    assert cli.json("trust", "show", "ci")["state"] == "disabled"
    cli("trust", "enable", "ci")
    cli("trust", "remove", "ci")
    assert cli.json("trust", "list") == []


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("--match", "repository"), USAGE, "no claim with a value"),
        ((), USAGE, "--match"),
        (("--match", "ref=main"), REFUSED, "trust anybody"),
        (("--match", "repository=octo/app", "--jwks", "@/nonexistent"), USAGE, "no key set"),
        (("--match", "repository=octo/app", "--algorithm", "HS256"), REFUSED, "algorithms"),
        (("--match", "repository=octo/app", "--life", "2h"), REFUSED, "life"),
        (("--match", "repository=octo/app", "--set", "models=claude-*"), REFUSED, "policy_widens"),
    ],
)
def test_a_rule_that_does_not_do_is_told(cli: Cli, arguments: tuple[str, ...], code: int, told: str) -> None:
    result = cli("trust", "add", "bad", "--team", "search", "--kind", "github", *arguments, code=code)
    assert told in result.output


def test_a_token_is_tested_from_a_file_and_from_stdin(cli: Cli, keys: Path, tmp_path: Path, stand: Stand) -> None:
    cli("trust", "add", "own", "--team", "search", "--issuer", "https://issuer.example.org", "--jwks", f"@{keys}",
        "--match", "repository=octo/app")  # fmt: skip
    token = mint(claims(exp=stand.clock.now() // 10**9 + 300))
    file = tmp_path / "token"
    file.write_text(token)
    assert cli.json("trust", "test", str(file))["fits"] == ["own"]
    told = cli("trust", "test", stdin=token).stdout
    assert "✓ fits own" in told
    assert "octo/app" in told
    assert token not in told
    refused = cli("trust", "test", stdin="nonsense", code=REFUSED)
    assert "subject_malformed" in refused.output
    assert "cannot be read" in cli("trust", "test", "/nonexistent", code=USAGE).output
    cli("trust", "remove", "own")


def test_signing_keys_are_shown_without_their_private_halves_and_rotated(cli: Cli, tmp_path: Path) -> None:
    before = cli.json("tokens", "keys")
    assert {key["state"] for key in before} == {"signs", "next"}
    after = cli.json("tokens", "rotate-signing-key")
    assert {key["state"] for key in after} == {"signs", "next", "over"}
    signs = {key["kid"] for key in after if key["state"] == "signs"}
    assert signs == {key["kid"] for key in before if key["state"] == "next"}
    assert "signs" in cli("tokens", "keys").stdout
    assert "void" in cli("tokens", "rotate-signing-key", "--at-once", code=USAGE).output
    cli("tokens", "rotate-signing-key", "--at-once", "--yes")
    assert {key["state"] for key in cli.json("tokens", "keys")} == {"signs", "next"}
    out = tmp_path / "jwks.json"
    cli("tokens", "jwks", "--out", str(out))
    assert json.loads(out.read_text()) == json.loads(cli("tokens", "jwks").stdout)
    assert all(set(key) == {"kty", "crv", "alg", "use", "kid", "x"} for key in json.loads(out.read_text())["keys"])
    assert "cannot be written" in cli("tokens", "jwks", "--out", str(tmp_path / "no" / "x"), code=REFUSED).output


def test_a_token_is_revoked_by_its_id_never_by_its_text(cli: Cli) -> None:
    assert cli.json("tokens", "revoke", "abcdefgh") == {"id": "abcdefgh"}
    assert "ps" in cli("tokens", "revoke", mint(), code=USAGE).output


def test_the_shares_of_keys_tokens_and_identities(cli: Cli, stand: Stand) -> None:
    def row(group: str, attempts: int, cost: int) -> UsageRow:
        counts = {"attempts": attempts, "input_tokens": 1, "output_tokens": 1, "cached_tokens": 0}
        return UsageRow(group=group, cost_pico=cost, **counts)

    stand.ledger.rows = [row("a/key", 1, 10**12), row("a/token", 3, 3 * 10**12), row("b/federation", 2, 0)]
    told = cli("usage", "--by", "credential").stdout
    lines = {tuple(line.split()[:2]): line for line in told.splitlines()}
    assert "25.0 %" in lines["a", "key"]
    assert "75.0 %" in lines["a", "token"]
    assert "100.0 %" in lines["b", "federation"]
    assert lines["b", "federation"].rstrip().endswith("-")
    assert [line["group"] for line in cli.json("usage", "--by", "credential")] == ["a/key", "a/token", "b/federation"]
    stand.ledger.rows = []

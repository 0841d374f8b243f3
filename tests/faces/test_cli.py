"""The command line against a live control: tables and JSON, exit codes, what to type next, no secret shown."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from bursar.app import backup_desk, recovery_desk
from bursar.core.ledger_records import UsageRow
from bursar.core.strict import Fault, Faults
from bursar.core.tokens import KEY_PATTERN, parse
from bursar.faces.cli import Offline, UpOptions, build_cli
from bursar.faces.cli_terminal import CONFIG_FAULTS, NOT_REACHABLE, NOT_VERIFIED, OK, REFUSED, USAGE, Place, Verified
from bursar.stores.catalogue import load as load_catalogue
from tests.faces.stand import Stand, balance, standing

PROVIDER_KEY = "sk-proj-canary-0123456789abcdef"


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """One node for the file: each test uses names of its own."""
    with standing(tmp_path_factory.mktemp("node")) as one:
        yield one


class Cli:
    """`bursar ...` in this process; offline functions answer what a test sets."""

    def __init__(self, stand: Stand) -> None:
        self.stand = stand
        self.ledger = Verified({"records": 3, "holds": 1})
        self.answers: list[dict[str, Any]] = []
        self.upped: list[UpOptions] = []
        self.differences: list[dict[str, str | int]] = []
        offline = Offline(
            locate=lambda _config, data: Place(Path(data) if data else stand.folder, stand.url, Path("checkpoints")),
            up=self._up,
            check_config=self._check,
            connect=lambda _path: self.answers,
            verify_ledger=lambda _place: self.ledger,
            move_store=lambda _place, _to, _look: self.ledger,
            verify_audit=lambda _data, key: Verified({"records": 9, "public key": key or "as declared"}),
            compare_prices=lambda _other, _tolerance: self.differences,
            load_prices=load_catalogue,
            recovery=recovery_desk.DESK,
            backup=backup_desk.DESK,
        )
        self.app = build_cli(offline)
        self.env: dict[str, str] = {}

    def __call__(self, *arguments: str, code: int = OK, stdin: str | None = None, width: int = 200) -> Result:
        result = self.ended(*arguments, stdin=stdin, width=width)
        assert result.exit_code == code, (arguments, result.output, result.exception)
        return result

    def ended(self, *arguments: str, stdin: str | None = None, width: int = 200) -> Result:
        """With whatever code."""
        env = {"COLUMNS": str(width), "NO_COLOR": "1", **self.env}
        result = CliRunner().invoke(self.app, list(arguments), input=stdin, env=env)
        assert PROVIDER_KEY not in result.output
        return result

    def json(self, *arguments: str, **more: Any) -> Any:
        return json.loads(self(*arguments, "--json", **more).stdout)

    def _up(self, options: UpOptions) -> int:
        self.upped.append(options)
        return 7

    @staticmethod
    def _check(path: str | None) -> dict[str, str]:
        if path == "bad.yaml":
            raise Faults(
                [Fault("listen.port", "unknown_key", "unknown key", "did you mean `data`?"), Fault("x", "y", "z")]
            )
        return {"file": path or "(none)"}


@pytest.fixture
def cli(stand: Stand) -> Cli:
    return Cli(stand)


@pytest.fixture
def team(cli: Cli) -> str:
    if not any(owner["id"] == "acme" for owner in cli.json("owners", "list")):
        cli("owners", "create", "ACME", "--id", "acme", "--contact", "pay@acme.test")
        cli(
            "teams",
            "create",
            "Search",
            "--owner",
            "acme",
            "--set",
            "models=gpt-*",
            "--limit",
            "requests=600/1m,burst=50",
        )
    return "search"


def test_teams_and_their_policy(cli: Cli, team: str) -> None:
    shown = cli("teams", "show", team).stdout
    assert "600 requests in 1m per key, burst 50" in shown
    changed = cli.json("teams", "update", team, "--set", "max-tokens-cap=4_096", "--set", "external=no")
    assert changed["policy"]["max_tokens_cap"] == 4096
    assert changed["policy"]["models"] == ["gpt-*"]
    assert changed["policy"]["external"] is False
    changed = cli.json("teams", "update", team, "--set", "max_tokens_cap=none", "--set", "modes.limits=shadow")
    assert "max_tokens_cap" not in changed["policy"]
    assert changed["policy"]["modes"] == {"limits": "shadow"}
    cli("teams", "update", team, "--set", "modes=none", "--set", "external=none")
    assert "disabled" in cli("teams", "disable", team).stdout
    assert cli.json("teams", "enable", team)["disabled"] is False


def test_a_key_is_shown_once_on_a_line_of_its_own(cli: Cli, team: str) -> None:
    for width in (80, 120):
        out = cli("keys", "create", "--team", team, "--name", "ci", "--expires", "90d", width=width).stdout
        (line,) = [line for line in out.splitlines() if "bsr_" in line]
        text = line.strip(" │")
        parsed = parse(text)
        assert parsed is not None
        assert "Shown this once" in out
        assert max(map(len, out.splitlines())) <= width
        key_id = parsed.public_id
        rotated = cli.json("keys", "rotate", key_id, "--overlap", "2h")
        assert rotated["key"]["id"] == key_id
        assert rotated["text"] != text
        for shown in (cli("keys", "list"), cli("keys", "show", key_id), cli("keys", "list", "--json")):
            assert key_id in shown.stdout
            assert text.rpartition("_")[2] not in shown.stdout
        assert cli.json("keys", "disable", key_id)["state"] == "disabled"
        assert cli.json("keys", "enable", key_id)["state"] == "active"
        assert cli.json("keys", "update", key_id, "--expires", "never", "--name", "nightly")["expires_at"] is None
        assert "--yes" in cli("keys", "remove", key_id, code=USAGE).stderr
        assert cli.json("keys", "remove", key_id, "--yes") == {"removed": key_id}


def test_budgets_are_created_raised_and_lowered(cli: Cli, team: str) -> None:
    made = cli.json(
        "budgets", "create", f"team/{team}", "--limit", "$1_250.50", "--window", "week", "--zone", "Europe/Berlin"
    )
    assert (made["limit_usd"], made["hard"]) == ("1250.50", True)
    cli.stand.ledger.standing = [balance(made["id"], "1250.50", "1200", "0.123456789")]
    row = next(line for line in cli("budgets", "list").stdout.splitlines() if made["id"] in line)
    for cell in (
        "team/search",
        "week Europe/Berlin",
        "hard",
        "$1,250.50",
        "$1,200.00",
        "$0.123457",
        "$50.376543",
        "active",
    ):
        assert cell in row
    raised = cli("budgets", "raise", made["id"], "$2000").stdout
    assert "$1,250.50 → $2,000.00; undo: bursar budgets lower" in raised
    wrong = cli("budgets", "raise", made["id"], "$1", code=USAGE).stderr
    assert f"bursar budgets lower {made['id']} '$1'" in wrong
    assert cli.json("budgets", "lower", made["id"], "100")["limit_usd"] == "100.00"
    soft = cli.json("budgets", "update", made["id"], "--soft", "--window", "rolling:24h", "--name", "Day")
    assert (soft["hard"], soft["window"]["kind"], soft["window"]["seconds"], soft["name"]) == (
        False,
        "rolling",
        86_400,
        "Day",
    )
    assert soft["version"] == 4
    life = cli.json("budgets", "update", made["id"], "--window", "lifetime")
    assert life["window"] == {"kind": "lifetime", "period": "month", "zone": "UTC", "week_start": 0, "seconds": 0}
    cli("budgets", "remove", made["id"])
    assert "not say what" in cli("budgets", "create", "search", "--limit", "1", code=USAGE).stderr
    assert "'$12.50'" in cli("budgets", "create", f"team/{team}", "--limit", "much", code=USAGE).stderr


def test_secrets_come_from_stdin_or_a_variable_never_from_argv(cli: Cli, team: str) -> None:
    put = cli("secrets", "put", "openai/gpt-4o", stdin=PROVIDER_KEY + "\n").stdout
    assert "openai/gpt-4o/api_key/*/*" in put
    assert "nobody pays for it yet" in put
    (entry,) = cli.json("secrets", "list", "--unowned")
    tagged = cli.json("secrets", "tag", "openai/gpt-4o", "billing_owner=acme", "note=x")
    assert (tagged["id"], tagged["unowned"]) == (entry["id"], False)
    assert "note" not in cli.json("secrets", "tag", entry["id"], "note=")["tags"]
    cli.env["OTHER_KEY"] = "another-" + PROVIDER_KEY
    second = cli.json("secrets", "put", "anthropic", "--from-env", "OTHER_KEY", "--tag", "billing_owner=acme")
    assert second["address"] == "anthropic/*/api_key/*/*"
    assert cli.json("secrets", "list", "--unowned") == []
    assert cli.json("secrets", "disable", "anthropic")["disabled"] is True
    assert cli.json("secrets", "enable", "anthropic")["disabled"] is False
    assert cli.json("secrets", "destroy", "anthropic", "--yes") == {"destroyed": second["id"]}
    assert "variable" in cli("secrets", "put", "openai", "--from-env", "NOT_SET", code=USAGE).stderr
    assert "standard input" in cli("secrets", "put", "openai", stdin="", code=USAGE).stderr
    assert "no tag" in cli("secrets", "tag", "openai/gpt-4o", "billing_owner", code=USAGE).stderr
    assert "bursar secrets list" in cli("secrets", "show", "openai", code=REFUSED).stderr
    assert "invalid_address" in cli("secrets", "put", "opnai", stdin="v" * 20, code=REFUSED).stderr


def test_prices(cli: Cli) -> None:
    assert "$0.15" in cli("prices", "show", "openai/gpt-4o-mini").stdout
    assert len(cli.json("prices", "show", "openai")) > 20
    made = cli.json(
        "prices", "set", "openai/gpt-4.1-nano", "--input", "$0.10", "--output", "0.40", "--cache-read", "0.05"
    )
    assert (made["input"], made["cache_read"]) == ("0.10", "0.05")
    assert "own" in cli("prices", "show", "openai/gpt-4.1-nano").stdout
    assert "openai/gpt-4.1-nano" in cli("prices", "own").stdout
    assert (
        "already_exists"
        in cli("prices", "set", "openai/gpt-4.1-nano", "--input", "1", "--output", "1", code=REFUSED).stderr
    )
    assert "PROVIDER/MODEL" in cli("prices", "set", "openai", "--input", "1", "--output", "1", code=USAGE).stderr


def test_usage(cli: Cli, team: str) -> None:
    cli.stand.ledger.rows = [
        UsageRow(
            group=team, attempts=1234, input_tokens=10**6, output_tokens=5, cached_tokens=0, cost_pico=1_234_567_890_123
        )
    ]
    out = cli("usage", "--by", "team", "--since", "7d").stdout
    for cell in ("search", "Search", "1,234", "1,000,000", "$1.234568", "100.0 %"):
        assert cell in out
    assert cli.json("usage", "--since", "2025-11-01")[0]["cost_usd"] == "1.234567890123"
    cli.stand.ledger.rows = []


def test_status_and_audit_tail(cli: Cli) -> None:
    out = cli("status").stdout
    assert "node main" in out
    assert "! no gateway is connected" in out
    assert cli.json("status")["version"] == "9.9.9"
    assert cli.json("audit", "tail", "-n", "1")[0]["sequence"] >= 1
    assert "audit.start" in cli("audit", "tail", "-n", "1000").stdout


def test_the_audit_is_searched_taken_away_and_proven(cli: Cli, tmp_path: Path) -> None:
    cli("owners", "create", "sought", "--id", "sought-owner")
    found = cli.json("audit", "search", "--act", "owner.*", "--target", "owner/sought-owner", "--since", "1h")
    assert [(r["action"], r["target"]) for r in found] == [("owner.create", "owner/sought-owner")]
    assert "owner/sought-owner" in cli("audit", "search", "--actor", "admin", "--outcome", "allowed").stdout
    assert cli.json("audit", "search", "--until", "2001-01-01") == []
    whole = cli("audit", "export").stdout.splitlines()
    assert json.loads(whole[0])["record"]["action"] == "audit.start"
    out = tmp_path / "audit.csv"
    cli("audit", "export", "--form", "csv", "--target", "owner/sought-owner", "--out", str(out))
    assert out.read_text().count("\n") == 2
    assert out.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.glob(".*")) == []
    assert "cannot be written" in cli("audit", "export", "--out", str(tmp_path / "no" / "x"), code=USAGE).stderr
    proven = cli.json("audit", "verify", "--online")
    assert proven["ok"] is True
    assert proven["records"] >= len(whole)
    wrong = cli("audit", "verify", "--online", "--public-key", "ab" * 32)
    assert "records" in wrong.stdout  # no checkpoint is signed yet: nothing to hold the key against


def test_a_person_is_erased_from_the_audit(cli: Cli) -> None:
    cli.stand.run(cli.stand.audit.append("oidc:eve@example.com", "key.create", "key/eve", {}))
    assert cli.json("audit", "search", "--actor", "eve@example.com")[0]["actor"] == "oidc:eve@example.com"
    assert "Add --yes" in cli("audit", "erase", "eve@example.com", code=USAGE).stderr
    pseudonym = cli.json("audit", "erase", "eve@example.com", "--yes")["pseudonym"]
    assert cli.json("audit", "search", "--actor", "eve@example.com") == []
    assert cli.json("audit", "search", "--target", "key/eve")[0]["actor"] == pseudonym
    assert "knows nobody" in cli("audit", "erase", "eve@example.com", "--yes", code=REFUSED).stderr


# ---- exit codes


def test_up_gets_its_options_and_gives_its_code(cli: Cli) -> None:
    cli("up", "--config", "c.yaml", "--data", "d", "--seal-env", code=7)
    assert cli.upped == [UpOptions("c.yaml", "d", True)]


def test_proofs(cli: Cli) -> None:
    assert cli.json("ledger", "verify") == {"ok": True, "records": 3, "holds": 1}
    assert "as declared" in cli("audit", "verify").stdout
    assert cli.json("audit", "verify", "--public-key", "ab")["public key"] == "ab"
    cli.ledger = Verified({"records": 2}, "record 3 of segment 1: posted twice", "Restore journal-00000001.log")
    failed = cli("ledger", "verify", code=NOT_VERIFIED)
    assert "posted twice" in failed.stderr
    assert "→ Restore" in failed.stderr
    failed = cli("ledger", "verify", "--json", code=NOT_VERIFIED)
    assert json.loads(failed.stdout)["ok"] is False
    assert json.loads(failed.stderr)["exit_code"] == NOT_VERIFIED


def test_a_faulty_configuration(cli: Cli) -> None:
    assert cli.json("check") == {"ok": True, "file": "(none)"}
    told = cli("check", "bad.yaml", code=CONFIG_FAULTS).stderr
    assert "2 faults" in told
    assert "listen.port: unknown key → did you mean `data`?" in told
    faults = json.loads(cli("check", "--config", "bad.yaml", "--json", code=CONFIG_FAULTS).stderr)["faults"]
    assert [fault["path"] for fault in faults] == ["listen.port", "x"]


def test_what_does_not_answer_is_told_with_what_mends_it(cli: Cli) -> None:
    fine = {"what": "data folder", "ok": True, "said": "can be written", "mend": ""}
    cli.answers = [fine]
    assert cli.json("check", "--connect") == {"ok": True, "file": "(none)", "checks": [fine]}
    cli.answers.append({"what": "rates (Redis)", "ok": False, "said": "no answer", "mend": "See whether it runs"})
    told = cli("check", "--connect", code=NOT_VERIFIED)
    assert "→ rates (Redis): See whether it runs" in told.stdout
    assert "failed: rates (Redis)" in told.stderr
    whole = cli("check", "--connect", "--json", code=NOT_VERIFIED)
    assert json.loads(whole.stdout)["checks"][1]["ok"] is False


def test_nobody_listens(cli: Cli, tmp_path: Path) -> None:
    for url in ("http://127.0.0.1:1", "http://does-not-exist.invalid", "ftp://x", "nonsense"):
        told = cli("status", "--url", url, code=NOT_REACHABLE).stderr
        assert "bursar up" in told
    assert "BURSAR_ADMIN_TOKEN" in cli("status", "--data", str(tmp_path), code=NOT_REACHABLE).stderr


def test_a_refusal_ends_with_what_to_do(cli: Cli, team: str) -> None:
    told = cli("keys", "create", "--team", team, "--name", "k", "--set", "models=claude-*", code=REFUSED).stderr
    assert "policy_widens" in told
    assert told.rstrip().splitlines()[-1].startswith("  → ") or "→" in told
    told = cli("keys", "create", "--team", "serch", "--name", "k", "--json", code=REFUSED).stderr
    assert json.loads(told) | {"detail": ""} == {
        "type": "urn:bursar:refusal:unknown_id",
        "title": "Nothing has this id",
        "status": 404,
        "detail": "",
        "code": "unknown_id",
        "hint": "See: bursar teams list",
        "exit_code": 1,
    }


def test_a_wrong_token_is_refused(cli: Cli) -> None:
    cli.env["BURSAR_ADMIN_TOKEN"] = "bsa_wrong"
    assert "admin_token_invalid" in cli("status", code=REFUSED).stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("teams", "create", "X"),
        ("keys", "create", "--team", "search", "--name", "k", "--set", "modles=x"),
        ("keys", "create", "--team", "search", "--name", "k", "--set", "max_tokens_cap=many"),
        ("keys", "create", "--team", "search", "--name", "k", "--set", "external=maybe"),
        ("keys", "create", "--team", "search", "--name", "k", "--limit", "calls=3/1m"),
        ("keys", "create", "--team", "search", "--name", "k", "--limit", "requests=many/1m"),
        ("keys", "create", "--team", "search", "--name", "k", "--limit", "requests=3/moon"),
        ("keys", "create", "--team", "search", "--name", "k", "--expires", "soon"),
        ("keys", "rotate", "aaaaaaaaaaaa", "--overlap", "long"),
        ("usage", "--by", "colour"),
        ("budgets", "create", "planet/mars", "--limit", "1"),
        ("nothing",),
    ],
)
def test_wrong_usage_is_code_2(cli: Cli, team: str, arguments: tuple[str, ...]) -> None:
    cli(*arguments, code=USAGE)


def leaves(app: Any) -> Iterator[tuple[str, ...]]:
    for one in app.registered_commands:
        yield (one.name,)
    for group in app.registered_groups:
        for rest in leaves(group.typer_instance):
            yield (group.name, *rest)


def test_every_command_has_help_and_json(cli: Cli) -> None:
    commands = sorted(leaves(cli.app))
    assert len(commands) > 40
    for words in commands:
        out = cli(*words, "--help", width=100).stdout
        assert words == ("up",) or "--json" in out
        assert not re.search(r"--token\b", out), "a token on the command line shows in ps"
    assert "Exit codes" in cli("--help").stdout


LISTS: list[tuple[str, ...]] = [
    ("owners", "list"),
    ("teams", "list"),
    ("keys", "list"),
    ("budgets", "list"),
    ("secrets", "list"),
    ("prices", "own"),
    ("prices", "show", "anthropic"),
    ("usage",),
    ("audit", "tail"),
]


def test_a_narrow_terminal_leaves_columns_out_and_never_cuts_a_number(cli: Cli, team: str) -> None:
    made = cli.json(
        "budgets", "create", f"team/{team}", "--limit", "$123456.789", "--window", "day", "--id", "narrow-day"
    )
    cli.stand.ledger.standing = [balance(made["id"], "123456.789", "99999.123456", "12345.678901")]
    for width in range(60, 140, 7):
        out = cli("budgets", "list", width=width).stdout
        (row,) = [line for line in out.splitlines() if line.startswith("narrow-day")]
        assert "$123,456.789" in row
        assert "$99,999.123456" in row
        assert ("too narrow for:" in out) is ("window" not in out.splitlines()[0])
    cli("budgets", "remove", made["id"])


@pytest.mark.parametrize("words", LISTS, ids=" ".join)
@pytest.mark.parametrize("width", [80, 120])
def test_lists_fit_the_terminal(cli: Cli, team: str, words: tuple[str, ...], width: int) -> None:
    out = cli(*words, width=width).stdout
    assert out.strip()
    assert max(map(len, out.splitlines())) <= width
    assert isinstance(cli.json(*words), list)


def test_an_empty_list_says_how_to_begin(tmp_path: Path) -> None:
    with standing(tmp_path) as empty:
        cli = Cli(empty)
        for words in (
            ("owners", "list"),
            ("teams", "list"),
            ("keys", "list"),
            ("budgets", "list"),
            ("secrets", "list"),
        ):
            assert "bursar " in cli(*words).stdout
            assert cli.json(*words) == []


def test_no_key_of_ours_is_ever_printed_but_where_it_is_made(cli: Cli, team: str) -> None:
    cli.json("keys", "create", "--team", team, "--name", "canary")
    for words in (*LISTS, ("status",), ("teams", "show", team)):
        assert not re.search(KEY_PATTERN, cli(*words).output)
        assert not re.search(KEY_PATTERN, cli(*words, "--json").output)


def test_prices_that_differ_are_listed(cli: Cli) -> None:
    """A second public table is held against the shipped one, offline."""
    assert "nothing differs" in cli("prices", "compare", "table.json").stdout
    row: dict[str, str | int] = {"provider": "openai", "model": "gpt-4o-mini", "rate": "output", "percent": 17}
    cli.differences = [{**row, "ours_usd": "0.60", "theirs_usd": "0.70"}]
    text = cli("prices", "compare", "table.json").stdout
    assert "openai/gpt-4o-mini" in text
    assert "+17" in text
    assert cli.json("prices", "compare", "table.json") == cli.differences


def test_admins(cli: Cli) -> None:
    minted = cli.json("admins", "create", "--name", "Ada", "--role", "auditor", "--expires", "90d")
    admin = minted["admin"]
    assert (admin["role"], admin["state"]) == ("auditor", "active")
    shown = cli("admins", "create", "--name", "Grace", "--role", "operator").output
    assert re.search(KEY_PATTERN, shown)
    assert admin["id"] in cli("admins", "list").output
    assert "undo: bursar admins role" in cli("admins", "role", admin["id"], "viewer").output
    assert cli.json("admins", "disable", admin["id"])["state"] == "disabled"
    assert cli.json("admins", "enable", admin["id"])["state"] == "active"
    cli("admins", "role", admin["id"], "emperor", code=USAGE)
    cli.env = {"BURSAR_ADMIN_TOKEN": minted["text"]}
    assert cli.json("whoami")["role"] == "viewer"
    refused = cli("owners", "create", "Mine", code=REFUSED).output
    assert "role_not_allowed" in refused
    assert "Have it done by: admin" in refused
    cli.env = {}
    cli("admins", "remove", admin["id"], "--yes")
    assert admin["id"] not in cli("admins", "list").output
    assert "runs what is there" in cli("admins", "roles").output


def test_previews_history_and_undo(cli: Cli) -> None:
    cli("owners", "create", "Undoing", "--id", "undoing")
    cli("teams", "create", "Backwards", "--owner", "undoing")
    shown = cli("teams", "update", "backwards", "--name", "Forwards", "--preview").output
    assert "nothing was changed" in shown
    assert "name  Backwards → Forwards" in shown
    assert cli.json("teams", "show", "backwards")["name"] == "Backwards"
    previewed = cli.json("teams", "remove", "backwards", "--preview")
    assert previewed["edits"][0]["act"] == "removed"
    changed = cli("teams", "update", "backwards", "--name", "Forwards").output
    (number,) = re.findall(r"undo: bursar undo (\d+)", changed)
    history = cli("history", "--of", "team/backwards").output
    assert f"undo: bursar undo {number}" in history
    assert "Backwards → Forwards" in history
    assert "changed" in cli("undo", number, "--preview").output
    assert cli.json("teams", "show", "backwards")["name"] == "Forwards"
    assert "taken back" in cli("undo", number).output
    assert cli.json("teams", "show", "backwards")["name"] == "Backwards"
    assert "changed_since" in cli("undo", number, code=REFUSED).output
    assert "names nothing" in cli("history", "--of", "nonsense", code=REFUSED).output
    assert cli.json("history", "--limit", "1")[0]["action"] == "team.update.undo"


def test_grants_and_policies(cli: Cli, tmp_path: Path) -> None:
    made = cli.json(
        "secrets", "grant", "role/operator", "--act", "rotate", "--path", "groq/*/*/prod/*", "--expires", "30d"
    )
    assert made["acts"] == ["rotate"]
    assert "would do this" in cli("secrets", "grant", "role/operator", "--act", "write", "--preview").output
    shown = cli("secrets", "grant", "role/operator", "--act", "write", "--act", "read", "--path", "xai/*/*/*/*").output
    (second,) = re.findall(r"undo: bursar secrets revoke (\S+)", shown)
    assert "xai/*/*/*/*" in cli("secrets", "grants").output
    exported = cli("policy", "export", "vault").output
    assert "bursar-broker.hcl" in exported
    assert "left out" in exported, "one has an end"
    cli("policy", "export", "vault", "--out", str(tmp_path / "policies"))
    assert "secret/data/bursar/xai" in (tmp_path / "policies/bursar-role-operator.hcl").read_text()
    assert "store_unknown" in cli("policy", "export", "aws", code=REFUSED).output
    assert "no tag" in cli("secrets", "grant", "role/operator", "--act", "read", "--tag", "x", code=USAGE).output
    assert "revoked" in cli("secrets", "revoke", second).output


def test_breakers(cli: Cli) -> None:
    assert "every upstream is well" in cli("breakers").output
    assert "would do this" in cli("breakers", "open", "openai", "--for", "10m", "--preview").output
    assert cli.json("breakers") == []
    said = cli("breakers", "open", "openai", "--for", "10m", "--reason", "answers in Klingon").output
    assert "provider/openai is open until" in said
    (undo,) = re.findall(r"undo: bursar undo (\d+)", said)
    (one,) = cli.json("breakers", "list")
    told = (one["name"], one["state"], one["opened_by"], one["reason"], one["failures"], one["node"])
    assert told == ("provider/openai", "open", "admin", "answers in Klingon", 0, "")
    assert one["since"] < one["next_try"]
    assert "provider/openai" in cli("breakers").output
    cli("undo", undo)
    assert cli.json("breakers", "list") == [], "what was opened by hand has a way back"
    assert cli.json("breakers", "open", "provider/openai")["until"] is None
    assert "in use again" in cli("breakers", "close", "openai", "--reason", "it is well").output
    assert cli.json("breakers") == []
    cli("undo", str(cli.json("history", "--limit", "1")[0]["version"]))
    assert [one["name"] for one in cli.json("breakers")] == ["provider/openai"], "and so has closing it"
    cli("breakers", "close", "openai")
    for wrong in ("nobody", "provider/nobody", "key/none", "key/none/gpt-4o"):
        assert "unknown_id" in cli("breakers", "open", wrong, code=REFUSED).output
    assert "invalid_input" in cli("breakers", "open", "team/a", code=REFUSED).output
    cli("breakers", "open", "openai", "--for", "soon", code=USAGE)
    acts = [row["action"] for row in cli.json("history", "--limit", "9")]
    assert {"breaker.open", "breaker.close", "breaker.open.undo", "breaker.close.undo"} <= set(acts)


def test_deployments(cli: Cli) -> None:
    assert cli.json("models", "map", "chat-prod", "gpt-4o-mini") == {
        "id": "chat-prod",
        "name": "chat-prod",
        "team": "",
        "model": "gpt-4o-mini",
    }
    assert "would do this" in cli("models", "map", "chat-prod", "gpt-4o", "--preview").output
    owner = cli.json("owners", "create", "Deployer")["id"]
    team = cli.json("teams", "create", "Deploying", "--owner", owner)["id"]
    assert (
        f"undo: bursar models unmap chat-prod --team {team}"
        in cli("models", "map", "chat-prod", "gpt-4o", "--team", team).output
    )
    listed = {(one["team"], one["model"]) for one in cli.json("models", "list")}
    assert listed == {("", "gpt-4o-mini"), (team, "gpt-4o")}
    assert "unknown_id" in cli("models", "map", "chat-prod", "gpt-4o", "--team", "nobody", code=REFUSED).output
    for wrong in (("a/b", "gpt-4o"), ("a:b", "gpt-4o"), ("ok", " ")):
        assert "invalid_input" in cli("models", "map", *wrong, code=REFUSED).output
    cli("models", "map", "chat-prod", "gpt-4o")
    number = str(cli.json("history", "--limit", "1")[0]["version"])
    cli("undo", number)
    (for_all,) = (one for one in cli.json("models", "list") if not one["team"])
    assert for_all["model"] == "gpt-4o-mini", "a change of what a name stands for has a way back"
    cli("models", "unmap", "chat-prod", "--team", team)
    cli("undo", str(cli.json("history", "--limit", "1")[0]["version"]))
    assert len(cli.json("models", "list")) == 2, "so has taking it away"
    for one in ((), ("--team", team)):
        cli("models", "unmap", "chat-prod", *one)
    assert "unknown_id" in cli("models", "unmap", "chat-prod", code=REFUSED).output
    assert "bursar models map" in cli("models", "list").output, "what to type next"


@pytest.mark.parametrize(
    ("typed", "offered"), [("bursar ke", "keys"), ("bursar keys cre", "create"), ("bursar usage --b", "--by")]
)
def test_a_shell_is_told_how_words_go_on(cli: Cli, typed: str, offered: str) -> None:
    cli.env = {
        "_BURSAR_COMPLETE": "complete_bash",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(len(typed.split()) - 1),
        "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1",
    }
    result = CliRunner().invoke(cli.app, [], env=cli.env, prog_name="bursar")
    assert offered in result.output.split()

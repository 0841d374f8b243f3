"""`bursar trust`, `bursar tokens`: whose identity becomes a token, what signs tokens, what is revoked."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from bursar.core.directory import IssuerKind
from bursar.core.units import format_duration
from bursar.faces.cli_keys import Yes
from bursar.faces.cli_policy import LimitOption, SetOption, policy_facts, policy_patch
from bursar.faces.cli_switch import remove_subject, switch_off, switch_on
from bursar.faces.cli_tenants import Tags
from bursar.faces.cli_terminal import USAGE, Locate, Terminal, Trouble, command, seconds
from bursar.faces.client import segment
from bursar.faces.tables import Column, card, write

Id = Annotated[str, typer.Argument(metavar="ID", help="The rule's id, as `list` shows it.")]
_MATCH_HELP = "A claim and what it must be, `*` for any run of characters. Again for the same claim: either. Repeat."


def trust_group(locate: Locate) -> typer.Typer:
    group = typer.Typer(help="Whose identity becomes a token: jobs, pods, workloads.", no_args_is_help=True)
    _reading(group, locate)
    _adding(group, locate)
    _switching(group, locate)
    return group


def _reading(group: typer.Typer, locate: Locate) -> None:
    @command(group, "list", locate)
    def list_rules(terminal: Terminal) -> None:
        """List trust rules."""
        columns = (
            Column("id", keep=True),
            Column("team"),
            Column("kind", spare=2),
            Column("issuer", spare=1),
            Column("who", keep=False),
            Column("state"),
        )
        terminal.rows(
            list(terminal.api.every("/trust")),
            columns,
            lambda rule: (rule["id"], rule["team"], rule["kind"], rule["issuer"], _who(rule["match"]), rule["state"]),
            "bursar trust add ID --team TEAM --kind github --match repository=OWNER/NAME",
        )

    @command(group, "show", locate)
    def show(terminal: Terminal, rule: Id) -> None:
        """Show a trust rule."""
        found = terminal.api.call("GET", f"/trust/{segment(rule)}")
        terminal.one(found, _facts(found))

    @command(group, "test", locate)
    def test(
        terminal: Terminal,
        file: Annotated[str, typer.Argument(metavar="FILE", help="Where the token lies; - reads it from stdin.")] = "-",
    ) -> None:
        """Say which rules a token fits, and why it does not fit the others. Nothing is issued or used up."""
        tested = terminal.api.call("POST", "/trust/test", {"token": _token_of(file)})
        if terminal.as_json:
            terminal.json(tested)
            return
        for verdict in tested["rules"]:
            mark, style = ("✓ fits", "green") if verdict["fits"] else ("✗", "red")
            why = "" if verdict["fits"] else f"{verdict['word']}: {verdict['why']}"
            write(terminal.out, Text.assemble((f"{mark} ", style), (verdict["rule"], "bold"), "  ", why))
        if not tested["rules"]:
            write(terminal.out, Text("there is no trust rule yet"))
        write(terminal.out, card({name: _shown(value) for name, value in tested["claims"].items()}))


def _adding(group: typer.Typer, locate: Locate) -> None:
    @command(group, "add", locate, changes=True)
    def add(  # noqa: PLR0913 - one option a parameter
        terminal: Terminal,
        rule: Annotated[str, typer.Argument(metavar="ID", help="A name for the rule, for example deploy.")],
        *,
        team: Annotated[str, typer.Option("--team", help="Id of the team that pays.")],
        kind: Annotated[IssuerKind, typer.Option("--kind", help="Whose tokens they are.")] = "oidc",
        match: Annotated[
            list[str], typer.Option("--match", metavar="CLAIM=VALUE", help=_MATCH_HELP, show_default=False)
        ],
        issuer: Annotated[str, typer.Option("--issuer", help="The `iss`, exactly; usual ones are known.")] = "",
        audience: Annotated[
            str, typer.Option("--audience", help="The `aud`; this broker's own address if left out.")
        ] = "",
        jwks: Annotated[
            str, typer.Option("--jwks", metavar="URL|PATH|@FILE", help="Its keys; by discovery if left out.")
        ] = "",
        algorithm: Annotated[
            list[str],
            typer.Option(
                "--algorithm", help="RS256, ES256 and EdDSA if left out.", default_factory=list, show_default=False
            ),
        ],
        single_use: Annotated[bool, typer.Option("--single-use", help="Take each token once (by its jti).")] = False,
        life: Annotated[str, typer.Option("--life", help="How long our tokens live, at most 1h.")] = "15m",
        allow_private: Annotated[
            bool, typer.Option("--allow-private", help="The issuer may lie in a private network.")
        ] = False,
        set_: SetOption,
        limit: LimitOption,
        tag: Tags,
    ) -> None:
        """Trust an issuer's tokens with these claims to be a team's, under a policy."""
        body: dict[str, Any] = {
            "id": rule,
            "team": team,
            "kind": kind,
            "match": _matches(match),
            "issuer": issuer,
            "audience": audience,
            "jwks": _jwks(jwks),
            "single_use": single_use,
            "life_s": seconds(life),
            "allow_private": allow_private,
            "tags": tag,
        }
        if algorithm:
            body["algorithms"] = algorithm
        if patch := policy_patch(set_, limit):
            body["policy"] = {field: value for field, value in patch.items() if value is not None}
        made = terminal.api.call("POST", "/trust", body)
        terminal.one(made, _facts(made), f"trusted; undo: bursar trust remove {rule}")


def _switching(group: typer.Typer, locate: Locate) -> None:
    @command(group, "disable", locate, changes=True)
    def disable(terminal: Terminal, rule: Id) -> None:
        """Switch a rule off; its tokens are refused from their next call on."""
        switch_off(terminal, "trust", rule)

    @command(group, "enable", locate, changes=True)
    def enable(terminal: Terminal, rule: Id) -> None:
        """Switch a rule on again."""
        switch_on(terminal, "trust", rule)

    @command(group, "remove", locate, changes=True)
    def remove(terminal: Terminal, rule: Id) -> None:
        """Remove a rule; its tokens are refused from their next call on."""
        remove_subject(terminal, "trust", rule)


# ---- tokens


def tokens_group(locate: Locate) -> typer.Typer:
    group = typer.Typer(help="Tokens that this broker issues: what signs them, what is revoked.", no_args_is_help=True)
    _signing(group, locate)
    _revoking(group, locate)
    return group


def _signing(group: typer.Typer, locate: Locate) -> None:
    @command(group, "keys", locate)
    def keys(terminal: Terminal) -> None:
        """List the keys that sign: the one at work, the next, and those still read."""
        _show_keys(terminal, terminal.api.call("GET", "/tokens/keys"))

    @command(group, "rotate-signing-key", locate)
    def rotate(
        terminal: Terminal,
        at_once: Annotated[
            bool, typer.Option("--at-once", help="It may have leaked: every token issued so far is void.")
        ] = False,
        yes: Yes = False,
    ) -> None:
        """Let the next key sign. Tokens under the one before are read until they expire."""
        if at_once:
            terminal.confirm("Make every token issued so far void?", yes)
        _show_keys(terminal, terminal.api.call("POST", "/tokens/rotate", {"at_once": at_once}))

    @command(group, "jwks", locate)
    def jwks(
        terminal: Terminal,
        out: Annotated[str, typer.Option("--out", metavar="FILE", help="Write it there.", show_default=False)] = "",
    ) -> None:
        """Export the key set by which others verify tokens (RFC 7517)."""
        text = json.dumps(terminal.api.call("GET", "/tokens/jwks"), indent=2) + "\n"
        if not out:
            sys.stdout.write(text)
            return
        try:
            Path(out).write_text(text)
        except OSError as error:
            raise Trouble(f"{out} cannot be written: {error.strerror}", "Name another file with --out") from None
        terminal.done(f"written to {out}", {"written": out})


def _revoking(group: typer.Typer, locate: Locate) -> None:
    @command(group, "revoke", locate)
    def revoke(
        terminal: Terminal,
        token: Annotated[str, typer.Argument(metavar="ID", help="Its jti, as `bursar audit search` shows it.")],
    ) -> None:
        """Revoke a token by its id, from its next call on. Whoever holds it can: POST /oauth/revoke."""
        if "." in token:
            raise Trouble(
                "That is a token, not its id", "Post it to /oauth/revoke: the command line shows in `ps`", USAGE
            )
        terminal.done(f"revoked {token}", terminal.api.call("POST", "/tokens/revoke", {"id": token}))


def _show_keys(terminal: Terminal, answer: dict[str, Any]) -> None:
    columns = (Column("kid", keep=True), Column("state"), Column("made (UTC)"), Column("read until (UTC)", spare=1))
    rows = answer["keys"]
    terminal.rows(rows, columns, lambda k: (k["kid"], k["state"], _day(k["made_at"]), _day(k["read_until"])), "")


def _day(instant: str | None) -> str:
    return (instant or "").replace("T", " ")[:16]


def _matches(words: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for word in words:
        claim, equals, value = word.partition("=")
        if not equals or not claim or not value:
            raise Trouble(f"`{word}` is no claim with a value", "Write --match repository=octo/app", USAGE)
        found.setdefault(claim, []).append(value)
    return found


def _jwks(text: str) -> str:
    """``@FILE`` is read here and sent; an address or an absolute path is the node's to read."""
    if not text.startswith("@"):
        return text
    try:
        return json.dumps(json.loads(Path(text[1:]).read_text()))
    except (OSError, ValueError) as error:
        raise Trouble(f"{text[1:]} is no key set: {error}", "Give a file with a JWK set", USAGE) from None


def _token_of(file: str) -> str:
    try:
        return (sys.stdin.read() if file == "-" else Path(file).read_text()).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Trouble(f"{file} cannot be read: {error}", "Give the file in which the token lies", USAGE) from None


def _who(match: dict[str, list[str]]) -> str:
    return ", ".join(f"{claim}={' or '.join(values)}" for claim, values in match.items())


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _facts(rule: dict[str, Any]) -> dict[str, str]:
    return {
        "id": rule["id"],
        "team": rule["team"],
        "kind": rule["kind"],
        "issuer": rule["issuer"],
        "audience": rule["audience"],
        "who": _who(rule["match"]),
        "keys": "in the rule" if rule["jwks"].startswith("{") else rule["jwks"] or "by discovery",
        "algorithms": ", ".join(rule["algorithms"]),
        "once only": "yes" if rule["single_use"] else "",
        "tokens live": format_duration(rule["life_s"]),
        "tags": ", ".join(rule["tags"]),
        "state": rule["state"],
        **policy_facts(rule["policy"]),
    }

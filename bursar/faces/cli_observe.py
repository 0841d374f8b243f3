"""`bursar observe`: applications that call with their own provider key, until that is sealed and swapped."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from bursar.control.adopting import snippet
from bursar.core.key_shapes import look
from bursar.faces.cli_keys import Yes
from bursar.faces.cli_shadow import money
from bursar.faces.cli_terminal import USAGE, Locate, Terminal, Trouble, command, provider_key_text
from bursar.faces.client import segment
from bursar.faces.tables import Column, card, secret_panel, write

Id = Annotated[str, typer.Argument(metavar="ID", help="Of the observed key, as `list` shows it.")]
FromFile = Annotated[Path | None, typer.Option("--from-file", metavar="FILE", help="Read the provider key from there.")]
Undo = Annotated[bool, typer.Option("--undo", help="Take the sealing back: the vault's copy is shredded.")]
Subject = Annotated[str, typer.Argument(metavar="[ID|team/ID]", help="Left out: the team of observed keys.")]
Controls = Annotated[list[str], typer.Option("--control", help="limits, models, budgets/ID, ...; left out: all.")]
_STATES = {"observed": "observed", "sealed": "sealed, old key still let in", "closed": "sealed, old key refused"}


def observe_group(locate: Locate) -> typer.Typer:
    group = typer.Typer(
        help="Applications that call with their own provider key (observe.enabled in bursar.yaml).",
        no_args_is_help=True,
    )
    _reading(group, locate)
    _naming(group, locate)
    _swapping(group, locate)
    return group


def _reading(group: typer.Typer, locate: Locate) -> None:
    @command(group, "list", locate)
    def list_observed(
        terminal: Terminal,
        state: Annotated[str, typer.Option("--state", help="Only observed, sealed or closed ones.")] = "",
    ) -> None:
        """List observed keys: whose they are, what they were used for, and who has not swapped yet."""
        if state and state not in _STATES:
            raise Trouble(f"There is no state {state[:40]!r}", f"One of {', '.join(_STATES)}", USAGE)
        columns = (
            Column("id", keep=True),
            Column("name", keep=True),
            Column("provider", spare=1),
            Column("state"),
            Column("first seen (UTC)", spare=3),
            Column("last seen", spare=2),
            Column("calls", right=True),
            Column("spent $", right=True, keep=True),
            Column("models", spare=4),
        )
        terminal.rows(
            list(terminal.api.every("/observed", {"state": state})),
            columns,
            _row,
            "Set observe.enabled in bursar.yaml, and have an application change its base URL only (docs/observe.md)",
        )

    @command(group, "show", locate)
    def show(terminal: Terminal, key: Id) -> None:
        """Show an observed key."""
        found = terminal.api.call("GET", f"/observed/{segment(key)}")
        terminal.one(found, _facts(found))


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    return (
        one["id"],
        one["name"],
        one["provider"],
        _state(one),
        one["first_seen"][:16].replace("T", " "),
        _hour(one["last_seen"]),
        f"{one['calls']:,}",
        money(one["cost_usd"]),
        ", ".join(one["models"]),
    )


def _state(one: dict[str, Any]) -> str:
    if one["disabled"]:
        return "switched off"
    if one["state"] == "sealed":
        return f"sealed, still in use ({one['old_calls']:,})" if one["old_calls"] else "sealed, old key unused"
    return _STATES[str(one["state"])]


def _hour(instant: str | None) -> str:
    return "" if instant is None else instant[:13].replace("T", " ") + "h"


def _facts(one: dict[str, Any]) -> dict[str, str]:
    return {
        "id": one["id"],
        "name": one["name"],
        "provider": one["provider"],
        "team": one["team"],
        "owner": one["owner"] or f"unknown (billed to {one['billed_to']})",
        "purpose": one["purpose"],
        "state": _state(one),
        "first seen": one["first_seen"],
        "last seen": _hour(one["last_seen"]),
        "calls": f"{one['calls']:,}",
        "spent": f"${money(one['cost_usd'])}",
        "models": ", ".join(one["models"]),
        "provider key": f"{one['secret']}, sealed {one['sealed_at']}" if one["secret"] else "",
    }


def _naming(group: typer.Typer, locate: Locate) -> None:
    @command(group, "name", locate, changes=True)
    def name(
        terminal: Terminal,
        key: Id,
        new: Annotated[str | None, typer.Argument(metavar="[NAME]", help="What it is called.")] = None,
        *,
        owner: Annotated[str | None, typer.Option("--owner", help="Id of the billing owner who pays.")] = None,
        purpose: Annotated[str | None, typer.Option("--purpose", help="What it is for, in your words.")] = None,
    ) -> None:
        """Say what an observed key is: its name, who pays, what it is for."""
        given = {"name": new, "owner": owner, "purpose": purpose}
        patch = {field: value for field, value in given.items() if value is not None}
        if not patch:
            hint = f"bursar observe name {key} NAME --owner OWNER --purpose WORDS"
            raise Trouble("Nothing is said of it", hint, USAGE)
        done = terminal.api.call("PATCH", f"/observed/{segment(key)}", patch)
        terminal.one(done, _facts(done), f"{key} is {done['name']}")

    @command(group, "enforce", locate, changes=True)
    def enforce(terminal: Terminal, subject: Subject = "", *, control: Controls = [], yes: Yes = False) -> None:  # noqa: B006
        """Enforce what a team, or one key, has in shadow: what it would refuse is then refused. Asks first."""
        whom = subject if "/" in subject else f"key/{subject}" if subject else f"team/{_team(terminal)}"
        terminal.confirm(f"Enforce what {whom} has in shadow? Calls that it would refuse are then refused.", yes)
        body = {"subject": whom, "way": "promote", "controls": control}
        done = terminal.api.call("POST", "/promotions", body)
        moved = ", ".join(done["moved"])
        said = f"{whom}: {moved} enforced" if moved else f"{whom}: nothing was in shadow"
        terminal.done(said, done)


def _team(terminal: Terminal) -> str:
    """The team of the keys that are observed. Raises Trouble where that is not one."""
    teams = sorted({str(one["team"]) for one in terminal.api.every("/observed") if one["state"] == "observed"})
    if len(teams) != 1:
        told = "No key is observed yet" if not teams else f"Observed keys are of several teams: {', '.join(teams)}"
        raise Trouble(told, "Name it: bursar observe enforce team/ID", USAGE)
    return teams[0]


def _swapping(group: typer.Typer, locate: Locate) -> None:
    @command(group, "seal", locate)
    def seal(
        terminal: Terminal,
        key: Id,
        *,
        from_file: FromFile = None,
        team: Annotated[str, typer.Option("--team", help="To which the key goes; left out: it stays.")] = "",
        undo: Undo = False,
        yes: Yes = False,
    ) -> None:
        """Put its provider key (standard input or a file) into the vault, and make its virtual key.

        What was spent stays with it; the provider key lets its application in until `close`.
        """
        if undo:
            _unseal(terminal, key, yes)
            return
        value, origin = _read(key, from_file)
        done = terminal.api.call("POST", f"/observed/{segment(key)}/seal", {"value": value, "team": team})
        _tell_sealed(terminal, done, origin)

    @command(group, "close", locate, changes=True)
    def close(terminal: Terminal, key: Id, *, yes: Yes = False) -> None:
        """Refuse its provider key from the next call on. Asks while somebody still uses it."""
        found = terminal.api.call("GET", f"/observed/{segment(key)}")
        if found["old_calls"]:
            told = f"{found['name']} still uses its provider key (calls since it was sealed: {found['old_calls']:,})"
            terminal.confirm(f"{told}. Refuse it?", yes)
        done = terminal.api.call("POST", f"/observed/{segment(key)}/close")
        terminal.done(f"{done['name']}: its provider key is refused from now on", done)


def _read(key: str, file: Path | None) -> tuple[str, str]:
    """The provider key, and what to delete afterwards. Raises Trouble."""
    if look(key.encode("utf-8", "surrogatepass")):
        message = "A key was given as an argument, where `ps` and the shell's history show it"
        raise Trouble(message, "Replace it at the provider; give the ID, and the key on standard input", USAGE)
    try:
        if file is not None:
            text, origin = file.read_text(encoding="utf-8"), str(file)
        else:
            text = provider_key_text()
            origin = "the file or command that was piped in"
    except (OSError, UnicodeDecodeError) as fault:
        reason = getattr(fault, "strerror", None) or "is not UTF-8"
        raise Trouble(f"{file or 'standard input'}: {reason}", "Give a text file in UTF-8", USAGE) from None
    if not text.strip():
        hint = f"bursar observe seal {key} < file-with-the-key"
        raise Trouble(f"There is nothing in {file or 'standard input'}", hint, USAGE)
    return text.strip(), origin


def _tell_sealed(terminal: Terminal, done: dict[str, Any], origin: str) -> None:
    one, text = done["observed"], done["text"]
    url = os.environ.get("BURSAR_URL", terminal.place.data_url)
    undo = f"bursar observe seal {one['id']} --undo"
    code = snippet(one["provider"], url, text, one["models"])
    told = {
        "sealed as": one["secret"],
        "change in the application": "its key, to the one above; the base URL stays",
        "still let in": f"its provider key, until: bursar observe close {one['id']}",
        "who has not swapped": f"bursar observe show {one['id']}",
        "usage": "bursar usage --by key, before and after under one id",
        "now delete": f"{origin}, once it has swapped",
        "undo": undo,
    }
    if terminal.as_json:
        terminal.json({**done, "undo": undo, "snippet": code})
        return
    write(terminal.out, secret_panel(f"Virtual key of {one['name']}", text))
    terminal.done(f"{one['name']} is sealed; undo: {undo}", done)
    write(terminal.out, card(told))
    write(terminal.out, Text(f"\n{code}"))


def _unseal(terminal: Terminal, key: str, yes: bool) -> None:
    terminal.confirm(
        f"Take the sealing of {key} back? Its virtual key is then worth nothing, and the vault's copy is shredded.", yes
    )
    done = terminal.api.call("POST", f"/observed/{segment(key)}/unseal")
    terminal.done(f"{done['name']} is observed as before; undo: none, the vault's copy is shredded", done)

"""`bursar keys`: virtual keys, whose text is shown once."""

import time
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from bursar.faces.cli_policy import LimitOption, SetOption, policy_facts, policy_patch
from bursar.faces.cli_switch import remove_subject, switch_off, switch_on
from bursar.faces.cli_tenants import NewName, Tags
from bursar.faces.cli_terminal import USAGE, Locate, Terminal, Trouble, command, seconds
from bursar.faces.client import segment
from bursar.faces.tables import Column, card, secret_panel, write

Id = Annotated[str, typer.Argument(metavar="ID", help="The key's public id, as `list` shows it.")]
Expires = Annotated[
    str | None,
    typer.Option("--expires", metavar="SPAN|DAY", help="90d, 12h, 2027-01-31, or never.", show_default=False),
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def keys_group(locate: Locate) -> typer.Typer:
    group = typer.Typer(help="Virtual keys: what applications hold instead of a provider key.", no_args_is_help=True)
    _reading(group, locate)
    _making(group, locate)
    _switching(group, locate)
    return group


def _reading(group: typer.Typer, locate: Locate) -> None:
    @command(group, "list", locate)
    def list_keys(
        terminal: Terminal, team: Annotated[str, typer.Option("--team", help="Only of this team.")] = ""
    ) -> None:
        """List virtual keys."""
        columns = (
            Column("id", keep=True),
            Column("name"),
            Column("team"),
            Column("state"),
            Column("expires (UTC)", keep=True, spare=1),
        )
        terminal.rows(
            list(terminal.api.every("/keys", {"team": team})),
            columns,
            lambda key: (key["id"], key["name"], key["team"], key["state"], day_of(key["expires_at"]) or "never"),
            f"bursar keys create --team {team or 'TEAM'} --name NAME",
        )

    @command(group, "show", locate)
    def show(terminal: Terminal, key: Id) -> None:
        """Show a key with its own policy."""
        found = terminal.api.call("GET", f"/keys/{segment(key)}")
        terminal.one(found, _facts(found))


def _making(group: typer.Typer, locate: Locate) -> None:
    @command(group, "create", locate, changes=True)
    def create(
        terminal: Terminal,
        *,
        team: Annotated[str, typer.Option("--team", help="Id of its team.")],
        name: Annotated[str, typer.Option("--name", help="What will use it, for example ci-nightly.")],
        expires: Expires = None,
        set_: SetOption,
        limit: LimitOption,
        tag: Tags,
    ) -> None:
        """Create a virtual key and show its text, this once."""
        body: dict[str, Any] = {"team": team, "name": name, "tags": tag}
        if expires:
            body["expires_at"] = instant_of(expires)
        if patch := policy_patch(set_, limit):
            body["policy"] = {field: value for field, value in patch.items() if value is not None}
        _show_minted(terminal, terminal.api.call("POST", "/keys", body), f"Key {name} of team {team}")

    @command(group, "rotate", locate)
    def rotate(
        terminal: Terminal,
        key: Id,
        overlap: Annotated[str, typer.Option("--overlap", help="How long the present text works on; 0 = not.")] = "1h",
    ) -> None:
        """Give a key a new text under the same id."""
        minted = terminal.api.call("POST", f"/keys/{segment(key)}/rotate", {"overlap_s": seconds(overlap)})
        _show_minted(terminal, minted, f"New text of key {minted['key']['name']}")


def _switching(group: typer.Typer, locate: Locate) -> None:
    @command(group, "update", locate, changes=True)
    def update(
        terminal: Terminal,
        key: Id,
        *,
        name: NewName = None,
        expires: Expires = None,
        set_: SetOption,
        limit: LimitOption,
        tag: Tags,
    ) -> None:
        """Change a key; what is not named stays. --limit replaces all limits."""
        said = {"name": name, "tags": tag or None, "policy": policy_patch(set_, limit)}
        patch: dict[str, Any] = {field: value for field, value in said.items() if value is not None}
        if expires:
            patch["expires_at"] = instant_of(expires)
        changed = terminal.api.call("PATCH", f"/keys/{segment(key)}", patch)
        terminal.one(changed, _facts(changed), "changed")

    @command(group, "disable", locate, changes=True)
    def disable(terminal: Terminal, key: Id) -> None:
        """Switch a key off, from its next call on."""
        switch_off(terminal, "keys", key)

    @command(group, "enable", locate, changes=True)
    def enable(terminal: Terminal, key: Id) -> None:
        """Switch a key on again."""
        switch_on(terminal, "keys", key)

    @command(group, "remove", locate, changes=True)
    def remove(terminal: Terminal, key: Id, yes: Yes = False) -> None:
        """Remove a key for ever. `disable` can be undone, this cannot."""
        terminal.confirm(f"Remove key {key} for ever?", yes)
        remove_subject(terminal, "keys", key)


def _show_minted(terminal: Terminal, minted: dict[str, Any], title: str) -> None:
    if terminal.as_json:
        terminal.json(minted)
        return
    write(terminal.out, secret_panel(title, minted["text"]))
    write(terminal.out, card(_facts(minted["key"])))


def _facts(key: dict[str, Any]) -> dict[str, str]:
    return {
        "id": key["id"],
        "name": key["name"],
        "team": key["team"],
        "state": key["state"],
        "expires": day_of(key["expires_at"]) or "never",
        "earlier text until": key["overlap_until"] or "",
        "tags": ", ".join(key["tags"]),
        **policy_facts(key["policy"]),
    }


def day_of(instant: str | None) -> str:
    """An instant of the API to the minute; "" for none."""
    return (instant or "").replace("T", " ").removesuffix("Z")[:16]


def instant_of(text: str) -> str | None:
    """``90d`` from now, a day, or an instant; None for ``never``."""
    if text == "never":
        return None
    if text[:4].isdigit() and "-" in text:
        return text
    try:
        ends = int(time.time()) + seconds(text)
    except Trouble:
        raise Trouble(f"`{text}` is no span and no day", "Write --expires 90d or 2027-01-31", USAGE) from None
    return datetime.fromtimestamp(ends, UTC).isoformat().replace("+00:00", "Z")

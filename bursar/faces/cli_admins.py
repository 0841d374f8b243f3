"""`bursar admins`: who may enter the admin API besides the node's own token, and as what."""

from typing import Annotated, Any

import typer

from bursar.core.roles import MEANING, RIGHTS, Role
from bursar.faces.cli_keys import Expires, Yes, day_of, instant_of
from bursar.faces.cli_switch import remove_subject, switch_off, switch_on
from bursar.faces.cli_terminal import Locate, Terminal, command
from bursar.faces.client import segment
from bursar.faces.tables import Column, card, secret_panel, write

Id = Annotated[str, typer.Argument(metavar="ID", help="The id of the admin, as `list` shows it.")]
RoleOption = Annotated[Role, typer.Option("--role", help="See `bursar admins roles`.")]


def admins_group(locate: Locate) -> typer.Typer:
    group = typer.Typer(help="Who may administer this node, and as what.", no_args_is_help=True)
    _reading(group, locate)
    _changing(group, locate)
    return group


def add_whoami(app: typer.Typer, locate: Locate) -> None:
    @command(app, "whoami", locate)
    def whoami(terminal: Terminal) -> None:
        """Show as whom the admin API takes you, and what you may do."""
        found = terminal.api.call("GET", "/whoami")
        facts = {"actor": found["actor"], "role": found["role"], "rights": ", ".join(found["rights"])}
        if found["session"]:
            facts["session"] = f"{found['session']}, until {found['expires_at']}"
        terminal.one(found, facts)


def _reading(group: typer.Typer, locate: Locate) -> None:
    @command(group, "roles", locate)
    def roles(terminal: Terminal) -> None:
        """List the roles with their rights."""
        rows = [{"role": role, "rights": sorted(rights), "meaning": MEANING[role]} for role, rights in RIGHTS.items()]
        columns = (Column("role", keep=True), Column("what it means", spare=1), Column("rights"))
        terminal.rows(rows, columns, lambda row: (row["role"], row["meaning"], ", ".join(row["rights"])), "")

    @command(group, "list", locate)
    def list_admins(terminal: Terminal) -> None:
        """List who may enter."""
        columns = (
            Column("id", keep=True),
            Column("name"),
            Column("role"),
            Column("state"),
            Column("expires (UTC)", keep=True, spare=1),
        )
        terminal.rows(
            list(terminal.api.every("/admins")),
            columns,
            lambda one: (one["id"], one["name"], one["role"], one["state"], day_of(one["expires_at"]) or "never"),
            "bursar admins create --name NAME --role viewer",
        )


def _changing(group: typer.Typer, locate: Locate) -> None:
    @command(group, "create", locate, changes=True)
    def create(
        terminal: Terminal,
        *,
        name: Annotated[str, typer.Option("--name", help="Who it is for: a person or a program.")],
        role: RoleOption,
        expires: Expires = None,
    ) -> None:
        """Let somebody in and show the token, this once. Use it as BURSAR_ADMIN_TOKEN."""
        body: dict[str, Any] = {"name": name, "role": role}
        if expires:
            body["expires_at"] = instant_of(expires)
        minted = terminal.api.call("POST", "/admins", body)
        if terminal.as_json:
            terminal.json(minted)
            return
        write(terminal.out, secret_panel(f"Admin token of {name}", minted["text"]))
        write(terminal.out, card(_facts(minted["admin"])))

    @command(group, "role", locate, changes=True)
    def role(terminal: Terminal, admin: Id, to: Annotated[Role, typer.Argument(metavar="ROLE")]) -> None:
        """Give an admin another role, from his next call on."""
        before = terminal.api.call("GET", f"/admins/{segment(admin)}")
        changed = terminal.api.call("PUT", f"/admins/{segment(admin)}/role", {"role": to})
        terminal.done(f"{admin} is {to} now; undo: bursar admins role {admin} {before['role']}", changed)

    @command(group, "disable", locate, changes=True)
    def disable(terminal: Terminal, admin: Id) -> None:
        """Switch an admin off, from his next call on."""
        switch_off(terminal, "admins", admin)

    @command(group, "enable", locate, changes=True)
    def enable(terminal: Terminal, admin: Id) -> None:
        """Switch an admin on again."""
        switch_on(terminal, "admins", admin)

    @command(group, "remove", locate, changes=True)
    def remove(terminal: Terminal, admin: Id, yes: Yes = False) -> None:
        """Remove an admin for ever. `disable` can be undone, this cannot."""
        terminal.confirm(f"Remove the admin {admin} for ever?", yes)
        remove_subject(terminal, "admins", admin)


def _facts(admin: dict[str, Any]) -> dict[str, str]:
    return {
        "id": admin["id"],
        "name": admin["name"],
        "role": admin["role"],
        "state": admin["state"],
        "expires": day_of(admin["expires_at"]) or "never",
    }

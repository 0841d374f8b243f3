"""`bursar owners`, `bursar teams`: who pays, who works, and what they may do."""

from typing import Annotated, Any

import typer

from bursar.faces.cli_policy import LimitOption, SetOption, policy_facts, policy_patch
from bursar.faces.cli_switch import remove_subject, switch_off, switch_on
from bursar.faces.cli_terminal import Locate, Terminal, command
from bursar.faces.client import segment
from bursar.faces.tables import Column

Id = Annotated[str, typer.Argument(metavar="ID", help="The id, as `list` shows it.")]
Contacts = Annotated[
    list[str],
    typer.Option("--contact", help="Who is told: an e-mail address. Repeat.", default_factory=list, show_default=False),
]
Tags = Annotated[
    list[str],
    typer.Option("--tag", help="A tag for budgets and reports. Repeat.", default_factory=list, show_default=False),
]
NewId = Annotated[str, typer.Option("--id", help="Choose the id; otherwise it follows the name.", show_default=False)]
NewName = Annotated[str | None, typer.Option("--name", help="A new name.", show_default=False)]


def owners_group(locate: Locate) -> typer.Typer:
    group = typer.Typer(help="Billing owners: who pays and who is told.", no_args_is_help=True)

    @command(group, "list", locate)
    def list_owners(terminal: Terminal) -> None:
        """List billing owners."""
        columns = (Column("id", keep=True), Column("name"), Column("contacts"))
        terminal.rows(
            list(terminal.api.every("/owners")),
            columns,
            lambda owner: (owner["id"], owner["name"], ", ".join(owner["contacts"])),
            "bursar owners create NAME",
        )

    @command(group, "show", locate)
    def show(terminal: Terminal, owner: Id) -> None:
        """Show a billing owner."""
        found = terminal.api.call("GET", f"/owners/{segment(owner)}")
        terminal.one(found, _owner_facts(found))

    @command(group, "create", locate, changes=True)
    def create(
        terminal: Terminal,
        name: Annotated[str, typer.Argument(help="For example 'Search team'.")],
        *,
        contact: Contacts,
        id_: NewId = "",
    ) -> None:
        """Create a billing owner."""
        made = terminal.api.call("POST", "/owners", {"name": name, "contacts": contact, "id": id_})
        terminal.one(made, _owner_facts(made), f"created; next: bursar teams create NAME --owner {made['id']}")

    @command(group, "update", locate, changes=True)
    def update(terminal: Terminal, owner: Id, *, name: NewName = None, contact: Contacts) -> None:
        """Rename an owner or replace its contacts."""
        patch: dict[str, Any] = {"name": name} if name else {}
        if contact:
            patch["contacts"] = contact
        changed = terminal.api.call("PATCH", f"/owners/{segment(owner)}", patch)
        terminal.one(changed, _owner_facts(changed), "changed")

    @command(group, "remove", locate, changes=True)
    def remove(terminal: Terminal, owner: Id) -> None:
        """Remove an owner without teams."""
        terminal.api.call("DELETE", f"/owners/{segment(owner)}")
        terminal.done(f"removed {owner}", {"removed": owner})

    return group


def _owner_facts(owner: dict[str, Any]) -> dict[str, str]:
    return {"id": owner["id"], "name": owner["name"], "contacts": ", ".join(owner["contacts"])}


def teams_group(locate: Locate) -> typer.Typer:
    group = typer.Typer(help="Teams: each has an owner and a policy its keys can only narrow.", no_args_is_help=True)
    _reading_teams(group, locate)
    _changing_teams(group, locate)
    return group


def _reading_teams(group: typer.Typer, locate: Locate) -> None:
    @command(group, "list", locate)
    def list_teams(terminal: Terminal) -> None:
        """List teams."""
        columns = (Column("id", keep=True), Column("name"), Column("owner"), Column("models"), Column("state"))
        terminal.rows(
            list(terminal.api.every("/teams")),
            columns,
            lambda team: (
                team["id"],
                team["name"],
                team["owner"],
                ", ".join(team["policy"].get("models", ["*"])),
                "disabled" if team["disabled"] else "active",
            ),
            "bursar teams create NAME --owner OWNER",
        )

    @command(group, "show", locate)
    def show(terminal: Terminal, team: Id) -> None:
        """Show a team with its policy."""
        found = terminal.api.call("GET", f"/teams/{segment(team)}")
        terminal.one(found, _team_facts(found))


def _changing_teams(group: typer.Typer, locate: Locate) -> None:
    @command(group, "create", locate, changes=True)
    def create(
        terminal: Terminal,
        name: Annotated[str, typer.Argument(help="For example Search.")],
        *,
        owner: Annotated[str, typer.Option("--owner", help="Id of the billing owner.")],
        set_: SetOption,
        limit: LimitOption,
        tag: Tags,
        id_: NewId = "",
    ) -> None:
        """Create a team."""
        body: dict[str, Any] = {"name": name, "owner": owner, "tags": tag, "id": id_}
        if patch := policy_patch(set_, limit):
            body["policy"] = {field: value for field, value in patch.items() if value is not None}
        made = terminal.api.call("POST", "/teams", body)
        terminal.one(made, _team_facts(made), f"created; next: bursar keys create --team {made['id']} --name NAME")

    @command(group, "update", locate, changes=True)
    def update(
        terminal: Terminal,
        team: Id,
        *,
        name: NewName = None,
        owner: Annotated[str | None, typer.Option("--owner", help="Another billing owner.")] = None,
        set_: SetOption,
        limit: LimitOption,
        tag: Tags,
    ) -> None:
        """Change a team; what is not named stays. --limit replaces all limits."""
        said = {"name": name, "owner": owner, "tags": tag or None, "policy": policy_patch(set_, limit)}
        patch = {field: value for field, value in said.items() if value is not None}
        changed = terminal.api.call("PATCH", f"/teams/{segment(team)}", patch)
        terminal.one(changed, _team_facts(changed), "changed")

    @command(group, "disable", locate, changes=True)
    def disable(terminal: Terminal, team: Id) -> None:
        """Switch all keys of a team off, from their next call on."""
        switch_off(terminal, "teams", team)

    @command(group, "enable", locate, changes=True)
    def enable(terminal: Terminal, team: Id) -> None:
        """Switch a team on again."""
        switch_on(terminal, "teams", team)

    @command(group, "remove", locate, changes=True)
    def remove(terminal: Terminal, team: Id) -> None:
        """Remove a team without keys and budgets."""
        remove_subject(terminal, "teams", team)


def _team_facts(team: dict[str, Any]) -> dict[str, str]:
    return {
        "id": team["id"],
        "name": team["name"],
        "owner": team["owner"],
        "state": "disabled" if team["disabled"] else "active",
        "tags": ", ".join(team["tags"]),
        **policy_facts(team["policy"]),
        "wider keys": ", ".join(team["keys_beyond"]),
    }

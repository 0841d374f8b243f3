"""`bursar models`: the names of Azure deployments, and the models they stand for."""

from typing import Annotated

import typer

from bursar.core.deployments import deployment_id
from bursar.faces.cli_terminal import Locate, Terminal, command
from bursar.faces.client import segment
from bursar.faces.tables import Column

Name = Annotated[str, typer.Argument(metavar="DEPLOYMENT", help="As callers name it in the path.")]
Team = Annotated[str, typer.Option("--team", help="Only for this team; otherwise for all.", show_default=False)]


def models_group(locate: Locate) -> typer.Typer:
    group = typer.Typer(help="Names of Azure deployments, and the models they stand for.", no_args_is_help=True)

    @command(group, "list", locate)
    def list_deployments(terminal: Terminal) -> None:
        """List the deployments that callers of the Azure paths can name."""
        columns = (Column("deployment", keep=True), Column("team"), Column("model"))
        terminal.rows(
            list(terminal.api.every("/deployments")),
            columns,
            lambda one: (one["name"], one["team"] or "all", one["model"]),
            "bursar models map chat-prod gpt-4o-mini",
        )

    @command(group, "map", locate, changes=True)
    def map_deployment(
        terminal: Terminal,
        deployment: Name,
        model: Annotated[str, typer.Argument(help="As `GET /v1/models` shows it, or provider/model.")],
        *,
        team: Team = "",
    ) -> None:
        """Map a deployment to a model, or change what it stands for."""
        made = terminal.api.call("POST", "/deployments", {"name": deployment, "model": model, "team": team})
        undo = f"bursar models unmap {deployment}{f' --team {team}' if team else ''}"
        terminal.done(f"{deployment} stands for {made['model']}; undo: {undo}", made)

    @command(group, "unmap", locate, changes=True)
    def unmap(terminal: Terminal, deployment: Name, *, team: Team = "") -> None:
        """Take a mapping away, from the next call on."""
        entity = deployment_id(deployment, team)
        terminal.api.call("DELETE", f"/deployments/{segment(entity)}")
        terminal.done(f"unmapped {entity}", {"unmapped": entity})

    return group

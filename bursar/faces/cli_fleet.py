"""`bursar nodes`: who shares the store."""

import typer

from bursar.faces.cli_terminal import Locate, Terminal, command
from bursar.faces.tables import Column


def add_nodes(app: typer.Typer, locate: Locate) -> None:
    @command(app, "nodes", locate)
    def nodes(terminal: Terminal) -> None:
        """List the nodes of the fleet by their last heartbeat."""
        columns = (
            Column("node", keep=True),
            Column("state", keep=True),
            Column("version"),
            Column("host", spare=1),
            Column("directory", right=True),
            Column("gateways", right=True),
            Column("seen (UTC)", keep=True),
        )
        terminal.rows(
            terminal.api.call("GET", "/nodes")["items"],
            columns,
            lambda one: (
                one["name"],
                "live" if one["live"] else "silent",
                one["version"],
                one["host"],
                str(one["directory_version"]),
                str(one["gateways"]),
                one["seen_at"].replace("T", " ")[:19],
            ),
            "this node is alone: see docs/many-nodes.md",
        )

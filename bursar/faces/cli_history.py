"""`bursar history` and `bursar undo`: what was changed, and the way back."""

from typing import Annotated

import typer
from rich.console import Group
from rich.text import Text

from bursar.faces.cli_keys import day_of
from bursar.faces.cli_terminal import Locate, Terminal, command
from bursar.faces.edits import lines
from bursar.faces.tables import write


def add_history(app: typer.Typer, locate: Locate) -> None:
    @command(app, "history", locate)
    def history(
        terminal: Terminal,
        of: Annotated[str, typer.Option("--of", metavar="KIND/ID", help="Only of one entity: team/search.")] = "",
        limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="So many changes.")] = 20,
    ) -> None:
        """Show what was changed in the directory, newest first, field by field."""
        found = terminal.api.call("GET", "/changes", query={"of": of, "limit": limit})["items"]
        if terminal.as_json:
            terminal.json(found)
            return
        if not found:
            write(terminal.out, Text("nothing was changed yet", style="dim"))
        for change in found:
            undo = "" if change["undo"] is None else f"  undo: bursar undo {change['undo']}"
            head = Text.assemble(
                (f"{change['version']:>5}  ", "bold"),
                f"{day_of(change['at'])}  {change['actor']}  ",
                (change["action"], "bold"),
                (undo, "dim"),
            )
            write(terminal.out, Group(head, *lines(change)))

    @command(app, "undo", locate, changes=True)
    def undo(
        terminal: Terminal, change: Annotated[int, typer.Argument(min=1, help="Its number, as `history` shows it.")]
    ) -> None:
        """Take a change back, if nothing was changed there since. An undo can be undone as well."""
        terminal.api.call("POST", f"/changes/{change}/undo")
        terminal.done(f"change {change} is taken back", {"undone": change})

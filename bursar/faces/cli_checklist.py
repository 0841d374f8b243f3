"""`bursar checklist`: the playbook as live lines, and as a page that serves as evidence."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from bursar.faces import html_page as html
from bursar.faces.cli_shadow import write_file
from bursar.faces.cli_terminal import NOT_VERIFIED, Locate, Terminal, command
from bursar.faces.tables import write

_MARKS = {"pass": ("✓", "green"), "fail": ("✗", "bold red"), "unseen": ("?", "yellow")}
_SAID = {"pass": "passes", "fail": "fails", "unseen": "cannot be seen from here"}


def add_checklist(app: typer.Typer, locate: Locate) -> None:
    @command(app, "checklist", locate)
    def checklist(
        terminal: Terminal,
        *,
        html_file: Annotated[
            Path | None, typer.Option("--html", metavar="FILE", help="Write it as a page.", show_default=False)
        ] = None,
    ) -> None:
        """Is this node run by the book? Each line passes, or says what to type. Exit code 4 while one fails."""
        found = terminal.api.call("GET", "/checklist")
        if html_file is not None:
            write_file(html_file, checklist_page(found))
            terminal.done(f"written to {html_file}", {**found, "written": str(html_file)})
        elif terminal.as_json:
            terminal.json(found)
        else:
            for line in found["lines"]:
                write(terminal.out, _drawn(line))
            write(terminal.out, Text(f"\n{summary(found)}", style="bold"))
        if found["failing"]:
            raise typer.Exit(NOT_VERIFIED)


def _drawn(line: dict[str, Any]) -> Text:
    mark, style = _MARKS[line["verdict"]]
    text = Text.assemble((f"{mark} ", style), (line["title"], "bold" if line["verdict"] == "fail" else ""))
    text.append(f"  {line['told']}", style="dim")
    for typed in line["mend"]:
        text.append(f"\n    {typed}", style="cyan")
    return text


def summary(found: dict[str, Any]) -> str:
    counts = {verdict: sum(line["verdict"] == verdict for line in found["lines"]) for verdict in _MARKS}
    return f"{counts['pass']} pass, {counts['fail']} fail, {counts['unseen']} cannot be seen from here"


def checklist_page(found: dict[str, Any]) -> str:
    """The lines as one HTML file, with where and when they were true."""
    rows = [
        (
            _MARKS[line["verdict"]][0],
            line["title"],
            f"{_SAID[line['verdict']]}: {line['told']}",
            "; ".join(line["mend"]) or "–",
        )
        for line in found["lines"]
    ]
    told = f"node {found['node']}, as of {found['at'][:19].replace('T', ' ')} UTC"
    facts = {_SAID[verdict]: str(sum(line["verdict"] == verdict for line in found["lines"])) for verdict in _MARKS}
    table = html.rows(("", "what", "how it stands", "what mends it"), rows, frozenset())
    return html.page("Bursar: checklist", told, [html.cards(facts), table])

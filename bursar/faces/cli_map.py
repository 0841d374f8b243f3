"""`bursar secrets map` and `tag-sheet`: all provider keys at a glance, and tagged in bulk."""

from pathlib import Path
from typing import Annotated, Any

import typer

from bursar.control.tag_sheet import parse_tags
from bursar.faces.cli_terminal import USAGE, Locate, Terminal, Trouble, command
from bursar.faces.tables import Column


def add_map(group: typer.Typer, locate: Locate) -> None:
    @command(group, "map", locate)
    def show_map(
        terminal: Terminal,
        flagged: Annotated[bool, typer.Option("--flagged", help="Only those with something to look at.")] = False,
    ) -> None:
        """Each provider key: its team, who pays, who may use, read and rotate it, when it was used, what is wrong."""
        lines = [line for line in terminal.api.every("/key-map") if line["flags"] or not flagged]
        columns = (
            Column("address"),
            Column("owner"),
            Column("used by", spare=1),
            Column("keys", right=True),
            Column("read by", spare=2),
            Column("rotated by", spare=2),
            Column("last use"),
            Column("flags"),
        )
        terminal.rows(lines, columns, _cells, "bursar secrets put openai < file-with-the-key")

    @command(group, "tag-sheet", locate)
    def tag_sheet(
        terminal: Terminal,
        file: Annotated[Path, typer.Argument(help="CSV: address,billing_owner,...; - removes a tag.")],
        *,
        preview: Annotated[bool, typer.Option("--preview", help="Only show what would change.")] = False,
        yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    ) -> None:
        """Set tags of many provider keys by a CSV sheet: all faults at once by line, then all changes or none."""
        rows = [{"line": row.line, "key": row.key, "tags": row.tags} for row in parse_tags(_read(file))]
        found = terminal.api.call("POST", "/provider-key-tags", {"rows": rows, "apply": False})
        if not terminal.as_json or preview:
            terminal.rows(
                found["changes"],
                (Column("line", right=True), Column("address"), Column("before", spare=1), Column("after")),
                lambda change: (
                    str(change["line"]),
                    change["address"],
                    _tags(change["before"]),
                    _tags(change["after"]),
                ),
                "nothing would change",
            )
        if preview or not found["changes"]:
            return
        terminal.confirm(f"Change the tags of {len(found['changes'])} provider keys?", yes)
        done = terminal.api.call("POST", "/provider-key-tags", {"rows": rows, "apply": True})
        terminal.done(f"tagged {len(done['changes'])} provider keys", done)


def _cells(line: dict[str, Any]) -> tuple[str, ...]:
    used_by = line["used_by"]
    return (
        line["address"],
        line["owner"],
        f"any team ({len(used_by)})" if line["team"] == "*" else ", ".join(used_by) or "nobody",
        str(line["keys"]),
        ", ".join(line["read_by"]) or "nobody",
        ", ".join(line["rotated_by"]),
        (line["last_use"] or "never")[:10],
        ", ".join(flag.replace("_", " ") for flag in line["flags"]),
    )


def _tags(tags: dict[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in tags.items()) or "–"


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as fault:
        raise Trouble(f"{file} cannot be read: {fault}", "Give a CSV file in UTF-8", USAGE) from None

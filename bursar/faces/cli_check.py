"""`bursar check`: the configuration, offline; with --connect also everything that it names."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer
from rich.text import Text

from bursar.faces.cli_terminal import NOT_VERIFIED, Locate, Terminal, Trouble, command
from bursar.faces.tables import Column, table, write

CheckConfig = Callable[[str | None], Mapping[str, str]]
"""What was read of that file; raises Faults."""
Connect = Callable[[str | None], list[dict[str, Any]]]
"""Answers (what, ok, said, mend) of everything that file names."""


def add_check(app: typer.Typer, locate: Locate, check_config: CheckConfig, connect: Connect) -> None:
    @command(app, "check", locate)
    def check(
        terminal: Terminal,
        file: Annotated[str | None, typer.Argument(help="bursar.yaml.")] = None,
        reach: Annotated[
            bool, typer.Option("--connect", help="Ask each store, sink and provider as well; nothing is written.")
        ] = False,
    ) -> None:
        """Check the configuration: all faults at once, with their paths; offline unless told otherwise."""
        read = check_config(file or terminal.config)
        if not reach:
            terminal.one({"ok": True, **read}, read, "the configuration is fine")
            return
        answers = connect(file or terminal.config)
        failed = [answer["what"] for answer in answers if not answer["ok"]]
        if terminal.as_json:
            terminal.json({"ok": not failed, **read, "checks": answers})
        else:
            _draw(terminal, answers)
        if failed:
            raise Trouble(
                f"of {len(answers)} checks failed: {', '.join(failed)}", code=NOT_VERIFIED, word="not_verified"
            )


def _draw(terminal: Terminal, answers: list[dict[str, Any]]) -> None:
    columns = (Column("what", keep=True), Column("state", keep=True), Column("found"))
    rows = [(answer["what"], "ok" if answer["ok"] else "failed", answer["said"]) for answer in answers]
    write(terminal.out, table(columns, rows, "", terminal.out.width))
    for answer in answers:
        if not answer["ok"] and answer["mend"]:
            write(terminal.out, Text.assemble(("→ ", "bold"), f"{answer['what']}: {answer['mend']}"))

"""`bursar store`: where a node's state lies, and how it gets somewhere else."""

from collections.abc import Callable
from typing import Annotated, Literal

import typer

from bursar.faces.cli_terminal import USAGE, Locate, Place, Terminal, Trouble, Verified, command, tell

Kind = Literal["embedded", "postgres"]
Move = Callable[[Place, Kind, bool], Verified]
"""(place, where to, only look). Raises Trouble."""


def store_group(locate: Locate, move: Move) -> typer.Typer:
    group = typer.Typer(
        help="Where the state lies: the data folder, or a PostgreSQL of many nodes.", no_args_is_help=True
    )

    @command(group, "migrate", locate)
    def migrate(
        terminal: Terminal,
        *,
        from_: Annotated[Kind, typer.Option("--from", help="Where it lies now.")],
        to: Annotated[Kind, typer.Option("--to", help="Where it shall lie.")],
        dry_run: Annotated[bool, typer.Option("--dry-run", help="Prove what is there, and move nothing.")] = False,
    ) -> None:
        """Move ledger, directory, secrets and audit, every node down: proven on both sides, resumed when run again."""
        if from_ == to:
            raise Trouble("--from and --to are the same", "bursar store migrate --from embedded --to postgres", USAGE)
        said = (
            "this would be moved; nothing was"
            if dry_run
            else "the store has been moved and says the same on both sides"
        )
        tell(terminal, move(terminal.place, to, dry_run), said)

    return group

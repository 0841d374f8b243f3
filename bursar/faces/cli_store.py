"""`bursar store`: where money lies, and how it gets somewhere else."""

from collections.abc import Callable
from typing import Annotated, Literal

import typer

from bursar.faces.cli_terminal import USAGE, Locate, Place, Terminal, Trouble, Verified, command, tell

Kind = Literal["embedded", "postgres"]
Move = Callable[[Place, Kind], Verified]
"""(place, where to). Raises Trouble."""


def store_group(locate: Locate, move: Move) -> typer.Typer:
    group = typer.Typer(
        help="Where the ledger lies: the data folder, or a PostgreSQL of many nodes.", no_args_is_help=True
    )

    @command(group, "migrate", locate)
    def migrate(
        terminal: Terminal,
        *,
        from_: Annotated[Kind, typer.Option("--from", help="Where it lies now.")],
        to: Annotated[Kind, typer.Option("--to", help="Where it shall lie.")],
    ) -> None:
        """Move the ledger, every node down: proven before and after, resumed by running it again."""
        if from_ == to:
            raise Trouble("--from and --to are the same", "bursar store migrate --from embedded --to postgres", USAGE)
        tell(terminal, move(terminal.place, to), "the ledger has been moved and says the same on both sides")

    return group

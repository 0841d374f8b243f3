"""`bursar breakers`: which upstreams are left alone, since when and by whom; opened and closed by hand."""

import inspect
from typing import Annotated, Any

import typer

from bursar.faces.cli_terminal import Locate, Terminal, command, seconds
from bursar.faces.tables import Column

Name = Annotated[str, typer.Argument(help="provider/NAME, key/ID or key/ID/MODEL; a bare NAME or ID will do.")]
Reason = Annotated[str, typer.Option("--reason", help="Why: kept in the audit and shown in the list.")]
_STATES = {"half_open": "half-open"}


def breakers_group(locate: Locate) -> typer.Typer:
    group = typer.Typer(help="Upstreams that are left alone: how they stand, opened and closed by hand.")

    @command(group, "list", locate)
    def list_breakers(terminal: Terminal) -> None:
        """List the circuits of which something is known."""
        columns = (
            Column("upstream", keep=True),
            Column("state", keep=True),
            Column("since (UTC)"),
            Column("failures", right=True),
            Column("next try (UTC)"),
            Column("opened by"),
            Column("node", spare=1),
            Column("reason", spare=1),
        )
        terminal.rows(list(terminal.api.every("/breakers")), columns, _row, "every upstream is well")

    @command(group, "open", locate, changes=True)
    def open_breaker(
        terminal: Terminal,
        name: Name,
        *,
        span: Annotated[str, typer.Option("--for", help="10m, 2h, ...; without it until it is closed.")] = "",
        reason: Reason = "",
    ) -> None:
        """Keep calls away, at once and on every node; streams that are under way go on."""
        asked = {"name": name, "for_s": seconds(span) if span else None, "reason": reason}
        made = terminal.api.call("POST", "/breakers/open", asked)
        until = f"until {_clock(made['until'])} UTC" if made["until"] else f"until `bursar breakers close {name}`"
        terminal.done(f"{made['name']} is open {until}", made)

    @command(group, "close", locate, changes=True)
    def close(terminal: Terminal, name: Name, *, reason: Reason = "") -> None:
        """Use it again, whatever is known of its failures."""
        made = terminal.api.call("POST", "/breakers/close", {"name": name, "reason": reason})
        terminal.done(f"{made['name']} is in use again", made)

    _lists_by_itself(group)
    return group


def _lists_by_itself(group: typer.Typer) -> None:
    """`bursar breakers` alone is `bursar breakers list`, with the same options."""
    listing: Any = group.registered_commands[0].callback

    def alone(context: typer.Context, **given: Any) -> None:
        if context.invoked_subcommand is None:
            listing(**given)

    own = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    shared = list(inspect.signature(listing).parameters.values())
    alone.__signature__ = inspect.Signature([own, *shared])  # type: ignore[attr-defined]
    alone.__annotations__ = {"context": typer.Context, **listing.__annotations__}
    group.callback(invoke_without_command=True)(alone)


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    return (
        one["name"],
        _STATES.get(one["state"], one["state"]),
        _clock(one["since"]),
        str(one["failures"]),
        _clock(one["next_try"]),
        one["opened_by"],
        one["node"],
        one["reason"],
    )


def _clock(instant: str | None) -> str:
    return "" if instant is None else instant.replace("T", " ")[:19]

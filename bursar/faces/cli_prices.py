"""`bursar prices`: what is in force, and your own on top."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from bursar.faces.cli_money import dollars
from bursar.faces.cli_terminal import USAGE, Locate, Terminal, Trouble, command, usd
from bursar.faces.client import segment
from bursar.faces.tables import Column

Model = Annotated[str, typer.Argument(metavar="PROVIDER[/MODEL]", help="For example openai/gpt-4o-mini.")]
Rate = Annotated[str | None, typer.Option(metavar="USD", help="USD per million tokens.", show_default=False)]


Compare = Callable[[Path, int], list[dict[str, str | int]]]
"""(another public table, tolerance in percent) -> the rates that differ. Raises Trouble."""


def prices_group(locate: Locate, compare: Compare) -> typer.Typer:
    group = typer.Typer(help="Prices: dated, with their source; your own on top.", no_args_is_help=True)
    _reading(group, locate)
    _setting(group, locate)
    _comparing(group, locate, compare)
    return group


def _comparing(group: typer.Typer, locate: Locate, compare_tables: Compare) -> None:
    @command(group, "compare", locate)
    def compare(
        terminal: Terminal,
        table: Annotated[Path, typer.Argument(help="LiteLLM's or genai-prices' price file.")],
        tolerance: Annotated[int, typer.Option(min=0, max=100, help="Percent that is let pass.")] = 1,
    ) -> None:
        """Hold the shipped prices against a second public table, offline: rates that differ by more than 1 %."""
        columns = (
            Column("model", keep=True),
            Column("rate"),
            Column("ours", right=True),
            Column("theirs", right=True),
            Column("%", right=True),
        )
        terminal.rows(
            compare_tables(table, tolerance),
            columns,
            lambda row: (
                f"{row['provider']}/{row['model']}",
                str(row["rate"]),
                dollars(str(row["ours_usd"])),
                dollars(str(row["theirs_usd"])),
                f"{row['percent']:+}",
            ),
            "nothing differs",
        )


def _reading(group: typer.Typer, locate: Locate) -> None:
    @command(group, "show", locate)
    def show(terminal: Terminal, model: Model) -> None:
        """Prices in force, in USD per million tokens."""
        provider, _, name = model.partition("/")
        rows = list(terminal.api.every(f"/prices/{segment(provider)}", {"model": name}))
        columns = (
            Column("model", keep=True),
            Column("input", right=True),
            Column("output", right=True),
            Column("cache read", right=True, spare=1),
            Column("cache write", right=True, spare=2),
            Column("window", right=True, spare=3),
            Column("of", keep=True, spare=4),
        )
        terminal.rows(rows, columns, _price_row, f"bursar prices set {provider}/MODEL --input USD --output USD")

    @command(group, "own", locate)
    def own(terminal: Terminal) -> None:
        """List the prices you have set."""
        columns = (
            Column("model", keep=True),
            Column("from"),
            Column("input", right=True),
            Column("output", right=True),
        )
        terminal.rows(
            list(terminal.api.every("/price-overrides")),
            columns,
            lambda row: (
                f"{row['provider']}/{row['model']}",
                row["from"],
                dollars(row["input"]),
                dollars(row["output"]),
            ),
            "bursar prices set PROVIDER/MODEL --input USD --output USD",
        )


def _setting(group: typer.Typer, locate: Locate) -> None:
    @command(group, "set", locate, changes=True)
    def set_price(
        terminal: Terminal,
        model: Model,
        *,
        input_: Annotated[str, typer.Option("--input", metavar="USD", help="USD per million input tokens.")],
        output: Annotated[str, typer.Option("--output", metavar="USD", help="USD per million output tokens.")],
        cache_read: Rate = None,
        cache_write: Rate = None,
        from_: Annotated[str | None, typer.Option("--from", help="From when on; now.", show_default=False)] = None,
    ) -> None:
        """Append a price of your own. What was spent before keeps its price."""
        provider, slash, name = model.partition("/")
        if not slash:
            raise Trouble(f"`{model}` names no model", "Write PROVIDER/MODEL", USAGE)
        said = {"input": input_, "output": output, "cache_read": cache_read, "cache_write": cache_write}
        body = {field: usd(rate) for field, rate in said.items() if rate is not None}
        if from_:
            body["from"] = from_
        made = terminal.api.call("POST", f"/prices/{segment(provider)}/{segment(name)}", body)
        rates = f"input {dollars(made['input'])}, output {dollars(made['output'])} per million tokens"
        terminal.done(f"{provider}/{name} from {made['from']}: {rates}", made)


def _price_row(price: dict[str, Any]) -> tuple[str, ...]:
    band = price["bands"][0]
    window = price["context_window"]
    return (
        f"{price['provider']}/{price['model']}",
        *(dollars(band[name]) for name in ("input", "output", "cache_read", "cache_write")),
        f"{window:,}" if window else "-",
        "own" if price["overridden"] else price["id"].rpartition("@")[2],
    )

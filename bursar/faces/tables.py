"""How people see the CLI's answers: tables that fit a terminal, one value as a card, a secret in a frame, once."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rich import box
from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text


class Column(NamedTuple):
    """A column of a table. `right` for numbers; `keep` = never broken, because people copy it."""

    title: str
    right: bool = False
    keep: bool = False


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]], empty: str) -> Table | Text:
    """`empty` says what to type when there is nothing yet."""
    if not rows:
        return Text.assemble(("nothing yet", "dim"), "  ", (empty, "bold"))
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", show_edge=False)
    for column in columns:
        drawn.add_column(
            column.title,
            justify="right" if column.right else "left",
            no_wrap=column.keep or column.right,
            overflow="fold",
        )
    for row in rows:
        drawn.add_row(*map(_styled, row))
    return drawn


def card(facts: Mapping[str, str]) -> Table:
    """One thing, a line a fact; empty facts are left out."""
    drawn = Table.grid(padding=(0, 2))
    drawn.add_column(style="dim", no_wrap=True)
    drawn.add_column(overflow="fold")
    for name, value in facts.items():
        if value:
            drawn.add_row(name, _styled(value))
    return drawn


def secret_panel(title: str, secret: str, below: Sequence[str]) -> Group:
    """A secret in a frame, on a line of its own, so that a double click or a script takes just it."""
    note = Text("Shown this once: Bursar keeps only a keyed digest of it.", style="dim")
    inner = Panel(Text(secret, style="bold green", no_wrap=True, overflow="fold"), box=box.SQUARE, expand=False)
    return Group(Text(title, style="bold"), inner, note, *(Text(line) for line in below))


def write(console: Console, *parts: object) -> None:
    console.print(*parts, soft_wrap=False, highlight=False, markup=False)


_STYLES = {
    "active": "green",
    "on": "green",
    "ok": "green",
    "disabled": "red",
    "expired": "red",
    "closed": "red",
    "failed": "red",
    "refused": "red",
    "unassigned": "yellow",
    "unowned": "yellow",
}


def _styled(text: str) -> Text:
    return Text(text, style=_STYLES.get(text, ""))

"""How people see the CLI's answers: tables that fit the terminal, one thing as a card, a secret in a frame, once."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rich import box
from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

_GAP = 2
_NARROWEST = 10  # a column of text may be folded down to this


class Column(NamedTuple):
    """A column of a table. `right` for numbers; `keep` = never broken, because people copy it.

    A `spare` column is left out where the terminal is too narrow for all, the highest first. 0 = it always stays.
    """

    title: str
    right: bool = False
    keep: bool = False
    spare: int = 0


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]], empty: str, width: int) -> Table | Text | Group:
    """`empty` says what to type when there is nothing yet. Nothing is cut short: half a number is a wrong number."""
    if not rows:
        return Text.assemble(("nothing yet", "dim"), "  ", (empty, "bold"))
    chosen = _fitting(columns, rows, width)
    drawn = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", show_edge=False, padding=(0, _GAP - 1, 0, 0)
    )
    for index in chosen:
        column = columns[index]
        justify = "right" if column.right else "left"
        drawn.add_column(column.title, justify=justify, no_wrap=column.keep or column.right, overflow="fold")  # type: ignore[arg-type]
    for row in rows:
        drawn.add_row(*(_styled(row[index]) for index in chosen))
    left_out = [column.title for index, column in enumerate(columns) if index not in chosen]
    if not left_out:
        return drawn
    return Group(drawn, Text(f"too narrow for: {', '.join(left_out)}; see --json", style="dim"))


def _fitting(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> list[int]:
    """Indexes of the columns that fit beside one another."""
    needs = []
    for index, column in enumerate(columns):
        natural = max(len(column.title), *(len(row[index]) for row in rows))
        needs.append(natural if column.keep or column.right else min(natural, max(_NARROWEST, len(column.title))))
    chosen = list(range(len(columns)))
    while sum(needs[index] + _GAP for index in chosen) - _GAP > width:
        spare = max(chosen, key=lambda index: columns[index].spare)
        if not columns[spare].spare:
            break
        chosen.remove(spare)
    return chosen


def card(facts: Mapping[str, str]) -> Table:
    """One thing, a line a fact; empty facts are left out."""
    drawn = Table.grid(padding=(0, 2))
    drawn.add_column(style="dim", no_wrap=True)
    drawn.add_column(overflow="fold")
    for name, value in facts.items():
        if value:
            drawn.add_row(name, _styled(value))
    return drawn


def secret_panel(title: str, secret: str) -> Group:
    """A secret in a frame, on a line of its own, so that a double click or a script takes just it."""
    note = Text("Shown this once: Bursar keeps only a keyed digest of it.", style="dim")
    inner = Panel(Text(secret, style="bold green", no_wrap=True, overflow="fold"), box=box.SQUARE, expand=False)
    return Group(Text(title, style="bold"), inner, note)


def write(console: Console, part: Table | Text | Group) -> None:
    """A line of text is not broken: the terminal does that, and a command copied from it stays one."""
    console.print(part, soft_wrap=isinstance(part, Text), highlight=False, markup=False)


_STYLES = {
    "active": "green",
    "ok": "green",
    "disabled": "red",
    "expired": "red",
    "closed": "red",
    "failed": "red",
    "refused": "red",
    "unassigned": "yellow",
}


def _styled(text: str) -> Text:
    return Text(text, style=_STYLES.get(text, ""))

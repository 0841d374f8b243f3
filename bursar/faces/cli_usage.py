"""`bursar usage`: what was used and what it cost, by one thing or several; as a table with a chart, JSON or CSV."""

import csv
import io
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import typer
from rich.text import Text

from bursar.faces.cli_money import dollars
from bursar.faces.cli_terminal import USAGE, Locate, Terminal, Trouble, command, seconds
from bursar.faces.tables import Column, write

Row = dict[str, Any]
Sort = Literal["cost", "attempts", "input", "output", "group"]
_KNOWN = ("team", "key", "owner", "user", "provider", "model", "day", "credential", "purpose")
_COUNTS = ("attempts", "input_tokens", "output_tokens", "cached_tokens", "inexact")
_AMOUNTS = ("cost_usd", "overage_usd")
_SORTS: dict[str, Callable[[Row], Any]] = {
    "cost": lambda row: -Decimal(row["cost_usd"]),
    "attempts": lambda row: -row["attempts"],
    "input": lambda row: -row["input_tokens"],
    "output": lambda row: -row["output_tokens"],
    "group": lambda row: row["groups"],
}
_NOTHING = "no call was settled in this span"
_BAR_CELLS = 12
_EIGHTHS = " ▏▎▍▌▋▊▉"
_SPARKS = "▁▂▃▄▅▆▇█"


def add_usage(app: typer.Typer, locate: Locate) -> None:
    @command(app, "usage", locate)
    def usage(  # noqa: PLR0913 - one option a parameter
        terminal: Terminal,
        *,
        by: Annotated[str, typer.Option("--by", help=f"What to sum by, comma between: {', '.join(_KNOWN)}.")] = "team",
        since: Annotated[str, typer.Option("--since", metavar="SPAN|DAY", help="7d, 24h or 2026-11-01.")] = "30d",
        until: Annotated[str, typer.Option("--until", metavar="DAY", help="Up to now by default.")] = "",
        zone: Annotated[str, typer.Option("--zone", help="IANA time zone of the days.")] = "UTC",
        sort: Annotated[Sort, typer.Option("--sort", help="What comes first. Days come in their order.")] = "cost",
        top: Annotated[int, typer.Option("--top", min=0, help="Only so many; the others in one row. 0 = all.")] = 0,
        as_csv: Annotated[bool, typer.Option("--csv", help="As CSV, for spreadsheets.")] = False,
        out: Annotated[str, typer.Option("--out", metavar="FILE", help="JSON or CSV into a file.")] = "",
    ) -> None:
        """What was used and what it cost."""
        dims = _dims(by)
        query = {"by": dims[0], "then": ",".join(dims[1:]), "zone": zone, **_span(since, until, zone)}
        found = list(terminal.api.every("/usage", query))
        in_order = sort == "cost" and ("day" in dims or dims == ["credential"])
        rows = _shortened(sorted(found, key=_SORTS["group" if in_order else sort]), top)
        if as_csv:
            _hand_out(_csv(dims, rows), out)
        elif terminal.as_json or out:
            _hand_out(json.dumps(rows, indent=2, ensure_ascii=False) + "\n", out)
        elif dims == ["credential"]:
            _show_credentials(terminal, found)
        else:
            _show(terminal, dims, rows, found)


# ---- the question


def _dims(text: str) -> list[str]:
    dims = [one.strip() for one in text.split(",")]
    for one in dims:
        if one not in _KNOWN:
            raise Trouble(f"Usage is not told by `{one}`", f"One of {', '.join(_KNOWN)}; several with a comma", USAGE)
    if len(set(dims)) < len(dims):
        raise Trouble(f"`{text}` names something twice", "Name each thing once", USAGE)
    return dims


def _span(since: str, until: str, zone: str) -> dict[str, object]:
    """Days begin at midnight in the zone; a span is counted back by the node's own clock."""
    started = {"since": _instant(since, zone)} if _is_date(since) else {"last_s": seconds(since)}
    return {**started, "until": _instant(until, zone)}


def _is_date(text: str) -> bool:
    return text[:4].isdigit() and "-" in text


def _instant(text: str, zone: str) -> str:
    """A bare day as the instant at which it begins there; anything else as it is."""
    try:
        day, place = date.fromisoformat(text), ZoneInfo(zone)
    except ZoneInfoNotFoundError:
        raise Trouble(f"`{zone}` is no time zone", "Write it as Europe/Berlin", USAGE) from None
    except ValueError:
        return text
    return text if zone == "UTC" else datetime(day.year, day.month, day.day, tzinfo=place).isoformat()


# ---- what becomes of the rows


def added(rows: Iterable[Mapping[str, Any]]) -> Row:
    """The sum of rows, to the last digit."""
    total: Row = dict.fromkeys(_COUNTS, 0) | dict.fromkeys(_AMOUNTS, Decimal(0))
    for row in rows:
        for name in _COUNTS:
            total[name] += row[name]
        for name in _AMOUNTS:
            total[name] += Decimal(row[name])
    return total | {name: f"{total[name]:f}" for name in _AMOUNTS}


def _shortened(rows: list[Row], top: int) -> list[Row]:
    """The first `top`; what is left out is summed in a row of its own, so that the total stays true."""
    if not top or len(rows) <= top:
        return rows
    rest = rows[top:]
    name = f"({len(rest)} others)"
    blank = [""] * (len(rows[0]["groups"]) - 1)
    return [*rows[:top], {"group": name, "name": "", "groups": [name, *blank], "names": ["", *blank], **added(rest)}]


def _hand_out(text: str, out: str) -> None:
    if not out or out == "-":
        sys.stdout.write(text)
        return
    path = Path(out)
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as fault:
        raise Trouble(f"{out} cannot be written: {fault.strerror}", "Name another file with --out") from None


def _csv(dims: Sequence[str], rows: Sequence[Row]) -> str:
    """RFC 4180. A name that a spreadsheet would take for a formula gets an apostrophe before it."""
    text = io.StringIO()
    writer = csv.writer(text)
    names = [f"{one}_name" for one in dims]
    writer.writerow([*dims, *names, *_COUNTS, *_AMOUNTS])
    for row in rows:
        cells = [*map(_cell, row["groups"]), *map(_cell, row["names"])]
        writer.writerow([*cells, *(row[name] for name in (*_COUNTS, *_AMOUNTS))])
    return text.getvalue()


def _cell(text: str) -> str:
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


# ---- the table


def _show(terminal: Terminal, dims: Sequence[str], rows: Sequence[Row], every: Sequence[Row]) -> None:
    named = any(name for row in rows for name in row["names"])
    passed = any(Decimal(row["overage_usd"]) for row in rows)
    columns = [
        *(Column(one) for one in dims),
        *([Column("name", spare=1)] if named else []),
        Column("attempts", right=True),
        Column("input", right=True),
        Column("output", right=True),
        Column("cached", right=True, spare=4),
        Column("cost", right=True),
        *([Column("overage", right=True, spare=2)] if passed else []),
        Column("of the cost", keep=True, spare=3),
    ]
    total, most = added(rows), max((Decimal(row["cost_usd"]) for row in rows), default=Decimal(0))
    shown = [*rows, {**total, "groups": ["total", *[""] * (len(dims) - 1)], "name": "", "sum": True}] if rows else []

    def cells(row: Row) -> tuple[str, ...]:
        counts = (f"{row[name]:,}" for name in ("attempts", "input_tokens", "output_tokens", "cached_tokens"))
        overage, cost = Decimal(row["overage_usd"]), Decimal(row["cost_usd"])
        share = "" if row.get("sum") else f"{bar(cost, most)} {_percent(cost, Decimal(total['cost_usd']))}".strip()
        name = [row["name"]] if named else []
        over = [dollars(row["overage_usd"]) if overage else "-"] if passed else []
        money = (dollars(row["cost_usd"]), *over, share)
        return (*row["groups"], *name, *counts, *money)

    terminal.rows(shown, columns, cells, _NOTHING)
    if "day" in dims and rows:
        _show_days(terminal, dims.index("day"), every)


def _show_days(terminal: Terminal, at: int, rows: Sequence[Row]) -> None:
    """Dollars a day as one line, where there are several; days without a call count."""
    by_day: dict[date, Decimal] = {}
    for row in rows:
        day = date.fromisoformat(row["groups"][at])
        by_day[day] = by_day.get(day, Decimal(0)) + Decimal(row["cost_usd"])
    first, last = min(by_day), max(by_day)
    if first == last:
        return
    days = [date.fromordinal(number) for number in range(first.toordinal(), last.toordinal() + 1)]
    most = max(by_day.values())
    said = (
        f"{first} {sparkline([by_day.get(day, Decimal(0)) for day in days])} {last}, at most {dollars(str(most))} a day"
    )
    write(terminal.out, Text(f"\n{said}"))


def bar(value: Decimal, most: Decimal) -> str:
    """A bar in eighths of a cell; whatever is more than nothing shows."""
    if value <= 0 or most <= 0:
        return " " * _BAR_CELLS
    eighths = max(1, int(value * _BAR_CELLS * 8 / most))
    return ("█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()).ljust(_BAR_CELLS)


def sparkline(values: Sequence[Decimal]) -> str:
    most = max(values, default=Decimal(0))
    return "".join(_SPARKS[min(7, int(value * 8 / most))] if value > 0 and most else "·" for value in values)


def _percent(part: Decimal, whole: Decimal) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"


def _show_credentials(terminal: Terminal, rows: list[Row]) -> None:
    """Of each team's calls and dollars, the share by static keys, by tokens for them, by outside identities."""
    calls: dict[str, int] = {}
    spent: dict[str, Decimal] = {}
    for row in rows:
        row["team"], _, row["credential"] = row["group"].rpartition("/")
        calls[row["team"]] = calls.get(row["team"], 0) + row["attempts"]
        spent[row["team"]] = spent.get(row["team"], Decimal(0)) + Decimal(row["cost_usd"])
    columns = (
        Column("team"),
        Column("credential"),
        Column("attempts", right=True),
        Column("of calls", right=True),
        Column("cost", right=True),
        Column("of dollars", right=True),
    )

    def cells(row: Row) -> tuple[str, ...]:
        of_calls = _percent(Decimal(row["attempts"]), Decimal(calls[row["team"]]))
        of_dollars = _percent(Decimal(row["cost_usd"]), spent[row["team"]])
        numbers = (f"{row['attempts']:,}", of_calls, dollars(row["cost_usd"]), of_dollars)
        return (row["team"], row["credential"], *numbers)

    terminal.rows(sorted(rows, key=lambda row: row["group"]), columns, cells, _NOTHING)

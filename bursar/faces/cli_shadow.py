"""`bursar shadow report`, `promote`, `demote`: what controls in shadow would have done, and the step on."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.text import Text

from bursar.faces import html_page as html
from bursar.faces.cli_terminal import REFUSED, Locate, Terminal, Trouble, command, seconds
from bursar.faces.client import Preview
from bursar.faces.edits import write_preview
from bursar.faces.tables import Column, table, write

Last = Annotated[str, typer.Option("--last", metavar="SPAN", help="So far back: 24h, 7d, 30d.")]
Controls = Annotated[
    list[str],
    typer.Option(
        "--control",
        metavar="NAME",
        help="Only this one: limits, models, limits/ID, budgets/ID, ... Repeat.",
        default_factory=list,
        show_default=False,
    ),
]
Subject = Annotated[str, typer.Argument(metavar="SUBJECT", help="key/ID, team/ID or budget/ID.")]
Html = Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write it as a page.", show_default=False)]
_DOES = {"refuses": "refuse", "clamps": "clamp"}


def add_shadow(app: typer.Typer, locate: Locate) -> None:
    group = typer.Typer(help="Controls in shadow: what they would have done.", no_args_is_help=True)
    _add_report(group, locate)
    app.add_typer(group, name="shadow")

    @command(app, "promote", locate, changes=True)
    def promote(terminal: Terminal, subject: Subject, *, control: Controls, last: Last = "7d") -> None:
        """Enforce what is in shadow on a key, team or budget; --preview tells what it would have refused."""
        _move(terminal, "promote", subject, control, last)

    @command(app, "demote", locate, changes=True)
    def demote(terminal: Terminal, subject: Subject, *, control: Controls, last: Last = "7d") -> None:
        """Put what is enforced on a key, team or budget back into shadow: it tells, and refuses nothing."""
        _move(terminal, "demote", subject, control, last)


def _add_report(group: typer.Typer, locate: Locate) -> None:
    @command(group, "report", locate)
    def report(
        terminal: Terminal,
        *,
        last: Last = "7d",
        by: Annotated[
            Literal["rule", "control", "key", "team"], typer.Option("--by", help="rule, control, key or team.")
        ] = "rule",
        team: Annotated[str, typer.Option("--team", help="Only of this team.")] = "",
        key: Annotated[str, typer.Option("--key", help="Only of this key.")] = "",
        control: Annotated[str, typer.Option("--control", help="Only of this control.")] = "",
        html_file: Html = None,
    ) -> None:
        """What controls in shadow would have refused or clamped, and what that would have saved."""
        asked = {"last_s": seconds(last), "by": by, "team": team, "key": key, "control": control}
        found = terminal.api.call("GET", "/shadow", query=asked)
        if html_file is not None:
            write_file(html_file, shadow_page(found))
            terminal.done(f"written to {html_file}", {"written": str(html_file), "lines": len(found["lines"])})
            return
        if terminal.as_json:
            terminal.json(found)
            return
        write(terminal.out, Text(_span(found), style="bold"))
        _write_lines(terminal, found["lines"])
        if found["left_out"]:
            terminal.remark(f"{found['left_out']} more lines: ask --by team, or only for one with --team, --key")


def write_file(path: Path, text: str) -> None:
    """Raises Trouble."""
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise Trouble(f"{path} cannot be written: {error.strerror}", "Name another file", REFUSED) from None


def _span(found: dict[str, Any]) -> str:
    return f"in shadow from {found['since'][:16].replace('T', ' ')} to {found['until'][:16].replace('T', ' ')} UTC"


def _write_lines(terminal: Terminal, lines: list[dict[str, Any]]) -> None:
    shown = (
        Column("team"),
        Column("key"),
        Column("control", keep=True),
        Column("rule", keep=True),
        Column("would", keep=True),
        Column("word", keep=True, spare=2),
        Column("calls", right=True),
        Column("cost $", right=True, spare=1),
        Column("saved $", right=True),
    )
    has = [any(cells) for cells in zip(*map(_cells, lines), strict=True)] or [True] * len(shown)
    kept = [place for place, any_ in enumerate(has) if any_]
    rows = [[cells[place] for place in kept] for cells in map(_cells, lines)]
    empty = "Nothing would have been refused. Put a control into shadow: bursar demote team/ID --control NAME"
    write(terminal.out, table([shown[place] for place in kept], rows, empty, terminal.out.width))


def _cells(line: dict[str, Any]) -> tuple[str, ...]:
    return (
        line["team"],
        line["key_name"] or line["key"],
        line["control"],
        line["rule"] if line["rule"] != line["control"] else "",
        _DOES[line["verdict"]],
        line["word"],
        f"{line['calls']:,}",
        money(line["cost_usd"]),
        money(line["saved_usd"]),
    )


def money(usd: str) -> str:
    """To the cent, or to the first figures that are not zero: thousandths of a cent add up."""
    value = float(usd)  # for the eye only; --json has every digit
    return f"{value:,.2f}" if not value or value >= 1 else f"{value:,.4f}" if value >= 0.001 else f"{value:.2g}"


# ---- promotion


def _move(terminal: Terminal, way: Literal["promote", "demote"], subject: str, controls: list[str], last: str) -> None:
    body = {"subject": subject, "way": way, "controls": controls}
    try:
        done = terminal.api.call("POST", "/promotions", body)
    except Preview as preview:
        if way == "demote":
            raise
        _preview(terminal, preview.answer, subject, controls, last)
        return
    into = "enforced" if way == "promote" else "in shadow"
    if done["moved"]:
        terminal.done(f"{subject}: {', '.join(done['moved'])} {into}", done)
    else:
        terminal.done(f"{subject}: nothing to {way}, nothing was changed", done)


def _preview(terminal: Terminal, answer: dict[str, Any], subject: str, controls: list[str], last: str) -> None:
    """What would change, and what it would have refused in the time before."""
    kind, _, name = subject.partition("/")
    asked: dict[str, object] = {"last_s": seconds(last), "limit": 1000}
    asked |= {"control": "budgets", "rule": name} if kind == "budget" else {kind: name}
    found = terminal.api.call("GET", "/shadow", query=asked)
    lines = [line for line in found["lines"] if not controls or _is_of(line, controls)]
    if terminal.as_json:
        terminal.json({**answer, "since": found["since"], "until": found["until"], "would": lines})
        return
    write_preview(terminal.out, answer)
    write(terminal.out, Text(f"\nwhat it would have done, {_span(found)}:", style="bold"))
    _write_lines(terminal, lines)


def _is_of(line: dict[str, Any], controls: list[str]) -> bool:
    return line["control"] in controls or f"{line['control']}/{line['rule']}" in controls


# ---- as a page


def shadow_page(found: dict[str, Any]) -> str:
    """The report as one HTML file."""
    lines, days = found["lines"], found["days"]
    refuse, clamp = (sum(line["calls"] for line in lines if line["verdict"] == it) for it in ("refuses", "clamps"))
    most = max((line["saved_usd"] for line in lines), key=float, default="0")
    facts = {
        "would refuse": f"{refuse:,}",
        "would clamp": f"{clamp:,}",
        "most that one rule would save": f"${money(most)}",
        "rules that speak": f"{len({(line['control'], line['rule']) for line in lines}):,}",
    }
    named = [(" · ".join(filter(None, _cells(line)[:5])), line) for line in lines]
    saved = [html.Bar(name, float(it["saved_usd"]), f"${money(it['saved_usd'])}") for name, it in named]
    calls = [html.Bar(name, it["calls"], f"{it['calls']:,}") for name, it in named]
    titles = ("team", "key", "control", "rule", "would", "in the word", "calls", "cost $", "saved $")
    dates = sorted({day["day"] for day in days})
    kinds = sorted({(day["control"], day["verdict"]) for day in days})
    by_day = {(it["day"], it["control"], it["verdict"]): it["calls"] for it in days}
    series = {
        f"{control} ({_DOES[does]})": [by_day.get((date, control, does), 0) for date in dates]
        for control, does in kinds
    }
    told = "A call that two rules would have refused stands in both: the lines do not add up to what all would save."
    parts = [html.cards(facts)]
    if lines:
        parts += [html.heading("Calls by day"), html.columns(dates, series)]
        parts += [html.heading("Dollars that each would have saved"), html.bars(saved)]
        parts += [html.heading("Calls that each would have stopped or cut"), html.bars(calls)]
        parts += [html.heading("Every line", told), html.rows(titles, list(map(_cells, lines)), frozenset({6, 7, 8}))]
    else:
        parts.append(html.heading("Nothing would have been refused or clamped"))
    return html.page("Controls in shadow", _span(found), parts)

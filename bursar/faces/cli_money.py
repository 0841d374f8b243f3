"""`bursar budgets`: limits, and where they stand."""

from decimal import Decimal
from typing import Annotated, Any

import typer

from bursar.core.units import format_duration
from bursar.faces.cli_terminal import USAGE, Locate, Terminal, Trouble, command, seconds, usd
from bursar.faces.client import segment
from bursar.faces.tables import Column

Id = Annotated[str, typer.Argument(metavar="ID", help="The budget's id, as `list` shows it.")]
Amount = Annotated[str, typer.Argument(metavar="USD", help="For example '$50'.")]
WindowOption = Annotated[
    str | None,
    typer.Option(
        "--window", metavar="WINDOW", help="day, week, month, year, lifetime or rolling:24h.", show_default=False
    ),
]
Zone = Annotated[str | None, typer.Option("--zone", help="IANA time zone of the window.", show_default=False)]

_SUBJECTS = ("team", "key", "owner", "user", "tag", "model", "provider_key", "node")


def dollars(text: str) -> str:
    """``$1,234.50``: at least cents, at most millionths, for the eye only."""
    amount = Decimal(text).quantize(Decimal("0.000001"))
    whole, _, places = f"{amount:,f}".partition(".")
    return f"${whole}.{places.rstrip('0').ljust(2, '0')}".replace("$-", "-$")


# ---- budgets


def budgets_group(locate: Locate) -> typer.Typer:
    group = typer.Typer(help="Budgets: money limits, hard (never passed) or soft.", no_args_is_help=True)
    _reading_budgets(group, locate)
    _making_budgets(group, locate)
    _moving_limits(group, locate)
    return group


def _reading_budgets(group: typer.Typer, locate: Locate) -> None:
    @command(group, "list", locate)
    def list_budgets(terminal: Terminal) -> None:
        """List budgets with what is posted and held."""
        balances = {balance["budget"]: balance for balance in terminal.api.every("/balances")}
        budgets = [{**b, "balance": balances.get(b["id"])} for b in terminal.api.every("/budgets")]
        columns = (
            Column("id", keep=True),
            Column("on", spare=1),
            Column("window", spare=4),
            Column("kind", spare=3),
            Column("limit", right=True),
            Column("posted", right=True),
            Column("held", right=True, spare=2),
            Column("left", right=True),
            Column("state"),
        )
        terminal.rows(budgets, columns, _budget_row, "bursar budgets create team/TEAM --limit '$50' --window month")

    @command(group, "show", locate)
    def show(terminal: Terminal, budget: Id) -> None:
        """Show a budget's definition and where it stands."""
        found = terminal.api.call("GET", f"/budgets/{segment(budget)}")
        balance = next((b for b in terminal.api.every("/balances") if b["budget"] == budget), None)
        terminal.one({**found, "balance": balance}, _budget_facts(found, balance))


def _making_budgets(group: typer.Typer, locate: Locate) -> None:
    @command(group, "create", locate, changes=True)
    def create(
        terminal: Terminal,
        subject: Annotated[
            str, typer.Argument(metavar="ON", help="team/ID, key/ID, owner/ID, user/NAME, tag/NAME ...")
        ],
        *,
        limit: Annotated[str, typer.Option("--limit", metavar="USD", help="For example '$50'.")],
        window: WindowOption = None,
        zone: Zone = None,
        soft: Annotated[bool, typer.Option("--soft", help="Refuse on expected cost, not on the worst case.")] = False,
        id_: Annotated[str, typer.Option("--id", help="Choose the id.", show_default=False)] = "",
    ) -> None:
        """Create a budget on a team, key, owner, user, tag or model."""
        kind, slash, name = subject.partition("/")
        if not slash or kind not in _SUBJECTS:
            hint = f"Write one of {', '.join(f'{known}/...' for known in _SUBJECTS)}"
            raise Trouble(f"`{subject}` does not say what the budget is on", hint, USAGE)
        body = {"subject_kind": kind, "subject": name, "limit_usd": usd(limit), "hard": not soft, "id": id_}
        if window or zone:
            body["window"] = _window(window or "month", zone)
        made = terminal.api.call("POST", "/budgets", body)
        terminal.one(made, _budget_facts(made, None), "created")

    @command(group, "update", locate, changes=True)
    def update(
        terminal: Terminal,
        budget: Id,
        *,
        name: Annotated[str | None, typer.Option("--name", help="What people call it.", show_default=False)] = None,
        window: WindowOption = None,
        zone: Zone = None,
        hard: Annotated[
            bool | None, typer.Option("--hard/--soft", help="Never passed, or only told.", show_default=False)
        ] = None,
        mode: Annotated[str | None, typer.Option("--mode", help="off, shadow or enforce.", show_default=False)] = None,
    ) -> None:
        """Change a budget; what is not named stays. For the limit: raise, lower."""
        said: dict[str, Any] = {"name": name, "hard": hard, "mode": mode}
        patch = {field: value for field, value in said.items() if value is not None}
        if window:
            patch["window"] = {**dict.fromkeys(("period", "seconds", "zone")), **_window(window, zone)}
        elif zone:
            patch["window"] = {"zone": zone}
        changed = terminal.api.call("PATCH", f"/budgets/{segment(budget)}", patch)
        terminal.one(changed, _budget_facts(changed, None), f"changed: version {changed['version']}")

    @command(group, "remove", locate, changes=True)
    def remove(terminal: Terminal, budget: Id) -> None:
        """Remove a budget; from the next call on it refuses nothing."""
        terminal.api.call("DELETE", f"/budgets/{segment(budget)}")
        terminal.done(f"removed {budget}", {"removed": budget})


def _moving_limits(group: typer.Typer, locate: Locate) -> None:
    def move(terminal: Terminal, budget: str, amount: str, up: bool) -> None:
        wanted = usd(amount)
        present = terminal.api.call("GET", f"/budgets/{segment(budget)}")["limit_usd"]
        if (Decimal(wanted) > Decimal(present)) is not up and Decimal(wanted) != Decimal(present):
            other = "lower" if up else "raise"
            told = f"The limit is {dollars(present)}: {dollars(wanted)} would {other} it"
            raise Trouble(told, f"bursar budgets {other} {budget} '{amount}'", USAGE)
        changed = terminal.api.call("PATCH", f"/budgets/{segment(budget)}", {"limit_usd": wanted})
        undo = f"bursar budgets {'lower' if up else 'raise'} {budget} '{dollars(present)}'"
        terminal.done(f"{budget}: {dollars(present)} → {dollars(wanted)}; undo: {undo}", changed)

    @command(group, "raise", locate, changes=True)
    def raise_limit(terminal: Terminal, budget: Id, amount: Amount) -> None:
        """Raise a budget's limit, from the next call on."""
        move(terminal, budget, amount, up=True)

    @command(group, "lower", locate, changes=True)
    def lower_limit(terminal: Terminal, budget: Id, amount: Amount) -> None:
        """Lower a budget's limit. What is already posted stays posted."""
        move(terminal, budget, amount, up=False)


def _window(text: str, zone: str | None) -> dict[str, Any]:
    kind, _, span = text.partition(":")
    if kind == "rolling":
        return {"kind": "rolling", "seconds": seconds(span or "24h")}
    if kind == "lifetime":
        return {"kind": "lifetime"}
    return {"kind": "calendar", "period": kind, **({"zone": zone} if zone else {})}


def window_text(window: dict[str, Any]) -> str:
    if window["kind"] == "rolling":
        return f"rolling {format_duration(window['seconds'])}"
    if window["kind"] == "lifetime":
        return "lifetime"
    return window["period"] if window["zone"] == "UTC" else f"{window['period']} {window['zone']}"


def _budget_row(budget: dict[str, Any]) -> tuple[str, ...]:
    balance = budget["balance"] or {}
    state = "closed" if balance.get("closed") else "active" if budget["mode"] == "enforce" else budget["mode"]
    return (
        budget["id"],
        f"{budget['subject_kind']}/{budget['subject']}",
        window_text(budget["window"]),
        "hard" if budget["hard"] else "soft",
        dollars(budget["limit_usd"]),
        *(dollars(balance[name]) if balance else "-" for name in ("posted_usd", "held_usd", "left_usd")),
        state,
    )


def _budget_facts(budget: dict[str, Any], balance: dict[str, Any] | None) -> dict[str, str]:
    facts = {
        "id": budget["id"],
        "name": budget["name"],
        "on": f"{budget['subject_kind']}/{budget['subject']}",
        "limit": dollars(budget["limit_usd"]),
        "kind": "hard" if budget["hard"] else "soft",
        "window": window_text(budget["window"]),
        "mode": budget["mode"],
        "version": str(budget["version"]),
    }
    if balance:
        facts |= {name: dollars(balance[f"{name}_usd"]) for name in ("posted", "held", "left", "overage")}
        facts |= {"window began": balance["window_start"], "window ends": balance["window_end"] or ""}
        facts |= {"state": "closed" if balance["closed"] else "active"}
    return facts

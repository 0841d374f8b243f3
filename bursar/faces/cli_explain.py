"""`bursar explain`: why a request was answered as it was, and who can lift it by which command."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import RenderableType
from rich.padding import Padding
from rich.text import Text

from bursar.core.units import format_duration
from bursar.faces.cli_keys import day_of
from bursar.faces.cli_money import dollars
from bursar.faces.cli_terminal import USAGE, Locate, Terminal, Trouble, command, seconds
from bursar.faces.client import segment
from bursar.faces.tables import Column, card, table

Request = Annotated[
    str, typer.Argument(metavar="[REQUEST_ID]", help="As the answer's x-bursar-request-id has it.", show_default=False)
]

_MARKS = {"refuses": "✗ refuses", "clamps": "↓ clamps", "allows": "✓"}
_WHO = {
    "caller": "the caller",
    "time": "nobody needs to",
    "nobody": "nobody needs to",
    "machine": "whoever runs this node",
}


def add_explain(app: typer.Typer, locate: Locate) -> None:
    @command(app, "explain", locate)
    def explain(
        terminal: Terminal,
        request: Request = "",
        *,
        of: Annotated[
            str, typer.Option("--of", metavar="KIND/ID", help="List those of team/ID, key/ID or word/WORD.")
        ] = "",
        since: Annotated[str, typer.Option("--since", metavar="SPAN", help="List the last 15m, 24h, ...")] = "",
        every: Annotated[bool, typer.Option("--all", help="List ordinary calls, too.")] = False,
        limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="So many.")] = 20,
    ) -> None:
        """Tell why a request was answered as it was, and who can lift it. Without an id: list the newest refusals."""
        if not request:
            span = {"last_s": seconds(since)} if since else {}
            _list(terminal, {**_subject(of), **span, "all": str(every).lower(), "limit": limit})
            return
        found = terminal.api.call("GET", f"/decisions/{segment(request)}")
        if terminal.as_json:
            terminal.json(found)
            return
        for part in _pages(found, terminal.out.width):
            terminal.out.print(part, highlight=False, markup=False, soft_wrap=isinstance(part, Text))


def _subject(of: str) -> dict[str, str]:
    """Raises Trouble."""
    kind, _, name = of.partition("/")
    if of and (kind not in ("team", "key", "word") or not name):
        raise Trouble(f"`{of}` does not say whose", "Write team/ID, key/ID or word/WORD", USAGE)
    return {kind: name} if of else {}


def _list(terminal: Terminal, query: dict[str, Any]) -> None:
    columns = (
        Column("request", keep=True),
        Column("at (UTC)", keep=True),
        Column("outcome", keep=True),
        Column("word", keep=True),
        Column("by", spare=1),
        Column("key", keep=True, spare=3),
        Column("team", spare=2),
        Column("model", spare=4),
    )
    terminal.rows(
        terminal.api.call("GET", "/decisions", query=query)["items"],
        columns,
        lambda it: (
            it["id"],
            it["at"].replace("T", " ")[:19],
            it["outcome"],
            it["word"],
            it["binding"],
            it["key"],
            it["team"],
            it["model"],
        ),
        "no request was refused in this span",
    )


def _pages(found: dict[str, Any], width: int) -> Iterator[RenderableType]:
    decision = found["decision"]
    fine = decision is None or decision["outcome"] == "allowed"
    yield Text.assemble(("✓ " if fine else "✗ ", "bold green" if fine else "bold red"), (found["told"], "bold"))
    yield Padding(card(_facts(found, decision)), (1, 0, 0, 2))
    if decision is not None and decision["rules"]:
        yield _title("asked, in this order")
        own = {f"key/{found['key']}": "this key", f"team/{found['team']}": "its team"}
        own[f"owner/{found['owner']}"] = "its owner"
        yield _indented(_rules(decision["rules"], own, width - 2))
    if found["attempts"]:
        yield _title("in the ledger")
        yield _indented(_attempts(found["attempts"], width - 2))
    if found["stands"] is not None:
        yield _title("the budget right now")
        yield _indented(card(_stand(found["stands"])))
    if found["holding"] is not None:
        yield from _holding(found["holding"], width - 2)
    if found["lifts"]:
        yield _title("who can lift it")
        yield from _lifts(found)
    if found["ledger_fault"]:
        yield Text.assemble(("! ", "bold yellow"), f"the ledger could not be asked: {found['ledger_fault']}")


def _title(text: str) -> Text:
    return Text(f"\n{text}", style="bold")


def _indented(part: RenderableType) -> Padding:
    return Padding(part, (0, 0, 0, 2))


def _facts(found: dict[str, Any], decision: dict[str, Any] | None) -> dict[str, str]:
    facts = {"request": found["id"]}
    if decision is not None:
        facts |= {
            "at": f"{day_of(decision['at'])} UTC" + (f", node {decision['node']}" if decision["node"] else ""),
            "answered": f"{decision['status'] or 'nothing'}  {decision['word']}".strip(),
        }
    facts |= {
        "key": _named(found["key"], found["key_name"]),
        "team": _named(found["team"], found["team_name"]),
        "billing owner": _named(found["owner"], found["owner_name"]),
    }
    if decision is None:
        facts["record"] = "none is kept of this call: nothing refused it. The ledger tells the rest"
        return facts
    asked = [decision["model"]] if decision["model"] else []
    asked += [f"max_tokens {decision['max_tokens']}"] if decision["max_tokens"] is not None else []
    asked += [f"{decision['input_bytes']:,} bytes in"] if decision["input_bytes"] is not None else []
    asked += ["streamed"] if decision["stream"] else []
    facts |= {"user": decision["user"], "by": decision["credential"], "asked for": ", ".join(asked)}
    if decision["max_tokens_applied"] is not None:
        facts["Bursar set"] = f"max_tokens {decision['max_tokens_applied']}"
    if decision["ceiling_usd"] is not None:
        facts["can cost"] = f"{dollars(decision['ceiling_usd'])}, expected {dollars(decision['expected_usd'])}"
    if decision["output_tokens"] is not None:
        facts["used"] = f"{decision['input_tokens']:,} tokens in, {decision['output_tokens']:,} out"
    return facts


def _named(id_: str, name: str) -> str:
    return f"{id_} ({name})" if name and name != id_ else id_


def _rules(rules: list[dict[str, Any]], own: dict[str, str], width: int) -> RenderableType:
    columns = (
        Column("rule", keep=True),
        Column("of", spare=2),
        Column("says", keep=True),
        Column("limit", right=True),
        Column("used", right=True, spare=3),
        Column("left", right=True),
        Column("asked", right=True),
        Column("room at (UTC)", keep=True, spare=1),
    )
    return table(columns, [_rule_row(rule, own) for rule in rules], "", width)


def _rule_row(rule: dict[str, Any], own: dict[str, str]) -> tuple[str, ...]:
    of = own.get(rule["subject"], rule["subject"])
    name = rule["rule"] if rule["control"] in ("limits", "budgets") else rule["control"]
    mark = _MARKS[rule["verdict"]]
    if rule["mode"] == "shadow":
        mark = {"refuses": "◌ would refuse", "clamps": "◌ would clamp", "allows": "◌"}[rule["verdict"]]
    numbers = [_number(rule, field) for field in ("limit", "used", "left", "asked")]
    if not rule["unit"] and rule["says"]:
        return (f"{name}: {rule['says']}", of, mark, "", "", "", "", "")
    return (name, of, mark, *numbers, (rule["resets_at"] or "").replace("T", " ")[:19])


def _number(rule: dict[str, Any], field: str) -> str:
    value = rule[field]
    if value is None:
        return ""
    if rule["unit"] == "usd":
        return dollars(value)
    unit = {"requests": "", "concurrency": " calls", "characters": " chars"}.get(rule["unit"], "")
    span = f"/{format_duration(rule['per_seconds'])}" if field == "limit" and rule["per_seconds"] else ""
    return f"{value:,}{unit}{span}"


def _attempts(attempts: list[dict[str, Any]], width: int) -> RenderableType:
    columns = (
        Column("attempt", right=True),
        Column("at", keep=True),
        Column("model", spare=1),
        Column("state", keep=True),
        Column("held", right=True),
        Column("cost", right=True),
        Column("tokens", right=True, spare=2),
    )
    return table(columns, [_attempt_row(it) for it in attempts], "", width)


def _attempt_row(it: dict[str, Any]) -> tuple[str, ...]:
    state = it["state"].lower()
    if it["state"] == "POSTED":
        state = f"posted, {'exact' if it['exact'] else 'inexact'}" + (
            "" if it["outcome"] == "ok" else f", {it['outcome']}"
        )
    elif it["outcome"]:
        state = f"{state}, {it['outcome']}"
    tokens = "" if it["input_tokens"] is None else f"{it['input_tokens']:,} + {it['output_tokens']:,}"
    cost = "" if it["cost_usd"] is None else dollars(it["cost_usd"])
    return (
        str(it["attempt"]),
        it["held_at"][11:19],
        f"{it['provider']}/{it['model']}",
        state,
        dollars(it["held_usd"]),
        cost,
        tokens,
    )


def _stand(stands: dict[str, Any]) -> dict[str, str]:
    numbers = {name: dollars(stands[f"{name}_usd"]) for name in ("limit", "posted", "held", "left")}
    return {
        "budget": stands["budget"],
        **numbers,
        "state": "closed" if stands["closed"] else "",
        "window ends": day_of(stands["window_end"]),
    }


def _holding(holding: dict[str, Any], width: int) -> Iterator[RenderableType]:
    if not holding["calls"]:
        yield _title("in flight right now: nothing holds any of it")
        return
    calls = "1 call holds" if holding["calls"] == 1 else f"{holding['calls']:,} calls hold"
    yield _title(f"in flight right now: {calls} {dollars(holding['held_usd'])}")
    columns = (
        Column("key", keep=True),
        Column("name", spare=1),
        Column("calls", right=True),
        Column("held", right=True),
        Column("oldest", right=True),
    )
    rows = [
        (it["key"], it["name"], f"{it['calls']:,}", dollars(it["held_usd"]), _age(it["oldest_at"]))
        for it in holding["keys"]
    ]
    yield _indented(table(columns, rows, "", width))
    longest = holding["oldest"][0]
    yield _indented(
        Text(f"the longest: {longest['request']}, {_age(longest['since'])}, {dollars(longest['held_usd'])}")
    )


def _age(since: str) -> str:
    began = datetime.fromisoformat(since)
    return format_duration(max(0, int((datetime.now(UTC) - began).total_seconds())))


def _lifts(found: dict[str, Any]) -> Iterator[RenderableType]:
    for lift in found["lifts"]:
        who = _WHO.get(lift["who"]) or f"role {' or '.join(lift['roles'])}"
        yield Text.assemble(("  • ", "bold"), (f"{who}: ", "cyan"), lift["says"])
        if lift["command"]:
            yield Text.assemble("      ", (lift["command"], "bold green"))
    owner = found["owner_name"] or found["owner"]
    if owner and any(lift["who"] == "role" for lift in found["lifts"]):
        contacts = f" ({', '.join(found['owner_contacts'])})" if found["owner_contacts"] else ""
        yield Text.assemble(("  • ", "bold"), ("who pays: ", "cyan"), f"{owner}{contacts}")

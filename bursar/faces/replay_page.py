"""The report of a replay as one HTML file."""

from collections.abc import Mapping
from typing import Any

from bursar.faces import html_page as html
from bursar.faces.cli_shadow import money


def replay_page(found: Mapping[str, Any], name: str) -> str:
    """`found` as `bursar policy test --json` gives it; `name` of the file."""
    lines, days = found["lines"], found["days"]
    span = f"{found['since'][:16].replace('T', ' ')} to {found['until'][:16].replace('T', ' ')} UTC"
    facts = {
        "calls replayed": f"{found['calls']:,}",
        "cost": f"${money(found['cost_usd'])}",
        "would be saved": f"${money(found['saved_usd'])}",
        "refused by the rules of today": f"{found['refused_today']:,}",
        "refused by the changed ones": f"{found['refused_changed']:,}",
    }
    guessed = f"Of {found['guessed']:,} calls only the ledger's row is known: what they asked for is guessed."
    parts = [html.cards(facts)]
    if not lines:
        parts.append(html.heading("Nobody would have noticed the change", guessed))
        return html.page(f"Replay through {name}", span, parts)
    dates = sorted({it["day"] for it in days})
    changes = sorted({it["change"] for it in days})
    calls = {(it["day"], it["change"]): it["calls"] for it in days}
    series = {change: [calls.get((date, change), 0) for date in dates] for change in changes}
    named = [(_name(it), it) for it in lines]
    saved = [html.Bar(it_name, float(it["saved_usd"]), f"${money(it['saved_usd'])}") for it_name, it in named]
    parts += [html.heading("Calls that would have gone another way, by day"), html.columns(dates, series)]
    parts += [html.heading("Dollars saved"), html.bars([bar for bar in saved if bar.value > 0])]
    titles = ("team", "key", "change", "word", "rule", "calls", "first", "last", "cost $", "saved $")
    parts += [html.heading("Who", guessed), html.rows(titles, [_row(it) for it in lines], frozenset({5, 8, 9}))]
    return html.page(f"Replay through {name}", span, parts)


def _name(it: Mapping[str, Any]) -> str:
    return " · ".join(filter(None, (it["key_name"] or it["key"], it["change"], it["word"], it["rule"])))


def _row(it: Mapping[str, Any]) -> tuple[str, ...]:
    instants = (it["first"][:16].replace("T", " "), it["last"][:16].replace("T", " "))
    numbers = (money(it["cost_usd"]), money(it["saved_usd"]))
    who = (it["team"], it["key_name"] or it["key"], it["change"], it["word"], it["rule"])
    return (*who, f"{it['calls']:,}", *instants, *numbers)

"""How people see a plan: what is made, changed and removed, field by field, and what it means."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from bursar.faces.tables import write

_SIGNS = {"create": ("+", "green"), "change": ("~", "yellow"), "remove": ("-", "red"), "mark": ("=", "cyan")}
_DONE = {"create": "to create", "change": "to change", "remove": "to remove", "mark": "to mark"}
_MOST_ORPHANS = 10


def write_plan(console: Console, plan: Mapping[str, Any], *, whole: bool = True) -> None:
    """`whole` False: the sum only."""
    parts: list[Text] = []
    if whole:
        for step in plan["steps"]:
            parts += _step(step)
        if plan["steps"]:
            parts.append(Text(""))
    parts.append(sum_of(plan))
    parts += list(_besides(plan))
    for part in parts:
        write(console, part)


def sum_of(plan: Mapping[str, Any]) -> Text:
    counts = [(act, count) for act, count in plan["counts"].items() if count]
    text = Text.assemble(("Plan: ", "bold"))
    if not counts:
        text.append("nothing to change", style="green")
    for index, (act, count) in enumerate(counts):
        text.append(", " if index else "")
        text.append(f"{count} {_DONE[act]}", style=_SIGNS[act][1])
    unchanged = plan["unchanged"]
    return text.append(f"; {unchanged} unchanged" if unchanged else "", style="dim")


def _step(step: Mapping[str, Any]) -> Iterator[Text]:
    sign, style = _SIGNS[step["act"]]
    named = step["name"] if step["id"] in ("", step["name"]) else f"{step['name']} ({step['id']})"
    source = f"  {step['managed_by']}" if step["managed_by"] else ""
    yield Text.assemble((f"{sign} ", f"bold {style}"), (f"{step['kind']}/{named}", "bold"), (source, "dim"))
    if step["drift"]:
        yield Text(f"    ! drifted: changed past the files by {step['drift']}", style="magenta")
    if step["act"] != "remove":
        yield from (_difference(one) for one in step["differences"])
    for sentence in step["means"]:
        yield Text(f"    → {sentence}", style="italic")


def _difference(one: Mapping[str, str]) -> Text:
    head = f"    {one['field']}: "
    if one["before"] and one["after"]:
        return Text.assemble(head, (one["before"], "red"), " → ", (one["after"], "green"))
    if one["after"]:
        return Text.assemble(head, (one["after"], "green"))
    return Text.assemble(head, (one["before"], "red strike"), (" taken away", "red"))


def _besides(plan: Mapping[str, Any]) -> Iterator[Text]:
    orphans = plan["orphans"]
    if orphans:
        shown = ", ".join(orphans[:_MOST_ORPHANS]) + (" ..." if len(orphans) > _MOST_ORPHANS else "")
        stand = "stands" if len(orphans) == 1 else "stand"
        yield Text.assemble(
            ("! ", "bold yellow"), f"{len(orphans)} managed and {stand} in no file: {shown}; remove with --prune"
        )
    for kind, count in plan["left"].items():
        yield Text(f"  left as they are: {count} changes of {kind.replace('_', ' ')}", style="dim")

"""How people see a change of the directory: what was, what is, field by field."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console, Group
from rich.text import Text

from bursar.faces.tables import write

_STYLES = {"created": "green", "changed": "yellow", "removed": "red"}


def write_preview(console: Console, answer: Mapping[str, Any]) -> None:
    if not answer["edits"]:
        write(console, Text("nothing would change", style="dim"))
        return
    write(console, Group(Text(f"{answer['action']} would do this; nothing was changed", style="bold"), *lines(answer)))


def lines(change: Mapping[str, Any]) -> Iterator[Text]:
    for edit in change["edits"]:
        act = edit["act"]
        yield Text.assemble(f"  {edit['kind']}/{edit['id']} ", (act, _STYLES.get(act, "")))
        for one in edit["differences"]:
            yield _difference(one)


def _difference(one: Mapping[str, str]) -> Text:
    if one["before"] and one["after"]:
        return Text.assemble(f"    {one['field']}  ", (one["before"], "red"), " → ", (one["after"], "green"))
    sign, value, style = ("+", one["after"], "green") if one["after"] else ("-", one["before"], "red")
    return Text.assemble(f"    {one['field']}  ", (f"{sign} {value}", style))

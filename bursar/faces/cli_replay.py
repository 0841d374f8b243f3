"""`bursar policy test FILE`: the recorded history through changed rules, before anybody meets them.

The node reads the file and tells its history; the replay runs here, in the command's own process, in the memory of one
piece of it and of what was found.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from msgspec.structs import replace
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from bursar.control.manifest_files import FileFaults, read_files
from bursar.control.manifest_shapes import SECTIONS
from bursar.control.manifest_yaml import read_file
from bursar.control.replay_feed import End, FeedLine, Holder, Start
from bursar.core.directory import BudgetDef, Owner, Team, VirtualKey
from bursar.core.prices import PriceTable
from bursar.core.replay import Findings, Group, Place, World
from bursar.core.strict import Fault
from bursar.core.units import NS_PER_S, pico_to_usd
from bursar.faces.cli_shadow import money, write_file
from bursar.faces.cli_terminal import NOT_REACHABLE, Locate, Terminal, Trouble, command, seconds
from bursar.faces.client import ApiRefusal
from bursar.faces.policy_file import Changed
from bursar.faces.replay_page import replay_page
from bursar.faces.tables import Column, card, table, write

LoadPrices = Callable[[], PriceTable]
_TOLD_EVERY = 2_000  # lines between two steps of the bar
_SAYS = {"refused": "newly refused", "allowed": "newly allowed", "cut": "newly cut", "uncut": "cut less"}


def add_policy_test(group: typer.Typer, locate: Locate, load_prices: LoadPrices) -> None:
    @command(group, "test", locate)
    def test(
        terminal: Terminal,
        file: Annotated[Path, typer.Argument(metavar="FILE", help="YAML: team/ID, key/ID, budget/ID: what changes.")],
        *,
        last: Annotated[str, typer.Option("--last", metavar="SPAN", help="So much history: 24h, 7d, 30d.")] = "7d",
        html_file: Annotated[
            Path | None, typer.Option("--html", metavar="FILE", help="Write it as a page.", show_default=False)
        ] = None,
    ) -> None:
        """Replay the recorded history through changed rules: who would have been refused, and what it would save."""
        changed = ask_changes(terminal, file)
        told = terminal.api.stream("/replay", {"last_s": max(60, seconds(last))})
        played = Replay(changed, load_prices())
        with _progress(terminal) as step:
            played.run(told, step)
        found = played.report()
        if html_file is not None:
            write_file(html_file, replay_page(found, file.name))
            terminal.done(f"written to {html_file}", {"written": str(html_file), "lines": len(found["lines"])})
        elif terminal.as_json:
            terminal.json(found)
        else:
            _show(terminal, found)


class Replay:
    """Two worlds over one history: the rules of today, and the changed ones."""

    def __init__(self, changed: Changed, prices: PriceTable) -> None:
        self._changed = changed
        self._prices = prices
        self._teams = {team.id: team for team in changed.teams}
        self._keys = {key.id: key for key in changed.keys}
        self._holders: dict[str, Holder] = {}
        self._start: Start | None = None
        self._ended: End | None = None
        self.findings = Findings()

    def run(self, pieces: Iterable[bytes], step: Callable[[float], None]) -> None:
        """`step` hears how far it is, from 0 to 1. Raises Trouble where the history breaks off."""
        decoder = msgspec.json.Decoder(FeedLine)
        worlds: tuple[World, World] | None = None
        for number, raw in enumerate(_lines(pieces)):
            line = decoder.decode(raw)
            if isinstance(line, Start):
                self._start, worlds = line, self._worlds(line)
            elif isinstance(line, Holder):
                self._holders[line.key.id] = line
            elif isinstance(line, End):
                self._ended = line
            elif worlds is not None:
                today, changed = worlds
                self.findings.take(line.past, today.ask(line.past), changed.ask(line.past))
                if number % _TOLD_EVERY == 0 and self._start is not None:
                    step((line.past.t_ns - self._start.since_ns) / (self._start.until_ns - self._start.since_ns))
        if self._ended is None:
            raise Trouble("the history broke off", "See the log of the node, and repeat", NOT_REACHABLE)

    def _worlds(self, start: Start) -> tuple[World, World]:
        prices = self._prices.with_overrides(start.prices)
        budgets = {budget.id: budget for budget in start.budgets}
        changed: dict[str, BudgetDef] = budgets | {budget.id: budget for budget in self._changed.budgets}
        since = start.since_ns
        today = World(self._today, budgets.values(), prices.find, since)
        return today, World(self._later, changed.values(), prices.find, since)

    def _today(self, key_id: str) -> tuple[VirtualKey, Team, Owner] | None:
        found = self._holders.get(key_id)
        return None if found is None else (found.key, found.team, found.owner)

    def _later(self, key_id: str) -> tuple[VirtualKey, Team, Owner] | None:
        found = self._holders.get(key_id)
        if found is None:
            return None
        key = self._keys.get(key_id, found.key)
        return replace(key, disabled=found.key.disabled), self._teams.get(found.team.id, found.team), found.owner

    def report(self) -> dict[str, Any]:
        """For programs, pages and tables."""
        found, start, ended = self.findings, self._start, self._ended
        assert start is not None
        assert ended is not None
        groups = sorted(found.groups.items(), key=lambda item: (-abs(item[1].saved), -item[1].calls, item[0]))
        return {
            "since": _instant(start.since_ns),
            "until": _instant(start.until_ns),
            "calls": found.calls,
            "cost_usd": pico_to_usd(found.cost),
            "saved_usd": pico_to_usd(found.saved),
            "refused_today": found.refused_today,
            "refused_changed": found.refused_changed,
            "guessed": found.guessed,
            "unknown": found.unknown,
            "left_out": ended.left_out,
            "lines": [self._line(place, group) for place, group in groups],
            "days": [
                {
                    "day": _instant(day * 86_400 * NS_PER_S)[:10],
                    "change": change,
                    "calls": calls,
                    "saved_usd": pico_to_usd(saved),
                }
                for (day, change), (calls, saved) in sorted(found.days.items())
            ],
        }

    def _line(self, place: Place, group: Group) -> dict[str, Any]:
        team, key, change, word, rule = place
        holder = self._holders.get(key)
        return {
            "team": team,
            "key": key,
            "key_name": holder.key.name if holder is not None else "",
            "change": _SAYS[change],
            "word": word,
            "rule": rule,
            "calls": group.calls,
            "guessed": group.guessed,
            "first": _instant(group.first_ns),
            "last": _instant(group.last_ns),
            "example": group.example,
            "cost_usd": pico_to_usd(group.cost),
            "saved_usd": pico_to_usd(group.saved),
        }


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        yield from (line for line in whole if line)


def _instant(ns: int) -> str:
    return f"{datetime.fromtimestamp(ns // NS_PER_S, UTC):%Y-%m-%dT%H:%M:%SZ}"


@contextmanager
def _progress(terminal: Terminal) -> Iterator[Callable[[float], None]]:
    """A bar on stderr, where somebody can see it."""
    console = Console(stderr=True)
    if terminal.as_json or not console.is_terminal:
        yield lambda _share: None
        return
    parts = (TextColumn("replaying"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*parts, console=console, transient=True) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda share: bar.update(task, completed=share)


def _show(terminal: Terminal, found: dict[str, Any]) -> None:
    facts = {
        "history": f"{found['since'][:16].replace('T', ' ')} to {found['until'][:16].replace('T', ' ')} UTC",
        "calls": f"{found['calls']:,}, of {found['guessed']:,} only the ledger's row is known",
        "cost": f"${money(found['cost_usd'])}",
        "refused today": f"{found['refused_today']:,}",
        "refused then": f"{found['refused_changed']:,}",
        "saved": f"${money(found['saved_usd'])}",
    }
    write(terminal.out, card(facts))
    columns = (
        Column("team"),
        Column("key"),
        Column("change", keep=True),
        Column("word", keep=True),
        Column("rule", spare=1),
        Column("calls", right=True),
        Column("first (UTC)", keep=True, spare=2),
        Column("saved $", right=True),
    )
    rows = [
        (
            it["team"],
            it["key_name"] or it["key"],
            it["change"],
            it["word"],
            it["rule"],
            f"{it['calls']:,}",
            it["first"][5:16].replace("T", " "),
            money(it["saved_usd"]),
        )
        for it in found["lines"]
    ]
    if not rows:
        write(terminal.out, Text("\nnobody would have noticed the change", style="bold"))
        return
    write(terminal.out, Text(""))
    write(terminal.out, table(columns, rows, "", terminal.out.width))
    if found["unknown"]:
        terminal.remark(f"{found['unknown']:,} attempts were under keys that are gone: nothing is said of them")
    if found["left_out"]:
        terminal.remark("more calls were refused in a short time than are told: some of them are left out")


# ---- the file


def ask_changes(terminal: Terminal, file: Path) -> Changed:
    """What the file would change, as the node understands it. Raises FileFaults with everything that is wrong.

    Either subjects and what is said of them (`bursar.faces.policy_file`), or a file of `bursar apply`.
    """
    read = read_file(file, lines=True)
    if not read.faults and not isinstance(read.data, dict):
        read.faults.append(Fault("", "wrong_kind", "wants subjects: team/ID, key/ID, budget/ID"))
    if read.faults:
        raise _placed(file, read.lines, read.faults)
    whole = any(section in SECTIONS or section == "managed_by" for section in read.data)
    body = {"documents": read_files([file]).given.documents} if whole else {"subjects": read.data}
    try:
        return msgspec.convert(terminal.api.call("POST", "/policy-plans", body), Changed)
    except ApiRefusal as refusal:
        if not refusal.faults:
            raise
        faults = [Fault(**{**fault, "path": fault["path"].removeprefix("subjects.")}) for fault in refusal.faults]
        raise _placed(file, read.lines, faults) from None


def _placed(file: Path, lines: dict[str, int], faults: Iterable[Fault]) -> FileFaults:
    """Each with the file and the line of the nearest key that is written there."""
    told = []
    for fault in faults:
        path = fault.path
        while path and path not in lines:
            path = path.rpartition("[" if path.endswith("]") else ".")[0]
        place = f"{file}:{lines[path]}" if path else str(file)
        told.append(replace(fault, message=f"{fault.message} ({place})"))
    return FileFaults(told)

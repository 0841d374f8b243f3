"""`bursar backup` and `bursar restore`: to one file and back, and what a restored node must learn before it serves."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from bursar.core.restore import Manifest
from bursar.core.units import NS_PER_S
from bursar.faces.cli_terminal import USAGE, Locate, Terminal, Trouble, command
from bursar.faces.client import NotReachable


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a replay came to."""

    records: int
    until_ns: int
    off: list[str]  # what was switched off, each with the reason
    repeat: list[str]  # what a person must look at
    released: bool


@dataclass(frozen=True, slots=True)
class BackupDesk:
    """What works on the files of this machine; (config, data) come first where a data folder is meant."""

    take: Callable[[str | None, str | None, Path], Manifest]
    examine: Callable[[Path], Manifest]
    standing: Callable[[str | None, str | None], list[str]]
    restore: Callable[[str | None, str | None, Path, Manifest], str]
    look: Callable[[str | None, str | None, Path], tuple[int, int]]
    replay: Callable[[str | None, str | None, Path], Outcome]


Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def add_backup(app: typer.Typer, locate: Locate, desk: BackupDesk) -> None:
    @command(app, "backup", locate)
    def backup(terminal: Terminal, file: Annotated[Path, typer.Argument(help="The file to write.")]) -> None:
        """Write a consistent backup, also while calls go on. The wrapping key is never in it."""
        try:
            terminal.api.call("POST", "/backups", {"file": str(file)})
        except (NotReachable, Trouble):
            terminal.remark("the node does not answer: the audit will not tell of this backup")
        made = desk.take(terminal.config, str(terminal.place.data), file)
        terminal.one({"file": str(file), **_told(made)}, _told(made), f"{file} holds the node but for its wrapping key")

    @command(app, "restore", locate)
    def restore(
        terminal: Terminal,
        what: Annotated[str, typer.Argument(metavar="FILE|status|ack", help="A backup, or a word.")] = "",
        replay: Annotated[
            Path | None, typer.Option("--replay", metavar="AUDIT", help="Another sink's copy of the audit.")
        ] = None,
        replace: Annotated[bool, typer.Option("--replace", help="Move aside what the data folder holds.")] = False,
        yes: Yes = False,
    ) -> None:
        """Restore a backup into an empty data folder, paused; replay what happened since; or acknowledge (`ack`)."""
        if what in ("status", "ack"):
            _released(terminal, what, yes)
            return
        if not what and replay is None:
            raise Trouble("Say what to restore", "bursar restore FILE, --replay AUDIT, status or ack", USAGE)
        done = _restore(terminal, desk, Path(what), replace=replace, yes=yes) if what else {}
        if replay is not None:
            _replay(terminal, desk, replay, yes, done)
        else:
            said = "restored, paused: bursar restore --replay AUDIT, or start it and bursar restore ack"
            terminal.one(done, done, said)


def _told(manifest: Manifest) -> dict[str, str]:
    return {
        "taken (UTC)": _instant(manifest.taken_ns),
        "node": manifest.node,
        "audit": f"up to record {manifest.audit_seq}",
        "directory": f"version {manifest.directory_version}",
        "files": str(len(manifest.files)),
        "opens with": ", ".join(manifest.wrapped_by),
    }


def _restore(terminal: Terminal, desk: BackupDesk, file: Path, *, replace: bool, yes: bool) -> dict[str, str]:
    manifest = desk.examine(file)
    data = str(terminal.place.data)
    standing = desk.standing(terminal.config, data)
    if standing and not replace:
        message = f"The data folder {data} is not empty: {', '.join(standing[:6])}"
        raise Trouble(message, "Name another with --data, or add --replace", word="folder_not_empty")
    if standing:
        terminal.remark(f"{data} holds {', '.join(standing)}; the backup is of {_instant(manifest.taken_ns)} UTC")
        terminal.confirm(f"Move aside what {data} holds and put the backup there?", yes)
    aside = desk.restore(terminal.config, data, file, manifest)
    told = {"restored": str(file), **_told(manifest), "data folder": data}
    return {**told, "moved aside": aside} if aside else told


def _replay(terminal: Terminal, desk: BackupDesk, file: Path, yes: bool, restored: dict[str, str]) -> None:
    data = str(terminal.place.data)
    records, until = desk.look(terminal.config, data, file)
    last = f"the last of {_instant(until)} UTC" if records else "so nothing is known to have happened since"
    terminal.remark(f"{file} has {records} records behind the backup, {last}; what happened later is not known")
    terminal.confirm("Replay them, and serve again if nothing is left to judge?", yes)
    outcome = desk.replay(terminal.config, data, file)
    facts = {
        **restored,
        "records": str(outcome.records),
        "known until (UTC)": _instant(outcome.until_ns),
        "switched off": "\n".join(outcome.off),
        "to be looked at": "\n".join(outcome.repeat),
    }
    plain: dict[str, Any] = {"off": outcome.off, "repeat": outcome.repeat, "released": outcome.released}
    said = "replayed; start the node" if outcome.released else "replayed; start it, look, and: bursar restore ack"
    terminal.one({**restored, "records": outcome.records, **plain}, facts, said)


def _released(terminal: Terminal, what: str, yes: bool) -> None:
    state = terminal.api.call("GET", "/restore")
    facts = {
        "paused": "yes" if state["paused"] else "no",
        "backup of (UTC)": state["taken"] or "",
        "restored (UTC)": state["restored"] or "",
        "known until (UTC)": state["known_until"] or ("nothing was replayed" if state["paused"] else ""),
        "to be looked at": "\n".join(state["repeat"]),
    }
    if what == "status":
        terminal.one(state, facts)
        return
    if state["paused"]:
        since = state["known_until"] or state["taken"]
        terminal.remark(f"Not known here: keys revoked, limits lowered and money spent after {since}.")
        terminal.confirm("Serve all the same?", yes)
    terminal.one(terminal.api.call("POST", "/restore/acknowledge"), facts, "serving again")


def _instant(ns: int) -> str:
    return f"{datetime.fromtimestamp(ns / NS_PER_S, UTC):%Y-%m-%d %H:%M:%S}"

"""`bursar plan`, `apply`, `export`, `rollback`, `managed`: the directory as files in git."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from bursar.control.manifest_files import FileFaults, Merged, located, read_files
from bursar.control.manifest_shapes import SECTIONS
from bursar.control.manifest_yaml import to_yaml
from bursar.core.strict import Fault
from bursar.faces.cli_keys import Yes, day_of
from bursar.faces.cli_terminal import NOT_REACHABLE, PENDING, USAGE, Locate, Terminal, Trouble, command
from bursar.faces.client import ApiRefusal, NotReachable
from bursar.faces.plan_view import sum_of, write_plan
from bursar.faces.tables import Column, secret_panel, write

Files = Annotated[
    list[Path],
    typer.Option("-f", "--file", metavar="FILE|FOLDER", help="YAML or JSON; a folder is taken whole. Repeat."),
]
Prune = Annotated[bool, typer.Option("--prune", help="Remove what these files' source manages and names no longer.")]
Glass = Annotated[
    str, typer.Option("--break-glass", metavar="REASON", help="Also what another source manages; audited.")
]
Detailed = Annotated[
    bool, typer.Option("--detailed-exitcode", help="0 nothing to change, 2 changes are pending, 1 and above: failed.")
]
KeysTo = Annotated[
    Path | None,
    typer.Option("--keys-to", metavar="FILE", help="Write the texts of new keys there (mode 0600), not to the screen."),
]


def add_apply(app: typer.Typer, locate: Locate) -> None:
    _planning(app, locate)
    _exporting(app, locate)
    _rolling_back(app, locate)
    app.add_typer(_managed_group(locate), name="managed")


def _planning(app: typer.Typer, locate: Locate) -> None:
    @command(app, "plan", locate)
    def plan(
        terminal: Terminal,
        *,
        file: Files,
        prune: Prune = False,
        break_glass: Glass = "",
        detailed_exitcode: Detailed = False,
    ) -> None:
        """Show what files would change in the directory, and what was changed past them. Changes nothing."""
        found = ask_plan(terminal, _read(terminal, file, prune), bool(break_glass))
        if terminal.as_json:
            terminal.json(found)
        else:
            write_plan(terminal.out, found)
        if detailed_exitcode and found["steps"]:
            raise typer.Exit(PENDING)

    @command(app, "apply", locate)
    def apply(
        terminal: Terminal,
        *,
        file: Files,
        prune: Prune = False,
        break_glass: Glass = "",
        keys_to: KeysTo = None,
        yes: Yes = False,
    ) -> None:
        """Show the plan of files, ask, and carry out exactly that: all of it, or nothing."""
        carry_out(terminal, _read(terminal, file, prune), keys_to, yes, break_glass)


def _read(terminal: Terminal, files: list[Path], prune: bool) -> Merged:
    """What the files say. Raises FileFaults: faults of their form, and what the node finds wrong with the rest."""
    try:
        return read_files(files, prune=prune)
    except FileFaults as broken:
        more = _faults_of(terminal, broken.rest) if broken.rest is not None else []
        if not more:
            raise
        raise FileFaults([*broken.faults, *more]) from None


def _faults_of(terminal: Terminal, merged: Merged) -> list[Fault]:
    """What the node says; nothing where it cannot be asked. What is missed may stand in what could not be read."""
    try:
        ask_plan(terminal, merged)
    except FileFaults as faults:
        return [fault for fault in faults.faults if fault.word != "unknown_id"]
    except (ApiRefusal, NotReachable, Trouble):
        return []
    return []


def ask_plan(terminal: Terminal, merged: Merged, take_over: bool = False) -> dict[str, Any]:
    """The node's plan. Raises FileFaults with file and line."""
    return dict(_call(terminal, merged, "/plans", {**_body(merged), "take_over": take_over}))


def carry_out(
    terminal: Terminal,
    merged: Merged,
    keys_to: Path | None,
    yes: bool,
    break_glass: str = "",
    *,
    besides: Mapping[str, Any] | None = None,
) -> None:
    """Plan, show, ask, apply. `besides`: what else the JSON tells."""
    found = ask_plan(terminal, merged, bool(break_glass))
    if not terminal.as_json:
        write_plan(terminal.out, found)
    if not found["steps"]:
        if terminal.as_json:
            terminal.json({"applied": False, "plan": found, "keys": [], **(besides or {})})
        return
    terminal.confirm(f"{sum_of(found).plain}. Carry it out?", yes)
    place = KeyFile(keys_to, found)
    done = apply_planned(terminal, merged, found, place, break_glass)
    _tell_done(terminal, found, done, place, "applied", besides)


def apply_planned(
    terminal: Terminal, merged: Merged, found: dict[str, Any], place: "KeyFile", break_glass: str = ""
) -> dict[str, Any]:
    """Carry out a plan that was shown. Raises Trouble where it is not known what became of it."""
    body = {**_body(merged), "plan": found["plan"], "version": found["version"], "break_glass": break_glass}
    try:
        return dict(_call(terminal, merged, "/applies", body))
    except ApiRefusal:
        place.discard()
        raise
    except NotReachable as error:
        place.discard()
        hint = "See with `bursar plan`; where new keys were made, give them texts: bursar keys rotate ID"
        message = f"{error}: it is not known whether the plan was carried out, all of it or nothing"
        raise Trouble(message, hint, NOT_REACHABLE, "not_reachable") from None


def _tell_done(
    terminal: Terminal,
    found: dict[str, Any],
    done: dict[str, Any],
    place: "KeyFile",
    word: str,
    besides: Mapping[str, Any] | None = None,
) -> None:
    place.write(done["keys"])
    keys = place.shown(done["keys"])
    if terminal.as_json:
        undo = terminal.api.undo
        terminal.json(
            {"applied": True, "version": done["version"], "undo": undo, "plan": found, "keys": keys, **(besides or {})}
        )
        return
    if not place.path:
        for key in keys:
            write(terminal.out, secret_panel(f"Key {key['name']} of team {key['team']}", key["text"]))
    plural = "" if len(keys) == 1 else "s"
    told = f"; {len(keys)} new key{plural} in {place.path}" if place.path and keys else ""
    terminal.done(f"{word}: the directory is at version {done['version']}{told}", done)


class KeyFile:
    """Where the texts of new keys go. Made before anything is changed: what cannot be written is known in time."""

    def __init__(self, path: Path | None, plan: dict[str, Any]) -> None:
        """Raises Trouble for a file that is there, cannot be written, or lies where git would take it."""
        made = [step for step in plan["steps"] if step["kind"] == "key" and step["act"] == "create"]
        self.path = path if made else None
        if self.path is None:
            return
        if (tree := _work_tree(self.path)) is not None:
            message = f"{self.path} lies in the git work tree {tree}: texts of keys do not belong there"
            raise Trouble(message, "Name a file outside of it", USAGE)
        try:
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except OSError as error:
            raise Trouble(f"{self.path}: {error.strerror}", "Name a new file that can be written", USAGE) from None

    def write(self, keys: list[dict[str, Any]]) -> None:
        """A line of JSON a key: name, id, team, text."""
        if self.path is not None:
            with self.path.open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(key) + "\n" for key in keys)
                file.flush()
                os.fsync(file.fileno())

    def shown(self, keys: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return keys if self.path is None else [{**key, "text": "***"} for key in keys]

    def discard(self) -> None:
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def _work_tree(path: Path) -> Path | None:
    return next((folder for folder in path.resolve().parents if (folder / ".git").exists()), None)


def _body(merged: Merged) -> dict[str, Any]:
    given = merged.given
    return {"documents": given.documents, "sources": given.sources, "files": given.files, "prune": given.prune}


def _call(terminal: Terminal, merged: Merged, path: str, body: dict[str, Any]) -> Any:
    try:
        return terminal.slow_api.call("POST", path, body)
    except ApiRefusal as refusal:
        if refusal.faults:
            raise located(merged, [Fault(**fault) for fault in refusal.faults]) from None
        raise


def _exporting(app: typer.Typer, locate: Locate) -> None:
    @command(app, "export", locate)
    def export(
        terminal: Terminal,
        *,
        managed_by: Annotated[str, typer.Option("--managed-by", help="Only what this source manages.")] = "",
        out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write there, not to stdout.")] = None,
    ) -> None:
        """Print the directory as a file that `plan` finds nothing to change in. Texts of keys are in no file."""
        documents: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
        rest = b""
        for piece in terminal.api.stream("/manifests", {"managed_by": managed_by}):
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                one = json.loads(line)
                documents[one["section"]][one["name"]] = one["said"]
        documents = {section: entries for section, entries in documents.items() if entries}
        text = json.dumps(documents, indent=1) + "\n" if terminal.as_json else to_yaml(documents)
        if out is None:
            typer.echo(text, nl=False)
            return
        try:
            out.write_text(text, encoding="utf-8")
        except OSError as error:
            raise Trouble(f"{out}: {error.strerror}", "Name a file that can be written", USAGE) from None
        write(terminal.out, Text(f"wrote {sum(map(len, documents.values()))} objects to {out}"))


def _rolling_back(app: typer.Typer, locate: Locate) -> None:
    @command(app, "rollback", locate)
    def rollback(
        terminal: Terminal,
        to: Annotated[int, typer.Argument(min=1, help="The version to go back to, as `history` shows it.")],
        *,
        plan_only: Annotated[bool, typer.Option("--preview", help="Only show what would change.")] = False,
        yes: Yes = False,
    ) -> None:
        """Go back to an earlier version of all that files can say; itself one change that can be undone."""
        found = terminal.slow_api.call("POST", "/rollback-plans", {"to": to})
        if not terminal.as_json:
            write_plan(terminal.out, found)
        if plan_only or not found["steps"]:
            if terminal.as_json:
                terminal.json({"applied": False, "plan": found, "keys": []})
            return
        terminal.confirm(f"{sum_of(found).plain}. Go back to version {to}?", yes)
        body = {"to": to, "plan": found["plan"], "version": found["version"]}
        done = terminal.slow_api.call("POST", "/rollbacks", body)
        _tell_done(terminal, found, done, KeyFile(None, found), f"as at version {to}")


def _managed_group(locate: Locate) -> typer.Typer:
    group = typer.Typer(help="What is kept in files, and refuses other hands.", no_args_is_help=True)

    @command(group, "list", locate)
    def list_managed(terminal: Terminal) -> None:
        """List what is kept in files: where, and who applied it last."""
        columns = (
            Column("object", keep=True),
            Column("managed by"),
            Column("file", spare=1),
            Column("applied by", spare=2),
            Column("at (UTC)", keep=True, spare=3),
        )
        terminal.rows(
            list(terminal.api.every("/managed")),
            columns,
            lambda mark: (mark["id"], mark["managed_by"], mark["file"], mark["by"], day_of(mark["at"])),
            "bursar apply -f FILE, with managed_by: git in it",
        )

    @command(group, "release", locate, changes=True)
    def release(
        terminal: Terminal,
        objects: Annotated[list[str], typer.Argument(metavar="KIND/ID...", help="As `list` shows them.")],
    ) -> None:
        """Let other hands change what was kept in files. The objects stay as they are."""
        done = terminal.api.call("POST", "/managed/release", {"objects": objects})
        terminal.done(f"released {len(done['items'])}: files manage them no longer", {"released": objects})

    return group

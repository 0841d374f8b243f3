"""`bursar import`: provider keys from an environment, a dotenv file or a sheet; everything of a LiteLLM proxy."""

import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.text import Text

from bursar.control.import_keys import Candidate, from_csv, from_dotenv, from_environment
from bursar.control.import_litellm import Imported, convert
from bursar.control.manifest_files import FileFaults, Merged
from bursar.control.manifest_plan import Given
from bursar.control.manifest_yaml import read_file, to_yaml
from bursar.control.tag_sheet import parse_tags
from bursar.core.secret import Secret
from bursar.core.strict import Fault, Faults
from bursar.faces.cli_apply import KeysTo, carry_out
from bursar.faces.cli_keys import Yes
from bursar.faces.cli_terminal import USAGE, Locate, Terminal, Trouble, command
from bursar.faces.client import ApiRefusal
from bursar.faces.tables import Column, write

TagOption = Annotated[
    list[str],
    typer.Option(
        "--tag",
        metavar="NAME=VALUE",
        help="For all: billing_owner, purpose, allowed_models, ... Asked for at a terminal.",
        default_factory=list,
        show_default=False,
    ),
]
Sheet = Annotated[
    Path | None, typer.Option("--tags", metavar="CSV", help="A tag sheet: address,billing_owner,purpose,...")
]
Replace = Annotated[bool, typer.Option("--replace", help="A new version where an address is taken.")]
Without = Annotated[
    list[str],
    typer.Option(
        "--without", metavar="NAME", help="Leave this one out. Repeat.", default_factory=list, show_default=False
    ),
]
Preview = Annotated[bool, typer.Option("--preview", help="Only show what would be sealed.")]
_ASKED = {"billing_owner": "Billing owner (an id)", "purpose": "Purpose", "allowed_models": "Models, with commas"}
_ENVIRONMENT = "from-env"  # the fourth part of their addresses, as `bursar up --seal-env` has it
_STYLES = {"taken": "green", "approximated": "yellow", "left": "red"}


def import_group(locate: Locate) -> typer.Typer:
    group = typer.Typer(help="Take over what is there: provider keys, or a LiteLLM proxy.", no_args_is_help=True)
    _from_texts(group, locate)
    _from_sheet(group, locate)
    _from_litellm(group, locate)
    _undo(group, locate)
    return group


def _from_texts(group: typer.Typer, locate: Locate) -> None:
    @command(group, "env", locate)
    def import_env(
        terminal: Terminal,
        *,
        tag: TagOption,
        without: Without,
        tags: Sheet = None,
        replace: Replace = False,
        yes: Yes = False,
        preview: Preview = False,
    ) -> None:
        """Seal the provider keys of this shell's environment, told by shape and name. No key is printed."""
        found = from_environment(os.environ, _ENVIRONMENT)
        job = _Job(terminal, "the environment", tag, without, replace=replace)
        job.run(job.tagged(found, tags, asks=not (preview or yes)), yes=yes, preview=preview)

    @command(group, "dotenv", locate)
    def import_dotenv(  # noqa: PLR0913 - one option a parameter
        terminal: Terminal,
        file: Annotated[Path, typer.Argument(help="A .env file.")],
        *,
        tag: TagOption,
        without: Without,
        tags: Sheet = None,
        replace: Replace = False,
        yes: Yes = False,
        preview: Preview = False,
    ) -> None:
        """Seal the provider keys of a dotenv file, and say which lines to delete. No key is printed."""
        found = _located(file, lambda: from_dotenv(_text(file), _ENVIRONMENT))
        job = _Job(terminal, str(file), tag, without, replace=replace)
        job.run(job.tagged(found, tags, asks=not (preview or yes)), yes=yes, preview=preview)


def _from_sheet(group: typer.Typer, locate: Locate) -> None:
    @command(group, "csv", locate)
    def import_csv(
        terminal: Terminal,
        file: Annotated[Path, typer.Argument(help="A head address,value[,TAG...] and a key a line.")],
        *,
        tag: TagOption,
        without: Without,
        replace: Replace = False,
        yes: Yes = False,
        preview: Preview = False,
    ) -> None:
        """Seal the provider keys of a CSV sheet, each with its tags: all faults at once by line. No key is printed."""
        found = _located(file, lambda: from_csv(_text(file)))
        job = _Job(terminal, str(file), tag, without, replace=replace)
        job.run(job.tagged(found, None, asks=not (preview or yes)), yes=yes, preview=preview)


def _undo(group: typer.Typer, locate: Locate) -> None:
    @command(group, "undo", locate)
    def undo(
        terminal: Terminal,
        change: Annotated[int, typer.Argument(min=1, help="Its number, as the import has told it.")],
        *,
        yes: Yes = False,
    ) -> None:
        """Take an import of provider keys back: what it sealed is shredded, what it replaced is as before."""
        terminal.confirm(f"Shred what import {change} has sealed, for ever? Have the keys at another place first.", yes)
        done = terminal.api.call("POST", f"/provider-key-imports/{change}/undo")
        told = f"{_counted(len(done['addresses']))} {'is' if len(done['addresses']) == 1 else 'are'} gone or as before"
        terminal.done(f"taken back; undo: none, {told}", done)


class _Job:
    """Shows what would be sealed, asks, seals all or nothing, and says what to delete."""

    def __init__(
        self, terminal: Terminal, source: str, tags: Sequence[str], without: Sequence[str] = (), *, replace: bool
    ) -> None:
        self._terminal, self._source, self._replace = terminal, source, replace
        self._without = frozenset(without)
        self._tags: dict[str, str] = {}
        for said in tags:
            name, equals, value = said.partition("=")
            if not equals or not value:
                raise Trouble(f"`{said[:64]}` is no tag", "Write --tag billing_owner=ann", USAGE)
            self._tags[name] = value

    def tagged(self, found: list[Candidate], sheet: Path | None, asks: bool) -> list[Candidate]:
        """With their tags, but those left out: what a sheet says of one goes before what holds for all."""
        found = [one for one in found if one.name not in self._without]
        by_address: dict[str, dict[str, str]] = {}
        if sheet is not None:
            rows = _located(sheet, lambda: parse_tags(_text(sheet)))
            by_address = {row.key: {name: tag for name, tag in row.tags.items() if tag is not None} for row in rows}
        own = [{**one.tags, **by_address.get(one.address, {})} for one in found]
        if asks and found and sys.stdin.isatty() and not self._terminal.as_json:
            for name, question in _ASKED.items():
                if name not in self._tags and not all(name in tags for tags in own):
                    given = typer.prompt(f"{question}; empty: to be tagged later", default="", show_default=False)
                    self._tags |= {name: given} if given else {}
        return [msgspec.structs.replace(one, tags={**self._tags, **tags}) for one, tags in zip(found, own, strict=True)]

    def run(self, found: list[Candidate], *, yes: bool, preview: bool) -> None:
        terminal = self._terminal
        planned = self._ask(found, apply=False)["keys"] if found else []
        wanted = [one for one, plan in zip(found, planned, strict=True) if plan["act"] in _SEALED]
        if not terminal.as_json or preview:
            self._show(found, planned)
        if preview or not wanted:
            if terminal.as_json and not preview:
                terminal.json({"sealed": [], "version": 0, "delete": []})
            return
        count = _counted(len(wanted))
        terminal.confirm(f"Seal {count} of {self._source}?", yes)
        version = self._ask(wanted, apply=True)["version"]
        delete = [f"{self._source}:{one.line} {one.name}" if one.line else one.name for one in wanted]
        undo = f"bursar import undo {version}"
        told = {"sealed": [one.address for one in wanted], "version": version, "undo": undo, "delete": delete}
        terminal.done(f"sealed {count}; undo: {undo}", told)
        if not terminal.as_json:
            for place in delete:
                write(terminal.out, Text.assemble(("  now delete it there: ", "bold"), place))

    def _ask(self, found: Sequence[Candidate], *, apply: bool) -> dict[str, Any]:
        """What becomes of each, in order. Raises FileFaults with everything that is wrong; nothing is changed then."""
        keys = [{"address": one.address, "value": one.value.reveal(), "tags": one.tags} for one in found]
        body = {"keys": keys, "replace": self._replace, "apply": apply}
        try:
            return dict(self._terminal.slow_api.call("POST", "/provider-key-imports", body))
        except ApiRefusal as refusal:
            if not refusal.faults:
                raise Trouble(f"{refusal.message}; nothing was sealed", refusal.hint, word=refusal.word) from None
            places = {one.address: _where(one) for one in found}
            told = [Fault(places.get(f["path"], f["path"]), f["word"], f["message"], f["hint"]) for f in refusal.faults]
            names = dict.fromkeys(one.name for one in found if any(f["path"] == one.address for f in refusal.faults))
            leave = " ".join(f"--without {shlex.quote(name)}" for name in names)
            told.append(Fault("", "nothing_sealed", "nothing was sealed", f"mend them, or leave them out: {leave}"))
            raise FileFaults(told if names else told[:-1]) from None

    def _show(self, found: Sequence[Candidate], planned: Sequence[Mapping[str, str]]) -> None:
        self._terminal.rows(
            [
                {"where": _where(one), "key": one.kind, "address": one.address, "tags": one.tags, **plan}
                for one, plan in zip(found, planned, strict=True)
            ],
            (Column("where"), Column("key", spare=2), Column("address"), Column("tags", spare=1), Column("what")),
            lambda row: (row["where"], row["key"], row["address"], _tags(row["tags"]), _ACTS[row["act"]](row)),
            f"no provider key was found in {self._source}",
        )


_SEALED = ("seal", "replace")
_ACTS: dict[str, Callable[[Mapping[str, str]], str]] = {
    "seal": lambda _: "seal",
    "replace": lambda _: "a new value; its tags stay",
    "taken": lambda _: "address taken; --replace",
    "stored": lambda plan: f"stored already: {plan['at']}",
}


def _counted(count: int) -> str:
    return "1 provider key" if count == 1 else f"{count} provider keys"


def _where(one: Candidate) -> str:
    return f"line {one.line} {one.name}" if one.line else one.name


def _tags(tags: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in tags.items()) or "–"


# ---- LiteLLM


def _from_litellm(group: typer.Typer, locate: Locate) -> None:
    @command(group, "litellm", locate)
    def import_litellm(
        terminal: Terminal,
        file: Annotated[Path, typer.Argument(metavar="CONFIG", help="LiteLLM's config.yaml.")],
        *,
        answer: Annotated[
            list[Path],
            typer.Option(
                "--answer",
                metavar="JSON",
                help="What /key/list (return_full_object=true), /team/list or /user/list answered. Repeat.",
                default_factory=list,
                show_default=False,
            ),
        ],
        owner: Annotated[str, typer.Option("--owner", help="Id of the billing owner of all of it.")] = "litellm",
        out: Annotated[Path | None, typer.Option("--out", help="Write a file to apply later; change nothing.")] = None,
        keys_to: KeysTo = None,
        yes: Yes = False,
    ) -> None:
        """Take over a LiteLLM proxy: report each setting, show the plan, apply it. Its keys get new texts."""
        found = convert(_data(file), [_data(path) for path in answer], owner)
        if all(line.outcome == "left" for line in found.lines):
            _report(terminal, found)
            raise Trouble(f"Nothing of LiteLLM was found in {file}", "Name its config.yaml, which has a `model_list`")
        _keep_owner(terminal, found, owner)
        if out is not None:
            _write(out, to_yaml(found.documents))
            _report(terminal, found)
            if terminal.as_json:
                terminal.json(_as_json(found))
            else:
                terminal.out.print(f"written; next: bursar plan -f {out}", highlight=False)
            return
        _report(terminal, found)
        if not terminal.as_json and found.documents.get("keys"):
            terminal.remark(
                "LiteLLM keeps hashes of its keys: each gets a new text; --keys-to FILE has name, id and text"
            )
        merged = Merged(given=Given(documents=found.documents), places={})
        carry_out(terminal, merged, keys_to, yes, besides=_as_json(found))
        _provider_keys(terminal, found, file, owner, yes)


def _keep_owner(terminal: Terminal, found: Imported, owner: str) -> None:
    """An owner that is there already keeps its name and contacts."""
    try:
        terminal.api.call("GET", f"/owners/{owner}")
    except ApiRefusal as refusal:
        if refusal.word != "unknown_id":
            raise
        return
    found.documents.pop("owners", None)


def _report(terminal: Terminal, found: Imported) -> None:
    if terminal.as_json:
        return
    for line in found.lines:
        style = _STYLES[line.outcome]
        write(terminal.out, Text.assemble((f"{line.outcome:<12} ", style), (line.path, "bold"), f"  {line.told}"))
    counts = [(name, sum(line.outcome == name for line in found.lines)) for name in _STYLES]
    text = Text("Report: ", style="bold")
    for index, (name, count) in enumerate(counts):
        text.append(", " if index else "").append(f"{count} {name}", style=_STYLES[name])
    write(terminal.out, text)


def _as_json(found: Imported) -> dict[str, Any]:
    keys = [{"address": key.address, "models": key.models, "variable": key.variable} for key in found.provider_keys]
    report = [msgspec.to_builtins(line) for line in found.lines]
    return {"report": report, "documents": found.documents, "provider_keys": keys}


def _provider_keys(terminal: Terminal, found: Imported, config: Path, owner: str, yes: bool) -> None:
    """What `model_list` used: sealed, once asked, where the value is at hand; else the command is told."""
    candidates = []
    for key in found.provider_keys:
        value = key.value or (Secret(os.environ[key.variable]) if os.environ.get(key.variable) else None)
        if value is None:
            tags = f"--tag billing_owner={owner} --tag allowed_models={','.join(key.models)}"
            terminal.remark(f"not at hand: bursar secrets put '{key.address}' {tags} --from-env {key.variable}")
            continue
        said = {"billing_owner": owner, "allowed_models": ",".join(key.models)}
        name = key.variable or f"{config}, api_key of {key.models[0]}"
        candidates.append(Candidate(name=name, address=key.address, value=value, kind="***", tags=said))
    if candidates and not terminal.as_json:
        _Job(terminal, str(config), (), replace=False).run(candidates, yes=yes, preview=False)


def _data(path: Path) -> Any:
    read = read_file(path)
    if read.faults:
        raise FileFaults([msgspec.structs.replace(f, message=f"{f.message} ({path})") for f in read.faults])
    return read.data


def _located(file: Path, read: Any) -> Any:
    try:
        return read()
    except Faults as faults:
        told = [Fault(f"{file}, {f.path}", f.word, f.message, f.hint) for f in faults.faults]
        raise FileFaults(told) from None


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as fault:
        reason = getattr(fault, "strerror", None) or "is not UTF-8"
        raise Trouble(f"{file}: {reason}", "Give a text file in UTF-8", USAGE) from None


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as fault:
        raise Trouble(f"{file}: {fault.strerror}", "Name a file that can be written", USAGE) from None

"""`bursar import`: provider keys from an environment, a dotenv file or a sheet; everything of a LiteLLM proxy."""

import os
import sys
from collections.abc import Mapping, Sequence
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
from bursar.faces.cli_terminal import REFUSED, USAGE, Locate, Terminal, Trouble, command
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
Preview = Annotated[bool, typer.Option("--preview", help="Only show what would be sealed.")]
_ASKED = {"billing_owner": "Billing owner (an id)", "purpose": "Purpose", "allowed_models": "Models, with commas"}
_ENVIRONMENT = "from-env"  # the fourth part of their addresses, as `bursar up --seal-env` has it
_STYLES = {"taken": "green", "approximated": "yellow", "left": "red"}


def import_group(locate: Locate) -> typer.Typer:
    group = typer.Typer(help="Take over what is there: provider keys, or a LiteLLM proxy.", no_args_is_help=True)
    _from_texts(group, locate)
    _from_sheet(group, locate)
    _from_litellm(group, locate)
    return group


def _from_texts(group: typer.Typer, locate: Locate) -> None:
    @command(group, "env", locate)
    def import_env(
        terminal: Terminal,
        *,
        tag: TagOption,
        tags: Sheet = None,
        replace: Replace = False,
        yes: Yes = False,
        preview: Preview = False,
    ) -> None:
        """Seal the provider keys of this shell's environment, told by shape and name. No key is printed."""
        found = from_environment(os.environ, _ENVIRONMENT)
        job = _Job(terminal, "the environment", tag, replace=replace)
        job.run(job.tagged(found, tags, preview), yes=yes, preview=preview)

    @command(group, "dotenv", locate)
    def import_dotenv(
        terminal: Terminal,
        file: Annotated[Path, typer.Argument(help="A .env file.")],
        *,
        tag: TagOption,
        tags: Sheet = None,
        replace: Replace = False,
        yes: Yes = False,
        preview: Preview = False,
    ) -> None:
        """Seal the provider keys of a dotenv file, and say which lines to delete. No key is printed."""
        found = _located(file, lambda: from_dotenv(_text(file), _ENVIRONMENT))
        job = _Job(terminal, str(file), tag, replace=replace)
        job.run(job.tagged(found, tags, preview), yes=yes, preview=preview)


def _from_sheet(group: typer.Typer, locate: Locate) -> None:
    @command(group, "csv", locate)
    def import_csv(
        terminal: Terminal,
        file: Annotated[Path, typer.Argument(help="A head address,value[,TAG...] and a key a line.")],
        *,
        tag: TagOption,
        replace: Replace = False,
        yes: Yes = False,
        preview: Preview = False,
    ) -> None:
        """Seal the provider keys of a CSV sheet, each with its tags: all faults at once by line. No key is printed."""
        found = _located(file, lambda: from_csv(_text(file)))
        job = _Job(terminal, str(file), tag, replace=replace)
        job.run(job.tagged(found, None, preview), yes=yes, preview=preview)


class _Job:
    """Shows what would be sealed, asks, seals one after the other, and says what to delete."""

    def __init__(self, terminal: Terminal, source: str, tags: Sequence[str], *, replace: bool) -> None:
        self._terminal, self._source, self._replace = terminal, source, replace
        self._tags: dict[str, str] = {}
        for said in tags:
            name, equals, value = said.partition("=")
            if not equals or not value:
                raise Trouble(f"`{said[:64]}` is no tag", "Write --tag billing_owner=ann", USAGE)
            self._tags[name] = value

    def tagged(self, found: list[Candidate], sheet: Path | None, preview: bool) -> list[Candidate]:
        """With their tags: what a sheet says of one goes before what holds for all."""
        by_address: dict[str, dict[str, str]] = {}
        if sheet is not None:
            rows = _located(sheet, lambda: parse_tags(_text(sheet)))
            by_address = {row.key: {name: tag for name, tag in row.tags.items() if tag is not None} for row in rows}
        own = [{**one.tags, **by_address.get(one.address, {})} for one in found]
        if sys.stdin.isatty() and not self._terminal.as_json and not preview:
            for name, question in _ASKED.items():
                if name not in self._tags and not all(name in tags for tags in own):
                    given = typer.prompt(f"{question}; empty: to be tagged later", default="", show_default=False)
                    self._tags |= {name: given} if given else {}
        return [msgspec.structs.replace(one, tags={**self._tags, **tags}) for one, tags in zip(found, own, strict=True)]

    def run(self, found: list[Candidate], *, yes: bool, preview: bool) -> None:
        terminal = self._terminal
        present = {entry["address"] for entry in terminal.api.every("/provider-keys")} if found else set()
        wanted = [one for one in found if self._replace or one.address not in present]
        if not terminal.as_json or preview:
            self._show(found, present)
        if preview or not wanted:
            if terminal.as_json and not preview:
                terminal.json({"sealed": [], "failed": [], "delete": []})
            return
        terminal.confirm(f"Seal {len(wanted)} provider keys of {self._source}?", yes)
        sealed, failed = self._seal(wanted)
        delete = [f"{self._source}:{one.line} {one.name}" if one.line else one.name for one in sealed]
        told = {"sealed": [one.address for one in sealed], "failed": failed, "delete": delete}
        if terminal.as_json:
            terminal.json(told)
        else:
            terminal.done(f"sealed {len(sealed)} of {len(wanted)} provider keys", told)
            for place in delete:
                write(terminal.out, Text.assemble(("  now delete it there: ", "bold"), place))
        if failed:
            lines = "; ".join(f"{one['name']}: {one['code']}, {one['detail']}" for one in failed)
            raise Trouble(f"{len(failed)} were not sealed: {lines}", failed[0]["hint"], REFUSED, failed[0]["code"])

    def _show(self, found: Sequence[Candidate], present: set[str]) -> None:
        self._terminal.rows(
            [_told(one, one.address in present, self._replace) for one in found],
            (Column("where", keep=True), Column("key"), Column("address"), Column("tags", spare=1), Column("what")),
            lambda row: (row["where"], row["key"], row["address"], _tags(row["tags"]), row["what"]),
            f"no provider key was found in {self._source}",
        )

    def _seal(self, wanted: Sequence[Candidate]) -> tuple[list[Candidate], list[dict[str, str]]]:
        sealed, failed = [], []
        for one in wanted:
            body = {"address": one.address, "value": one.value.reveal(), "tags": one.tags}
            try:
                self._terminal.api.call("POST", "/provider-keys", body)
                sealed.append(one)
            except ApiRefusal as refusal:
                failed.append({"name": one.name, "code": refusal.word, "detail": refusal.message, "hint": refusal.hint})
        return sealed, failed


def _told(one: Candidate, there: bool, replace: bool) -> dict[str, Any]:
    what = ("a new version" if replace else "is there; --replace") if there else "seal"
    where = f"line {one.line} {one.name}" if one.line else one.name
    return {"where": where, "key": one.kind, "address": one.address, "tags": one.tags, "what": what}


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

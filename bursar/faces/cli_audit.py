"""`bursar audit`: search, take away, prove. What goes over the admin API is itself a record."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

import typer

from bursar.faces.cli_keys import Yes
from bursar.faces.cli_terminal import USAGE, Locate, Place, Terminal, Trouble, Verified, command, seconds, tell
from bursar.faces.tables import Column

ProveAudit = Callable[[Place, str | None], Verified]  # (where the node lies, known public key)

Since = Annotated[str, typer.Option("--since", metavar="SPAN|DAY", help="7d, 24h or 2026-11-01.")]
Until = Annotated[str, typer.Option("--until", metavar="DAY", help="2026-12-01 or an instant; exclusive.")]
Actor = Annotated[str, typer.Option("--actor", help="Who: `admin`, `node:*`, a name.")]
Act = Annotated[str, typer.Option("--act", help="What: `key.create`, `secret.*`.")]
Target = Annotated[str, typer.Option("--target", help="On what: `key/abc`, `secret/*`.")]
OutcomeOption = Annotated[
    Literal["", "allowed", "refused", "failed"], typer.Option("--outcome", help="allowed, refused or failed.")
]


def audit_group(locate: Locate, prove: ProveAudit) -> typer.Typer:
    group = typer.Typer(help="The audit: who did what, hash-chained and signed.", no_args_is_help=True)
    _proving(group, locate, prove)
    _looking(group, locate)
    _taking(group, locate)
    return group


def _proving(group: typer.Typer, locate: Locate, prove: ProveAudit) -> None:
    @command(group, "verify", locate)
    def verify(
        terminal: Terminal,
        public_key: Annotated[
            str | None, typer.Option("--public-key", help="The signing key as noted elsewhere, in hex.")
        ] = None,
        online: Annotated[
            bool, typer.Option("--online", help="Have the running node do it; this is recorded.")
        ] = False,
    ) -> None:
        """Prove the chain and its signed checkpoints, offline unless told otherwise."""
        outcome = _asked(terminal, public_key) if online else prove(terminal.place, public_key)
        tell(terminal, outcome, "the audit is proven")


def _asked(terminal: Terminal, public_key: str | None) -> Verified:
    # As a stream: a large audit takes longer than an ordinary call may.
    found = json.loads(b"".join(terminal.api.stream("/audit/verify", {"public_key": public_key})))
    facts = {
        "records": found["records"],
        "pruned": found["pruned"],
        "checkpoints": found["checkpoints"],
        "signed up to": found["signed"],
        "public key": ", ".join(found["public_keys"]),
    }
    where = f"record {found['broken']}: " if found["broken"] else ""
    return Verified(facts, where + found["fault"] if found["fault"] else "")


def _looking(group: typer.Typer, locate: Locate) -> None:
    @command(group, "tail", locate)
    def tail(
        terminal: Terminal,
        count: Annotated[int, typer.Option("--count", "-n", min=1, max=1000, help="How many.")] = 20,
    ) -> None:
        """Show the newest records, the newest first."""
        _show(terminal, terminal.api.call("GET", "/audit", query={"limit": count})["items"])

    @command(group, "search", locate)
    def search(  # noqa: PLR0913, PLR0917 - the options of a command
        terminal: Terminal,
        since: Since = "",
        until: Until = "",
        actor: Actor = "",
        act: Act = "",
        target: Target = "",
        outcome: OutcomeOption = "",
        count: Annotated[int, typer.Option("--count", "-n", min=1, max=1000, help="How many at most.")] = 50,
    ) -> None:
        """Find records, the newest first. `*` in a text stands for anything."""
        query = _filter(since, until, actor, act, target, outcome)
        _show(terminal, terminal.api.call("GET", "/audit", query={**query, "limit": count})["items"])


def _taking(group: typer.Typer, locate: Locate) -> None:
    @command(group, "export", locate)
    def export(  # noqa: PLR0913, PLR0917 - the options of a command
        terminal: Terminal,
        form: Annotated[Literal["jsonl", "csv", "ocsf", "cef"], typer.Option("--form", help="Of the lines.")] = "jsonl",
        out: Annotated[Path | None, typer.Option("--out", help="A file; standard output if left out.")] = None,
        since: Since = "",
        until: Until = "",
        actor: Actor = "",
        act: Act = "",
        target: Target = "",
        outcome: OutcomeOption = "",
    ) -> None:
        """Write every record that matches, the oldest first: the chain's lines, CSV, OCSF or CEF."""
        query = {**_filter(since, until, actor, act, target, outcome), "form": form}
        pieces = _counted(terminal.api.stream("/audit/export", query))
        if out is None:
            _print_whole(pieces)
            return
        try:
            _write_whole(out, pieces)
        except OSError as error:
            raise Trouble(f"{out} cannot be written: {error.strerror}", "Choose another with --out", USAGE) from None

    @command(group, "erase", locate)
    def erase(
        terminal: Terminal,
        name: Annotated[str, typer.Argument(metavar="NAME", help="The person's e-mail address, name or pseudonym.")],
        yes: Yes = False,
    ) -> None:
        """Erase a person: the key of his names is shredded, every hash and signature stays. There is no undo."""
        terminal.confirm(f"Shred what the audit knows of {name}?", yes)
        found = terminal.api.call("POST", "/audit/erase", {"name": name})
        terminal.done(f"the audit knows {found['pseudonym']} and no name", found)


def _filter(since: str, until: str, actor: str, act: str, target: str, outcome: str) -> dict[str, object]:
    query: dict[str, object] = {"until": until, "actor": actor, "action": act, "target": target, "outcome": outcome}
    if since:
        query |= {"since": since} if since[:4].isdigit() and "-" in since else {"last_s": seconds(since)}
    return query


def _show(terminal: Terminal, records: list[dict[str, Any]]) -> None:
    columns = (
        Column("#", right=True),
        Column("at (UTC)", keep=True),
        Column("actor"),
        Column("action"),
        Column("target"),
        Column("outcome", spare=1),
    )
    terminal.rows(
        records,
        columns,
        lambda r: (
            str(r["sequence"]),
            r["at"].replace("T", " ")[:19],
            r["actor"],
            r["action"],
            r["target"],
            r["outcome"],
        ),
        "nothing has happened",
    )


def _counted(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The same pieces, with progress on a terminal."""
    lines = size = 0
    for piece in pieces:
        lines, size = lines + piece.count(b"\n"), size + len(piece)
        if sys.stderr.isatty():
            sys.stderr.write(f"\r{lines:,} lines, {size / 1e6:,.1f} MB")
        yield piece
    if sys.stderr.isatty():
        sys.stderr.write("\n")


def _print_whole(pieces: Iterator[bytes]) -> None:
    """To standard output, until whoever reads it has enough (`| head`): that is no failure."""
    try:
        for piece in pieces:
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its end


def _write_whole(path: Path, pieces: Iterator[bytes]) -> None:
    """Readable by the owner only; a file that is there stays as it was until the new one is complete."""
    part = path.with_name(f".{path.name}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            _pour(pieces, file)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _pour(pieces: Iterator[bytes], file: BinaryIO) -> None:
    for piece in pieces:
        file.write(piece)

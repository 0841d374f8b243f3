"""`bursar scan`: leaked keys in trees, git history and logs. Needs no node."""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.text import Text

from bursar import __version__
from bursar.control.scan import ALLOWED_MARK, Finding, scan_history, scan_path, scan_stream
from bursar.core.errors import Refusal
from bursar.faces.cli_terminal import NOT_VERIFIED, USAGE, Locate, Terminal, Trouble, command
from bursar.faces.scan_report import gitleaks_rules, sarif
from bursar.faces.tables import Column, table, write

_COLUMNS = (
    Column("where", keep=True),
    Column("commit", keep=True, spare=2),
    Column("key of"),
    Column("begins"),
    Column("fingerprint", keep=True, spare=1),
)


_THEIRS = "Revoke each at its provider, then: bursar secrets put PROVIDER < FILE"
_MENDS = {
    "bursar-key": "A Bursar key, whose id stands after `bsr_`: bursar keys rotate ID --overlap 0",
    "bursar-admin-token": "An admin token, whose id stands after `bsa_`: bursar admins remove ID. A node's own opens "
    "the node: keep its data folder out of images and archives",
}


def add_scan(app: typer.Typer, locate: Locate) -> None:
    @command(app, "scan", locate)
    def scan(
        terminal: Terminal,
        *,
        path: Annotated[str, typer.Argument(metavar="PATH|-", help="A file, a folder, or - for standard input.")] = ".",
        history: Annotated[
            bool, typer.Option("--history", help="Every line a commit of the repository added.")
        ] = False,
        baseline: Annotated[
            Path | None, typer.Option("--baseline", help="Findings that are known: an earlier --json.")
        ] = None,
        write_sarif: Annotated[Path | None, typer.Option("--sarif", help="Write the findings as SARIF 2.1.0.")] = None,
        rules: Annotated[bool, typer.Option("--rules", help="Print a rule file for gitleaks and betterleaks.")] = False,
    ) -> None:
        """Look for leaked keys of LLM providers and of Bursar. Exit code 4 when there are any; no key is printed."""
        if rules:
            sys.stdout.write(gitleaks_rules())
            return
        known = _known(baseline)
        meter = Meter(path)
        try:
            found = [one for one in _findings(path, history, meter) if one.fingerprint not in known]
        except Refusal as refusal:
            raise Trouble(refusal.message, refusal.hint, USAGE, refusal.word) from None
        finally:
            meter.close()
        if write_sarif is not None:
            write_sarif.write_text(json.dumps(sarif(found, __version__), indent=2) + "\n")
        _tell(terminal, found, meter, len(known))
        if found:
            raise typer.Exit(NOT_VERIFIED)


class Meter:
    """What was read, shown while it goes on where a person watches."""

    def __init__(self, path: str) -> None:
        self.read = 0
        self._total = Path(path).stat().st_size if path != "-" and Path(path).is_file() else 0
        self._began = self._told = time.monotonic()
        self._watched = sys.stderr.isatty()

    def __call__(self, count: int) -> None:
        self.read += count
        if self._watched and time.monotonic() - self._told > 0.2:
            self._told = time.monotonic()
            speed = self.read / max(self._told - self._began, 1e-9)
            share = f" of {megabytes(self._total)} ({self.read * 100 // self._total} %)" if self._total else ""
            sys.stderr.write(f"\r{megabytes(self.read)}{share}, {megabytes(int(speed))}/s ")
            sys.stderr.flush()

    def close(self) -> None:
        if self._watched:
            sys.stderr.write("\r\x1b[K")


def megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"


def _findings(path: str, history: bool, meter: Meter) -> Iterator[Finding]:
    if history:
        return scan_history(Path("." if path == "-" else path), meter)
    if path == "-":
        return scan_stream(sys.stdin.buffer, "-", meter)
    return scan_path(Path(path), meter)


def _known(baseline: Path | None) -> set[str]:
    """The fingerprints of an earlier run."""
    if baseline is None:
        return set()
    try:
        rows: Any = json.loads(baseline.read_text())
        return {str(row["fingerprint"]) for row in rows}
    except (OSError, ValueError, KeyError, TypeError) as fault:
        hint = "Make one with: bursar scan PATH --json > known.json"
        raise Trouble(f"{baseline} is no list of findings: {fault}", hint, USAGE) from None


def _tell(terminal: Terminal, found: list[Finding], meter: Meter, known: int) -> None:
    if terminal.as_json:
        terminal.json([msgspec.to_builtins(one) for one in found])
        return
    if not found:
        also = f" besides {known} that are known" if known else ""
        write(terminal.out, Text.assemble(("✓ ", "green"), f"no key{also} in {megabytes(meter.read)}"))
        return
    rows = [(f"{f.path}:{f.line}:{f.column}", f.commit, f.owner, f.shown, f.fingerprint) for f in found]
    columns, kept = _COLUMNS, [0, 1, 2, 3, 4] if any(f.commit for f in found) else [0, 2, 3, 4]
    cells = [tuple(row[index] for index in kept) for row in rows]
    write(terminal.out, table([columns[index] for index in kept], cells, "", terminal.out.width))
    keys = len({f.fingerprint for f in found})
    places = f"{len(found)} place{'s' if len(found) > 1 else ''}"
    write(terminal.out, Text.assemble(("✗ ", "bold red"), f"{keys} key{'s' if keys > 1 else ''} in {places}"))
    for told in dict.fromkeys(_MENDS.get(f.rule, _THEIRS) for f in found):
        write(terminal.out, Text.assemble(("  → ", "bold"), told))
    mark = ALLOWED_MARK.decode()
    write(
        terminal.out, Text(f"  One that may stand there: write {mark} on its line, or keep a --baseline", style="dim")
    )

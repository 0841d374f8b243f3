"""Between a command and who called it, person or program: where the node is, how to answer, which code to exit with.

Exit codes: 0 done · 1 refused or failed · 2 wrong usage · 3 the node is not reachable · 4 a verification failed or a
scan found keys · 5 the configuration has faults. With ``--json`` answers go to stdout and problems to stderr, both
as JSON.
"""

import functools
import getpass
import inspect
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console
from rich.text import Text

from bursar.core.secret import Secret
from bursar.core.strict import Faults
from bursar.core.units import parse_duration, usd_to_pico
from bursar.faces.client import AdminClient, ApiRefusal, NotReachable, Preview
from bursar.faces.edits import write_preview
from bursar.faces.session_file import SessionFile
from bursar.faces.tables import Column, card, table, write

OK, REFUSED, USAGE, NOT_REACHABLE, NOT_VERIFIED, CONFIG_FAULTS = range(6)
PENDING = 2  # of `plan --detailed-exitcode`, as other tools have it
_LONG_S = 600.0


class Place(NamedTuple):
    """Where a node keeps its state and answers to its operator."""

    data: Path
    admin_url: str
    checkpoints: Path  # the audit's second place
    config: str | None = None  # the file that was named
    data_url: str = "http://127.0.0.1:4000"  # where applications call
    metrics_url: str = "http://127.0.0.1:4002/metrics"


Locate = Callable[[str | None, str | None], Place]
"""(--config, --data) -> Place. Raises Faults when the configuration has faults."""


class Verified(NamedTuple):
    """The outcome of a proof. `facts` are shown in order; `problem` "" = all is well."""

    facts: Mapping[str, str | int]
    problem: str = ""
    hint: str = ""


class Trouble(Exception):
    """A command ends here: one line of what is wrong, one of what to type next."""

    def __init__(self, message: str, hint: str = "", code: int = REFUSED, word: str = "failed") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code
        self.word = word


class Terminal:
    """What a command talks to. `as_json` decides for whom it answers."""

    def __init__(
        self,
        locate: Locate,
        config: str | None,
        data: str | None,
        url: str | None,
        as_json: bool,
        preview: bool = False,
        break_glass: str = "",
    ) -> None:
        self._locate = locate
        self._data = data
        self._url = url or os.environ.get("BURSAR_ADMIN_URL")
        self.config = config
        self.as_json = as_json
        self.preview = preview
        self.break_glass = break_glass
        self.out = Console(highlight=False)

    @functools.cached_property
    def place(self) -> Place:
        return self._locate(self.config, self._data)

    @functools.cached_property
    def api(self) -> AdminClient:
        return AdminClient(self.admin_url, self._token(), preview=self.preview, break_glass=self.break_glass)

    @property
    def slow_api(self) -> AdminClient:
        """For what takes its time on a node with many tenants."""
        self.api.patience(_LONG_S)
        return self.api

    def login_desk(self, token: Secret | None = None) -> AdminClient:
        """Where sessions begin, without a token, and end."""
        return AdminClient(self.admin_url, token or Secret(""), prefix="")

    @functools.cached_property
    def admin_url(self) -> str:
        return self._url or self.place.admin_url

    @property
    def other_token(self) -> str:
        """What goes before the session of a login: the name of a variable or file; "" = nothing does."""
        if os.environ.get("BURSAR_ADMIN_TOKEN"):
            return "BURSAR_ADMIN_TOKEN"
        path = self.place.data / "admin.token"
        return str(path) if os.access(path, os.R_OK) else ""

    def _token(self) -> Secret:
        """From BURSAR_ADMIN_TOKEN, else from the data folder, else of a login. Never from the command line, where `ps`
        shows it.
        """
        given = os.environ.get("BURSAR_ADMIN_TOKEN")
        if given:
            return Secret(given.strip())
        path = self.place.data / "admin.token"
        try:
            return Secret(path.read_text().strip())
        except OSError as error:
            session = SessionFile(self.admin_url).read()
            if session is not None:
                return session
            hint = "Start Bursar with `bursar up`, give --data FOLDER, use `bursar login`, or set BURSAR_ADMIN_TOKEN"
            raise Trouble(f"There is no admin token: {path}: {error.strerror}", hint, NOT_REACHABLE) from None

    # -- answers

    def rows(self, items: Sequence[Mapping[str, Any]], columns: Sequence[Column], row: Any, empty: str) -> None:
        """A list: a JSON array, or a table with `row(item)` as its cells."""
        if self.as_json:
            self.json(list(items))
        else:
            write(self.out, table(columns, [row(item) for item in items], empty, self.out.width))

    def one(self, item: Mapping[str, Any], facts: Mapping[str, str], done: str = "") -> None:
        """One thing: a JSON object, or a card below a line that says what was done."""
        if self.as_json:
            self.json(item)
            return
        if done:
            self._said(done)
        write(self.out, card(facts))

    def done(self, said: str, item: Mapping[str, Any]) -> None:
        if self.as_json:
            self.json(item)
        else:
            self._said(said)

    def _said(self, said: str) -> None:
        """What was done, and how to take it back where that is known and not yet told."""
        undo = self.api.undo if "api" in self.__dict__ else ""
        back = f"; undo: bursar undo {undo}" if undo and "undo:" not in said else ""
        write(self.out, Text.assemble(("✓ ", "green"), said + back))

    def remark(self, said: str) -> None:
        """Something to know beside the answer: on stderr, for people."""
        if not self.as_json:
            write(Console(stderr=True, highlight=False), Text.assemble(("! ", "bold yellow"), said))

    def json(self, value: object) -> None:
        sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    def confirm(self, question: str, yes: bool) -> None:
        """Before what has no undo. Without a terminal to ask at, only --yes goes on."""
        if yes or self.preview:
            return
        if not sys.stdin.isatty():
            raise Trouble(f"{question} There is no terminal to ask at", "Add --yes", USAGE)
        if not typer.confirm(question):
            raise Trouble("Nothing was changed")


def tell(terminal: Terminal, outcome: Verified, said: str) -> None:
    """The facts of a proof in either case; one that failed ends with its own exit code."""
    facts = {name: str(value) for name, value in outcome.facts.items()}
    if not outcome.problem:
        terminal.one({"ok": True, **outcome.facts}, facts, said)
        return
    if terminal.as_json:
        terminal.json({"ok": False, **outcome.facts, "problem": outcome.problem})
    else:
        write(terminal.out, card(facts))
    raise Trouble(outcome.problem, outcome.hint, NOT_VERIFIED, "not_verified")


@contextmanager
def troubles(terminal: Terminal) -> Iterator[None]:
    """Ends the process with the documented code, and says why on stderr; shows a preview that was asked for."""
    as_json = terminal.as_json
    try:
        yield
    except Preview as preview:
        if as_json:
            terminal.json(preview.answer)
        else:
            write_preview(terminal.out, preview.answer)
    except Trouble as trouble:
        problem = {"code": trouble.word, "detail": trouble.message, "hint": trouble.hint}
        _end(as_json, problem, trouble.code)
    except ApiRefusal as refusal:
        _end(as_json, refusal.problem, REFUSED, [_fault_line(fault) for fault in refusal.faults[1:]])
    except NotReachable as error:
        hint = "Start it with `bursar up`, or say where it is with --url or BURSAR_ADMIN_URL"
        _end(as_json, {"code": "not_reachable", "detail": str(error), "hint": hint}, NOT_REACHABLE)
    except Faults as faults:
        _end_with_faults(as_json, faults)


def _end(as_json: bool, problem: Mapping[str, Any], code: int, more: Sequence[str] = ()) -> None:
    if as_json:
        sys.stderr.write(json.dumps({**problem, "exit_code": code}, ensure_ascii=False) + "\n")
        raise typer.Exit(code)
    console = Console(stderr=True, highlight=False)
    word = problem.get("code", "failed")
    write(console, Text.assemble(("error ", "bold red"), (f"{word}: ", "red"), str(problem.get("detail", ""))))
    for line in more:
        write(console, Text(f"  {line}"))
    if problem.get("hint"):
        write(console, Text.assemble(("  → ", "bold"), str(problem["hint"])))
    raise typer.Exit(code)


def _end_with_faults(as_json: bool, faults: Faults) -> None:
    plain = [{"path": f.path, "word": f.word, "message": f.message, "hint": f.hint} for f in faults.faults]
    told = "1 fault" if len(plain) == 1 else f"{len(plain)} faults"
    problem = {"code": "config_faults", "detail": f"{faults.of} {told}", "faults": plain}
    lines = [_fault_line(fault) for fault in plain]
    _end(as_json, problem, CONFIG_FAULTS, [] if as_json else lines)


def _fault_line(fault: Mapping[str, str]) -> str:
    hint = f" → {fault['hint']}" if fault.get("hint") else ""
    return f"{fault['path']}: {fault['message']}{hint}" if fault.get("path") else f"{fault['message']}{hint}"


# ---- every command has these options


_COMMON: dict[str, Any] = {
    "as_json": Annotated[bool, typer.Option("--json", help="Answer as JSON, for programs.")],
    "url": Annotated[str | None, typer.Option("--url", help="Address of the admin API.", show_default=False)],
    "config": Annotated[
        str | None, typer.Option("--config", envvar="BURSAR_CONFIG", help="bursar.yaml.", show_default=False)
    ],
    "data": Annotated[
        str | None, typer.Option("--data", envvar="BURSAR_DATA", help="The data folder.", show_default=False)
    ],
}
_PREVIEW: Any = Annotated[bool, typer.Option("--preview", help="Tell what would change, and change nothing.")]
_GLASS: Any = Annotated[
    str, typer.Option("--break-glass", metavar="REASON", help="Change by hand what is kept in files; audited.")
]
_DEFAULTS: dict[str, Any] = {
    "as_json": False,
    "url": None,
    "config": None,
    "data": None,
    "preview": False,
    "break_glass": "",
}


def command(
    group: typer.Typer, name: str, locate: Locate, *, changes: bool = False
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Registers `function(terminal, ...)` as a command with the common options, and ends its troubles.

    `changes`: it changes the directory, can tell with --preview what it would change, and with --break-glass change
    what is kept in files.
    """
    options = {**_COMMON, "preview": _PREVIEW, "break_glass": _GLASS} if changes else _COMMON

    def register(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def whole(**given: Any) -> None:
            common = {option: given.pop(option) for option in options}
            terminal = Terminal(locate, **common)
            with troubles(terminal):
                function(terminal, **given)

        own = list(inspect.signature(function).parameters.values())[1:]
        shared = [
            inspect.Parameter(option, inspect.Parameter.KEYWORD_ONLY, default=_DEFAULTS[option], annotation=annotation)
            for option, annotation in options.items()
        ]
        keyword = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
        whole.__signature__ = inspect.Signature([*keyword, *shared])  # type: ignore[attr-defined]
        whole.__annotations__ = {p.name: p.annotation for p in (*own, *shared)}
        group.command(name)(whole)
        return function

    return register


# ---- what people write


def provider_key_text() -> str:
    """Typed unseen at a terminal, else all of standard input. Raises OSError, UnicodeDecodeError."""
    return getpass.getpass("Provider key (not shown): ") if sys.stdin.isatty() else sys.stdin.read()


def usd(text: str) -> str:
    """``$12.50`` as the API's decimal text. Raises Trouble."""
    try:
        usd_to_pico(text)
    except ValueError as error:
        raise Trouble(str(error), "Write it as '$12.50'", USAGE) from None
    return text.strip().removeprefix("$").replace("_", "")


def seconds(text: str) -> int:
    """``1h30m`` in seconds; ``0`` is nothing. Raises Trouble."""
    if text.strip() in {"0", "0s"}:
        return 0
    try:
        return parse_duration(text.strip())
    except ValueError as error:
        raise Trouble(str(error), "Write it as 90s, 15m, 1h30m or 30d", USAGE) from None

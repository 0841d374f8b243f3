"""`bursar token`: a token on stdout, or kept fresh in a file for a program that reads its key from one."""

import json
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from bursar.client.source import TokenFault, TokenSource
from bursar.client.subjects import environment_key, file_subject, github_subject, variable_subject
from bursar.client.watching import watch
from bursar.faces.cli_terminal import NOT_REACHABLE, REFUSED, USAGE, Locate, Terminal, Trouble, seconds, troubles, usd

_URL = "http://127.0.0.1:4000"
Words = Annotated[
    list[str],
    typer.Option("--model", help="Only this model or glob. Repeat.", default_factory=list, show_default=False),
]


def add_token(app: typer.Typer, locate: Locate) -> None:
    @app.command("token")
    def token(  # noqa: PLR0913 - one option a parameter
        *,
        url: Annotated[str, typer.Option("--url", envvar="BURSAR_URL", help="Address of the data port.")] = _URL,
        model: Words,
        purpose: Annotated[str, typer.Option("--purpose", help="Only for this purpose.")] = "",
        max_tokens: Annotated[int, typer.Option("--max-tokens", min=0, help="At most so much output a call.")] = 0,
        budget: Annotated[str, typer.Option("--budget", metavar="USD", help="At most so much money in all.")] = "",
        network: Annotated[str, typer.Option("--network", metavar="CIDR", help="From there only.")] = "",
        caller: Annotated[str, typer.Option("--caller", help="Whom it is for; the ledger keeps it.")] = "",
        life: Annotated[str, typer.Option("--life", help="Less than the 15m it may live.")] = "",
        rule: Annotated[str, typer.Option("--rule", help="The trust rule, where several fit.")] = "",
        subject_file: Annotated[
            str, typer.Option("--subject-file", metavar="FILE", help="Exchange the token in this file.")
        ] = "",
        subject_env: Annotated[
            str, typer.Option("--subject-env", metavar="NAME", help="Exchange what this variable holds.")
        ] = "",
        github: Annotated[bool, typer.Option("--github", help="Exchange the identity of this GitHub job.")] = False,
        audience: Annotated[str, typer.Option("--audience", help="For --github; --url if left out.")] = "",
        keep: Annotated[str, typer.Option("--watch", metavar="FILE", help="Keep a good token in this file.")] = "",
        as_json: Annotated[bool, typer.Option("--json", help="Answer as JSON, for programs.")] = False,
    ) -> None:
        """Exchange BURSAR_API_KEY, or an identity, for a token: to stdout, or kept fresh in a file with --watch."""
        with troubles(Terminal(locate, None, None, None, as_json)):
            scope = _scope(model, purpose, max_tokens, budget, network, caller)
            subject = _subject(subject_file, subject_env, audience or url if github else "")
            source = TokenSource(url, subject, scope=scope, life_s=seconds(life) if life else 0, trust_rule=rule)
            with _faults():
                if keep:
                    _watch(source, Path(keep))
                    return
                got = source.token()
            out = json.dumps({"access_token": got.text}) if as_json else got.text
            sys.stdout.write(out + "\n")


def _scope(model: list[str], purpose: str, max_tokens: int, budget: str, network: str, caller: str) -> str:
    words = [f"model:{one}" for one in model]
    words += [f"purpose:{purpose}"] if purpose else []
    words += [f"max_tokens:{max_tokens}"] if max_tokens else []
    words += [f"budget_usd:{usd(budget)}"] if budget else []
    words += [f"network:{network}"] if network else []
    words += [f"caller:{caller}"] if caller else []
    return " ".join(words)


def _subject(file: str, variable: str, audience: str) -> Callable[[], str]:
    if sum(map(bool, (file, variable, audience))) > 1:
        raise Trouble("Only one thing can be exchanged", "Give one of --subject-file, --subject-env, --github", USAGE)
    if file:
        return file_subject(file)
    if variable:
        return variable_subject(variable)
    if audience:
        return github_subject(audience)
    return environment_key()


class _faults:  # noqa: N801 - a context manager that reads as a word
    """A fault of the client as a trouble of the command line."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, fault: BaseException | None, trace: object) -> None:
        if isinstance(fault, TokenFault):
            code = NOT_REACHABLE if fault.word == "not_reachable" else REFUSED
            raise Trouble(fault.message, fault.hint, code, fault.word) from None


def _watch(source: TokenSource, path: Path) -> None:
    """Ends cleanly at Ctrl-C and SIGTERM."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    watch(source, path, lambda line: print(f"bursar token: {line}", file=sys.stderr, flush=True), stop.wait)  # noqa: T201

"""`bursar secrets ring | rewrap | recovery`: the keys that wrap the secrets, and the second way in."""

import getpass
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from bursar.core.secret import Secret
from bursar.faces.cli_terminal import NOT_VERIFIED, USAGE, Terminal, Trouble, command
from bursar.faces.tables import Column

_STEP = 20  # values a call: each is an answer within seconds also where a service far away wraps


@dataclass(frozen=True, slots=True)
class RecoveryKey:
    """Where the private half is: a file, or a passphrase."""

    file: Path | None = None
    passphrase: Secret | None = None


@dataclass(frozen=True, slots=True)
class RecoveryDesk:
    """What is done with a recovery key on this machine; its private half never goes to the node."""

    make: Callable[[RecoveryKey], str]  # -> its id, the public half
    test: Callable[[Path, RecoveryKey], tuple[int, int, str]]  # data folder -> values, of which it opens, first fault
    use: Callable[[str | None, str | None, RecoveryKey], int]  # config, data -> values brought under the node's own key


KeyFile = Annotated[Path | None, typer.Option("--key", metavar="FILE", help="The recovery key's file.")]
ByPassphrase = Annotated[bool, typer.Option("--passphrase", help="It is made from a passphrase: asked for, or stdin.")]


def add_vault(group: typer.Typer, locate: Any, desk: RecoveryDesk) -> None:
    _ring(group, locate)
    group.add_typer(_recovery_group(locate, desk), name="recovery")


def _ring(group: typer.Typer, locate: Any) -> None:
    @command(group, "ring", locate)
    def ring(terminal: Terminal) -> None:
        """List the wrapping keys and how many sealed values each opens."""
        state = terminal.api.call("GET", "/wrapping-keys")
        if terminal.as_json:
            terminal.json(state)
            return
        columns = (Column("wrapping key", spare=1), Column("seals"), Column("in hand"), Column("opens", right=True))
        terminal.rows(
            state["keys"],
            columns,
            lambda key: (
                key["id"],
                "yes" if key["seals"] else "no",
                "yes" if key["opens"] else "no",
                f"{key['values']} of {state['values']}",
            ),
            "nothing is sealed",
        )
        if state["left"]:
            terminal.done(f"{state['left']} to be moved: bursar secrets rewrap", {})

    @command(group, "rewrap", locate)
    def rewrap(terminal: Terminal) -> None:
        """Bring every sealed value under the present wrapping keys. Stop it at any point; run it again to go on."""
        done = _rewrap(terminal)
        terminal.done(f"{done} values brought under the present wrapping keys", {"done": done, "left": 0})


def _rewrap(terminal: Terminal) -> int:
    done: int = 0
    while True:
        moved = terminal.api.call("POST", "/wrapping-keys/rewrap", {"limit": _STEP})
        done += int(moved["done"])
        if sys.stderr.isatty():
            sys.stderr.write(f"\r{done} done, {moved['left']} left   " + ("\n" if not moved["left"] else ""))
            sys.stderr.flush()
        if not moved["left"]:
            return done


def _recovery_group(locate: Any, desk: RecoveryDesk) -> typer.Typer:
    group = typer.Typer(help="A second key that opens everything, kept elsewhere.", no_args_is_help=True)

    @command(group, "make", locate)
    def make(
        terminal: Terminal,
        out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Where to write the key.")] = None,
        passphrase: ByPassphrase = False,
    ) -> None:
        """Make a recovery key here, and have the node seal everything under its public half besides."""
        key = _key(out, passphrase, "--out")
        wrapper_id = desk.make(key)
        state = terminal.api.call("PUT", "/wrapping-keys/recovery", {"id": wrapper_id})
        done = _rewrap(terminal)
        where = f"keep {key.file} elsewhere than the node" if key.file else "keep the passphrase elsewhere"
        facts = {"recovery key": wrapper_id, "values": str(state["values"])}
        terminal.one({"id": wrapper_id, "rewrapped": done}, facts, f"made; {where}, and test it now and then")

    @command(group, "test", locate)
    def test(terminal: Terminal, key: KeyFile = None, passphrase: ByPassphrase = False) -> None:
        """See whether the recovery key alone would open every value; nothing is decrypted or written."""
        values, opened, fault = desk.test(terminal.place.data, _key(key, passphrase, "--key"))
        if opened < values:
            hint = "Bring them along: bursar secrets rewrap"
            raise Trouble(f"It opens {opened} of {values} values. {fault}", hint, NOT_VERIFIED, "not_verified")
        terminal.done(f"it opens all {values} values", {"ok": True, "values": values})

    @command(group, "use", locate)
    def use(terminal: Terminal, key: KeyFile = None, passphrase: ByPassphrase = False) -> None:
        """Bring everything under the configured wrapping key by the recovery key. Bursar must be stopped."""
        done = desk.use(terminal.config, str(terminal.place.data), _key(key, passphrase, "--key"))
        terminal.done(f"{done} values brought under the node's wrapping key; start it", {"done": done})

    return group


def _key(file: Path | None, passphrase: bool, option: str) -> RecoveryKey:
    if passphrase == (file is not None):
        raise Trouble("Say which recovery key", f"Give either {option} FILE or --passphrase", USAGE)
    if file is not None:
        return RecoveryKey(file=file)
    if sys.stdin.isatty():
        return RecoveryKey(passphrase=Secret(getpass.getpass("Recovery passphrase (not shown): ")))
    return RecoveryKey(passphrase=Secret(sys.stdin.readline().rstrip("\r\n")))

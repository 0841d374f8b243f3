"""`bursar secrets`: provider keys. A value comes from standard input, a prompt or a named variable; never from argv."""

import getpass
import os
import sys
from typing import Annotated, Any

import typer

from bursar.faces.cli_terminal import USAGE, Locate, Terminal, Trouble, command
from bursar.faces.client import segment
from bursar.faces.tables import Column

Ref = Annotated[str, typer.Argument(metavar="ID|ADDRESS", help="As `list` shows it.")]
_ADDRESS = "provider/model/key_type/environment/team, * where it does not narrow"
_BINDING = ("billing_owner", "purpose", "allowed_models", "max_tokens_default")


def secrets_group(locate: Locate) -> typer.Typer:
    group = typer.Typer(help="Provider keys: sealed in the store, tagged, never shown.", no_args_is_help=True)
    _putting(group, locate)
    _reading(group, locate)
    _changing(group, locate)
    return group


def _putting(group: typer.Typer, locate: Locate) -> None:
    @command(group, "put", locate)
    def put(
        terminal: Terminal,
        address: Annotated[str, typer.Argument(help=_ADDRESS + ". Short: openai, openai/gpt-4o.")],
        *,
        tag: Annotated[
            list[str],
            typer.Option(
                "--tag",
                metavar="NAME=VALUE",
                help="billing_owner, purpose, allowed_models, ...",
                default_factory=list,
                show_default=False,
            ),
        ],
        from_env: Annotated[
            str | None, typer.Option("--from-env", metavar="NAME", help="Read the value from this variable.")
        ] = None,
        allow_duplicate: Annotated[
            bool, typer.Option("--allow-duplicate", help="Store a value that is stored elsewhere too.")
        ] = False,
    ) -> None:
        """Seal a provider key, or a new version of the one at this address."""
        tags = {name: value for name, value in map(_pair, tag) if value is not None}
        whole = full_address(address)
        body = {"address": whole, "value": _value(from_env), "tags": tags, "allow_duplicate": allow_duplicate}
        stored = terminal.api.call("POST", "/provider-keys", body)
        said = f"sealed, version {stored['version']}"
        if stored["unowned"]:
            said += f"; nobody pays for it yet: bursar secrets tag {stored['id']} billing_owner=OWNER"
        terminal.one(stored, _facts(stored), said)


def _reading(group: typer.Typer, locate: Locate) -> None:
    @command(group, "list", locate)
    def list_secrets(
        terminal: Terminal,
        unowned: Annotated[bool, typer.Option("--unowned", help="Only those nobody pays for.")] = False,
    ) -> None:
        """List provider keys, without their values."""
        entries = [e for e in terminal.api.every("/provider-keys") if e["unowned"] or not unowned]
        columns = (
            Column("id", keep=True),
            Column("address"),
            Column("owner"),
            Column("models", spare=1),
            Column("v", right=True),
            Column("state"),
        )
        terminal.rows(
            entries,
            columns,
            lambda entry: (
                entry["id"],
                entry["address"],
                entry["tags"]["billing_owner"],
                entry["tags"].get("allowed_models", "*"),
                str(entry["version"]),
                "disabled" if entry["disabled"] else "active",
            ),
            "bursar secrets put openai < file-with-the-key",
        )

    @command(group, "show", locate)
    def show(terminal: Terminal, secret: Ref) -> None:
        """Show an entry's address and tags."""
        found = _find(terminal, secret)
        terminal.one(found, _facts(found))


def _changing(group: typer.Typer, locate: Locate) -> None:
    @command(group, "tag", locate)
    def tag(
        terminal: Terminal,
        secret: Ref,
        tags: Annotated[list[str], typer.Argument(metavar="NAME=VALUE...", help="NAME= removes the tag.")],
    ) -> None:
        """Set tags. They bind: every version is sealed anew under them."""
        found = _find(terminal, secret)
        changed = terminal.api.call("POST", f"/provider-keys/{found['id']}/tags", {"tags": dict(map(_pair, tags))})
        terminal.one(changed, _facts(changed), "tagged")

    @command(group, "disable", locate)
    def disable(terminal: Terminal, secret: Ref) -> None:
        """Switch a provider key off."""
        found = _find(terminal, secret)
        changed = terminal.api.call("POST", f"/provider-keys/{found['id']}/disable")
        terminal.done(f"{found['address']} is disabled; undo: bursar secrets enable {found['id']}", changed)

    @command(group, "enable", locate)
    def enable(terminal: Terminal, secret: Ref) -> None:
        """Switch a provider key on again."""
        found = _find(terminal, secret)
        changed = terminal.api.call("POST", f"/provider-keys/{found['id']}/enable")
        terminal.done(f"{found['address']} is active", changed)

    @command(group, "destroy", locate)
    def destroy(
        terminal: Terminal, secret: Ref, yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False
    ) -> None:
        """Shred an entry with all its versions. There is no undo."""
        found = _find(terminal, secret)
        terminal.confirm(f"Shred {found['address']} with all versions, for ever?", yes)
        terminal.api.call("DELETE", f"/provider-keys/{found['id']}")
        terminal.done(f"shredded {found['address']}", {"destroyed": found["id"]})


def full_address(address: str) -> str:
    """``openai`` and ``openai/gpt-4o`` written out in five parts."""
    parts = address.split("/")
    defaults = ["", "*", "api_key", "*", "*"]
    return "/".join(parts + defaults[len(parts) :])


def _find(terminal: Terminal, ref: str) -> dict[str, Any]:
    """An entry by its id or its address."""
    if ref.startswith("sec_"):
        found: dict[str, Any] = terminal.api.call("GET", f"/provider-keys/{segment(ref)}")
        return found
    wanted = full_address(ref)
    for entry in terminal.api.every("/provider-keys"):
        if entry["address"] == wanted:
            return entry
    raise Trouble(f"There is no provider key at {wanted}", "See: bursar secrets list", word="secret_not_found")


def _pair(text: str) -> tuple[str, str | None]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise Trouble(f"`{text}` is no tag", f"Write NAME=VALUE; binding: {', '.join(_BINDING)}", USAGE)
    return name, value or None


def _value(variable: str | None) -> str:
    """The secret itself, with the line end that editors and `echo` leave cut off."""
    if variable:
        if not os.environ.get(variable):
            raise Trouble(f"The variable {variable} is empty or not set", "Pipe the value in instead", USAGE)
        return os.environ[variable].strip()
    if sys.stdin.isatty():
        return getpass.getpass("Provider key (not shown): ").strip()
    value = sys.stdin.read().strip()
    if not value:
        raise Trouble("Nothing came in on standard input", "bursar secrets put ADDRESS < file-with-the-key", USAGE)
    return value


def _facts(entry: dict[str, Any]) -> dict[str, str]:
    return {
        "id": entry["id"],
        "address": entry["address"],
        "version": str(entry["version"]),
        "state": "disabled" if entry["disabled"] else "active",
        **entry["tags"],
        "updated": entry["updated_at"],
    }

"""`bursar secrets`: provider keys. A value comes from standard input, a prompt or a named variable; never from argv."""

import os
import sys
from typing import Annotated, Any

import typer

from bursar.faces.cli_access import add_grants
from bursar.faces.cli_terminal import USAGE, Locate, Terminal, Trouble, command, provider_key_text
from bursar.faces.client import segment
from bursar.faces.tables import Column

Ref = Annotated[str, typer.Argument(metavar="ID|ADDRESS", help="As `list` shows it.")]
_ADDRESS = "provider/model/key_type/environment/team, * where it does not narrow"
_BINDING = ("billing_owner", "purpose", "allowed_models", "max_tokens_default")


def secrets_group(locate: Locate) -> typer.Typer:
    group = typer.Typer(help="Provider keys: sealed in the store, tagged, never shown.", no_args_is_help=True)
    _putting(group, locate)
    _reading(group, locate)
    _looking_closer(group, locate)
    _changing(group, locate)
    add_grants(group, locate)
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
        store: Annotated[
            str, typer.Option("--store", help="Where a new entry goes; see `bursar secrets stores`.")
        ] = "",
    ) -> None:
        """Seal a provider key, or a new version of the one at this address."""
        tags = {name: value for name, value in map(_pair, tag) if value is not None}
        whole = full_address(address)
        body = {"address": whole, "value": _value(from_env), "tags": tags, "allow_duplicate": allow_duplicate}
        stored = terminal.api.call("POST", "/provider-keys", {**body, "store": store})
        said = f"sealed in {stored['store']}, version {stored['version']}"
        if "unknown_shape" in stored["flags"]:
            said += "; it looks like no key of that provider that is known: see that it is whole"
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
            Column("store", spare=2),
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
                entry["store"],
                str(entry["version"]),
                _state(entry),
            ),
            "bursar secrets put openai < file-with-the-key",
        )

    @command(group, "show", locate)
    def show(terminal: Terminal, secret: Ref) -> None:
        """Show an entry's address and tags."""
        found = _find(terminal, secret)
        terminal.one(found, _facts(found))


def _looking_closer(group: typer.Typer, locate: Locate) -> None:
    @command(group, "get", locate)
    def get(
        terminal: Terminal,
        secret: Ref,
        reason: Annotated[str, typer.Option("--reason", help="Why; it stands in the audit.")],
        version: Annotated[int | None, typer.Option("--version", help="Not the current one but this.")] = None,
    ) -> None:
        """Print a provider key in clear: only where secrets.reveal is on, only to those with that right."""
        found = _find(terminal, secret)
        asked = {"reason": reason, "version": version}
        shown = terminal.api.call("POST", f"/provider-keys/{found['id']}/reveal", asked)
        if terminal.as_json:
            terminal.json(shown)
        else:
            sys.stdout.write(shown["value"] + "\n")

    @command(group, "versions", locate)
    def versions(terminal: Terminal, secret: Ref) -> None:
        """List an entry's versions."""
        found = _find(terminal, secret)
        terminal.rows(
            found["versions"],
            (Column("version", right=True), Column("state"), Column("since (UTC)", keep=True)),
            lambda one: (str(one["version"]), one["state"], one["created_at"]),
            "bursar secrets put ADDRESS < file-with-the-key",
        )

    @command(group, "stores", locate)
    def stores(terminal: Terminal) -> None:
        """List the secret stores of this node, and how they are."""
        terminal.rows(
            list(terminal.api.every("/secret-stores")),
            (Column("store", keep=True), Column("new entries"), Column("writable"), Column("state", spare=1)),
            lambda one: (
                one["name"],
                "here" if one["default"] else "",
                "yes" if one["writable"] else "no",
                f"{one['fault']}: {one['message']}" if one["fault"] else "serves",
            ),
            "see secrets in bursar.yaml",
        )


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

    @command(group, "move", locate)
    def move(
        terminal: Terminal,
        secret: Ref,
        store: Annotated[str, typer.Argument(metavar="STORE", help="As `bursar secrets stores` shows it.")],
    ) -> None:
        """Move an entry into another store; what was written is read back before the original is shredded."""
        found = _find(terminal, secret)
        moved = terminal.api.call("POST", f"/provider-keys/{found['id']}/move", {"store": store})
        terminal.one(moved, _facts(moved), f"moved from {found['store']} to {moved['store']}")

    @command(group, "destroy", locate)
    def destroy(
        terminal: Terminal,
        secret: Ref,
        version: Annotated[
            int | None, typer.Option("--version", help="This version only, not the current one.")
        ] = None,
        yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    ) -> None:
        """Shred an entry with all its versions, or one of them. There is no undo."""
        found = _find(terminal, secret)
        what = "all versions" if version is None else f"version {version}"
        terminal.confirm(f"Shred {what} of {found['address']} in {found['store']}, for ever?", yes)
        path = f"/provider-keys/{found['id']}"
        terminal.api.call("DELETE", path if version is None else f"{path}/versions/{version}")
        terminal.done(
            f"shredded {what} of {found['address']}",
            {"destroyed": found["id"]} | ({"version": version} if version else {}),
        )


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
    value = provider_key_text().strip()
    if not value and not sys.stdin.isatty():
        raise Trouble("Nothing came in on standard input", "bursar secrets put ADDRESS < file-with-the-key", USAGE)
    return value


def _facts(entry: dict[str, Any]) -> dict[str, str]:
    return {
        "id": entry["id"],
        "address": entry["address"],
        "store": entry["store"],
        "version": str(entry["version"]),
        "state": _state(entry),
        "flags": ", ".join(entry["flags"]),
        **entry["tags"],
        "updated": entry["updated_at"],
    }


def _state(entry: dict[str, Any]) -> str:
    if entry["fault"]:
        return f"closed ({entry['fault']})"
    if not entry["version"]:
        return "closed (no current version)"
    return "disabled" if entry["disabled"] else "active"

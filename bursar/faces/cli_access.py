"""`bursar secrets grant`, `revoke`, `grants`, and `bursar policy export`: who may do what with provider keys."""

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.text import Text

from bursar.core.access import ACTS
from bursar.faces.cli_keys import Expires, day_of, instant_of
from bursar.faces.cli_terminal import USAGE, Locate, Terminal, Trouble, command
from bursar.faces.client import segment
from bursar.faces.tables import Column, write

_PATH = "provider/model/key_type/environment/team, * where any; prod-* for a beginning"


def add_grants(group: typer.Typer, locate: Locate) -> None:
    @command(group, "grants", locate)
    def grants(terminal: Terminal) -> None:
        """List who may do what with which provider keys. What is not allowed here is denied."""
        columns = (
            Column("id", keep=True),
            Column("who"),
            Column("may"),
            Column("which"),
            Column("with tags", spare=2),
            Column("until (UTC)", keep=True, spare=1),
        )
        terminal.rows(
            list(terminal.api.every("/grants")),
            columns,
            lambda one: (
                one["id"],
                one["subject"],
                ", ".join(one["acts"]),
                one["path"],
                ", ".join(f"{name}={value}" for name, value in one["tags"].items()),
                day_of(one["expires_at"]) or "it is revoked",
            ),
            "bursar secrets grant role/operator --act rotate --path 'openai/*/*/prod/*'",
        )

    @command(group, "grant", locate, changes=True)
    def grant(
        terminal: Terminal,
        subject: Annotated[str, typer.Argument(help="team/ID (to use), role/ROLE or admin/ID.")],
        *,
        act: Annotated[list[str], typer.Option("--act", help=f"Of: {', '.join(ACTS)}. Repeat for several.")],
        path: Annotated[str, typer.Option("--path", help=_PATH)] = "*/*/*/*/*",
        tag: Annotated[
            list[str],
            typer.Option(
                "--tag", metavar="NAME=VALUE", help="Only keys with this tag.", default_factory=list, show_default=False
            ),
        ],
        expires: Expires = None,
    ) -> None:
        """Allow a team to use keys of others, or people to read, write and rotate them."""
        body: dict[str, Any] = {"subject": subject, "acts": act, "path": path, "tags": dict(map(_pair, tag))}
        if expires:
            body["expires_at"] = instant_of(expires)
        made = terminal.api.call("POST", "/grants", body)
        said = f"{subject} may {', '.join(made['acts'])} {made['path']}; undo: bursar secrets revoke {made['id']}"
        terminal.done(said, made)

    @command(group, "revoke", locate, changes=True)
    def revoke(terminal: Terminal, grant: Annotated[str, typer.Argument(metavar="ID")]) -> None:
        """Take a grant away, from the next call on."""
        terminal.api.call("DELETE", f"/grants/{segment(grant)}")
        terminal.done(f"revoked {grant}", {"revoked": grant})


def policy_group(locate: Locate) -> typer.Typer:
    group = typer.Typer(
        help="The rules: tried on what has happened, or in the words of other systems.", no_args_is_help=True
    )

    @command(group, "export", locate)
    def export(
        terminal: Terminal,
        target: Annotated[Literal["vault", "aws"], typer.Argument(help="HCL for Vault and OpenBao, or IAM for AWS.")],
        store: Annotated[str, typer.Option("--store", help="Only for the store of this name.")] = "",
        out: Annotated[Path | None, typer.Option("--out", help="Write a file a policy into this folder.")] = None,
    ) -> None:
        """Render who may do what with provider keys as the policy of the store in which they lie."""
        found = terminal.api.call("GET", "/policy-export", query={"target": target, "store": store})
        if terminal.as_json:
            terminal.json(found)
            return
        ending = "hcl" if target == "vault" else "json"
        for policy in found["policies"]:
            if out is None:
                sys.stdout.write(f"# ---- {policy['name']}.{ending}\n{policy['text']}\n")
                continue
            try:
                out.mkdir(parents=True, exist_ok=True)
                (out / f"{policy['name']}.{ending}").write_text(policy["text"])
            except OSError as fault:
                raise Trouble(f"{out} cannot be written: {fault.strerror}", "Give another --out", USAGE) from None
            write(terminal.out, Text.assemble(("✓ ", "green"), str(out / f"{policy['name']}.{ending}")))
        for why in found["left_out"]:
            sys.stderr.write(f"left out: {why}\n")

    return group


def _pair(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise Trouble(f"`{text}` is no tag", "Write --tag purpose=inference", USAGE)
    return name, value

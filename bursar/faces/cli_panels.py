"""In which order and under which heads `bursar --help` shows the commands: by what somebody has in mind."""

from typing import Any

import typer
from typer.core import TyperGroup

PANELS = {
    "The first day": ("up", "check", "status", "adopt", "observe", "import", "checklist", "scan"),
    "Who may call, and what it may cost": ("owners", "teams", "keys", "budgets", "models", "policy"),
    "Provider keys": ("secrets", "breakers"),
    "What happened, and why": ("usage", "explain", "estimate", "prices", "ledger", "audit"),
    "Trying a rule, changing it, taking it back": (
        "shadow",
        "promote",
        "demote",
        "history",
        "undo",
        "plan",
        "apply",
        "export",
        "rollback",
        "managed",
    ),
    "Tokens and people": ("token", "tokens", "trust", "login", "logout", "sessions", "whoami", "admins"),
    "The node itself": ("nodes", "store", "backup", "restore"),
}
_ORDER = [name for names in PANELS.values() for name in names]


class Ordered(TyperGroup):
    """Commands in the order of `PANELS`."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=_ORDER.index)


def set_panels(app: typer.Typer) -> None:
    """Put each command of the app under its head. Raises KeyError for one that has none."""
    head_of = {name: head for head, names in PANELS.items() for name in names}
    for one in app.registered_commands:
        one.rich_help_panel = head_of[str(one.name)]
    for group in app.registered_groups:
        group.rich_help_panel = head_of[str(group.name)]

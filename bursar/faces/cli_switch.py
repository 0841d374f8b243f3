"""What every group of subjects does alike: off, on and gone. `group` is its name in the shell and in the API."""

from bursar.faces.cli_terminal import Terminal
from bursar.faces.client import segment


def switch_off(terminal: Terminal, group: str, subject: str) -> None:
    changed = terminal.api.call("POST", f"/{group}/{segment(subject)}/disable")
    terminal.done(f"{subject} is disabled; undo: bursar {group} enable {subject}", changed)


def switch_on(terminal: Terminal, group: str, subject: str) -> None:
    terminal.done(f"{subject} is active", terminal.api.call("POST", f"/{group}/{segment(subject)}/enable"))


def remove_subject(terminal: Terminal, group: str, subject: str) -> None:
    terminal.api.call("DELETE", f"/{group}/{segment(subject)}")
    terminal.done(f"removed {subject}", {"removed": subject})

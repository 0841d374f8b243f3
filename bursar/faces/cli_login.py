"""`bursar login`, `logout`, `sessions`: people enter the admin API with the company's identity provider."""

import base64
import hashlib
import http.server
import os
import secrets
import sys
import time
import webbrowser
from typing import Annotated, Any
from urllib.parse import parse_qs, urlencode, urlsplit

import typer
from rich.text import Text

from bursar.core.secret import Secret
from bursar.faces.cli_terminal import Locate, Terminal, Trouble, command
from bursar.faces.client import segment
from bursar.faces.session_file import SessionFile
from bursar.faces.tables import Column, write

_DONE = b"Logged in, or refused: the terminal tells. This page can be closed.\n"


def add_login(app: typer.Typer, locate: Locate) -> None:
    @command(app, "login", locate)
    def login(
        terminal: Terminal,
        *,
        browser: Annotated[bool, typer.Option(help="Open a browser, where there is one.")] = True,
        wait: Annotated[int, typer.Option(help="Seconds to wait for the browser.", min=1, max=600)] = 300,
    ) -> None:
        """Log in with a browser; the session is kept for this user until it ends."""
        verifier = secrets.token_urlsafe(32)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
        with _Listener(f"/{challenge}") as listener:
            asked = urlencode({"challenge": challenge, "port": listener.server_port})
            url = f"{terminal.admin_url.rstrip('/')}/login?{asked}"
            sys.stderr.write(f"Open in a browser on this machine:\n{url}\n")
            sys.stderr.flush()
            if browser and _has_browser():
                webbrowser.open(url)
            ticket = listener.wait(wait)
        body = {"ticket": ticket, "verifier": verifier}
        found = terminal.login_desk().call("POST", "/login/token", body)
        kept = SessionFile(terminal.admin_url)
        kept.write(Secret(found.pop("text")))
        said = f"logged in as {found['actor']}, {found['role']}, until {found['expires_at']}; undo: bursar logout"
        terminal.done(said, {**found, "file": str(kept.path)})
        if terminal.other_token and not terminal.as_json:
            write(terminal.out, Text(f"! {terminal.other_token} goes first: commands use that, not the session"))

    @command(app, "logout", locate)
    def logout(terminal: Terminal) -> None:
        """End the session of `bursar login`, here and at the node."""
        kept = SessionFile(terminal.admin_url)
        token = kept.read()
        if token is None:
            raise Trouble(f"Nobody is logged in at {terminal.admin_url}", "See `bursar whoami`")
        try:
            terminal.login_desk(token).call("POST", "/login/end")
        finally:
            kept.remove()
        terminal.done("logged out", {"logged_out": True})


def sessions_group(locate: Locate) -> typer.Typer:
    group = typer.Typer(help="Who is logged in to the admin API.", no_args_is_help=True)

    @command(group, "list", locate)
    def list_sessions(terminal: Terminal) -> None:
        """List who is logged in at this node."""
        columns = (Column("id", keep=True), Column("who"), Column("role"), Column("until (UTC)", keep=True, spare=1))
        rows: list[dict[str, Any]] = list(terminal.api.every("/sessions"))
        terminal.rows(
            rows, columns, lambda one: (one["id"], one["actor"], one["role"], one["expires_at"]), "bursar login"
        )

    @command(group, "end", locate)
    def end(
        terminal: Terminal, session: Annotated[str, typer.Argument(metavar="ID", help="As `list` shows it.")]
    ) -> None:
        """End somebody's session, from his next call on."""
        terminal.api.call("DELETE", f"/sessions/{segment(session)}")
        terminal.done(f"ended {session}", {"ended": session})

    return group


class _Listener(http.server.HTTPServer):
    """On a free port of this machine, for the one answer that a browser brings to `path`."""

    def __init__(self, path: str) -> None:
        super().__init__(("127.0.0.1", 0), _Taker)
        self.path = path
        self.ticket = ""

    def wait(self, seconds: float) -> str:
        deadline = time.monotonic() + seconds
        while not self.ticket:
            self.timeout = deadline - time.monotonic()
            if self.timeout <= 0:
                raise Trouble("No browser came back in time", "Begin again: bursar login")
            self.handle_request()
        return self.ticket


class _Taker(http.server.BaseHTTPRequestHandler):
    timeout = 5  # of a connection that says nothing
    server: _Listener

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        ticket = parse_qs(parts.query).get("ticket", [""])[0]
        if parts.path != self.server.path or not ticket:
            self.send_error(404)
            return
        self.server.ticket = ticket
        self.send_response(200)
        self.send_header("content-type", "text/plain; charset=utf-8")
        self.send_header("content-length", str(len(_DONE)))
        self.send_header("cache-control", "no-store")
        self.end_headers()
        self.wfile.write(_DONE)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the library's
        """Nothing: a line would hold the ticket."""


def _has_browser() -> bool:
    """A window to open it in; a browser in the terminal would take the terminal."""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))

"""`bursar estimate`: what a call would cost and whether it would run, asked at the data port with a virtual key."""

import json
import os
import sys
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.table import Table
from rich.text import Text

from bursar.core.secret import Secret
from bursar.faces.cli_terminal import REFUSED, USAGE, Locate, Terminal, Trouble, troubles
from bursar.faces.client import AdminClient, ApiRefusal
from bursar.faces.tables import card, write

_URL = "http://127.0.0.1:4000"
_PATHS = {
    "chat": "/v1/estimate/chat/completions",
    "messages": "/v1/estimate/messages",
    "completions": "/v1/estimate/completions",
    "embeddings": "/v1/estimate/embeddings",
}
_KEY = "Set BURSAR_API_KEY to a Bursar key or token that is good: bursar keys list"
_SEE = "What is estimated is what is sent: compare with the provider's API, or see bursar estimate --help"
_MENDS = {"malformed_request": "See where it breaks: python3 -m json.tool FILE"}
Shape = Literal["auto", "chat", "messages", "completions", "embeddings"]


def add_estimate(app: typer.Typer, locate: Locate) -> None:
    @app.command("estimate")
    def estimate(
        file: Annotated[str, typer.Argument(metavar="FILE|-", help="The request's body, as JSON.")] = "",
        *,
        model: Annotated[str, typer.Option("--model", help="Instead of a file: this model ...")] = "",
        prompt: Annotated[str, typer.Option("--prompt", help="... and this prompt.")] = "",
        max_tokens: Annotated[int, typer.Option("--max-tokens", min=0, help="At most so much output.")] = 0,
        shape: Annotated[Shape, typer.Option("--as", help="Whose API it is a body of.")] = "auto",
        url: Annotated[str, typer.Option("--url", envvar="BURSAR_URL", help="Address of the data port.")] = _URL,
        as_json: Annotated[bool, typer.Option("--json", help="Answer as JSON, for programs.")] = False,
    ) -> None:
        """What a call with the key in BURSAR_API_KEY would cost, and whether it would run. Nothing is sent or held."""
        terminal = Terminal(locate, None, None, None, as_json)
        with troubles(terminal):
            body = _read(file) if file else _made(model, prompt, max_tokens)
            found = _ask(url, _PATHS[_shape(body) if shape == "auto" else shape], body)
            if as_json:
                terminal.json(found)
            else:
                _show(terminal, found)
        if found["decision"] == "refuse":
            raise typer.Exit(REFUSED)


# ---- the question


def _read(name: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as fault:
        raise Trouble(f"{name}: {fault.strerror}", "Name a file with the request's body, or `-`", USAGE) from None


def _made(model: str, prompt: str, max_tokens: int) -> bytes:
    if not model or not prompt:
        raise Trouble("There is nothing to estimate", "bursar estimate body.json, or --model M --prompt TEXT", USAGE)
    asked: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": prompt}]}
    if max_tokens or _is_claude(model):
        asked["max_tokens"] = max_tokens or 1024  # Anthropic's API demands one
    return json.dumps(asked, ensure_ascii=False).encode()


def _shape(body: bytes) -> str:
    """By the model's name and the fields that only one API has; what cannot be read is for the node to refuse."""
    try:
        fields = json.loads(body)
    except ValueError:
        return "chat"
    if not isinstance(fields, dict) or "messages" in fields:
        return "messages" if isinstance(fields, dict) and _is_claude(str(fields.get("model"))) else "chat"
    return "embeddings" if "input" in fields else "completions" if "prompt" in fields else "chat"


def _is_claude(model: str) -> bool:
    return model.rpartition("/")[2].startswith("claude")


def _ask(url: str, path: str, body: bytes) -> dict[str, Any]:
    key = os.environ.get("BURSAR_API_KEY", "").strip()
    if not key:
        raise Trouble("There is no key to ask with", "Set BURSAR_API_KEY to a Bursar key or token", USAGE)
    try:
        found: dict[str, Any] = AdminClient(url, Secret(key), prefix="").call("POST", path, body)
    except ApiRefusal as refusal:
        error = refusal.problem.get("error") or {}
        word = error.get("code", refusal.word)
        hint = _MENDS.get(word) or (_KEY if word.startswith(("key_", "token_")) else _SEE)
        raise Trouble(error.get("message", refusal.message), hint, REFUSED, word) from None
    return found


# ---- the answer


def _show(terminal: Terminal, found: dict[str, Any]) -> None:
    refusal = found["refusal"]
    if refusal is None:
        write(terminal.out, Text.assemble(("✓ ", "green"), "would run"))
    else:
        write(terminal.out, Text.assemble(("✗ ", "bold red"), (f"{refusal['word']}: ", "red"), refusal["message"]))
        if refusal["hint"]:
            write(terminal.out, Text.assemble(("  → ", "bold"), refusal["hint"]))
    if found["tokens"] is not None:
        write(terminal.out, _figures(found))
    facts = {
        "model": ", ".join(dict.fromkeys(filter(None, (found["model"], *found["candidates"])))),
        "nearest" if refusal is None else "refused by": _rule(found["binding"]),
        "changed": "; ".join(map(_clamp, found["clamps"])),
        "in shadow": "; ".join(f"{rule['rule']} {rule['verdict']}" for rule in found["shadow"]),
    }
    if found["tokens"] is not None:
        seen = found["tokens"]["learned_from"]
        facts["known from"] = f"{seen['input']:,} calls for input, {seen['output']:,} for output; {_content(found)}"
    write(terminal.out, card({name: fact for name, fact in facts.items() if fact}))


def _content(found: dict[str, Any]) -> str:
    return f"the body looks like {found['tokens']['content'] or 'nothing that costs'}"


def _figures(found: dict[str, Any]) -> Table:
    shown = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("", "expected", "p95", "at most"):
        shown.add_column(name, justify="right" if name else "left")
    for side in ("input", "output"):
        shown.add_row(side, *(f"{found['tokens'][side][name]:,}" for name in ("expected", "p95", "ceiling")))
    shown.add_row("cost", *(small_dollars(found["cost"][f"{name}_usd"]) for name in ("expected", "p95", "worst")))
    return shown


def small_dollars(text: str) -> str:
    """``$0.0000105``: three digits that mean something, at least cents."""
    amount = Decimal(text)
    places = max(2, 2 - amount.adjusted()) if amount else 2
    return f"${amount.quantize(Decimal(1).scaleb(-places)):,f}"


def _rule(rule: dict[str, Any] | None) -> str:
    if rule is None:
        return ""
    name = f"{rule['control']} {rule['rule']}"
    if rule.get("subject"):
        name += f" on {rule['subject']}"
    if "limit" not in rule:
        return f"{name}: {rule['says']}" if rule.get("says") else name
    unit = "" if rule["unit"] == "pico_usd" else f" {rule['unit'].replace('_', ' ')}"
    asked, limit = _amount(rule, "asked"), _amount(rule, "limit")
    left = f", {_amount(rule, 'left')} left" if "left" in rule else ""
    return f"{name}: asks {asked} of {limit}{unit}{left}"


def _amount(rule: dict[str, Any], name: str) -> str:
    value = rule.get(name, 0)
    return small_dollars(str(Decimal(value) / 10**12)) if rule["unit"] == "pico_usd" else f"{int(value):,}"


def _clamp(clamp: dict[str, Any]) -> str:
    applied = clamp["applied"]
    shown = ", ".join(map(repr, applied)) if isinstance(applied, list) else f"{applied:,}"
    before = "none" if clamp["asked"] is None else f"{clamp['asked']:,}"
    return f"{clamp['field']} {before} → {shown} by {clamp['by']}"

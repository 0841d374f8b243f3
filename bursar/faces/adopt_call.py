"""One call of one token with a key that was just made, through the data port, and what the ledger says it cost."""

import os
import time
from typing import Any

from bursar.core.secret import Secret
from bursar.faces.cli_terminal import Terminal
from bursar.faces.client import AdminClient, ApiRefusal, NotReachable

_PATIENCE_S = 10.0
_PAUSE_S = 0.1


def try_one(terminal: Terminal, provider: str, model: str, key: str, key_id: str) -> dict[str, Any]:
    """{"model", "cost_usd"}, or {"model", "error", "code"}. A gateway learns of a new key within moments."""
    url = os.environ.get("BURSAR_URL", terminal.place.data_url)
    path = "/v1/messages" if provider == "anthropic" else "/v1/chat/completions"
    body = {"model": model, "max_tokens": 1, "messages": [{"role": "user", "content": "Hi"}]}
    data_port = AdminClient(url, Secret(key), timeout=60, prefix="")
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            data_port.call("POST", path, body)
            return {"model": model, "cost_usd": _cost(terminal, key_id)}
        except NotReachable as error:
            return {"model": model, "error": str(error), "code": "not_reachable"}
        except ApiRefusal as refusal:
            told = refusal.problem.get("error") or {}
            code = str(told.get("code") or told.get("type") or refusal.word)
            if refusal.status != 401 or time.monotonic() > deadline:
                return {"model": model, "error": str(told.get("message", refusal.message)), "code": code}
        time.sleep(_PAUSE_S)


def _cost(terminal: Terminal, key_id: str) -> str:
    """``$0.0000105``; "" where the call is not settled in time."""
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        for row in terminal.api.every("/usage", {"by": "key"}):
            if row["group"] == key_id:
                return f"${row['cost_usd']}"
        time.sleep(_PAUSE_S)
    return ""

"""Where `bursar login` keeps the token of a session: one file of the user's own for each admin API, mode 0600."""

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from bursar.core.secret import Secret


class SessionFile:
    """Of the admin API at `url`: http(s)://host:port."""

    def __init__(self, url: str) -> None:
        self.url = _plain(url)
        name = hashlib.sha256(self.url.encode()).hexdigest()[:32]
        base = os.environ.get("XDG_CONFIG_HOME")
        self.path = (Path(base) if base else Path.home() / ".config") / "bursar" / "sessions" / f"{name}.json"

    def read(self) -> Secret | None:
        """None = nobody is logged in there, as far as this user knows."""
        try:
            kept = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if not isinstance(kept, Mapping) or kept.get("url") != self.url or not isinstance(kept.get("text"), str):
            return None
        return Secret(kept["text"])

    def write(self, text: Secret) -> None:
        """Raises OSError."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = self.path.with_suffix(f".{os.getpid()}")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(descriptor, 0o600)
            json.dump({"url": self.url, "text": text.reveal()}, file)
        fresh.replace(self.path)

    def remove(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()


def _plain(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}".lower()

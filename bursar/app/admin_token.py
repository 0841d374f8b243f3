"""The admin token where its owner finds it."""

import os
from pathlib import Path

from bursar.core.secret import Secret


def keep_admin_token(path: Path, token: Secret) -> None:
    """Recoverable by whoever owns the data folder, readable by nobody else."""
    if path.exists() and path.read_text(encoding="ascii").strip() == token.reveal():
        return
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as file:
        os.fchmod(descriptor, 0o600)
        file.write(token.reveal() + "\n")

"""A file that always holds a good token, for programs that read a key from a file: written whole, private, in time."""

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

from bursar.client.source import Token, TokenFault, TokenSource

Report = Callable[[str], None]
Wait = Callable[[float], bool]
"""Waits so many seconds -> whether to stop."""

_RETRY_S = 5.0


def write_private(path: Path, text: str) -> None:
    """Replace the file in one step, 0600. Raises OSError; then the file is what it was."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise


def watch(
    source: TokenSource, path: Path, report: Report, wait: Wait, clock: Callable[[], float] = time.monotonic
) -> None:
    """Until `wait` says stop. The last good token stays in the file, whatever happens.

    Raises TokenFault when the very first one cannot be had and trying again would not help.
    """
    written: Token | None = None
    while True:
        pause = _RETRY_S
        try:
            token = source.token()
            if token != written:
                write_private(path, token.text)
                report(f"wrote a token for {token.ends_at - clock():.0f} s")
                written = token
            pause = max(token.renew_at - clock(), _RETRY_S)
        except TokenFault as fault:
            if written is None and not fault.again:
                raise
            report(f"no new token: {fault}" + (f" ({fault.hint})" if fault.hint else ""))
        except OSError as error:
            report(f"{path} cannot be written: {error.strerror}")
        if wait(pause):
            return

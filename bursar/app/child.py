"""One supervised process: started with its spec, watched, restarted when it dies."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

import msgspec

from bursar.app.spec import NodeSpec, Ready

_FAST_DEATH = 2.0  # seconds: dying sooner after its start counts as failing to start
_LONGEST_PAUSE = 5.0


class Child:
    """`gateway`, `control` or `emulator`. Not thread-safe: only the supervisor's loop touches it."""

    def __init__(self, name: str, argv: Sequence[str], env: Mapping[str, str], pass_fds: Sequence[int]) -> None:
        self.name = name
        self._argv = [sys.executable, "-m", *argv]
        self._env = dict(env)
        self._pass_fds = tuple(pass_fds)
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._fast_deaths = 0
        self.start_at = 0.0  # monotonic instant of the next start, while it is down
        self.ready_fd = -1

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None else 0

    @property
    def failing(self) -> bool:
        """It died right after its start several times in a row."""
        return self._fast_deaths >= 5

    def start(self, spec: NodeSpec | None) -> None:
        """Start it; with a spec it gets one on its standard input and says when it is ready on `ready_fd`."""
        self._close_ready()
        fds = self._pass_fds
        if spec is not None:
            self.ready_fd, child_end = os.pipe()
            spec = msgspec.structs.replace(spec, ready_fd=child_end)
            fds = (*fds, child_end)
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module names
            self._argv,
            stdin=subprocess.PIPE,
            env=self._env,
            pass_fds=fds,
            start_new_session=True,  # Ctrl-C reaches the supervisor only; it drains the children in order
        )
        self._started = time.monotonic()
        if spec is not None:
            os.close(spec.ready_fd)
            assert self._process.stdin is not None
            self._process.stdin.write(msgspec.json.encode(spec) + b"\n")
            self._process.stdin.flush()

    def died(self) -> int | None:
        """Its exit status if it is down (negative = signal), else None. Plans the next start."""
        if self._process is None or (status := self._process.poll()) is None:
            return None
        lived = time.monotonic() - self._started
        self._fast_deaths = self._fast_deaths + 1 if lived < _FAST_DEATH else 0
        pause = 0.0 if self._fast_deaths <= 1 else min(0.2 * 2**self._fast_deaths, _LONGEST_PAUSE)
        self.start_at = time.monotonic() + pause
        self._process = None
        return status

    def wait_ready(self, timeout: float) -> Ready | None:
        """Its ready line; None when it died or did not say so in time."""
        deadline = time.monotonic() + timeout
        line = b""
        os.set_blocking(self.ready_fd, False)
        while not line.endswith(b"\n") and time.monotonic() < deadline:
            try:
                piece = os.read(self.ready_fd, 65536)
            except BlockingIOError:
                time.sleep(0.005)
                continue
            if not piece:
                break
            line += piece
        self._close_ready()
        return msgspec.json.decode(line, type=Ready) if line.endswith(b"\n") else None

    def signal(self, number: int) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def stop(self, number: int, timeout: float) -> bool:
        """Ask it to end; kill it after `timeout` seconds. True if it ended by itself."""
        if self._process is None:
            return True
        self.signal(number)
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return False
        finally:
            self._process = None
        return True

    def _close_ready(self) -> None:
        if self.ready_fd >= 0:
            os.close(self.ready_fd)
            self.ready_fd = -1

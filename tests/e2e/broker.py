"""A real `bursar up` on free ports with a data folder of its own: started, asked, wounded and stopped from outside."""

import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import httpx

from bursar.core.tokens import KEY_PATTERN

ROOT = Path(__file__).parents[2]
Child = Literal["gateway", "control", "emulator"]


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on now; all are held until all are chosen, so that they differ.

    From below those that the kernel gives to outgoing connections: one of them could take a port chosen here.
    """
    found: list[int] = []
    with contextlib.ExitStack() as held:
        while len(found) < count:
            listener = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                listener.bind(("127.0.0.1", random.randrange(15_000, 32_000)))
                found.append(int(listener.getsockname()[1]))
    return found


def merged(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid on `base`, mapping by mapping."""
    out = dict(base)
    for name, value in over.items():
        inner = out.get(name)
        out[name] = merged(inner, value) if isinstance(inner, dict) and isinstance(value, Mapping) else value
    return out


class Broker:
    """One data folder and the processes that serve it. Start it again to see what outlived a stop."""

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any] | None = None,
        env: Mapping[str, str] | None = None,
        arguments: tuple[str, ...] = (),
    ) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.data_port, self.admin_port, self.metrics_port = free_ports(3)
        scheme = "https" if (config or {}).get("listen", {}).get("data", {}).get("tls") else "http"
        self.url = f"{scheme}://127.0.0.1:{self.data_port}"
        self.admin_url = f"http://127.0.0.1:{self.admin_port}"
        self.metrics_url = f"http://127.0.0.1:{self.metrics_port}/metrics"
        listen = {
            "data": {"port": self.data_port},
            "admin": {"port": self.admin_port},
            "metrics": {"port": self.metrics_port},
        }
        self.config_file = folder / "bursar.yaml"
        folder.mkdir(parents=True, exist_ok=True)
        self.config_file.write_text(json.dumps(merged({"listen": listen, "drain": "5s"}, config or {})))
        kept = {name: value for name, value in os.environ.items() if not name.startswith("BURSAR_")}
        clean = {name: value for name, value in kept.items() if not name.endswith("_API_KEY")}
        self.env = {**clean, "PYTHONPATH": str(ROOT), **(env or {})}
        self.arguments = arguments
        self.demo_key = ""
        self.process: subprocess.Popen[bytes] | None = None

    # -- life

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "bursar.app.main", *arguments]

    def start(self, seconds: float = 20.0) -> "Broker":
        """Start and wait until /readyz says yes. The demo key is picked from what the first start prints."""
        self.out = self.folder / "out.txt"
        up = ("up", "--config", str(self.config_file), "--data", str(self.data), *self.arguments)
        self.began = time.monotonic()
        with self.out.open("wb") as sink:
            self.process = subprocess.Popen(self.command(*up), stdout=sink, stderr=subprocess.STDOUT, env=self.env)
        self.wait_ready(seconds)
        if not self.demo_key:
            self.demo_key = self._printed_key(seconds)
        return self

    def wait_ready(self, seconds: float = 20.0) -> float:
        """Seconds waited until the data port serves. Raises with all that was printed when it does not."""
        begin = time.monotonic()
        while time.monotonic() < begin + seconds:
            if self.process is not None and self.process.poll() is not None:
                break
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{self.url}/readyz", timeout=1, verify=False).status_code == 200:
                    return time.monotonic() - begin
            time.sleep(0.02)
        raise AssertionError(f"bursar does not serve; it printed:\n{self.printed()}")

    def _printed_key(self, seconds: float) -> str:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            printed = self.printed()
            if found := re.search(KEY_PATTERN, printed):
                return found[0]
            if "Ctrl-C" in printed:
                return ""  # the banner is complete and shows none: not the first start
            time.sleep(0.02)
        raise AssertionError(f"no banner was printed:\n{self.printed()}")

    def printed(self) -> str:
        return self.out.read_text(errors="replace")

    def stop(self, number: int = signal.SIGINT, seconds: float = 20.0) -> int:
        """Ask it to stop; its exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"bursar does not stop; it printed:\n{self.printed()}") from None

    def close(self) -> None:
        """Leave nothing running, whatever happened."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            for pid in self.pids().values():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.wait(5)

    def pids(self) -> dict[str, int]:
        """supervisor, gateway, control and (when it answers) emulator."""
        return dict(json.loads((self.data / "run" / "pids.json").read_bytes()))

    def kill(self, name: Child, number: int = signal.SIGKILL) -> int:
        """Signal one child; the pid that was hit."""
        pid = self.pids()[name]
        os.kill(pid, number)
        return pid

    def wait_replaced(self, name: Child, old: int, seconds: float = 10.0) -> None:
        """Until the supervisor has started another process in the place of `old`."""
        deadline = time.monotonic() + seconds
        while self.pids().get(name) in (old, 0, None):
            assert time.monotonic() < deadline, f"{name} was not started again:\n{self.printed()}"
            time.sleep(0.02)

    # -- talk

    @property
    def admin_token(self) -> str:
        return (self.data / "admin.token").read_text().strip()

    def admin(self, method: str, path: str, **parameters: Any) -> httpx.Response:
        """One call of the admin API as its owner."""
        headers = {"authorization": f"Bearer {self.admin_token}"}
        return httpx.request(method, self.admin_url + path, headers=headers, timeout=10, **parameters)

    def cli(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """`bursar ...` as the owner of the data folder."""
        env = {**self.env, "BURSAR_CONFIG": str(self.config_file), "BURSAR_DATA": str(self.data)}
        done = subprocess.run(self.command(*arguments), capture_output=True, text=True, env=env, check=False)
        assert not check or done.returncode == 0, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def cli_json(self, *arguments: str) -> Any:
        return json.loads(self.cli(*arguments, "--json").stdout)

    def metrics(self) -> str:
        return httpx.get(self.metrics_url, timeout=10).text

    def bill(self) -> list[dict[str, Any]]:
        """What the emulator, on its own account, has charged so far."""
        path = self.data / "emulator" / "bill.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

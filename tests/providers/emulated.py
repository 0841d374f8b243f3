"""A running emulator process with a bill of its own."""

import contextlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from bursar.providers.emulator import Charge, read_bill


class Emulated:
    """Start it, ask it, read its bill; `stop` leaves nothing running."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.bill_path = folder / "bill.jsonl"
        command = [sys.executable, "-m", "bursar.providers.emulator", "--port", "0", "--bill", str(self.bill_path)]
        self._process = subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        self.port = int(self.url.rpartition(":")[2])

    def bill(self) -> list[Charge]:
        return read_bill(self.bill_path)

    def wait_bill(self, count: int, seconds: float = 30.0) -> list[Charge]:
        """The bill once it has `count` charges: an abandoned call is charged when the emulator notices."""
        deadline = time.monotonic() + seconds
        while len(found := self.bill()) < count:
            assert time.monotonic() < deadline, f"{len(found)} charges instead of {count}"
            time.sleep(0.005)
        return found

    def report(self) -> Any:
        return httpx.get(f"{self.url}/_emulator", timeout=5).json()

    def stop(self, number: int = signal.SIGTERM) -> int:
        self._process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(5)
        self._process.kill()
        self._process.wait(5)
        raise AssertionError("the emulator does not stop")


def scripted(prompt: str = "Say something.", **script: Any) -> list[Any]:
    """Messages of one user turn that carries a directive."""
    text = f"{prompt} [[emulator {json.dumps(script)}]]" if script else prompt
    return [{"role": "user", "content": text}]

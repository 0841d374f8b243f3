"""A node whose control and emulator run on while its gateway, a test's own composition, dies again and again."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import msgspec

from bursar.app.child import Child
from bursar.app.folder import prepare
from bursar.app.listeners import bind
from bursar.app.settings import read_config
from bursar.app.spec import NodeSpec
from tests.crash.gateway_zygote import Faults
from tests.e2e.broker import Broker


class OwnNode(Broker):
    """What `bursar up` starts, with a zygote in the place of the gateway. `begin` starts control, emulator, zygote."""

    def __init__(self, folder: Path, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(folder, config)
        self.gateway = 0  # pid
        self._children: list[Child] = []
        self._zygote: subprocess.Popen[str] | None = None
        self._held = contextlib.ExitStack()

    def begin(self) -> "OwnNode":
        config = read_config(str(self.config_file), str(self.data))
        prepare(self.data)
        (self.data / "emulator").mkdir(mode=0o700)
        data = self._bind(self.data_port)
        admin, metrics, emulator = self._bind(self.admin_port), self._bind(self.metrics_port), self._bind(0)
        self.emulator_url = f"http://127.0.0.1:{emulator.getsockname()[1]}"
        self.spec = NodeSpec(
            config=config,
            data=str(self.data),
            node="test",
            data_fds=[data.fileno()],
            admin_fds=[admin.fileno()],
            metrics_fds=[metrics.fileno()],
            emulator_url=self.emulator_url,
        )
        control = Child("control", ["bursar.app.control"], self.env, [admin.fileno(), metrics.fileno()])
        control.start(self.spec)
        self._children.append(control)
        bill = str(self.data / "emulator" / "bill.jsonl")
        argv = ["bursar.providers.emulator", "--fd", str(emulator.fileno()), "--bill", bill]
        answering = Child("emulator", argv, self.env, [emulator.fileno()])
        answering.start(None)
        self._children.append(answering)
        self._log = self._held.enter_context((self.folder / "gateway.txt").open("w"))
        self._zygote = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.gateway_zygote"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            pass_fds=[data.fileno()],
            env=self.env,
            text=True,
        )
        assert control.wait_ready(20) is not None
        return self

    def _bind(self, port: int) -> socket.socket:
        return self._held.enter_context(bind("127.0.0.1", port, "listen"))

    def _order(self, **order: Any) -> dict[str, Any]:
        zygote = self._zygote
        assert zygote is not None
        assert zygote.stdin is not None
        assert zygote.stdout is not None
        zygote.stdin.write(json.dumps(order) + "\n")
        zygote.stdin.flush()
        return dict(json.loads(zygote.stdout.readline()))

    def start_gateway(self, **faults: Any) -> float:
        """Seconds until it served."""
        began = time.monotonic()
        spec = json.loads(msgspec.json.encode(self.spec))
        answer = self._order(spec=spec, faults=msgspec.to_builtins(Faults(**faults)))
        assert answer["ready"], (self.folder / "gateway.txt").read_text()[-2000:]
        self.gateway = answer["pid"]
        return time.monotonic() - began

    def wait_killed(self) -> None:
        """Until the gateway has ended by SIGKILL. Blocks."""
        assert self._order(wait=True)["killed"], (self.folder / "gateway.txt").read_text()[-2000:]
        self.gateway = 0

    def stop_gateway(self) -> None:
        os.kill(self.gateway, signal.SIGTERM)
        answer = self._order(wait=True)
        self.gateway = 0
        assert answer["code"] == 0, (self.folder / "gateway.txt").read_text()[-2000:]

    def wait_forsaken(self, seconds: float = 5.0) -> None:
        """Until the emulator has seen every connection of a dead gateway end: by then its bill is complete."""
        deadline = time.monotonic() + seconds
        while httpx.get(f"{self.emulator_url}/_emulator").json()["connections"] > 1:
            assert time.monotonic() < deadline, "the emulator still has callers"
            time.sleep(0.005)

    def close(self) -> None:
        if self.gateway:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.gateway, signal.SIGKILL)
        if self._zygote is not None:
            self._zygote.kill()
            self._zygote.wait(5)
        for child in reversed(self._children):
            child.stop(signal.SIGTERM, 5)
        self._held.close()

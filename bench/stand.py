"""The stand: one upstream and everything in front of it, started together and stopped together."""

import contextlib
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from bench.broker import ShippedBroker
from bench.targets import OUT, Target, nginx, passthrough, upstream

TLS = {"listen": {"data": {"tls": {"cert": str(OUT / "cert.pem"), "key": str(OUT / "key.pem")}}}}


class Stand:
    """`direct`, `nginx`, `floor` (the pass-through) and Bursar; the latter two with TLS too, Bursar with power."""

    def __init__(self) -> None:
        self._running = contextlib.ExitStack()

    def __enter__(self) -> "Stand":
        with self._running:
            self.direct = self._keep(upstream())
            port = int(self.direct.url.rpartition(":")[2])
            self.nginx = self._keep(nginx(port))
            self.floor = self._keep(passthrough(port, tls=False))
            self.floor_tls = self._keep(passthrough(port, tls=True))
            self.broker = self._broker("process", {})
            self.power = self._broker("power", {"durability": "power"})
            self.tls = self._broker("tls", TLS)
            self._running = self._running.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running.close()

    def _keep(self, target: Target) -> Target:
        self._running.callback(target.stop)
        return target

    def _broker(self, name: str, config: Mapping[str, Any]) -> ShippedBroker:
        broker = ShippedBroker(OUT / name, self.direct.url, config)
        self._running.callback(broker.stop)
        return broker.start()

    @property
    def conditions(self) -> dict[str, str]:
        return {
            "upstream": "`bench/upstream.py`, a fixed answer",
            "nginx": self.nginx.facts["version"],
            "setup": self.broker.setup,
        }

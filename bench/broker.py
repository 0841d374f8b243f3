"""Bursar in its shipped configuration: a key under two budgets and five limits, the guard, audit and metrics on."""

import importlib.metadata
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.targets import Target
from tests.e2e.broker import ROOT, Broker, merged
from tests.e2e.tenants import Tenants

LIMITS = [
    {"unit": "requests", "amount": 1_000_000, "per_seconds": 1},
    {"unit": "requests", "amount": 50_000_000, "per_seconds": 60},
    {"unit": "tokens", "amount": 10**12, "per_seconds": 60},
    {"unit": "output_tokens", "amount": 10**12, "per_seconds": 60},
    {"unit": "concurrency", "amount": 100_000},
]


class ShippedBroker:
    """One data folder in front of the bench's upstream. The limits never bind, but each of them is counted."""

    def __init__(self, folder: Path, upstream: str, config: Mapping[str, Any]) -> None:
        provider = {"base_url": f"{upstream}/v1", "allow_private": True}
        settings = merged({"providers": {"openai": provider}}, config)
        env = {"OPENAI_API_KEY": "sk-bench-not-a-real-key"}
        self._broker = Broker(folder, settings, env, ("--seal-env",))
        self._key = ""
        self.setup = f"two hard budgets (key, team), {len(LIMITS)} limits"

    @property
    def metrics_url(self) -> str:
        return self._broker.metrics_url

    @property
    def admin_url(self) -> str:
        return self._broker.admin_url

    @property
    def admin(self) -> dict[str, str]:
        """Headers of the admin API."""
        return {"authorization": f"Bearer {self._broker.admin_token}"}

    @property
    def admin_token(self) -> str:
        return self._broker.admin_token

    def start(self, limit_usd: str = "1000000") -> "ShippedBroker":
        """`limit_usd`: of the key's own budget."""
        self._broker.start()
        tenants = Tenants(self._broker)
        made = tenants.key({"limits": LIMITS, "models": ["gpt-*"]}, {"limit_usd": limit_usd})
        tenants.budget("team", made.team, limit_usd="1000000")
        self._key = made.text
        return self

    def stop(self) -> None:
        self._broker.close()

    def seconds_to_serving(self) -> float:
        """From the command to the first 200 of /readyz."""
        begin = time.monotonic()
        self._broker.start()
        return time.monotonic() - begin

    def target(self, name: str = "Bursar", *, may_refuse: bool = False) -> Target:
        process, url = self._broker.process, self._broker.url
        assert process is not None
        secure = url.startswith("https")
        headers = {"authorization": f"Bearer {self._key}"}
        plain, tls = ("", url) if secure else (url, "")
        return Target(name, process, plain, tls, plain, headers, may_refuse=may_refuse)


def installed() -> dict[str, float]:
    """Bytes and packages of the base install, as a wheel's own list of files says, without byte code of our own."""
    lock = (ROOT / "requirements/run.lock").read_text()
    names = re.findall(r"^([a-z0-9-]+)==", lock, re.MULTILINE)
    total, packages = 0, 1
    for name in names:
        try:
            files = importlib.metadata.distribution(name).files or []
        except importlib.metadata.PackageNotFoundError:
            continue  # its marker keeps it off this platform
        packages += 1
        total += sum(path.stat().st_size for path in (Path(str(file.locate())) for file in files) if path.exists())
    total += sum(path.stat().st_size for path in (ROOT / "bursar").rglob("*") if path.is_file())
    return {"bytes": float(total), "packages": float(packages)}

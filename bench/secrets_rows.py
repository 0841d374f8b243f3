"""The figures of the vault: a leased key on the hot path, a cold read, and a rewrap beside the data path."""

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from bench.rows import Case, Figures, f1_cpu
from bench.targets import Target
from bursar.app.clock import SystemClock, SystemEntropy
from bursar.core.directory import ProviderKey
from bursar.core.secret import Secret
from bursar.gateway.lease import Leases
from bursar.secrets.embedded import EmbeddedStore
from bursar.secrets.wrap import keyfile

_LOOPS = 100_000
_ENTRIES = 500


class _Granted(msgspec.Struct):
    value: Secret
    expires_at: int


class _Releases:
    """Control's side, answering at once: what is measured is what a call pays that finds its lease."""

    async def release(self, secret_id: str, version: int) -> _Granted:
        return _Granted(Secret("sk-bench"), time.time_ns() + 900 * 10**9)


async def _leased() -> float:
    leases = Leases(_Releases(), SystemClock())
    key = ProviderKey(id="sec_bench", version=1, address="openai/*/api_key/*/*", billing_owner="bench")
    await leases.borrow(key)
    begin = time.perf_counter()
    for number in range(_LOOPS):
        await leases.borrow(key)
        if number % 5_000 == 0:  # far more often than every five seconds
            leases.take_uses()
    return (time.perf_counter() - begin) / _LOOPS * 1e6


async def _cold_reads(folder: Path) -> list[float]:
    """Milliseconds of each first read of each of many entries, in a store that was just opened."""
    wrapper, clock, entropy = keyfile.create(folder / "key", SystemEntropy()), SystemClock(), SystemEntropy()
    store = await EmbeddedStore.open(folder / "secrets.db", [wrapper], clock, entropy)
    put = [
        (await store.put(f"openai/*/api_key/prod/team-{n}", Secret(os.urandom(24).hex()), {"billing_owner": "bench"}))[
            0
        ]
        for n in range(_ENTRIES)
    ]
    store.close()
    store = await EmbeddedStore.open(folder / "secrets.db", [wrapper], clock, entropy)
    took = []
    for secret_id in put:
        begin = time.perf_counter()
        await store.get(secret_id)
        took.append((time.perf_counter() - begin) * 1e3)
    store.close()
    return sorted(took)


def vault_figures(rounds: int) -> dict[str, float]:
    """`leased_us`, `cold_p50_ms`, `cold_p99_ms`."""
    leased = statistics.median(asyncio.run(_leased()) for _ in range(rounds))
    with tempfile.TemporaryDirectory() as room:
        Path(room).chmod(0o700)
        reads = asyncio.run(_cold_reads(Path(room)))
    return {
        "leased_us": leased,
        "cold_p50_ms": statistics.median(reads),
        "cold_p99_ms": reads[int(len(reads) * 0.99)],
    }


def under_rewrap(target: Target, admin_url: str, token: str, rounds: int, seconds: float) -> dict[str, Figures]:
    """The data path by itself, and while every sealed value is rewrapped without a pause."""
    case = Case(1, 2_048)
    alone = f1_cpu(case, [target], rounds, seconds)[target.name]
    command = [sys.executable, "-c", _REWRAP, admin_url, str(_ENTRIES)]
    rewrapping = subprocess.Popen(command, env={**os.environ, "TOKEN": token}, stdout=subprocess.PIPE)
    try:
        assert rewrapping.stdout is not None
        assert rewrapping.stdout.readline() == b"ready\n"
        beside = f1_cpu(case, [target], rounds, seconds)[target.name]
        assert rewrapping.poll() is None, "the rewrap came to an end before the measurement"
        return {"alone": alone, "during a rewrap": beside}
    finally:
        rewrapping.terminate()
        rewrapping.wait()


_REWRAP = """
import os, sys
from bursar.core.secret import Secret
from bursar.faces.client import AdminClient
from bursar.app.clock import SystemEntropy
from bursar.secrets.wrap.recovery import create_passphrase

api = AdminClient(sys.argv[1], Secret(os.environ["TOKEN"]))
for number in range(int(sys.argv[2])):
    body = {"address": f"anthropic/*/api_key/bench/team-{number}", "value": f"bench-value-{number}"}
    api.call("POST", "/provider-keys", body)
ids = [create_passphrase(Secret(f"a passphrase of the bench {n}"), SystemEntropy()).id for n in range(3)]
print("ready", flush=True)
while True:
    for one in ids:
        api.call("PUT", "/wrapping-keys/recovery", {"id": one})
        while api.call("POST", "/wrapping-keys/rewrap", {"limit": 20})["left"]:
            pass
"""

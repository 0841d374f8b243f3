"""CPU of the gateway's side per act on rates in Redis, many in flight on one connection, a real redis-server behind."""

import asyncio
import shutil
import socket
import statistics
import subprocess
import time
from collections.abc import Awaitable, Callable

import uvloop

from bursar.core.directory import LimitDef
from bursar.core.limits import bind
from bursar.core.secret import Secret
from bursar.stores.redis_rates import RedisRates, Settings

PER_MINUTE = (bind(LimitDef(id="tpm", unit="tokens", amount=10**9), "key"),)
ARRIVAL = tuple(bind(LimitDef(id=f"rpm-{n}", unit="requests", amount=10**9), "key") for n in range(2))
SLOTS = (*ARRIVAL, bind(LimitDef(id="slots", unit="concurrency", amount=10**6), "key"))


async def per_act(act: Callable[[int], Awaitable[None]], in_flight: int, acts: int) -> float:
    """CPU microseconds of this process."""
    numbers = iter(range(1, acts + 1))

    async def caller() -> None:
        for number in numbers:
            await act(number)

    cpu = time.process_time()
    await asyncio.gather(*(caller() for _ in range(in_flight)))
    return (time.process_time() - cpu) / acts * 1e6


async def _measure(url: str, in_flight: int, acts: int, rounds: int) -> dict[str, float]:
    rates = RedisRates(Settings(url=Secret(url), session="bench", wait_s=20), lambda: 1)
    life = asyncio.create_task(rates.run())
    await rates.begun(5)

    async def hold(number: int) -> None:
        taken = await rates.hold("owner", PER_MINUTE, 500, 200, 0.0, number)
        rates.release(number)
        assert taken

    async def hold_and_settle(number: int) -> None:
        taken = await rates.hold("owner", PER_MINUTE, 500, 200, 0.0, number)
        rates.settle(taken, 400, 100, 0.0)  # type: ignore[arg-type]  # none is refused here
        rates.release(number)

    async def arrive_and_leave(number: int) -> None:
        assert await rates.admit("owner", SLOTS, 0.0, number) is None
        rates.release(number)

    figures = {}
    for name, act in (
        ("a hold of tokens, forgotten", hold),
        ("a hold of tokens, settled", hold_and_settle),
        ("two requests and a slot, released", arrive_and_leave),
    ):
        figures[name] = statistics.median([await per_act(act, in_flight, acts) for _ in range(rounds)])
    assert rates.shared, "Redis was lost on the way"
    life.cancel()
    await asyncio.gather(life, return_exceptions=True)
    return figures


def measure(rounds: int, in_flight: int = 64, acts: int = 20_000) -> dict[str, float]:
    """Microseconds of CPU an act, by what it is."""
    program = shutil.which("redis-server")
    assert program is not None, "no redis-server on this machine: scripts/system_packages.sh installs it"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        try:
            return uvloop.run(_measure(f"redis://127.0.0.1:{port}/0", in_flight, acts, rounds))
        finally:
            server.terminate()

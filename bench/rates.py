"""``python -m bench.rates``: CPU of the gateway's side per act on rates in Redis, many in flight on one connection.

Apart from `make bench`, whose environment is that of one node: this needs the extra [redis] and a redis-server
(scripts/system_packages.sh installs Debian's). Bar: a hold of tokens ≤ 30 µs at 64 in flight.
"""

import argparse
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


async def per_act(act: Callable[[int], Awaitable[None]], in_flight: int, acts: int) -> tuple[float, float]:
    """(CPU microseconds of this process, acts a second)"""
    numbers = iter(range(1, acts + 1))

    async def caller() -> None:
        for number in numbers:
            await act(number)

    cpu, began = time.process_time(), time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(in_flight)))
    return (time.process_time() - cpu) / acts * 1e6, acts / (time.perf_counter() - began)


async def measure(url: str, in_flight: int, acts: int, rounds: int) -> None:
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

    for name, act in (
        ("a hold of tokens, forgotten", hold),
        ("a hold of tokens, settled", hold_and_settle),
        ("two requests and a slot, released", arrive_and_leave),
    ):
        found = [await per_act(act, in_flight, acts) for _ in range(rounds)]
        cpu, rate = (statistics.median(one[column] for one in found) for column in (0, 1))
        print(f"{name:36} {cpu:6.1f} us CPU {rate:9,.0f}/s at {in_flight} in flight")
    assert rates.shared, "Redis was lost on the way"
    life.cancel()
    await asyncio.gather(life, return_exceptions=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.rates")
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--acts", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    program = shutil.which("redis-server")
    if program is None:
        parser.error("no redis-server on this machine")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        try:
            uvloop.run(measure(f"redis://127.0.0.1:{port}/0", given.in_flight, given.acts, given.rounds))
        finally:
            server.terminate()


if __name__ == "__main__":
    main()

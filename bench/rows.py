"""The rows F1 to F5, each a function that measures and returns plain figures. Targets take turns within a run, so that
a machine that drifts drifts under all of them; medians over the rounds are reported."""

import asyncio
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

import uvloop

from bench.accounts import cpu_seconds, memory
from bench.broker import ShippedBroker, installed
from bench.figures_money import MoneyMeasured
from bench.load import Load, chat_body, finish_streams, open_streams, wrk
from bench.targets import OUT, Target, descriptors

SMALL, LARGE = 2_048, 200_000


@dataclass(frozen=True)
class Case:
    """One cell of F1: how the load looks. Durability is Bursar's own setting and is named with its target."""

    concurrency: int
    body: int
    tls: bool = False

    @property
    def words(self) -> str:
        size = f"{self.body // 1000} kB" if self.body >= 1000 else f"{self.body} B"
        return f"c={self.concurrency}, {size} body, {'TLS' if self.tls else 'plain'}"


@dataclass
class Figures:
    """Medians over the rounds. Microseconds."""

    cpu_us: float
    p50: float
    p99: float
    requests: int
    spread: tuple[float, float] = (0.0, 0.0)  # least and most of cpu_us
    refused: int = 0


@dataclass
class Measured:
    """Everything a run found out, for the report."""

    f1: dict[Case, dict[str, Figures]] = field(default_factory=dict)
    f2: dict[str, Figures] = field(default_factory=dict)
    f3: dict[str, Figures] = field(default_factory=dict)
    f4: dict[str, float] = field(default_factory=dict)
    f5: dict[str, float] = field(default_factory=dict)
    many_keys: dict[str, float] = field(default_factory=dict)
    tokens: dict[str, float] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)
    f6: MoneyMeasured | None = None
    added: dict[str, Figures] = field(default_factory=dict)
    audit: dict[str, float] = field(default_factory=dict)
    vault: dict[str, float] = field(default_factory=dict)
    rewrap: dict[str, Figures] = field(default_factory=dict)


def per_request(target: Target, case: Case, seconds: float) -> tuple[float, Load]:
    """CPU microseconds per request, over every process of the target, for one turn."""
    pids = target.pids
    before = cpu_seconds(pids)
    load = wrk(target, body=chat_body(case.body), concurrency=case.concurrency, seconds=seconds, tls=case.tls)
    return (cpu_seconds(pids) - before) / load.requests * 1e6, load


def _figures(turns: Sequence[tuple[float, Load]]) -> Figures:
    costs = [cost for cost, _ in turns]
    return Figures(
        cpu_us=statistics.median(costs),
        p50=statistics.median(load.p50 for _, load in turns),
        p99=statistics.median(load.p99 for _, load in turns),
        requests=sum(load.requests for _, load in turns),
        spread=(min(costs), max(costs)),
        refused=sum(load.refused for _, load in turns),
    )


def f1_cpu(case: Case, targets: Sequence[Target], rounds: int, seconds: float) -> dict[str, Figures]:
    """CPU per plain request. The first turn of each target warms it up and is not counted."""
    for target in targets:
        per_request(target, case, 1)
    turns: dict[str, list[tuple[float, Load]]] = {target.name: [] for target in targets}
    for _ in range(rounds):
        for target in targets:
            turns[target.name].append(per_request(target, case, seconds))
    return {name: _figures(found) for name, found in turns.items()}


async def _stream_cost(target: Target, streams: int, events: int, pause_ms: int) -> tuple[float, int]:
    body = chat_body(SMALL, stream=True, events=events, pause_ms=pause_ms)
    pids = target.pids
    running = await open_streams(target, body, streams, per_second=2_000)
    seen, before = sum(stream.events for stream in running), cpu_seconds(pids)
    while min(stream.events for stream in running) < events - 10:
        await asyncio.sleep(0.05)
    used, passed = cpu_seconds(pids) - before, sum(stream.events for stream in running) - seen
    await finish_streams(running, 60)
    return used / passed * 1e6, passed


def f2_events(targets: Sequence[Target], rounds: int, streams: int = 64, events: int = 400) -> dict[str, Figures]:
    """CPU per streamed event, events coming one by one (10 ms apart on each stream); heads and ends not counted."""
    turns: dict[str, list[tuple[float, int]]] = {target.name: [] for target in targets}
    for _ in range(rounds):
        for target in targets:
            turns[target.name].append(uvloop.run(_stream_cost(target, streams, events, 10)))
    return {
        name: Figures(
            cpu_us=statistics.median(cost for cost, _ in found),
            p50=0,
            p99=0,
            requests=sum(count for _, count in found),
            spread=(min(cost for cost, _ in found), max(cost for cost, _ in found)),
        )
        for name, found in turns.items()
    }


def f3_latency(targets: Sequence[Target], rounds: int, seconds: float) -> dict[str, Figures]:
    """Latency at c = 1, the upstream itself (`direct`) among the targets; what is added is the difference."""
    return f1_cpu(Case(1, SMALL), targets, rounds, seconds)


def f3_under_scrape(target: Target, metrics_url: str, rounds: int, seconds: float) -> Figures:
    """The same while the metrics are scraped ten times a second (a thousand times the usual rate)."""
    command = [sys.executable, "-c", _SCRAPE, metrics_url]
    scraper = subprocess.Popen(command)
    try:
        return f1_cpu(Case(1, SMALL), [target], rounds, seconds)[target.name]
    finally:
        scraper.terminate()
        scraper.wait()


_SCRAPE = """
import sys, time, urllib.request
while True:
    urllib.request.urlopen(sys.argv[1], timeout=10).read()
    time.sleep(0.1)
"""


def f4_memory(target: Target, wanted: int = 10_000) -> dict[str, float]:
    """Idle memory, then with streams open. The streams are as many as this machine lets one process hold."""
    count = min(wanted, (descriptors() - 400) // 2)
    idle = memory(target.pids)
    open_now = uvloop.run(_hold_open(target, count))
    return {
        "idle_rss": idle.rss,
        "idle_pss": idle.pss,
        "streams": count,
        "open_rss": open_now[0],
        "open_pss": open_now[1],
    }


async def _hold_open(target: Target, count: int) -> tuple[int, int]:
    # One event a minute or so: the streams are open, not busy. They are left, not ended, when the figure is taken.
    body = chat_body(SMALL, stream=True, events=100, pause_ms=60_000)
    running = await open_streams(target, body, count, per_second=1_500)
    await asyncio.sleep(2)
    found = memory(target.pids)
    for stream in running:
        stream.transport.abort()
    await asyncio.sleep(1)
    return found.rss, found.pss


def f5_start(rounds: int) -> dict[str, float]:
    """Seconds from the command to the first 200 of /readyz: the very first start of a folder, and later ones."""
    broker = ShippedBroker(OUT / "start", "http://127.0.0.1:9", {})
    first = broker.seconds_to_serving()
    again = []
    for _ in range(max(rounds, 2)):
        broker.stop()
        again.append(broker.seconds_to_serving())
    broker.stop()
    return {"first": first, "again": statistics.median(again), **installed()}

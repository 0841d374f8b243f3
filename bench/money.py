"""F6, the money of many nodes: three processes hold and settle on one PostgreSQL, and what they booked is proven.

Each process is a node's store as shipped, with as many calls in flight as named, each of which holds and posts at once:
nothing but money is measured. The same is done on the journal of one node, for what the database costs a call more.
Run as a module with arguments it is one of those processes.
"""

import asyncio
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import uvloop

from bench.figures_money import MoneyFigures, MoneyMeasured
from bursar.app.clock import SystemClock
from bursar.control.verify_ledger_rows import verify_rows
from bursar.core.directory import BudgetDef, WindowDef
from bursar.core.errors import Refusal
from bursar.core.ledger import Held, HoldRequest, Settlement
from bursar.core.secret import Secret
from bursar.stores.journal import Journal
from bursar.stores.postgres import Address, Postgres
from bursar.stores.postgres_money import PostgresMoney
from bursar.stores.postgres_schema import migrate
from tests.postgres import PostgresServer

NODES = 3
LIMIT = 10**18
COST = 1_000
ALTERNATIONS = 4  # of one hot budget and a thousand


def measure(seconds: float) -> MoneyMeasured:
    server = PostgresServer(settings={"fsync": "on", "shared_buffers": "256MB", "max_wal_size": "2GB"}).start()
    try:
        one, many = _cases(server, seconds / 2, in_flight=64, budgets=(1, 1000), turns=ALTERNATIONS)
        cases = {
            "one hot budget, 64 in flight a node": one,
            "1,000 budgets, 64 in flight a node": many,
            "one hot budget, 16 in flight a node": _cases(server, seconds, in_flight=16)[0],
            "one node, 16 in flight": _cases(server, seconds, in_flight=16, nodes=1)[0],
            "one node, 1 in flight": _cases(server, seconds, in_flight=1, nodes=1)[0],
        }
        journal = asyncio.run(_on_journal(seconds))
        added = cases["one node, 16 in flight"].node_us - journal
        return MoneyMeasured(cases, added, asyncio.run(_recovery(server.new_database())))
    finally:
        server.close()


def _cases(
    server: PostgresServer,
    seconds: float,
    *,
    in_flight: int,
    budgets: Sequence[int] = (1,),
    turns: int = 1,
    nodes: int = NODES,
) -> list[MoneyFigures]:
    """One case for each number of budgets, by the same processes, which take turns at the same moments: a machine that
    drifts drifts under all of them. Rates and costs are medians over the turns; the first of each warms up."""
    url = server.new_database()
    asyncio.run(_prepare(url, max(budgets)))
    words = [sys.executable, "-m", "bench.money", url, str(seconds), str(in_flight), str(turns)]
    words.append(",".join(map(str, budgets)))
    pipe = subprocess.PIPE
    running = [subprocess.Popen([*words, str(n)], stdin=pipe, stdout=pipe, text=True) for n in range(nodes)]
    for process in running:
        assert process.stdout is not None
        process.stdout.readline()  # it is ready
    begin = time.monotonic() + 0.1
    for process in running:
        assert process.stdin is not None
        process.stdin.write(f"{begin}\n")
        process.stdin.flush()
    database = []
    for turn in range(len(budgets) * (turns + 1) + 1):
        time.sleep(max(0.0, begin + turn * seconds - time.monotonic()))
        database.append(_cpu_of(server))
    told: list[dict[str, Any]] = [json.loads(process.communicate()[0]) for process in running]
    exact = asyncio.run(_is_exact(url, sum(one["cost"] for one in told)))
    return [_figures(told, database, place, len(budgets), exact=exact) for place in range(len(budgets))]


def _figures(
    told: Sequence[dict[str, Any]], database: Sequence[float], place: int, of: int, *, exact: bool
) -> MoneyFigures:
    turns = range(of + place, len(database) - 1, of)
    calls = {turn: sum(one["turns"][turn]["calls"] for one in told) for turn in turns}
    cpu = {turn: sum(one["turns"][turn]["cpu"] for one in told) for turn in turns}
    waits = sorted(wait for turn in turns for one in told for wait in one["turns"][turn]["waits"])
    return MoneyFigures(
        rate=statistics.median(sum(one["turns"][turn]["rate"] for one in told) for turn in turns),
        node_us=statistics.median(cpu[turn] / calls[turn] for turn in turns) * 1e6,
        database_us=statistics.median((database[turn + 1] - database[turn]) / calls[turn] for turn in turns) * 1e6,
        p50_ms=statistics.median(waits) * 1e3,
        p99_ms=waits[len(waits) * 99 // 100] * 1e3,
        exact=exact,
        refused=sum(one["turns"][turn]["refused"] for turn in turns for one in told),
    )


def _cpu_of(server: PostgresServer) -> float:
    """Seconds of the postmaster with all that it has waited for, and of those that run now."""
    postmaster = psutil.Process(server.pid)
    times = postmaster.cpu_times()
    total = times.user + times.system + times.children_user + times.children_system
    for child in postmaster.children():
        own = child.cpu_times()
        total += own.user + own.system
    return float(total)


async def _prepare(url: str, budgets: int) -> None:
    store = Postgres(Address(url=Secret(url)))
    for part in ("directory", "money"):
        await migrate(store, part)
    money = PostgresMoney(store, "first")
    await money.start()
    for definition in definitions(budgets):
        money.define(definition)
    held = await money.hold(request(0, ("b0",)))  # its window, its label
    money.void(held.hold_id, "unsent")
    await money.close()
    await store.close()


def definitions(budgets: int) -> list[BudgetDef]:
    window = WindowDef(kind="lifetime")
    facts: Any = {"version": 1, "subject_kind": "team", "subject": "t", "limit_pico": LIMIT, "window": window}
    return [BudgetDef(id=f"b{n}", **facts) for n in range(budgets)]


def request(number: int, budgets: tuple[str, ...]) -> HoldRequest:
    return HoldRequest(
        f"req_{number:016x}",
        1,
        key_id="key",
        team_id="team",
        owner_id="owner",
        user="",
        provider="openai",
        model="gpt-4o-mini",
        secret_id="secret",
        price_id="openai/gpt-4o-mini@1",
        price_digest="digest",
        directory_version=1,
        ceiling_pico=2 * COST,
        expected_pico=COST,
        input_ceiling=2_000,
        output_ceiling=500,
        budgets=budgets,
    )


async def _is_exact(url: str, cost: int) -> bool:
    """Proven row by row, and what it says was spent is what was spent."""
    db = await asyncpg.connect(url)
    try:
        report = await verify_rows(db)
    finally:
        await db.close()
    return report.ok and sum(budget.spent for budget in report.budgets) == cost


async def _recovery(url: str) -> float:
    """From the notice that a node is dead to the last of its 10,000 holds being booked."""
    await _prepare(url, 1)
    store = Postgres(Address(url=Secret(url)))
    dead, living = (PostgresMoney(store, name, lease_s=3600, hold_s=10) for name in ("dead", "living"))
    for money in (dead, living):
        await money.start()
        money.define(definitions(1)[0])
    for start in range(0, 10_000, 500):
        await asyncio.gather(*(dead.hold(request(start + n, ("b0",))) for n in range(500)))
    async with store.connection() as db:
        await db.execute("UPDATE bursar.ledger_session SET seen_ns = 1 WHERE node = 'dead'")
    began = time.monotonic()
    booked = await living.recover(at_once=True)
    took = time.monotonic() - began
    if booked < 10_000:
        raise RuntimeError(f"{booked} of 10,000 holds were booked")
    await living.close()
    await dead.close()
    await store.close()
    return took


async def _on_journal(seconds: float) -> float:
    """A node's CPU a call on its own journal."""
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal.open(Path(folder), SystemClock())
        for definition in definitions(1):
            journal.define(definition)
        load = Load(journal, 1, 16)
        await load.run(seconds)
        journal.close()
        return load.cpu / load.calls * 1e6


class Load:
    """Calls in flight on one node, each of which holds and posts, again and again."""

    def __init__(self, money: Any, budgets: int, in_flight: int, place: int = 0) -> None:
        self._money = money
        self._names: Sequence[tuple[str, ...]] = [(f"b{n}",) for n in range(budgets)]
        self._in_flight = in_flight
        self._dice = random.Random(place)
        self._number = place << 40
        self.calls = self.refused = self.cost = 0
        self.cpu = 0.0
        self.waits: list[float] = []

    async def run(self, seconds: float) -> None:
        await self.until(time.monotonic() + seconds / 4)  # warms up
        before = self.calls
        cpu = time.process_time()
        await self.until(time.monotonic() + seconds)
        self.cpu = time.process_time() - cpu
        self.calls -= before

    async def turn(self, end: float) -> dict[str, Any]:
        """What came about until then."""
        before, refused, began, cpu = self.calls, self.refused, time.monotonic(), time.process_time()
        self.waits.clear()
        await self.until(end)
        calls = self.calls - before
        return {
            "calls": calls,
            "rate": calls / (time.monotonic() - began),
            "refused": self.refused - refused,
            "cpu": time.process_time() - cpu,
            "waits": self.waits[:: max(1, len(self.waits) // 2_000)],
        }

    async def until(self, end: float) -> None:
        """By `time.monotonic`."""
        await asyncio.gather(*(self._caller(end) for _ in range(self._in_flight)))

    async def _caller(self, end: float) -> None:
        while (began := time.monotonic()) < end:
            self._number += 1
            try:
                held: Held = await self._money.hold(request(self._number, self._dice.choice(self._names)))
            except Refusal:
                self.refused += 1
                await asyncio.sleep(0.01)
                continue
            self.waits.append(time.monotonic() - began)
            self._money.post(held.hold_id, Settlement(COST, None, True, "ok"))
            self.cost += COST
            self.calls += 1
            await asyncio.sleep(0)


async def node(url: str, seconds: float, in_flight: int, turns: int, budgets: str, place: int) -> None:
    """One process: ready, told when to begin, and its figures as JSON."""
    store = Postgres(Address(url=Secret(url)))
    money = PostgresMoney(store, f"node-{place}")
    await money.start()
    numbers = [int(number) for number in budgets.split(",")]
    for definition in definitions(max(numbers)):
        money.define(definition)
    loads = [Load(money, number, in_flight, place * len(numbers) + which) for which, number in enumerate(numbers)]
    await loads[-1].until(time.monotonic() + 0.1)  # all definitions are taken
    print("ready", flush=True)
    begin = float(await asyncio.to_thread(sys.stdin.readline))
    await asyncio.sleep(max(0.0, begin - time.monotonic()))
    told = [
        await loads[turn % len(loads)].turn(begin + (turn + 1) * seconds) for turn in range(len(loads) * (turns + 1))
    ]
    await money.close()
    await store.close()
    print(json.dumps({"cost": sum(load.cost for load in loads), "turns": told}))


if __name__ == "__main__":
    _url, _seconds, _in_flight, _turns, _budgets, _place = sys.argv[1:]
    uvloop.run(node(_url, float(_seconds), int(_in_flight), int(_turns), _budgets, int(_place)))

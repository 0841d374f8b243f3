"""A fleet: brokers as real processes over one PostgreSQL, each with a folder, ports and an emulator of its own.

    with Fleet(folder) as fleet:
        a, b, c = fleet.start()
        key = Tenants(a).key(budget={"limit_usd": "1.00"})
        fleet.call(b, key.text)

The server is the fleet's own, so that a test may stop, restart or kill it. Brokers are `tests.e2e.broker.Broker`s: they
can be killed process by process, stopped and started again. `books` and `billed` are what money is checked against.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import httpx

from bursar.providers.emulator import read_bill
from tests.e2e.broker import Broker, merged
from tests.faults.books import price_of
from tests.postgres import PostgresServer

NAMES = ("a", "b", "c")
MODEL = "gpt-4o-mini"
CHAT: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 64}


class Books(NamedTuple):
    """One budget in the database, read past Bursar. Pico-USD."""

    limit: int
    posted: int
    held: int


class Fleet:
    """Not started until `start`. `settings` go into every node's bursar.yaml, `env` into every process."""

    def __init__(
        self,
        folder: Path,
        names: tuple[str, ...] = NAMES,
        settings: dict[str, Any] | None = None,
        env: dict[str, str] | None = None,
        server: PostgresServer | None = None,
    ) -> None:
        self.server = PostgresServer() if server is None else server
        self.url = ""
        self._folder = folder
        self._settings = settings or {}
        self._env = env or {}
        self._names = names
        self.nodes: list[Broker] = []

    def __enter__(self) -> "Fleet":
        self.server.start()
        self.url = self.server.new_database()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close_nodes()
        self.server.close()

    def _close_nodes(self) -> None:
        with ThreadPoolExecutor(max(1, len(self.nodes))) as threads:
            list(threads.map(Broker.close, self.nodes))

    # -- life

    def start(self) -> list[Broker]:
        """All nodes, the first one first: it makes the wrapping key that all share."""
        for name in self._names:
            self.add(name).start(60)
        return self.nodes

    def add(self, name: str, **settings: Any) -> Broker:
        """Another node, not yet started."""
        shared = {
            "node": name,
            "store": {"kind": "postgres", "url": self.url},
            "wrapper": {"path": str(self._folder / "wrapping.key")},
        }
        config = merged(merged(shared, self._settings), settings)
        self.nodes.append(Broker(self._folder / name, config, self._env))
        return self.nodes[-1]

    # -- calls

    def call(self, node: Broker, key: str, timeout: float = 30.0, **changes: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {key}"}
        url = f"{node.url}/v1/chat/completions"
        return httpx.post(url, json={**CHAT, **changes}, headers=headers, timeout=timeout)

    def calls_until(self, node: Broker, key: str, wanted: Callable[[httpx.Response], bool], seconds: float) -> float:
        """Call until an answer is as wanted -> seconds that took."""
        began = time.monotonic()
        while True:
            with contextlib.suppress(httpx.TransportError):
                answer = self.call(node, key)
                if wanted(answer):
                    return time.monotonic() - began
                assert time.monotonic() < began + seconds, f"{answer.status_code} {answer.text}"
            assert time.monotonic() < began + seconds
            time.sleep(0.01)

    def load(self, key: str, calls: int, at_once: int = 16) -> list[httpx.Response]:
        """That many calls, spread over all nodes, `at_once` of them in flight."""
        return asyncio.run(_load([node.url for node in self.nodes], key, calls, at_once))

    # -- money

    def books(self, budget_id: str) -> Books:
        row = self.psql(
            f"""SELECT b."limit", b.posted, b.held FROM bursar.ledger_budget b
                JOIN bursar.ledger_definition d ON d.budget = b.no WHERE d.id = '{budget_id}'"""
        )
        return Books(*map(int, row.split("|")))

    def billed(self) -> int:
        """What the emulators of all nodes have charged so far, in pico-USD, by an arithmetic of the tests' own."""
        bills = (node.data / "emulator" / "bill.jsonl" for node in self.nodes)
        return sum(price_of(charge) for bill in bills for charge in read_bill(bill))

    def psql(self, statement: str) -> str:
        return self.server.psql(statement, self.url.rpartition("/")[2])


async def _load(urls: list[str], key: str, calls: int, at_once: int) -> list[httpx.Response]:
    limits = httpx.Limits(max_connections=at_once, max_keepalive_connections=at_once)
    headers = {"authorization": f"Bearer {key}"}
    turns = iter(range(calls))
    answers: list[httpx.Response] = []

    async def caller(client: httpx.AsyncClient, turns: Iterator[int]) -> None:
        for turn in turns:
            url = f"{urls[turn % len(urls)]}/v1/chat/completions"
            answers.append(await client.post(url, json=CHAT, headers=headers))

    async with httpx.AsyncClient(timeout=60, limits=limits) as client:
        await asyncio.gather(*(caller(client, turns) for _ in range(at_once)))
    return answers

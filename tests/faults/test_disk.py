"""The disk is full: money closes with a clear word, what is under way goes on, nothing is lost, it opens by itself."""

import asyncio
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from tests.e2e.broker import Broker
from tests.e2e.tenants import Tenants
from tests.faults.books import Books, covers, until
from tests.faults.caller import Answer, ask, asking, script


@contextmanager
def no_room(broker: Broker, books: Books, more: int) -> Iterator[None]:
    """No file of the gateway may grow beyond the present size of its journal and `more` bytes (RLIMIT_FSIZE)."""
    gateway = broker.pids()["gateway"]
    newest = max(books.journal.glob("journal-*.log"))
    usual = resource.prlimit(gateway, resource.RLIMIT_FSIZE)
    resource.prlimit(gateway, resource.RLIMIT_FSIZE, (newest.stat().st_size + more, usual[1]))
    try:
        yield
    finally:
        with suppress(ProcessLookupError):  # the limit has died with its process
            resource.prlimit(gateway, resource.RLIMIT_FSIZE, usual)


class Scene:
    """A broker with one key, and calls that are told apart by their input tokens."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.books = Books(broker.data)
        self.key = Tenants(broker).key(budget={"limit_usd": "50"})
        self.numbers = count(301)
        self.asked: list[int] = []

    async def call(self, **said: object) -> Answer:
        number = next(self.numbers)
        self.asked.append(number)
        body = asking("openai", "x" * 1500 + script(input=number, output=8, **said), stream=bool(said))
        return await ask(self.broker.data_port, self.key.text, body)

    async def until_word(self, word: str, seconds: float = 30) -> Answer:
        deadline = time.monotonic() + seconds
        while (answer := await self.call()).word != word:
            assert time.monotonic() < deadline, f"still {answer.word or answer.status}, not {word}"
        return answer

    def whole_books(self, served: int) -> None:
        """Everything that was dispatched is in the ledger, settled."""
        rows = self.books.settled(self.key.id, served)
        covers(rows, self.books.billed(self.asked, served))
        report = self.books.proven()
        assert report.open_holds == 0
        assert sum(row.cost for row in rows) == sum(spend.cost for spend in report.spend)


@pytest.fixture
def scene(make_broker: Callable[..., Broker]) -> Scene:
    return Scene(make_broker().start())


@pytest.mark.parametrize("more", [0, 700])
def test_a_full_disk_closes_money_and_loses_nothing(scene: Scene, more: int) -> None:
    async def play() -> int:
        assert (await scene.call()).status == 200
        under_way = [asyncio.create_task(scene.call(chunk_ms=120)) for _ in range(5)]
        await asyncio.to_thread(until, lambda: len(scene.books.attempts(scene.key.id)) == 6)
        with no_room(scene.broker, scene.books, more):
            refused = await scene.until_word("store_unavailable")
            assert refused.status == 503
            assert int(refused.headers["retry-after"]) >= 1
            assert refused.headers["x-should-retry"] == "true"
            assert "No space" not in refused.body.decode(), "the system's words are for the operator"
            served = [await task for task in under_way]  # they end while nothing can be written
            assert all(answer.whole for answer in served)
            assert (await scene.call()).word == "store_unavailable"
        began = time.monotonic()
        await scene.until_word("")
        assert time.monotonic() - began < 10, "it opens by itself, soon"
        return len(served)

    asyncio.run(play())
    charged = len(scene.books.charges(scene.asked))
    scene.whole_books(charged)
    assert all(row.exact for row in scene.books.attempts(scene.key.id) if row.state == "POSTED")
    assert scene.broker.stop() == 0
    assert scene.broker.cli("ledger", "verify").returncode == 0


def test_killed_while_the_disk_is_full(scene: Scene) -> None:
    """What could not be written is unreconciled after the restart: at its ceiling, never lost."""

    async def play() -> None:
        under_way = [asyncio.create_task(scene.call(chunk_ms=120)) for _ in range(5)]
        await asyncio.to_thread(until, lambda: len(scene.books.attempts(scene.key.id)) == 5)
        with no_room(scene.broker, scene.books, 60):
            await scene.until_word("store_unavailable")
            for task in under_way:
                assert (await task).whole
            old = scene.broker.kill("gateway", signal.SIGKILL)
            scene.broker.wait_replaced("gateway", old)
        assert (await scene.call()).status == 200

    asyncio.run(play())
    scene.whole_books(len(scene.books.charges(scene.asked)))
    rows = scene.books.attempts(scene.key.id)
    assert 0 < sum(row.outcome == "unreconciled" for row in rows) <= 6


def test_control_without_room_says_so_and_stops_nobody(scene: Scene) -> None:
    """Directory, audit and read model cannot be written: changes are refused, calls go on, and all catch up."""
    broker, tenants = scene.broker, Tenants(scene.broker)

    def change() -> tuple[int, str]:
        answer = broker.admin("POST", "/v1/admin/teams", json={"name": "Late team", "owner": tenants.owner})
        return answer.status_code, answer.json().get("code", "")

    assert asyncio.run(scene.call()).status == 200  # the gateway has its lease now; without an audit it gets none
    with no_growth(broker.pids()["control"]):
        for _ in range(3):
            status, word = change()
            assert status == 503
            assert word in ("audit_unavailable", "directory_unavailable")
        for _ in range(10):
            assert asyncio.run(scene.call()).status == 200
    until(lambda: change()[0] == 201, 10, "the directory to be open again")
    rows = scene.books.settled(scene.key.id, 11)
    until(lambda: scene.books.projected(scene.key.id) == rows, told="ledger.db to catch up")
    names = [team["name"] for team in broker.admin("GET", "/v1/admin/teams").json()["items"]]
    assert names.count("Late team") == 1, "what was refused was not done"
    assert broker.stop() == 0
    assert broker.cli("audit", "verify").returncode == 0
    assert broker.cli("ledger", "verify").returncode == 0


@contextmanager
def no_growth(pid: int) -> Iterator[None]:
    """No file may be written by this process, nor by those it starts."""
    usual = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, usual[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, usual)


def test_the_supervisor_does_its_work_without_room(scene: Scene) -> None:
    """Neither its log nor run/pids.json can be written, control cannot start: calls go on, and all comes back."""
    broker = scene.broker
    assert broker.process is not None
    assert asyncio.run(scene.call()).status == 200
    others, seen = set(broker.pids().values()), set[int]()
    broker.kill("control")

    def tried(times: int) -> bool:
        seen.update(children(broker) - others)
        return len(seen) >= times

    with no_growth(broker.process.pid):
        for times in (2, 3):
            until(partial(tried, times), 20, f"control to be started {times} times")
            assert asyncio.run(scene.call()).status == 200
    until(lambda: broker.admin("GET", "/v1/admin/teams").status_code == 200, 30, "control to be back")
    old = broker.kill("gateway")
    broker.wait_replaced("gateway", old)
    asyncio.run(scene.until_word(""))
    assert broker.process.poll() is None


def children(broker: Broker) -> set[int]:
    assert broker.process is not None
    pid = broker.process.pid
    return {int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}

"""A crowd of callers on all brokers of a fleet, and a killer of processes: nodes, children of nodes, stores.

What is done to the fleet comes from a seed; when exactly it hits is what is left to chance.
"""

import asyncio
import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import asyncpg
import httpx

from bursar.control.verify_ledger_rows import RowsReport, verify_rows
from bursar.core.errors import RULES
from bursar.providers.emulator import Charge
from tests.e2e.broker import Broker
from tests.e2e.tenants import MadeKey, Tenants
from tests.faults.books import Attempt, covers, price_of, until
from tests.faults.caller import Answer, ask, asking, script
from tests.fleet.harness import Fleet
from tests.postgres import PostgresServer
from tests.redis_server import RedisServer

CALLERS = 3  # of each node
PATIENCE = 90.0  # seconds until something must have come back by itself
TIGHT_STEP = 0.02  # USD: the tight budget begins with it and is raised by it, so that it is tight all the time
SPENDABLE = {"tight", "tight too", "soft"}  # keys whose budget may be spent in the end
REFUSALS = {
    "budget_exhausted",
    "held_by_requests_in_flight",
    "can_never_fit",
    "rate_limited",
    "concurrency_limited",
    "store_unavailable",
    "directory_stale",
    "not_ready",
    "secrets_unavailable",  # control was away, and the gateway, just begun, had no lease of a provider key yet
    "audit_unavailable",  # nor could the release of one be written down
    "upstream_unreachable",
    "upstream_unavailable",  # it was away for a while
    "upstream_broken",  # the emulator died in the middle of its answer
}
_TPM = {"id": "tpm", "unit": "tokens", "amount": 60_000, "per_seconds": 60}
_SLOTS = {"id": "slots", "unit": "concurrency", "amount": 3}


def made_keys(tenants: Tenants) -> tuple[dict[str, MadeKey], str]:
    """The keys by what binds them; the tight budget, which two of them share."""
    team = tenants.team()
    tight = tenants.budget("team", team, limit_usd=str(TIGHT_STEP))
    keys = {
        "tight": tenants.key(team=team),
        "tight too": tenants.key(team=team, budget={"limit_usd": "50"}),
        "roomy": tenants.key(budget={"limit_usd": "50"}),
        "soft": tenants.key(budget={"limit_usd": "0.01", "hard": False}),
        "tokens": tenants.key({"limits": [_TPM]}, budget={"limit_usd": "50"}),
        "slots": tenants.key({"limits": [_SLOTS]}, budget={"limit_usd": "50", "hard": False}),
    }
    return keys, tight


class Crowd:
    """Callers in a thread of their own, until `stop`. Every call has input tokens that no other has."""

    def __init__(self, nodes: list[Broker], keys: Mapping[str, MadeKey], seed: str) -> None:
        self.nodes, self.keys = nodes, keys
        self.chance = random.Random(seed)
        self.key_of: dict[int, str] = {}  # input tokens -> id of the key
        self.under_way: set[int] = set()  # numbers of calls whose caller waits
        self.seen: Counter[str] = Counter()  # of answers: `whole`, `broken off`, `left`, a word
        self.strange: list[str] = []  # answers that nobody may get
        self._numbers = count(301)
        self._over = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """All calls have come to their end."""
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()

    async def call(self, node: Broker, key: MadeKey, *, leaves: bool = True) -> str:
        """One call -> what came of it."""
        number, chance = next(self._numbers), self.chance
        body = self._body(number, key)
        leave = chance.randint(0, 2) if leaves and chance.random() < 0.15 else None
        self.under_way.add(number)
        try:
            answer = await ask(node.data_port, key.text, body, leave_after=leave, seconds=PATIENCE)
        except TimeoutError:
            self.strange.append(f"nothing came for {PATIENCE} s")
            return "nothing"
        finally:
            self.under_way.discard(number)
        found, fault = judged(answer, body["stream"], body["model"])
        if fault:
            self.strange.append(f"{fault}: {answer.status} {answer.headers} {answer.body[-400:]!r}")
        self.seen[found] += 1
        return found

    def _body(self, number: int, key: MadeKey) -> dict[str, Any]:
        chance = self.chance
        self.key_of[number] = key.id
        said: dict[str, Any] = {"input": number, "output": chance.randint(1, 40), "chunks": chance.randint(1, 6)}
        if chance.random() < 0.4:
            said["chunk_ms"] = 30
        text = "x" * number + script(**said)
        return asking(chance.choice(["openai", "anthropic"]), text, max_tokens=40, stream=chance.random() < 0.6)

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for node in self.nodes:
                for _ in range(CALLERS):
                    group.create_task(self._call_on(node))

    async def _call_on(self, node: Broker) -> None:
        while not self._over.is_set():
            name = self.chance.choice(list(self.keys))
            found = await self.call(node, self.keys[name])
            await asyncio.sleep(0.01 if found in ("whole", "left") else 0.1)  # as a caller should


def judged(answer: Answer, stream: bool, model: str) -> tuple[str, str]:
    """What an answer is, and what is wrong with it ("" = nothing)."""
    if answer.left:
        return "left", ""
    if not answer.whole:
        return "broken off", ""  # the framing says so: a length that is not reached, no last chunk
    if answer.status == 200:
        return _judged_whole(answer, stream, model)
    word = answer.word
    known = word in REFUSALS and RULES[word].status == answer.status
    return word or "no word", "" if known else "a refusal that is none of the expected ones"


def _judged_whole(answer: Answer, stream: bool, model: str) -> tuple[str, str]:
    if not stream:
        return "whole", "" if "usage" in answer.json else "an answer without usage"
    if any("error" in event for event in answer.events):
        return "broken off", ""
    end = b"message_stop" if model.startswith("claude") else b"data: [DONE]"
    return "whole", "" if end in answer.body else "a stream that ends as if it were whole, and is not"


@dataclass
class Killer:
    """Wounds one thing after the other; nothing is mended by it but what it has taken away itself."""

    fleet: Fleet
    redis: RedisServer
    crowd: Crowd
    tight: str
    chance: random.Random
    done: list[str] = field(default_factory=list)
    raised: int = 0  # times that the tight budget was raised

    def run(self, seconds: float) -> None:
        blows: dict[Callable[[], None], int] = {
            self._gateway: 4,
            self._control: 3,
            self._node: 3,
            self._postgres_killed: 2,
            self._postgres_restarted: 2,
            self._redis: 3,
        }
        over = time.monotonic() + seconds
        first = [*blows]
        self.chance.shuffle(first)  # each of them once, then by weight
        while time.monotonic() < over:
            blow = first.pop() if first else self.chance.choices([*blows], [*blows.values()])[0]
            blow()
            whole = self.crowd.seen["whole"]
            until(lambda whole=whole: self.crowd.seen["whole"] > whole, PATIENCE, "anything to be served")  # type: ignore[misc]
            time.sleep(self.chance.uniform(0.2, 1.5))
            self._raise_tight()

    def _gateway(self) -> None:
        self._child("gateway")

    def _control(self) -> None:
        self._child("control")

    def _child(self, name: str) -> None:
        node = self.chance.choice(self.fleet.nodes)
        self.done.append(f"{name} of {node.folder.name}")
        _kill(node.pids().get(name, 0))

    def _node(self) -> None:
        """All its processes at once, as if the machine were gone; a little later it is there again."""
        node = self.chance.choice(self.fleet.nodes)
        self.done.append(f"node {node.folder.name}")
        pids = node.pids()
        for pid in pids.values():
            _kill(pid)
        assert node.process is not None
        node.process.wait(30)
        self._pause()
        node.start(PATIENCE)

    def _postgres_killed(self) -> None:
        self.done.append("PostgreSQL killed")
        self.fleet.server.stop(signal.SIGKILL)
        self._pause()
        self._also()
        started_again(self.fleet.server)

    def _postgres_restarted(self) -> None:
        self.done.append("PostgreSQL restarted")
        self.fleet.server.stop(signal.SIGINT)
        self._pause()
        self._also()
        self.fleet.server.start()

    def _redis(self) -> None:
        """It keeps nothing on disk: it comes back empty."""
        self.done.append("Redis killed")
        self.redis.kill()
        self._pause()
        self._also()
        self.redis.start()

    def _also(self) -> None:
        """A misfortune seldom comes alone."""
        if self.chance.random() < 0.5:
            self._child(self.chance.choice(["gateway", "control"]))
            self._pause()

    def _pause(self) -> None:
        time.sleep(self.chance.uniform(0.1, 1.5))

    def _raise_tight(self) -> None:
        """By whoever can; it is no matter if nobody can just now."""
        node = self.chance.choice(self.fleet.nodes)
        limit = TIGHT_STEP * (self.raised + 2)
        with contextlib.suppress(httpx.TransportError):
            answer = node.admin("PATCH", f"/v1/admin/budgets/{self.tight}", json={"limit_usd": f"{limit:.2f}"})
            self.raised += answer.status_code == 200


def _kill(pid: int) -> None:
    if pid:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def started_again(server: PostgresServer) -> None:
    """After kill -9 of its postmaster it does not start while one of its children is still about."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            server.start()
            return
        except AssertionError:
            assert time.monotonic() < deadline, server.log.read_text(errors="replace")[-4000:]
            time.sleep(0.1)


# ---- the books

_ATTEMPTS = """SELECT h.hold_id, l.key_id, l.names ->> 'model' AS model,
    CASE WHEN v.hold_id IS NOT NULL THEN 'VOIDED' WHEN p.hold_id IS NULL THEN 'HELD' ELSE 'POSTED' END AS state,
    h.amount AS held, coalesce(p.amount, 0) + coalesce(c.amount, 0) AS cost, coalesce(p.overage, 0) AS overage,
    coalesce(p.exact, false) AND c.hold_id IS NULL AS exact, coalesce(p.word, '') AS outcome,
    coalesce(p.input_tokens, 0) AS input_tokens, coalesce(p.output_tokens, 0) AS output_tokens, h.attempt, h.t_ns
    FROM bursar.ledger h JOIN bursar.ledger_label l ON l.id = h.label
    LEFT JOIN bursar.ledger p ON p.kind = 6 AND p.hold_id = h.hold_id
    LEFT JOIN bursar.ledger v ON v.kind = 7 AND v.hold_id = h.hold_id
    LEFT JOIN (SELECT hold_id, sum(amount)::bigint AS amount FROM bursar.ledger WHERE kind = 8 GROUP BY hold_id) c
        ON c.hold_id = h.hold_id
    WHERE h.kind = 4 ORDER BY h.hold_id"""


async def _books_of(url: str) -> tuple[RowsReport, list[Attempt]]:
    db = await asyncpg.connect(url)
    try:
        report = await verify_rows(db)
        rows = await db.fetch(_ATTEMPTS)
    finally:
        await db.close()
    return report, [Attempt(**dict(row), price_id="") for row in rows]


def books_of(fleet: Fleet) -> tuple[RowsReport, list[Attempt]]:
    """What the independent reader says, and every dispatch as the rows have it. Nothing is open any more."""
    return asyncio.run(_books_of(fleet.url))


def covered(attempts: list[Attempt], charges: list[Charge]) -> None:
    """Never less than the bill; what the settle calls exact is, to the pico, a charge of the bill."""
    covers(attempts, charges)
    posted = [row for row in attempts if row.state == "POSTED"]
    billed = {charge.input: price_of(charge) for charge in charges}
    assert sum(row.cost for row in posted) >= sum(map(price_of, charges))
    for row in posted:
        assert not row.exact or billed.get(row.input_tokens) == row.cost, row
        assert row.exact or row.outcome != "ok", row

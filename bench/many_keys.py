"""F5 with a directory of many keys: from the command to the first 200 of /readyz, of one node and of one of a fleet.

The directory is put into the store past Bursar while none runs, as one change: making keys is not what is measured.
"""

import asyncio
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench.broker import ShippedBroker
from bench.targets import OUT
from bursar.core.directory import BudgetDef, Delta, KeySecret, Owner, Policy, Team, VirtualKey
from bursar.core.secret import Secret
from bursar.stores.directory_db import DirectoryDb
from bursar.stores.directory_postgres import DirectoryPostgres
from bursar.stores.postgres import Address, Postgres
from tests.postgres import PostgresServer

KEYS, TEAMS, OWNERS = 200_000, 2_000, 100


def directory(version: int, keys: int = KEYS) -> Delta:
    """Keys over teams over owners, a budget a team: what a large firm has."""
    rules = Policy(models=("gpt-*",), max_tokens_default=512)
    return Delta(
        version=version,
        owners=[Owner(id=f"bench-owner-{n}", name=f"Owner {n}") for n in range(OWNERS)],
        teams=[
            Team(id=f"bench-team-{n}", name=f"Team {n}", owner_id=f"bench-owner-{n % OWNERS}", policy=rules)
            for n in range(TEAMS)
        ],
        keys=[
            VirtualKey(
                id=f"bench{n:07}",
                name=f"service-{n}",
                team_id=f"bench-team-{n % TEAMS}",
                secrets=(KeySecret(digest=n.to_bytes(32, "big")),),
            )
            for n in range(keys)
        ],
        budgets=[
            BudgetDef(id=f"bench-budget-{n}", version=1, subject_kind="team", subject=f"bench-team-{n}", limit_pico=1)
            for n in range(TEAMS)
        ],
    )


def measure(rounds: int, keys: int = KEYS) -> dict[str, float]:
    """Seconds of a start by the name of the row."""
    single, shared = f"start with {keys:,} keys, one node, s", f"start with {keys:,} keys, one of a fleet, s"
    figures = {single: _starts(OUT / "many-keys", {}, rounds, lambda folder: _fill_folder(folder, keys))}
    server = PostgresServer(settings={"shared_buffers": "256MB", "max_wal_size": "2GB"}).start()
    try:
        url = server.new_database()
        config = {"store": {"kind": "postgres", "url": url}}
        figures[shared] = _starts(
            OUT / "many-keys-fleet", config, rounds, lambda _: asyncio.run(_fill_database(url, keys))
        )
    finally:
        server.close()
    return figures


def _starts(folder: Path, config: Mapping[str, Any], rounds: int, fill: Callable[[Path], None]) -> float:
    broker = ShippedBroker(folder, "http://127.0.0.1:9", config)
    broker.seconds_to_serving()  # makes the folder and its tables
    broker.stop()
    fill(folder)
    took = []
    try:
        for _ in range(rounds):
            took.append(broker.seconds_to_serving())
            broker.stop()
    finally:
        broker.stop()
    return statistics.median(took)


def _fill_folder(folder: Path, keys: int) -> None:
    store = DirectoryDb(folder / "data" / "directory.db")
    try:
        asyncio.run(store.commit(directory(store.version() + 1, keys), "bench", "bench.fill", 1))
    finally:
        store.close()


async def _fill_database(url: str, keys: int) -> None:
    async with asyncio.timeout(300):
        store = Postgres(Address(url=Secret(url)))
        try:
            directories = DirectoryPostgres(store)
            version = (await directories.snapshot()).version
            await directories.commit(directory(version + 1, keys), "bench", "bench.fill", 1)
        finally:
            await store.close()

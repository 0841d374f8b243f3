"""A store moves house: from a data folder to PostgreSQL, killed on the way, served from there, and moved back."""

import asyncio
import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx

from bursar.core.made_ids import MadeKind
from bursar.stores.made_ids_file import FILE, MadeIdsFile
from tests.conformance.test_made_ids import made
from tests.e2e.broker import Broker
from tests.fleet.harness import CHAT
from tests.gateway.fakes import FakeClock
from tests.postgres import PostgresServer


def made_key(broker: Broker, name: str) -> dict[str, Any]:
    return dict(broker.cli_json("keys", "create", "--team", "demo", "--name", name))


def call(broker: Broker, key: str) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"}
    return httpx.post(f"{broker.url}/v1/chat/completions", json=CHAT, headers=headers, timeout=30)


def settings(folder: Path, url: str, kind: str) -> dict[str, Any]:
    store = {"kind": "postgres", "url": url} if kind == "postgres" else {}
    wrapper = {"path": str(folder / "wrapping.key")}
    return {"node": "one", "store": store, "wrapper": wrapper}


def at(folder: Path, url: str, kind: str, data: Path | None = None) -> Broker:
    broker = Broker(folder / kind, settings(folder, url, kind))
    broker.data = data or broker.data
    return broker


def said(broker: Broker) -> dict[str, Any]:
    """What must be the same wherever it lies."""
    history = broker.cli_json("history")
    return {
        "keys": broker.cli_json("keys", "list"),
        "secrets": broker.cli_json("secrets", "list"),
        "history": history["items"] if isinstance(history, dict) else history,
    }


def test_a_store_moves_there_and_back_killed_on_the_way(tmp_path: Path, postgres_server: PostgresServer) -> None:
    dice, url = random.Random(1), postgres_server.new_database()
    home = at(tmp_path, url, "embedded").start(60)
    try:
        kept, disabled = made_key(home, "kept"), made_key(home, "disabled")
        for key in (kept, disabled):
            assert call(home, key["text"]).status_code == 200
        home.cli("keys", "disable", disabled["key"]["id"])
        before = said(home)
    finally:
        home.close()
    asyncio.run(keep_ids(home.data))

    fleet = at(tmp_path, url, "postgres", home.data)
    there = ("store", "migrate", "--from", "embedded", "--to", "postgres")
    looked = fleet.cli_json(*there, "--dry-run")
    assert looked["holds"] == 2
    assert postgres_server.psql("SELECT to_regclass('bursar.ledger')", url.rpartition("/")[2]) == ""
    moved = finished(fleet, there, dice)
    assert moved.get("holds", 2) == 2
    assert moved.get("audit records", 6) > 5
    named = "SELECT string_agg(id, ' ' ORDER BY id) FROM bursar.made_id"
    assert postgres_server.psql(named, url.rpartition("/")[2]) == "file-1 resp_1"
    assert fleet.cli_json("ledger", "verify")["holds"] == 2
    assert fleet.cli_json("audit", "verify")["ok"]
    assert "already" in fleet.cli(*there, check=False).stderr

    fleet.start(60)
    try:
        assert said(fleet) == before
        assert call(fleet, kept["text"]).status_code == 200
        refused = call(fleet, disabled["text"])
        assert refused.json()["error"]["code"] == "key_disabled"
        after = said(fleet)
        back = ("store", "migrate", "--from", "postgres", "--to", "embedded")
        again = at(tmp_path / "again", url, "postgres")
        again.config_file.write_text(json.dumps(json.loads(fleet.config_file.read_text())))
        assert "running: one" in again.cli(*back, check=False).stderr
    finally:
        fleet.close()

    time_of_lease(postgres_server, url)
    returned = finished(again, back, dice)
    assert returned.get("holds", 3) == 3
    assert asyncio.run(known_ids(again.data)) == [True, True, False]
    home = at(tmp_path, url, "embedded", again.data).start(60)
    try:
        assert said(home) == after
        assert call(home, kept["text"]).status_code == 200
        assert call(home, disabled["text"]).status_code != 200
        assert home.cli_json("audit", "verify")["ok"]
        assert home.cli_json("ledger", "verify")["holds"] == 4
    finally:
        home.close()


NAMES: list[tuple[str, MadeKind]] = [("resp_1", "response"), ("file-1", "file"), ("resp_2", "response")]


def ids_in(data: Path) -> MadeIdsFile:
    return MadeIdsFile(data / FILE, FakeClock(), most_of_team=9, most=9)


async def keep_ids(data: Path) -> None:
    store = ids_in(data)
    await store.keep([made(name, kind=kind) for name, kind in NAMES])
    await store.forget("team-1", "response", "resp_2")
    await store.close()


async def known_ids(data: Path) -> list[bool]:
    store = ids_in(data)
    found = [await store.find("team-1", kind, name) for name, kind in NAMES]
    await store.close()
    return [one is not None for one in found]


def time_of_lease(server: PostgresServer, url: str) -> None:
    """Until no node is taken for alive."""
    deadline = time.monotonic() + 60
    sql = """SELECT count(*) FROM bursar.fleet_node WHERE seen_at + lease > now()"""
    sessions = """SELECT count(*) FROM bursar.ledger_session WHERE ended_ns IS NULL
        AND seen_ns + lease_ns > bursar.ledger_now()"""
    while server.psql(f"SELECT ({sql}) + ({sessions})", url.rpartition("/")[2]) != "0":
        assert time.monotonic() < deadline
        time.sleep(0.2)


def finished(broker: Broker, arguments: tuple[str, ...], dice: random.Random, kills: int = 4) -> dict[str, Any]:
    """Run it, killed at any moment some times, then to its end.

    -> what it says; nothing where a run was killed after its last act and before its answer: the next one says
    "already", and what lies there is for the test to see.
    """
    env = {**broker.env, "BURSAR_CONFIG": str(broker.config_file), "BURSAR_DATA": str(broker.data)}
    for killed in range(kills):
        run = subprocess.Popen(
            broker.command(*arguments, "--json"),
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            text=True,
        )
        try:
            out, err = run.communicate(timeout=0.6 + 1.4 * dice.random())
            return dict(json.loads(out)) if run.returncode == 0 else was_done(err, killed)
        except subprocess.TimeoutExpired:
            os.killpg(run.pid, signal.SIGKILL)
            run.communicate()
    last = broker.cli(*arguments, "--json", check=False)
    return dict(json.loads(last.stdout)) if last.returncode == 0 else was_done(last.stderr, kills)


def was_done(said: str, killed: int) -> dict[str, Any]:
    assert killed, said
    assert "already" in said, said
    return {}

"""`bursar check --connect` against real servers: each fault told by itself, in bounded time, no secret with it."""

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bursar.app.connecting import Answer, ask_all
from bursar.app.settings import read_config
from bursar.faces.cli_terminal import NOT_VERIFIED
from bursar.stores.postgres import Postgres
from bursar.stores.postgres_schema import PARTS, migrate
from tests.app.test_tls import write_pair
from tests.conformance.clouds import moto_running
from tests.postgres import PostgresServer
from tests.redis_server import RedisServer
from tests.vault.fake import FakeVault

HUSH = "hush-hush-4711"


class Web:
    """Answers every request with 401, or nothing at all."""

    def __init__(self, *, mute: bool = False) -> None:
        self.heads: list[bytes] = []
        self._mute = mute
        self.port = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heads.append(await reader.readuntil(b"\r\n\r\n"))
        if not self._mute:
            writer.write(b"HTTP/1.1 401 No\r\ncontent-length: 0\r\n\r\n")
            await writer.drain()
            writer.close()

    async def up(self) -> "Web":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self


@pytest.fixture
async def web() -> Web:
    return await Web().up()


def provider(port: int, **more: Any) -> dict[str, Any]:
    return {
        "dialect": "openai",
        "base_url": f"http://127.0.0.1:{port}/v1",
        "allow_private": True,
        "models": ["m"],
        **more,
    }


OFF = {"openai": {"enabled": False}, "anthropic": {"enabled": False}}


async def asked(
    folder: Path, env: dict[str, str] | None = None, seconds: float = 5.0, **tree: Any
) -> dict[str, Answer]:
    path = folder / "bursar.yaml"
    path.write_text(json.dumps({"providers": OFF, **tree}))
    config = read_config(str(path), str(folder / "data"))
    began = time.monotonic()
    answers = await ask_all(config, dict(env or {}), seconds)
    assert time.monotonic() - began < seconds + 25  # bounded: all at once, whatever the machine is doing
    assert HUSH not in repr(answers)
    return {answer.what: answer for answer in answers}


async def test_what_is_fine_is_told_with_what_it_is(
    tmp_path: Path, store: Postgres, database: str, redis_server: RedisServer, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in PARTS:
        await migrate(store, part)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with FakeVault() as vault, moto_running() as cloud:
        found = await asked(
            tmp_path,
            {"HOOK": HUSH, "VAULT_TOKEN": vault.root},
            store={"kind": "postgres", "url": database},
            rates={"kind": "redis", "url": redis_server.url},
            secrets={
                "vault": {"house": {"url": vault.url}},
                "aws": {"cloud": {"endpoint": cloud, "region": "eu-central-1"}},
            },
            audit={
                "sinks": [
                    {"name": "log", "kind": "syslog", "url": f"tcp://127.0.0.1:{web.port}"},
                    {
                        "name": "hook",
                        "kind": "webhook",
                        "url": f"http://127.0.0.1:{web.port}/in",
                        "secret_env": "HOOK",
                        "allow_private": True,
                    },
                ]
            },
            providers={**OFF, "mine": provider(web.port)},
        )
    assert [answer for answer in found.values() if not answer.ok] == []
    assert found["store (PostgreSQL)"].said.endswith("its tables are as this Bursar has them")
    assert found["rates (Redis)"].said.startswith("Redis ")
    assert found["provider mine"].said == "answers 401 without a key"
    assert found["secret store house"].said == "0 provider keys"
    assert {"secret store cloud", "audit sink log", "audit sink hook", "data folder", "wrapping key"} < found.keys()
    assert not (tmp_path / "data").exists()  # nothing is made
    assert all(b"authorization" not in head.lower() for head in web.heads)


async def test_each_that_is_away_is_told_with_what_mends_it(tmp_path: Path) -> None:
    mute = await Web(mute=True).up()
    found = await asked(
        tmp_path,
        {"VAULT_TOKEN": HUSH, "BURSAR_STORE_URL": f"postgresql://u:{HUSH}@127.0.0.1:1/d"},
        seconds=1.0,
        store={"kind": "postgres"},
        rates={"kind": "redis", "url": "redis://127.0.0.1:1/0"},
        secrets={"vault": {"house": {"url": "http://127.0.0.1:1"}}},
        audit={"sinks": [{"name": "log", "kind": "syslog", "url": "tcp://127.0.0.1:1"}]},
        providers={**OFF, "mute": provider(mute.port)},
    )
    away = {what: answer for what, answer in found.items() if what not in ("data folder", "wrapping key")}
    assert len(away) == 5
    for answer in away.values():
        assert not answer.ok, answer
        assert answer.said
        assert answer.mend


async def test_rights_and_schema_of_the_database_are_told(
    tmp_path: Path, postgres_server: PostgresServer, store: Postgres, database: str
) -> None:
    async def said(url: str = database, **settings: Any) -> Answer:
        found = await asked(tmp_path, store={"kind": "postgres", "url": url, **settings})
        return found["store (PostgreSQL)"]

    name = database.rpartition("/")[2]
    assert "first start makes the schema" in (await said()).said
    postgres_server.psql("DROP ROLE IF EXISTS guest; CREATE ROLE guest LOGIN", name)
    guest = database.replace("bursar@", "guest@")
    assert "may not make the schema" in (await said(guest)).said
    await migrate(store, "fleet")
    assert "brings forward: directory, secrets" in (await said()).said
    assert "may not make tables" in (await said(guest)).said
    postgres_server.psql("GRANT USAGE, CREATE ON SCHEMA bursar TO guest", name)
    assert "another role's" in (await said(guest)).said
    postgres_server.psql("INSERT INTO bursar.store_moving (one, source) VALUES (1, '')", name)
    for part in PARTS:
        await migrate(store, part)
    half = await said()
    assert (half.ok, "half way" in half.said) == (False, True)
    postgres_server.psql("UPDATE bursar.schema_version SET needs = 99 WHERE part = 'money'", name)
    assert "newer Bursar" in (await said()).mend


async def test_a_certificate_that_ends_soon_and_a_wrapping_key_that_is_lost(tmp_path: Path) -> None:
    files = write_pair(tmp_path)
    tree: dict[str, Any] = {"listen": {"data": {"tls": {"cert": files.cert, "key": files.key}}}}
    assert "the certificate ends" in (await asked(tmp_path, **tree))["TLS of the data port"].said
    os.truncate(files.key, 9)
    assert "cannot be used" in (await asked(tmp_path, **tree))["TLS of the data port"].said
    lost = await asked(tmp_path, wrapper={"kind": "passphrase"})
    assert "BURSAR_PASSPHRASE" in lost["wrapping key"].said


def test_the_command_ends_with_its_code_and_tells_all_as_json(tmp_path: Path) -> None:
    path = tmp_path / "bursar.yaml"
    path.write_text(json.dumps({"providers": OFF, "store": {"kind": "postgres"}, "data": str(tmp_path / "data")}))
    env = {**os.environ, "BURSAR_STORE_URL": f"postgresql://u:{HUSH}@127.0.0.1:1/d"}
    command = [sys.executable, "-m", "bursar.app.main", "check", str(path), "--connect", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == NOT_VERIFIED, done.stderr
    told = json.loads(done.stdout)
    assert told["ok"] is False
    assert {check["what"]: check["ok"] for check in told["checks"]} == {
        "data folder": True,
        "wrapping key": True,
        "store (PostgreSQL)": False,
    }
    assert HUSH not in done.stdout + done.stderr

"""Rates in Debian's Redis (7): the same suite and tests, and TLS, which the Redis of `make test` is built without."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from bursar.core.directory import LimitDef
from bursar.core.limits import bind
from bursar.core.secret import Secret
from bursar.stores.redis_rates import RedisRates, Settings, Watcher
from tests.e2e.broker import ROOT, free_ports
from tests.redis_server import RedisServer, system_redis
from tests.stores.rates_suite import RatesSuite

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    server = RedisServer(system_redis())
    try:
        yield server.start()
    finally:
        server.close()


class TestRates(RatesSuite):
    pass


def test_it_is_a_seven() -> None:
    said = subprocess.run([system_redis(), "--version"], capture_output=True, text=True, check=True).stdout
    assert " v=7." in said


@pytest.mark.timeout(600)
def test_all_that_is_asked_of_redis_is_asked_of_a_seven() -> None:
    """Wounded, emptied, slow, half there, failed over by Sentinel; shared by gateways; the board of breakers."""
    files = [f"tests/{name}.py" for name in ("stores/test_redis_rates", "stores/test_board_conformance")]
    files += ["tests/gateway/test_rates_shared.py", "tests/fleet/test_fleet_rates.py"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files]
    env = {**os.environ, "BURSAR_TEST_REDIS": system_redis()}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=580, check=False)
    assert done.returncode == 0, done.stdout[-5000:]
    assert "passed" in done.stdout
    assert "skipped" not in done.stdout


async def test_rediss_is_believed_by_its_authority_only(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    (tls_port,) = free_ports(1)
    files = {"cert": "both.pem", "key": "both.pem", "ca-cert": "ca.pem"}
    arguments = [part for name, file in files.items() for part in (f"--tls-{name}-file", str(tmp_path / file))]
    server = RedisServer(system_redis(), "--tls-port", str(tls_port), "--tls-auth-clients", "no", *arguments)
    told: list[tuple[bool, str]] = []
    lives = []
    try:
        server.start()
        for ca in ("other.pem", "ca.pem"):
            settings = Settings(
                url=Secret(f"rediss://127.0.0.1:{tls_port}/0"), session=ca, ca_file=str(tmp_path / ca), wait_s=20
            )
            rates = RedisRates(settings, lambda: 1, Watcher(lambda *how: told.append(how)))
            lives.append(asyncio.create_task(rates.run()))
            async with asyncio.timeout(30):
                while not told or (ca == "ca.pem" and not rates.shared):  # noqa: ASYNC110 - of another task's doing
                    await asyncio.sleep(0.01)
            assert rates.shared == (ca == "ca.pem")
        limit = bind(LimitDef(id="rpm", unit="requests", amount=1), "k")
        assert await rates.admit("o", (limit,), 0.0, 1) is None
        assert await rates.admit("o", (limit,), 0.0, 2) is not None
    finally:
        for life in lives:
            life.cancel()
        await asyncio.gather(*lives, return_exceptions=True)
        server.close()

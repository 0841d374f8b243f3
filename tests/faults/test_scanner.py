"""A secret scanner over everything that a run leaves behind: keys of real shapes, made at run time, found nowhere.

Kingfisher (its own rules, offline) must find the same keys where they are planted, or its silence means nothing.
"""

import logging
import random
import shutil
import sqlite3
import string
import subprocess
import sys
import traceback
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from bursar.app.audit_sinks import ClosingSink, build_sinks
from bursar.config import Audit, Sink
from bursar.core.audit import AuditFailed
from bursar.core.secret import Secret
from bursar.stores.audit_http import ocsf_writer, webhook_writer
from tests.e2e.broker import Broker
from tests.faults.caller import script

_WORD = string.ascii_letters + string.digits
_MARK = "T3" + "Blbk" + "FJ"  # what OpenAI's keys hold in their middle; in pieces, as this file must not look like one


def text(count: int) -> str:
    """Letters and digits that nobody has seen."""
    return "".join(random.SystemRandom().choice(_WORD) for _ in range(count))


def openai_key() -> str:
    return f"sk-proj-{text(74)}{_MARK}{text(74)}"


def anthropic_key() -> str:
    return f"sk-ant-api03-{text(93)}AA"


def scan(folder: Path) -> str:
    """What Kingfisher says about a folder; "" when it finds nothing. Validates nothing, asks nobody."""
    program = shutil.which("kingfisher", path=str(Path(sys.executable).parent))
    assert program, "kingfisher-bin is in requirements/test.lock"
    command = [program, "scan", str(folder), "--no-validate", "--no-update-check", "--format", "json", "--quiet"]
    done = subprocess.run(
        [*command, "--confidence", "low"], capture_output=True, text=True, timeout=100, check=False, cwd=folder.parent
    )
    assert done.returncode in (0, 200), done.stderr  # 200: found something
    return done.stdout if done.returncode == 200 else ""


def plain_copy(data: Path, into: Path) -> None:
    """The data folder as a scanner can read it: databases dumped as text beside their bytes."""
    shutil.copytree(data, into, ignore=shutil.ignore_patterns("link.sock", "*.sock", "admin.token"))
    for database in into.rglob("*.db"):
        with closing(sqlite3.connect(database)) as opened:
            database.with_suffix(".sql").write_text("\n".join(opened.iterdump()), errors="replace")


def test_the_scanner_finds_what_is_planted(tmp_path: Path) -> None:
    (tmp_path / "planted").mkdir()
    for name, key in (("openai", openai_key()), ("anthropic", anthropic_key())):
        (tmp_path / "planted" / f"{name}.env").write_text(f"KEY={key}\n")
        assert key[:24] in scan(tmp_path / "planted"), name


@pytest.mark.timeout(240)
def test_a_run_leaves_no_key_behind(make_broker: Callable[..., Broker], tmp_path: Path) -> None:
    keys = [openai_key(), anthropic_key(), openai_key()]
    sink = {"name": "lake", "kind": "ocsf", "url": "http://127.0.0.1:9/", "allow_private": True}
    sink |= {"secret_env": "LAKE", "timeout": "300ms"}
    env = {"OPENAI_API_KEY": keys[0], "LAKE": keys[2]}
    broker = make_broker(config={"audit": {"sinks": [sink]}}, env=env, arguments=("--seal-env",)).start()
    put = {"address": "anthropic/*/api_key/prod/*", "value": keys[1], "tags": {"billing_owner": "demo"}}
    assert broker.admin("POST", "/v1/admin/provider-keys", json=put).status_code == 201
    assert broker.admin("POST", "/v1/admin/provider-keys", json=put).status_code == 409  # a duplicate, told
    assert broker.admin("POST", "/v1/admin/owners", json={"name": keys[1][:40], "oops": keys[1]}).status_code == 400
    headers = {"authorization": f"Bearer {broker.demo_key}"}
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": f"{keys[0]} {script(status=500)}"}]}
    httpx.post(f"{broker.url}/v1/chat/completions", json=body, headers=headers, timeout=60)
    httpx.post(f"{broker.url}/v1/{keys[0]}", json=body, headers={"authorization": f"Bearer {keys[0]}"}, timeout=60)
    outputs = [broker.cli("audit", "search", "--json").stdout, broker.cli("audit", "export", "--form", "ocsf").stdout]
    outputs += [broker.cli("status", "--json").stdout, broker.metrics()]
    broker.kill("gateway")
    assert broker.stop() == 0
    left = tmp_path / "left"
    plain_copy(broker.data, left)
    (left / "printed.txt").write_text(broker.printed().replace(broker.demo_key, ""))
    for number, output in enumerate(outputs):
        (left / f"output-{number}.txt").write_text(output)
    raw = b"".join(path.read_bytes() for path in left.rglob("*") if path.is_file())
    for key in keys:
        assert key.encode() not in raw
    assert scan(left) == ""


class SetClock:
    def now(self) -> int:
        return 10**18

    def monotonic(self) -> float:
        return 0.0


async def failing(sink: ClosingSink) -> list[str]:
    """All that is told when it fails. A frame of its own: the caller's local variables are not the sink's."""
    try:
        await sink.write([b'{"hash":"' + b"0" * 64 + b'","record":' + _RECORD + b"}"])
    except AuditFailed as error:
        traced = traceback.TracebackException.from_exception(error, capture_locals=True)
        return [str(error), "".join(traced.format()), repr(vars(sink))]
    raise AssertionError("nobody listens there")


async def test_sinks_show_no_credential_in_reprs_and_tracebacks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    key = openai_key()
    at: dict[str, Any] = {"url": "http://127.0.0.1:9/", "allow_private": True, "secret_env": "X", "timeout": 1}
    sinks = (Sink(name="o", kind="ocsf", **at), Sink(name="w", kind="webhook", **at))
    told = []
    for sink in build_sinks(Audit(sinks=sinks), tmp_path, "n", {"X": key}, SetClock())[1:]:
        told += await failing(sink)
        sink.close()
    assert sum("_send" in one for one in told) == 2
    for writer in (webhook_writer("n", Secret(key), SetClock()), ocsf_writer("n", "1", Secret(key))):
        told += [repr(writer), repr(writer([b"{}"] * 0, 1, 1))]
    assert key not in "".join(told) + caplog.text


_RECORD = b'{"seq":1,"at_ns":1,"actor":"a","action":"b","target":"c","outcome":"allowed","facts":{}}'

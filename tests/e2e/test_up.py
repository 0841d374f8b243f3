"""`bursar up` as a person meets it: what it prints, what it keeps, how it refuses, how it survives its own children."""

import os
import re
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from bursar.core.tokens import KEY_PATTERN
from tests.e2e.broker import Broker

CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}


def ask(broker: Broker, key: str = "", timeout: float = 10) -> httpx.Response:
    headers = {"authorization": f"Bearer {key or broker.demo_key}"}
    return httpx.post(f"{broker.url}/v1/chat/completions", headers=headers, json=CHAT, timeout=timeout)


def fails(broker: Broker, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`bursar up` where it cannot start: it must end by itself, quickly."""
    command = broker.command("up", "--config", str(broker.config_file), "--data", str(broker.data), *arguments)
    return subprocess.run(command, capture_output=True, text=True, env=broker.env, timeout=20, check=False)


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode != 0
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_the_first_start_prints_what_works_as_pasted(make_broker: Callable[..., Broker], tmp_path: Path) -> None:
    broker = make_broker().start()
    assert time.monotonic() - broker.began < 20  # the bar is a second on a quiet machine: bench row F5
    printed = broker.printed()
    for told in (f"{broker.url}", str(broker.admin_port), broker.metrics_url, str(broker.data), "EMULATOR", "wrapping"):
        assert told in printed
    (curl,) = re.findall(r"^(curl .*?[^\\])$", printed, re.MULTILINE | re.DOTALL)
    done = subprocess.run(["bash", "-c", curl], capture_output=True, text=True, timeout=20, check=True)
    assert '"choices"' in done.stdout
    (snippet,) = re.findall(r"^(from openai .*?^print.*?)$", printed, re.MULTILINE | re.DOTALL)
    pasted = subprocess.run(
        [broker.command()[0], "-c", snippet], capture_output=True, text=True, env=broker.env, timeout=30, check=False
    )
    assert pasted.returncode == 0, pasted.stderr
    assert pasted.stdout.strip()


def test_a_second_start_has_the_same_data_and_the_same_keys(make_broker: Callable[..., Broker]) -> None:
    broker = make_broker().start()
    first = broker.demo_key
    assert ask(broker).status_code == 200
    assert broker.stop() == 0
    broker.start()
    assert re.search(KEY_PATTERN, broker.printed()) is None, "a key is shown once"
    assert ask(broker, first).status_code == 200


def test_ctrl_c_drains_and_exits_0(make_broker: Callable[..., Broker]) -> None:
    broker = make_broker().start()
    pids = broker.pids()
    assert broker.stop(signal.SIGINT) == 0
    for pid in pids.values():
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_sigterm_drains_too(make_broker: Callable[..., Broker]) -> None:
    assert make_broker().start().stop(signal.SIGTERM) == 0


@pytest.mark.parametrize("name", ["data_port", "admin_port", "metrics_port"])
def test_a_taken_port_is_one_clear_line(make_broker: Callable[..., Broker], name: str) -> None:
    broker = make_broker()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", getattr(broker, name)))
        taken.listen()
        told = one_line(fails(broker))
    assert str(getattr(broker, name)) in told
    assert "taken" in told


def test_a_locked_folder_is_one_clear_line(make_broker: Callable[..., Broker]) -> None:
    first = make_broker("shared").start()
    second = make_broker("other")
    second.data = first.data
    told = one_line(fails(second))
    assert "in use" in told
    assert ask(first).status_code == 200


def test_a_folder_that_is_a_file_is_one_clear_line(make_broker: Callable[..., Broker]) -> None:
    broker = make_broker()
    broker.data.write_text("not a folder")
    assert str(broker.data) in one_line(fails(broker))


def test_a_folder_that_cannot_be_made_is_one_clear_line(make_broker: Callable[..., Broker]) -> None:
    broker = make_broker()
    broker.data = Path("/proc/bursar-data")  # not even root may
    assert str(broker.data) in one_line(fails(broker))


def test_every_fault_of_the_configuration_is_told_at_once(make_broker: Callable[..., Broker]) -> None:
    wrong: dict[str, Any] = {"listn": {}, "durability": "forever", "wire": {"max_body": "lots"}}
    done = fails(make_broker(config=wrong))
    assert done.returncode != 0
    for path in ("listn", "durability", "wire.max_body"):
        assert path in done.stderr
    assert "Traceback" not in done.stderr


def test_what_lies_on_disk_is_for_the_owner_only(make_broker: Callable[..., Broker]) -> None:
    broker = make_broker().start()
    for path in [broker.data, *broker.data.rglob("*")]:
        mode = stat.S_IMODE(path.lstat().st_mode)
        assert path.is_symlink() or mode & 0o077 == 0, f"{path} {mode:o}"


def test_a_key_in_the_environment_is_named_and_not_taken(make_broker: Callable[..., Broker]) -> None:
    canary = "sk-canary-4f1d0b7a9c"
    broker = make_broker(env={"OPENAI_API_KEY": canary}).start()
    assert "OPENAI_API_KEY" in broker.printed()
    assert canary not in broker.printed()
    holding = [path for path in broker.data.rglob("*") if path.is_file() and canary.encode() in path.read_bytes()]
    assert holding == []


def test_a_key_in_the_environment_is_sealed_when_asked(make_broker: Callable[..., Broker]) -> None:
    canary = "sk-canary-5e2c1a8b0d"
    broker = make_broker(env={"OPENAI_API_KEY": canary}, arguments=("--seal-env",)).start()
    printed = broker.printed()
    assert "unassigned" in printed
    assert canary not in printed
    assert "EMULATOR" not in printed
    holding = [path for path in broker.data.rglob("*") if path.is_file() and canary.encode() in path.read_bytes()]
    assert holding == []


def test_traffic_goes_on_while_control_is_dead(make_broker: Callable[..., Broker]) -> None:
    broker = make_broker().start()
    assert ask(broker).status_code == 200
    old = broker.kill("control", signal.SIGSTOP)
    try:
        assert [ask(broker).status_code for _ in range(5)] == [200] * 5
    finally:
        os.kill(old, signal.SIGKILL)
    assert ask(broker).status_code == 200
    broker.wait_replaced("control", old)
    assert ask(broker).status_code == 200
    deadline = time.monotonic() + 10
    while "bursar_requests_total" not in metrics(broker):
        assert time.monotonic() < deadline, "control came back without metrics"
        time.sleep(0.05)


def metrics(broker: Broker) -> str:
    try:
        return broker.metrics()
    except httpx.HTTPError:
        return ""


def test_a_killed_gateway_is_back_in_a_second_with_its_money(make_broker: Callable[..., Broker]) -> None:
    broker = make_broker().start()
    assert ask(broker).status_code == 200
    old = broker.kill("gateway")
    began = time.monotonic()
    broker.wait_replaced("gateway", old)
    while (answer := ask(broker)).status_code != 200:  # the socket was kept: nothing is refused but as not yet ready
        assert answer.json()["error"]["code"] == "not_ready", answer.text
        assert answer.headers["x-should-retry"] == "true"
        assert time.monotonic() - began < 20
    assert time.monotonic() - began < 20  # the bar is a second on a quiet machine
    assert broker.stop() == 0
    assert broker.cli("ledger", "verify").returncode == 0

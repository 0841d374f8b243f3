"""The keys that wrap the secrets, changed and lost on a running node, by the commands that an operator types."""

import json
import shutil
import time
from collections.abc import Callable

import httpx

from tests.e2e.broker import Broker

MESSAGE = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}


def serves(broker: Broker) -> int:
    headers = {"authorization": f"Bearer {broker.demo_key}"}
    return httpx.post(f"{broker.url}/v1/chat/completions", headers=headers, json=MESSAGE, timeout=10).status_code


def configure(broker: Broker, **settings: object) -> None:
    config = json.loads(broker.config_file.read_text())
    broker.config_file.write_text(json.dumps({**config, **settings}))


def test_the_wrapping_key_changes_while_calls_go_on(make_broker: Callable[..., Broker]) -> None:
    broker = make_broker().start()
    old = broker.data / "wrapping.key"
    assert broker.cli_json("secrets", "ring")["left"] == 0
    broker.stop()
    new = broker.folder / "elsewhere.key"
    configure(broker, wrapper={"path": str(new)}, former_wrappers=[{"path": str(old)}])
    broker.start()
    state = broker.cli_json("secrets", "ring")
    assert state["left"] == state["values"] > 3
    assert [key["seals"] for key in state["keys"]] == [True, False]
    assert broker.cli_json("secrets", "rewrap") == {"done": state["values"], "left": 0}
    assert serves(broker) == 200
    broker.stop()
    old.unlink()
    configure(broker, former_wrappers=[])
    broker.start()
    assert serves(broker) == 200
    assert [key["id"] for key in broker.cli_json("secrets", "ring")["keys"]] == [state["keys"][0]["id"]]
    assert "secret.rewrap" in [record["action"] for record in broker.cli_json("audit", "tail", "-n", "100")]


def test_a_lost_wrapping_key_is_replaced_by_the_recovery_key(make_broker: Callable[..., Broker]) -> None:
    broker = make_broker().start()
    key = broker.folder / "recovery.key"
    broker.folder.chmod(0o700)
    made = broker.cli_json("secrets", "recovery", "make", "--out", str(key))
    assert made["rewrapped"] > 3
    assert broker.cli_json("secrets", "recovery", "test", "--key", str(key))["ok"]
    in_use = broker.cli("secrets", "recovery", "use", "--key", str(key), check=False)
    there = broker.cli("secrets", "recovery", "make", "--out", str(key), check=False)
    assert (in_use.returncode, there.returncode) == (1, 1)  # a key is never overwritten
    broker.stop()
    (broker.data / "wrapping.key").unlink()
    assert broker.process is not None
    assert "There is no key file" in _failed_start(broker)
    done = broker.cli_json("secrets", "recovery", "use", "--key", str(key))
    assert done["done"] >= made["rewrapped"]
    broker.start()
    assert serves(broker) == 200
    assert broker.cli_json("secrets", "recovery", "test", "--key", str(key))["ok"]  # new values are under both again


def test_a_copy_of_the_folder_without_its_key_does_not_open(make_broker: Callable[..., Broker]) -> None:
    broker = make_broker().start()
    broker.stop()
    copy = make_broker("copy")
    shutil.copytree(broker.data, copy.data, ignore=shutil.ignore_patterns("wrapping.key", "run"))
    assert "There is no key file" in _failed_start(copy)


def _failed_start(broker: Broker) -> str:
    try:
        broker.start(seconds=10)
    except AssertionError as fault:
        time.sleep(0.2)
        return str(fault)
    raise AssertionError("it started")

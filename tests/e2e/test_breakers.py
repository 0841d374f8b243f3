"""A real node shows which upstreams it leaves alone; a person opens and closes them at once, and with a way back."""

import time
from collections.abc import Callable
from typing import Any

import httpx

from tests.e2e.broker import Broker
from tests.redis_server import RedisServer

FAILING = '[[emulator {"status": 503}]]'
MakeBroker = Callable[..., Broker]


def ask(broker: Broker, text: str = "Hello") -> str:
    """The word of the answer; "" = it was served."""
    body = {"model": "gpt-4o-mini", "max_tokens": 16, "messages": [{"role": "user", "content": text}]}
    headers = {"authorization": f"Bearer {broker.demo_key}"}
    answer = httpx.post(f"{broker.url}/v1/chat/completions", json=body, headers=headers, timeout=30)
    return answer.headers.get("x-bursar-word", "") if answer.status_code == 503 else ""


def until(found: Callable[[], Any], wanted: Any) -> None:
    deadline = time.monotonic() + 60
    while (seen := found()) != wanted:
        assert time.monotonic() < deadline, f"{seen} instead of {wanted}"
        time.sleep(0.05)


def shown(broker: Broker) -> dict[str, tuple[str, str]]:
    return {one["name"]: (one["state"], one["opened_by"]) for one in broker.cli_json("breakers")}


def test_what_fails_is_shown_and_a_person_opens_and_closes(make_broker: MakeBroker) -> None:
    broker = make_broker("node", config={"breaker": {"open": "600s", "longest": "600s"}}).start()
    assert broker.cli_json("breakers") == []
    for _ in range(5):
        ask(broker, FAILING)
    assert ask(broker) == "upstream_unavailable"
    until(lambda: shown(broker).get("provider/openai"), ("open", "failures"))
    (row,) = [one for one in broker.cli_json("breakers", "list") if one["name"] == "provider/openai"]
    assert (row["failures"], row["node"] != "", row["reason"]) == (5, True, "")
    assert row["since"] < row["next_try"]
    broker.cli("breakers", "close", "openai", "--reason", "they say so")
    until(lambda: ask(broker), "")
    until(lambda: shown(broker), {})

    made = broker.cli("breakers", "open", "openai", "--for", "10m", "--reason", "a drill").stdout
    until(lambda: ask(broker), "upstream_unavailable")
    assert shown(broker) == {"provider/openai": ("open", "admin")}
    until(lambda: "bursar_breakers_by_hand 1" in broker.metrics(), True)
    broker.cli("undo", made.rpartition("bursar undo ")[2].strip())
    until(lambda: ask(broker), "")
    acts = {record["action"] for record in broker.cli_json("audit", "tail")}
    assert {"breaker.open", "breaker.close", "breaker.open.undo"} <= acts


def test_with_redis_what_one_node_learned_all_show_and_closing_is_for_all(
    make_broker: MakeBroker, redis_server: RedisServer
) -> None:
    """Each has a directory of its own here: what they share is the board."""
    with redis_server.admin as admin:
        admin.flushall()
    env = {"BURSAR_RATES_URL": redis_server.url}
    config = {"breaker": {"open": "600s", "longest": "600s"}, "rates": {"kind": "redis"}}
    one, two = (make_broker(name, config=config, env=env).start() for name in ("one", "two"))
    for broker in (one, two):
        until(lambda broker=broker: "bursar_breakers_shared 1" in broker.metrics(), True)  # type: ignore[misc]
    for _ in range(5):
        ask(one, FAILING)
    until(lambda: ask(two), "upstream_unavailable")
    for broker in (one, two):
        until(lambda broker=broker: shown(broker).get("provider/openai"), ("open", "failures"))  # type: ignore[misc]
        rows = [row for row in broker.cli_json("breakers") if row["name"] == "provider/openai"]
        assert [row["failures"] for row in rows] == [5]
    two.cli("breakers", "close", "provider/openai")
    until(lambda: (ask(one), ask(two)), ("", ""))

"""Observe mode in a fleet: a key that one node saw is the same at every node, sealed on one and closed on another."""

import random
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.core.key_samples import samples
from tests.e2e.broker import Broker
from tests.faults.books import until
from tests.fleet.harness import Fleet
from tests.providers.emulated import Emulated

KEY = samples(random.Random(31))["openai-key"]


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[Emulated]:
    running = Emulated(tmp_path)
    yield running
    running.stop()


def observed(node: Broker) -> list[dict[str, object]]:
    return list(node.admin("GET", "/v1/admin/observed").json()["items"])


def word(answer: httpx.Response) -> str:
    return answer.headers.get("x-bursar-word", "")


def test_one_key_on_all_nodes(tmp_path: Path, upstream: Emulated) -> None:
    real = {"openai": {"base_url": f"{upstream.url}/v1", "allow_private": True}}
    with Fleet(
        tmp_path / "fleet", names=("a", "b"), settings={"providers": real, "observe": {"enabled": True}}
    ) as fleet:
        a, b = fleet.start()
        assert (fleet.call(a, KEY).status_code, fleet.call(b, KEY).status_code) == (200, 200)
        for node in (a, b):
            until(lambda node=node: len(observed(node)) == 1 and observed(node)[0]["calls"] == 2)  # type: ignore[misc]
        assert observed(a) == observed(b)
        (one,) = observed(a)
        path = f"/v1/admin/observed/{one['id']}"
        text = a.admin("POST", f"{path}/seal", json={"value": KEY}).json()["text"]
        fleet.calls_until(b, text, lambda answer: answer.status_code == 200, 30)
        assert fleet.call(b, KEY).status_code == 200
        until(lambda: observed(a)[0]["old_calls"], told="the old key in use")
        assert b.admin("POST", f"{path}/close").status_code == 200
        fleet.calls_until(a, KEY, lambda answer: word(answer) == "key_expired", 30)
        assert fleet.call(a, text).status_code == 200
        until(lambda: observed(b)[0]["calls"] == observed(a)[0]["calls"])
        assert len({charge.key for charge in upstream.bill()}) == 1
        assert fleet.psql("SELECT count(DISTINCT names ->> 'key_id') FROM bursar.ledger_label").strip() == "1"

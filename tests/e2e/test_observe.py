"""Observe mode against a running broker: official SDKs with their own provider key, seen, named, sealed and swapped."""

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from anthropic import Anthropic
from openai import OpenAI

from bursar.providers.emulator.bill import digest
from tests.core.key_samples import samples
from tests.e2e.broker import Broker
from tests.providers.emulated import Emulated

KEYS = samples(random.Random(11))
OPENAI, ANTHROPIC = KEYS["openai-key"], KEYS["anthropic-key"]
MODEL, CLAUDE = "gpt-4o-mini", "claude-haiku-4-5"
HELLO: list[Any] = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[Emulated]:
    running = Emulated(tmp_path)
    yield running
    running.stop()


@pytest.fixture
def observing(make_broker: Callable[..., Broker], upstream: Emulated) -> Broker:
    return make_broker(config=config_of(upstream)).start()


def config_of(upstream: Emulated, **observe: Any) -> dict[str, Any]:
    real = {"allow_private": True}
    providers = {"openai": {"base_url": f"{upstream.url}/v1", **real}, "anthropic": {"base_url": upstream.url, **real}}
    return {"providers": providers, "observe": {"enabled": True, **observe}}


def client(broker: Broker, key: str = OPENAI) -> OpenAI:
    return OpenAI(base_url=f"{broker.url}/v1", api_key=key, max_retries=0)


def say(client: OpenAI, **more: Any) -> Any:
    return client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=20, **more)


def until(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
    return found


def observed(broker: Broker, calls: int = 0, count: int = 1) -> list[dict[str, Any]]:
    """What the list shows, once there are so many keys with so many calls altogether."""

    found: list[dict[str, Any]] = []

    def look() -> bool:
        found[:] = broker.admin("GET", "/v1/admin/observed").json()["items"]
        return len(found) == count and sum(one["calls"] for one in found) >= calls

    until(look)
    return found


def sealed_for(broker: Broker) -> list[str]:
    """Addresses of what was sealed for observed keys."""
    entries = broker.admin("GET", "/v1/admin/provider-keys").json()["items"]
    return [entry["address"] for entry in entries if "/observed-" in entry["address"]]


def test_official_clients_with_their_own_keys(observing: Broker, upstream: Emulated) -> None:
    with client(observing) as plain:
        assert say(plain).choices[0].message.content
        assert "".join(part.choices[0].delta.content or "" for part in say(plain, stream=True) if part.choices)
        assert plain.responses.create(model=MODEL, input="Hello", max_output_tokens=20).output_text
        assert plain.embeddings.create(model="text-embedding-3-small", input="Hello").data
    with Anthropic(base_url=observing.url, api_key=ANTHROPIC, max_retries=0) as claude:
        assert claude.messages.create(model=CLAUDE, max_tokens=20, messages=HELLO).content
        with claude.messages.stream(model=CLAUDE, max_tokens=20, messages=HELLO) as stream:
            assert stream.get_final_text()
    by_provider = {one["provider"]: one for one in observed(observing, calls=6, count=2)}
    first, second = by_provider["openai"], by_provider["anthropic"]
    assert (first["calls"], second["calls"]) == (4, 2)
    assert (first["name"], second["name"]) == ("observed openai 1", "observed anthropic 1")
    assert first["state"] == "observed"
    assert first["owner"] == ""
    assert first["last_seen"] is not None
    assert MODEL in first["models"]
    assert float(first["cost_usd"]) > 0
    assert {charge.key for charge in upstream.bill()} == {digest(OPENAI), digest(ANTHROPIC)}
    assert len(upstream.bill()) == 6
    usage = {row["group"]: row for row in observing.cli_json("usage", "--by", "key")}
    assert usage[first["id"]]["name"] == "observed openai 1"
    seen = observing.cli("audit", "search", "--act", "observe.see").stdout
    assert first["id"] in seen


def test_a_wrong_key_is_told_by_its_provider_and_leaves_nothing(
    make_broker: Callable[..., Broker], tmp_path: Path
) -> None:
    picky = Emulated(tmp_path, "--require-key", "another")
    try:
        broker = make_broker(config=config_of(picky)).start()
        with client(broker) as wrong, pytest.raises(openai.AuthenticationError) as refused:
            say(wrong)
        assert refused.value.response.headers.get("x-bursar-word") is None  # the provider's own words
        with (
            Anthropic(base_url=broker.url, api_key=ANTHROPIC, max_retries=0) as claude,
            pytest.raises(anthropic.AuthenticationError),
        ):
            claude.messages.create(model=CLAUDE, max_tokens=20, messages=HELLO)
        assert observed(broker, count=0) == []
        assert broker.admin("GET", "/v1/admin/status").json()["counts"]["keys"] == 1  # the demo key
    finally:
        picky.stop()


def test_from_the_first_call_to_the_swap(observing: Broker, upstream: Emulated, tmp_path: Path) -> None:
    """Named, restarted, sealed, in use with both keys, closed, and all of it taken back."""
    with client(observing) as plain:
        say(plain)
    (one,) = observed(observing, calls=1)
    key = one["id"]
    path = f"/v1/admin/observed/{key}"
    said = {"name": "billing robot", "owner": "demo", "purpose": "reads invoices"}
    assert observing.admin("PATCH", path, json=said).status_code == 200
    lines = {line["id"]: line for line in _checklist(observing)}
    assert lines["swapped"]["verdict"] == "fail"
    assert f"bursar observe seal {key} < FILE" in lines["swapped"]["mend"]
    observing.stop()
    observing.start()
    with client(observing) as plain:
        say(plain)
    (one,) = observed(observing, calls=2)
    assert (one["id"], one["name"], one["owner"], one["purpose"]) == (key, "billing robot", "demo", "reads invoices")
    assert {row["group"] for row in observing.cli_json("usage", "--by", "owner")} == {"observed", "demo"}

    right = tmp_path / "right"
    right.write_text(OPENAI + "\n")
    refused = observing.admin("POST", f"{path}/seal", json={"value": samples(random.Random(12))["openai-key"]})
    assert (refused.status_code, refused.json()["code"]) == (400, "invalid_secret")
    assert sealed_for(observing) == []
    told = observing.cli_json("observe", "seal", key, "--from-file", str(right))
    text = told["text"]
    assert text.startswith(f"bsr_{key}_")
    assert text in told["snippet"]
    assert told["observed"]["state"] == "sealed"

    with client(observing, text) as swapped, client(observing) as old:
        until(lambda: _works(swapped))
        say(old)
        assert len({charge.key for charge in upstream.bill()}) == 1  # it is the same provider key in every case
        (one,) = until(lambda: [o for o in observed(observing, calls=4) if o["old_calls"]])
        assert (one["state"], one["calls"] >= 4, one["secret"] != "") == ("sealed", True, True)
        refused = observing.cli("observe", "close", key, check=False)
        assert refused.returncode == 2  # somebody uses it, and there is no terminal to ask at
        assert "calls since it was sealed: 1" in refused.stderr
        observing.cli("observe", "close", key, "--yes")
        until(lambda: _refused(old))
        say(swapped)
        assert _line(observing, "swapped")["verdict"] == "pass"
        told_off = _refused(old)
        assert told_off is not None
        assert told_off.response.headers["x-bursar-word"] == "key_expired"

        observing.cli("observe", "seal", key, "--undo", "--yes")
        until(lambda: _works(old))
        assert _refused(swapped) is not None
    assert sealed_for(observing) == []
    (one,) = observed(observing, calls=6)
    assert one["state"] == "observed"
    observing.stop()
    for path in observing.folder.rglob("*"):
        if path.is_file():
            assert OPENAI.encode() not in path.read_bytes(), path


def test_a_team_of_its_own_and_the_step_to_enforcing(make_broker: Callable[..., Broker], upstream: Emulated) -> None:
    """What the observed team has in shadow tells, and bites once somebody says so."""
    broker = make_broker(config=config_of(upstream, team="strangers")).start()
    broker.cli("teams", "update", "strangers", "--set", "models=none-at-all")
    with client(broker) as plain:
        say(plain)
        observed(broker, calls=1)
        lines = until(lambda: broker.cli_json("shadow", "report", "--last", "1h")["lines"])
        assert ("models", "model_not_allowed") in {(line["control"], line["word"]) for line in lines}
        broker.cli("observe", "enforce", "--control", "models", "--yes")
        until(lambda: _refused(plain, openai.PermissionDeniedError))
        broker.cli("demote", "team/strangers", "--control", "models")
        until(lambda: _works(plain))


def test_off_a_provider_key_is_refused_with_what_to_do(broker: Broker) -> None:
    with client(broker) as plain, pytest.raises(openai.AuthenticationError, match=r"observe\.enabled"):
        say(plain)
    assert broker.admin("GET", "/v1/admin/observed").json()["items"] == []


def _works(client: OpenAI) -> bool:
    try:
        return bool(say(client))
    except openai.APIStatusError:
        return False


def _refused(client: OpenAI, kind: type[openai.APIStatusError] = openai.AuthenticationError) -> Any:
    try:
        say(client)
    except kind as refusal:
        return refusal
    return None


def _checklist(broker: Broker) -> list[dict[str, Any]]:
    found = broker.admin("GET", "/v1/admin/checklist")
    assert found.status_code == 200, found.text
    return list(found.json()["lines"])


def _line(broker: Broker, name: str) -> dict[str, Any]:
    return next(line for line in _checklist(broker) if line["id"] == name)

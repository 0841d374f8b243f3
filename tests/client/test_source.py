"""The client's token: renewed in time, by one thread, kept through an outage, never shown; and the watched file."""

import asyncio
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from bursar.client.exchange import TokenFault
from bursar.client.source import TokenSource
from bursar.client.subjects import environment_key, file_subject, github_subject
from bursar.client.watching import watch, write_private


class Clock:
    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at


class Broker:
    """Issues numbered tokens; away while `fault` is set."""

    def __init__(self) -> None:
        self.issued = 0
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.fault: TokenFault | None = None
        self.gate: threading.Event | None = None

    def __call__(self, url: str, subject: str, fields: Mapping[str, str], timeout: float) -> dict[str, Any]:
        self.asked.append((url, subject, dict(fields)))
        if self.gate is not None:
            assert self.gate.wait(10)
        if self.fault is not None:
            raise self.fault
        self.issued += 1
        return {"access_token": f"token-{self.issued}", "expires_in": 900}


def source(broker: Broker, clock: Clock, dice: float = 0.0, **more: Any) -> TokenSource:
    return TokenSource("http://b", lambda: "subject", clock=clock, dice=lambda: dice, post=broker, **more)


def until(condition: Callable[[], Any]) -> None:
    for _ in range(10_000):
        if condition():
            return
        threading.Event().wait(0.001)
    raise AssertionError("it did not come about")


AWAY = TokenFault("not_reachable", "away", again=True)


@pytest.mark.parametrize(("dice", "renewed_after"), [(0.0, 600), (1.0, 510)])
def test_it_is_renewed_at_two_thirds_of_its_life_or_a_little_sooner(dice: float, renewed_after: float) -> None:
    broker, clock = Broker(), Clock()
    tokens = source(broker, clock, dice)
    assert tokens.api_key() == "token-1"
    clock.at += renewed_after - 1
    assert tokens.api_key() == "token-1"
    clock.at += 2
    assert tokens.api_key() == "token-2"


def test_what_was_wished_for_is_asked_for() -> None:
    broker = Broker()
    source(broker, Clock(), scope="model:m", life_s=60, trust_rule="r").api_key()
    assert broker.asked == [("http://b", "subject", {"scope": "model:m", "expires_in": "60", "trust_rule": "r"})]


def test_an_outage_is_lived_through_until_the_token_ends() -> None:
    broker, clock = Broker(), Clock()
    tokens = source(broker, clock)
    tokens.api_key()
    broker.fault = AWAY
    clock.at += 700
    for _ in range(50):
        assert tokens.api_key() == "token-1"
    assert len(broker.asked) == 2  # it waits between tries
    clock.at += 2
    assert tokens.api_key() == "token-1"
    assert len(broker.asked) == 3
    clock.at += 198
    with pytest.raises(TokenFault):
        tokens.api_key()
    broker.fault = None
    assert tokens.api_key() == "token-2"


def test_many_threads_ask_once() -> None:
    broker, clock = Broker(), Clock()
    tokens = source(broker, clock)
    got: list[str] = []
    threads = [threading.Thread(target=lambda: got.append(tokens.api_key())) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert (got, broker.issued) == (["token-1"] * 20, 1)


def test_who_need_not_wait_for_a_renewal_does_not() -> None:
    broker, clock = Broker(), Clock()
    tokens = source(broker, clock)
    tokens.api_key()
    clock.at += 700
    broker.gate = threading.Event()
    renewing = threading.Thread(target=tokens.api_key)
    renewing.start()
    until(lambda: len(broker.asked) == 2)
    assert tokens.api_key() == "token-1"
    broker.gate.set()
    renewing.join(10)
    assert tokens.api_key() == "token-2"


async def test_the_async_way_does_not_hold_up_the_loop() -> None:
    broker, clock = Broker(), Clock()
    tokens = source(broker, clock)
    broker.gate = threading.Event()
    asking = asyncio.ensure_future(tokens.async_api_key())
    await asyncio.to_thread(until, lambda: broker.asked)
    broker.gate.set()
    assert await asking == "token-1"
    assert await tokens.async_api_key() == "token-1"


def test_nothing_shows_a_token() -> None:
    tokens = source(Broker(), Clock())
    assert "token-1" not in repr(tokens.token())


# ---- what is exchanged


def test_a_file_is_read_anew_each_time(tmp_path: Path) -> None:
    file = tmp_path / "token"
    read = file_subject(file)
    for text in ("one", "two"):
        file.write_text(f"{text}\n")
        assert read() == text
    for content in (b"", b"\xff\xfe"):
        file.write_bytes(content)
        with pytest.raises(TokenFault):
            read()
    file.unlink()
    with pytest.raises(TokenFault) as caught:
        read()
    assert caught.value.word == "subject_missing"


def test_a_variable_that_is_not_set_is_named() -> None:
    with pytest.raises(TokenFault, match="BURSAR_API_KEY"):
        environment_key(env={})()
    with pytest.raises(TokenFault, match="GitHub"):
        github_subject("a", {})()


# ---- the watched file


class Waits:
    """Waits by moving the clock; stops after so many."""

    def __init__(self, clock: Clock, most: int) -> None:
        self.clock, self.most = clock, most
        self.waited: list[float] = []

    def __call__(self, seconds: float) -> bool:
        self.waited.append(seconds)
        self.clock.at += seconds
        return len(self.waited) >= self.most


def test_the_file_always_holds_a_good_token(tmp_path: Path) -> None:
    broker, clock, said = Broker(), Clock(), []
    file, waits = tmp_path / "token", Waits(clock, 3)
    watch(source(broker, clock), file, said.append, waits, clock)
    assert file.read_text() == "token-3\n"
    assert waits.waited == [600, 600, 600]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["token"]
    assert not [line for line in said if "token-" in line]


def test_the_last_good_one_stays_through_an_outage(tmp_path: Path) -> None:
    broker, clock, said = Broker(), Clock(), []
    tokens, file = source(broker, clock), tmp_path / "token"
    watch(tokens, file, said.append, Waits(clock, 1), clock)
    broker.fault = AWAY
    clock.at += 1000  # over even the end
    watch(tokens, file, said.append, Waits(clock, 2), clock)
    assert file.read_text() == "token-1\n"
    assert "not_reachable" in said[-1]


def test_what_will_never_work_ends_it_and_what_may_does_not(tmp_path: Path) -> None:
    broker, clock = Broker(), Clock()
    broker.fault = TokenFault("key_invalid", "no")
    with pytest.raises(TokenFault):
        watch(source(broker, clock), tmp_path / "t", lambda _: None, Waits(clock, 9), clock)
    broker.fault = AWAY
    watch(source(broker, clock), tmp_path / "t", lambda _: None, Waits(clock, 2), clock)
    assert not (tmp_path / "t").exists()


def test_a_file_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    broker, clock, said = Broker(), Clock(), []
    watch(source(broker, clock), tmp_path / "no" / "t", said.append, Waits(clock, 2), clock)
    assert "cannot be written" in said[0]


def test_a_link_planted_beside_the_file_is_not_followed(tmp_path: Path) -> None:
    file, elsewhere = tmp_path / "token", tmp_path / "elsewhere"
    (tmp_path / f".token.{os.getpid()}").symlink_to(elsewhere)
    with pytest.raises(OSError):
        write_private(file, "secret")
    assert not elsewhere.exists()


def test_it_is_quick_to_import_and_brings_nothing_of_the_server() -> None:
    program = "import sys, bursar.client; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"msgspec", "httpx", "cryptography", "typer", "starlette", "bursar.core", "bursar.faces"}

"""How the gateway process is put together: control's word reaches the right part, control is told what happens."""

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from bursar.app.gateway import Gateway
from bursar.app.logs import set_up_logs
from bursar.app.settings import read_config
from bursar.app.spec import NodeSpec
from bursar.app.upstreams import Door, Upstreams, build_providers
from bursar.config import Config, Provider
from bursar.core.directory import BreakerMark, Delta, Snapshot
from bursar.core.ledger import Settlement
from bursar.core.tokens import digest
from bursar.link import messages as m
from bursar.providers.anthropic import Anthropic
from bursar.providers.openai import OpenAI
from tests.gateway.fakes import FakeClock, FakeReleases
from tests.gateway.ground import budget, override, provider_key
from tests.stores.journal_kit import asking

DIALECTS: Any = {"openai": OpenAI(), "anthropic": Anthropic()}
KEY = provider_key("pk", "openai/*/api/prod/*")


class Line:
    """The link, as the gateway uses it."""

    def __init__(self) -> None:
        self.connected = asyncio.Event()
        self.sent: list[Any] = []
        self.reconnects = 0
        self.connections = 1  # how often it came about

    def send(self, message: Any) -> bool:
        self.sent.append(message)
        return True

    def reconnect(self) -> None:
        self.reconnects += 1


class Root:
    def __init__(self, folder: Path) -> None:
        config = read_config(None, str(folder), {})
        self.gateway = Gateway(NodeSpec(config=config, data=str(folder), node="n1"))
        self.line = Line()
        self.gateway._link = self.line  # type: ignore[assignment]
        self.releases = FakeReleases(FakeClock(2**62))
        self.gateway._leases._releases = self.releases
        self.node = self.gateway.node

    async def borrow(self) -> None:
        await self.node.leases.borrow(KEY)


@pytest.fixture
async def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Root]:
    monkeypatch.chdir(tmp_path)
    made = Root(tmp_path)
    made.gateway._welcome(Snapshot(version=1, provider_keys=[KEY]), b"p" * 32)
    yield made
    await made.gateway._backing.close()
    await made.gateway._client.close()


async def test_with_the_first_directory_it_is_ready(root: Root) -> None:
    assert root.node.ready
    assert root.node.tenants.version == 1
    assert root.node.digest("text") == digest("text", b"p" * 32)


async def test_a_change_is_applied_and_said_so(root: Root) -> None:
    root.gateway._delta(Delta(version=2))
    assert root.node.tenants.version == 2
    assert root.line.sent == [m.Applied(version=2)]


async def test_after_a_gap_nothing_is_applied_and_everything_asked_for(root: Root) -> None:
    for version in (1, 3):
        root.gateway._delta(Delta(version=version))
    assert root.node.tenants.version == 1
    assert root.line.reconnects == 2
    assert root.line.sent == []


@pytest.mark.parametrize(
    "delta",
    [
        Delta(version=2, provider_keys=[provider_key("pk", KEY.address, disabled=True)]),
        Delta(version=2, gone=[("provider_key", "pk")]),
    ],
)
async def test_a_provider_key_that_changed_is_not_held_on_to(root: Root, delta: Delta) -> None:
    await root.borrow()
    root.gateway._delta(delta)
    assert root.gateway._leases._held == {}


async def test_a_revoked_version_is_forgotten(root: Root) -> None:
    await root.borrow()
    root.gateway._revoked("pk", 2)
    assert root.gateway._leases._held
    root.gateway._revoked("pk", 1)
    assert root.gateway._leases._held == {}


async def test_prices_come_and_go(root: Root) -> None:
    root.gateway._delta(Delta(version=2, prices=[override("openai", "ours-1", from_ns=5)]))
    assert root.node.prices.find("openai", "ours-1", 10) is not None
    root.gateway._delta(Delta(version=3, gone=[("price", "openai/ours-1@5")]))
    assert root.node.prices.find("openai", "ours-1", 10) is None


async def test_what_was_counted_waits_for_control(root: Root) -> None:
    root.node.counters.add("bursar_refusals_total", ("t", "w"))
    root.gateway._happen("upstream_key_refused", "pk", {"status": 401})
    root.gateway._ship(uses=True)
    assert root.line.sent == []
    root.line.connected.set()
    await root.borrow()
    root.gateway._ship(uses=False)
    metrics, happened = root.line.sent
    assert metrics.delta.counters == {"bursar_refusals_total": [(("t", "w"), 1)]}
    assert set(metrics.delta.gauges) == {
        "bursar_in_flight",
        "bursar_connections",
        "bursar_bytes_in_flight",
        "bursar_open_holds",
        "bursar_directory_version",
        "bursar_rates_shared",
        "bursar_rates_nodes",
        "bursar_followed",
        "bursar_observed_keys",
        "bursar_breakers_open",
        "bursar_breakers_by_hand",
        "bursar_breakers_shared",
    }
    assert happened == m.Happened(word="upstream_key_refused", subject="pk", facts={"status": 401})
    root.line.sent.clear()
    root.gateway._ship(uses=True)
    (metrics, uses) = root.line.sent
    assert metrics.delta.counters == {}
    assert (uses.counts, uses.flush) == ([("pk", 1, 1)], f"{root.node.boot}-1")
    await root.borrow()
    root.line.sent.clear()
    root.gateway._ship(uses=True)
    assert root.line.sent[-1] == uses  # not on record yet: the same again
    root.gateway._uses.recorded(uses.flush)
    root.gateway._ship(uses=True)
    assert (root.line.sent[-1].counts, root.line.sent[-1].flush) == ([("pk", 1, 1)], f"{root.node.boot}-2")


async def test_how_circuits_stand_is_told_while_any_is_known_and_once_after(root: Root) -> None:
    root.line.connected.set()

    def told() -> list[Any]:
        root.line.sent.clear()
        root.gateway._ship(uses=False)
        return [message for message in root.line.sent if isinstance(message, m.Circuits)]

    board = root.node.board
    assert board is not None
    assert told() == []
    board.report("provider openai", "failed")
    for _ in range(2):
        (said,) = told()
        assert [(one.name, one.state, one.failures) for one in said.seen] == [("provider/openai", "closed", 1)]
    mark = BreakerMark(id="provider/openai", open=False, at=1)
    root.gateway._delta(Delta(version=2, breakers=[mark]))
    root.line.sent.clear()
    (said,) = told()
    assert said.seen == []
    assert told() == []


async def test_what_the_ledger_tells_is_passed_on(root: Root) -> None:
    root.node.money.define(budget(100))
    held = await root.node.money.hold(asking(60))
    root.node.money.post(held.hold_id, Settlement(120, None, False, "ok"))
    words = [happened.word for happened in root.gateway._happened]
    assert {"ledger_overage", "ledger_closed", "ledger_threshold"} <= set(words)


# ---- providers -------------------------------------------------------------------------------------------------------


def test_each_provider_has_its_twin_at_the_emulator() -> None:
    config = read_config(None, None, {})
    providers = build_providers(config, DIALECTS, "http://127.0.0.1:9")
    assert [p.name for p in providers] == ["openai", "anthropic"]
    for provider in providers:
        twin = provider.twin
        assert twin is not None
        assert isinstance(provider.door, Door)
        assert isinstance(twin.door, Door)
        assert provider.door.origin.scheme == "https"
        assert (twin.door.origin.host, twin.door.origin.port) == ("127.0.0.1", 9)
        assert twin.targets == provider.targets
        assert not provider.door.origin.allow_private
    assert providers[0].targets["chat"] == "/v1/chat/completions"
    assert providers[0].targets["embeddings"] == "/v1/embeddings"
    assert providers[1].targets["messages"] == "/v1/messages"


def test_a_provider_as_configured() -> None:
    ours = Provider(
        dialect="openai",
        base_url="http://10.0.0.5:8000/llm/v1/",
        headers={"X-Region": "eu"},
        models=("llama-*",),
        prices="openai",
        allow_private=True,
    )
    off = Provider(dialect="openai", base_url="https://off.example", enabled=False)
    config = Config(providers={"ours": ours, "off": off})
    (built,) = build_providers(config, DIALECTS, "")
    assert built.twin is None
    assert built.targets["chat"] == "/llm/v1/chat/completions"
    assert built.headers == (("x-region", "eu"),)
    assert isinstance(built.door, Door)
    assert (built.door.origin.host, built.door.origin.port, built.door.origin.allow_private) == ("10.0.0.5", 8000, True)
    assert built.prices == "openai"
    assert build_providers(Config(providers={"ours": ours}), DIALECTS, "")[0].prices == "openai"


async def test_a_request_goes_to_the_providers_door() -> None:
    asked: list[Any] = []

    class Client:
        async def request(self, *what: Any) -> str:
            asked.append(what)
            return "response"

    (built, _) = build_providers(read_config(None, None, {}), DIALECTS, "")
    upstreams = Upstreams(Client())  # type: ignore[arg-type]
    assert await upstreams.request(built, "chat", b"a: b\r\n", b"{}") == "response"
    ((origin, method, target, headers, body, timeouts),) = asked
    assert (origin.host, method, target, headers, body) == (
        "api.openai.com",
        "POST",
        "/v1/chat/completions",
        b"a: b\r\n",
        b"{}",
    )
    assert timeouts.total == 1800


# ---- the log ---------------------------------------------------------------------------------------------------------


def test_a_fault_is_logged_with_its_place_and_never_with_its_text(capsys: pytest.CaptureFixture[str]) -> None:
    before = logging.getLogger().handlers[:], logging.getLogger().level
    try:
        set_up_logs("gateway")
        try:
            raise ValueError("sk-canary")
        except ValueError:
            logging.getLogger("bursar.test").exception("it failed")
        told = capsys.readouterr().err
    finally:
        logging.getLogger().handlers[:], level = before
        logging.getLogger().setLevel(level)
    assert "sk-canary" not in told
    first, second = told.splitlines()
    assert first.split(" ", 1)[1] == "gateway ERROR bursar.test: it failed"
    assert first.split(" ", 1)[0].endswith("Z")
    assert second.startswith("  ValueError at test_gateway_root.py:")

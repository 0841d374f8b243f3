"""The fakes have the shape of the Protocols, and where behaviour matters that of the wire's own classes."""

import inspect
from pathlib import Path
from typing import Any

import pytest

from bursar import ports
from bursar.core.errors import UpstreamFault
from bursar.core.secret import Secret
from bursar.gateway import lease, node
from bursar.wire.exchange import Exchange
from bursar.wire.upstream import Response
from tests.gateway import fakes
from tests.gateway.fakes import HANG, FakeExchange, FakeResponse


def members(shape: type) -> dict[str, Any]:
    """Public attributes and methods that a Protocol asks for."""
    annotated = dict.fromkeys(inspect.get_annotations(shape))
    defined = {name: value for name, value in vars(shape).items() if not name.startswith("_")}
    return annotated | defined


def parameters(function: Any) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


def instance(kind: type, tmp_path: Path) -> Any:
    clock = fakes.FakeClock()
    made = {
        FakeExchange: lambda: FakeExchange("GET", "/", {}, b""),
        FakeResponse: lambda: FakeResponse([]),
        fakes.FakeReleases: lambda: fakes.FakeReleases(clock),
        fakes.Grant: lambda: fakes.Grant(Secret("s"), 1),
        fakes.WatchedJournal: lambda: fakes.WatchedJournal.open(tmp_path / "journal", clock),
    }
    return made.get(kind, kind)()


@pytest.mark.parametrize(
    ("fake", "shape"),
    [
        (fakes.FakeClock, ports.Clock),
        (fakes.Dice, ports.Entropy),
        (FakeExchange, ports.Exchange),
        (FakeResponse, ports.UpstreamResponse),
        (fakes.ScriptedUpstream, node.Upstream),
        (fakes.FakeReleases, lease.Releases),
        (fakes.Grant, lease.Granted),
        (fakes.WatchedJournal, node.Money),
    ],
)
def test_a_fake_has_what_its_protocol_asks_for(fake: type, shape: type, tmp_path: Path) -> None:
    made = instance(fake, tmp_path)
    for name, asked in members(shape).items():
        assert hasattr(made, name), name
        if inspect.isfunction(asked):
            assert parameters(getattr(made, name)) == parameters(asked), name
            assert inspect.iscoroutinefunction(getattr(made, name)) == inspect.iscoroutinefunction(asked), name


@pytest.mark.parametrize(("fake", "real"), [(FakeExchange, Exchange), (FakeResponse, Response)])
def test_a_fake_takes_what_the_wire_takes(fake: type, real: type) -> None:
    for name, value in vars(fake).items():
        if inspect.isfunction(value) and hasattr(real, name) and not name.startswith("_"):
            assert parameters(value) == parameters(getattr(real, name)), name


async def test_an_answer_is_opened_once() -> None:
    exchange = FakeExchange("GET", "/", {}, b"")
    with pytest.raises(RuntimeError):
        exchange.write(b"early")
    exchange.start(200, b"")
    with pytest.raises(RuntimeError):
        exchange.respond(200, b"", b"")
    exchange.finish()
    with pytest.raises(RuntimeError):
        exchange.finish()


async def test_an_aborted_relay_returns_and_what_a_sink_raises_comes_out() -> None:
    response = FakeResponse([b"one"])
    response.script += [response.abort, b"two"]
    got: list[bytes] = []
    await response.relay(got.append)
    assert got == [b"one"]
    failing = FakeResponse([b"one", HANG])
    with pytest.raises(ZeroDivisionError):
        await failing.relay(lambda _: 1 // 0)
    assert failing.aborted
    with pytest.raises(UpstreamFault):
        await FakeResponse([b"four"]).read(3)

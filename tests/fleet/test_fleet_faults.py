"""A fleet whose parts go away: what is refused meanwhile, and that all comes back without an operator."""

import time
from pathlib import Path

import httpx
import pytest

from tests.e2e.tenants import Tenants
from tests.faults.books import until
from tests.fleet.harness import Fleet
from tests.fleet.test_fleet import word, works


def test_postgresql_restarted_in_the_middle(tmp_path: Path) -> None:
    """Closed while it is away, in `store_unavailable`; served again when it is back, without an operator."""
    with Fleet(tmp_path, names=("a", "b")) as fleet:
        a, b = fleet.start()
        tenants = Tenants(a)
        money, free = tenants.key(budget={"limit_usd": "1.00"}), tenants.key()
        for node in (a, b):
            fleet.calls_until(node, money.text, works, 20)
        fleet.server.stop()
        for node in (a, b):
            refused = fleet.call(node, money.text)
            assert (refused.status_code, word(refused)) == (503, "store_unavailable")
            assert refused.headers["retry-after"]
        unknown = free.text[:-1] + ("a" if free.text[-1] != "a" else "b")

        def stale(answer: httpx.Response) -> bool:
            return word(answer) == "directory_stale"

        fleet.calls_until(b, free.text, stale, 20)
        fleet.calls_until(b, unknown, stale, 20)
        assert a.admin("POST", "/v1/admin/owners", json={"name": "X"}).status_code == 503
        fleet.server.start()
        for node in (a, b):
            for key in (money, free):
                fleet.calls_until(node, key.text, works, 60)
        later = tenants.key(budget={"limit_usd": "1.00"})
        fleet.calls_until(b, later.text, works, 20)
        until(lambda: fleet.books(money.budgets[0]).held == 0, 60)


def test_one_node_restarts_while_the_others_serve(tmp_path: Path) -> None:
    with Fleet(tmp_path, names=("a", "b")) as fleet:
        a, b = fleet.start()
        tenants = Tenants(b)
        key = tenants.key(budget={"limit_usd": "1.00"})
        for node in (a, b):
            fleet.calls_until(node, key.text, works, 20)
        assert a.stop() == 0
        assert works(fleet.call(b, key.text))
        until(lambda: [node["name"] for node in b.cli_json("nodes")] == ["b"])
        later = tenants.key(budget={"limit_usd": "1.00"})
        a.start(60)
        assert works(fleet.call(a, later.text))
        assert {node["name"] for node in a.cli_json("nodes")} == {"a", "b"}


def test_a_node_that_was_killed_comes_back_at_once(tmp_path: Path) -> None:
    """Its name is still written down as living; by its folder it is known to be the same."""
    with Fleet(tmp_path, names=("a",)) as fleet:
        (a,) = fleet.start()
        key = Tenants(a).key(budget={"limit_usd": "1.00"})
        fleet.calls_until(a, key.text, works, 20)
        children = [pid for name, pid in a.pids().items() if name != "supervisor"]
        assert a.process is not None
        a.process.kill()
        a.process.wait(10)
        until(lambda: not any(_lives(pid) for pid in children))
        began = time.monotonic()
        a.start(60)
        assert time.monotonic() - began < 8  # it did not wait for its own lease
        assert works(fleet.call(a, key.text))


def test_control_that_dies_costs_no_money_call(tmp_path: Path) -> None:
    """Holds are checked by the store itself; control comes back and the gateway hears from it again."""
    with Fleet(tmp_path, names=("a", "b")) as fleet:
        a, b = fleet.start()
        tenants = Tenants(b)
        key = tenants.key(budget={"limit_usd": "1.00"})
        for node in (a, b):
            fleet.calls_until(node, key.text, works, 20)
        old = a.kill("control")
        assert works(fleet.call(a, key.text))
        tenants.disable(key)
        refused = fleet.call(a, key.text)
        assert (refused.status_code, word(refused)) == (403, "key_disabled")
        a.wait_replaced("control", old)
        later = tenants.key(budget={"limit_usd": "1.00"})
        fleet.calls_until(a, later.text, works, 30)


def test_without_asyncpg_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bursar.app.supervisor import CannotStart, _roots  # noqa: PLC0415
    from bursar.config import Config, Store  # noqa: PLC0415

    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(CannotStart, match=r"bursar\[postgres\]"):
        _roots(Config(store=Store(kind="postgres")))


def _lives(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()

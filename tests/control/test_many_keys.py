"""A directory of many keys: a change costs what it touches, and the start a small, even price a key.

Counted in instructions of the interpreter, which no other work on the machine disturbs.
"""

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec
import pytest

from bench.many_keys import directory
from bursar.control.directory import Book, Change
from bursar.core.directory import Delta, VirtualKey
from bursar.gateway.tenants import Tenants as GatewayTenants
from bursar.stores.directory_rows import rows_of, snapshot_of
from tests.control.tenants import ACTOR, Tenants

FEW, MANY = 100, 10_000
A_KEY = 150
"""Instructions that one more key may cost a start, control and gateway together."""


class _Count:
    """Instructions that are run while it is entered, in every frame that begins meanwhile."""

    def __init__(self) -> None:
        self.instructions = 0

    def __enter__(self) -> "_Count":
        self._before = sys.gettrace()
        sys.settrace(self._seen)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _seen(self, frame: FrameType, event: str, _: Any) -> Any:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        self.instructions += event == "opcode"
        return self._seen


def _rows(keys: int) -> list[tuple[str, bytes]]:
    """As a store gives them: (kind, body), by kind and id."""
    return [(kind, body) for kind, _, body in sorted(rows_of(directory(1, keys))) if body is not None]


async def _cost_of(act: Callable[[], Awaitable[None]]) -> int:
    """The second time: what is made once is made by then."""
    await act()
    with _Count() as count:
        await act()
    return count.instructions


async def _change_costs(folder: Path, keys: int) -> int:
    """One key is switched, in audit, store and book of control and in a gateway's tables."""
    tenants = Tenants(folder)
    try:
        await tenants.store.commit(directory(1, keys), ACTOR, "test.fill", 1)
        for delta in await tenants.store.changes_since(0) or []:
            tenants.directory.book.apply(delta)
        gateway = GatewayTenants(lambda _: None)
        gateway.replace(tenants.directory.snapshot())
        tenants.directory.subscribe(gateway.change)

        def switched(book: Book) -> Change:
            key = book.get(VirtualKey, "bench0000042")
            return Change(
                action="key.disable",
                target=f"key/{key.id}",
                put=[msgspec.structs.replace(key, disabled=not key.disabled)],
            )

        cost = await _cost_of(lambda: tenants.directory.change(ACTOR, switched))
        assert gateway.version == tenants.directory.book.version == 3
        return cost
    finally:
        tenants.store.close()


async def test_a_change_among_many_keys_costs_what_it_costs_among_few(tmp_path: Path) -> None:
    folders = tmp_path / "few", tmp_path / "many"
    for folder in folders:
        folder.mkdir()
    few, many = await _change_costs(folders[0], FEW), await _change_costs(folders[1], MANY)
    assert few > 1_000  # it is counted at all
    assert many <= few * 1.2


@pytest.mark.parametrize("gone", [True, False])
def test_a_key_that_comes_or_goes_among_many_costs_what_it_costs_among_few(gone: bool) -> None:
    costs = {}
    for keys in (FEW, MANY):
        book, gateway = Book(snapshot_of(1, _rows(keys))), GatewayTenants(lambda _: None)
        gateway.replace(book.snapshot())
        key = book.get(VirtualKey, "bench0000042")
        another = msgspec.structs.replace(key, id="bench0000042x", secrets=())
        delta = Delta(version=2, gone=[("key", key.id)]) if gone else Delta(version=2, keys=[another])
        with _Count() as count:
            book.apply(delta)
            gateway.change(delta)
        costs[keys] = count.instructions
        assert book.count(VirtualKey) == len(gateway.keys) == keys + (-1 if gone else 1)
    assert costs[MANY] <= costs[FEW] * 1.2


def test_a_start_with_many_keys_is_a_small_price_a_key() -> None:
    costs = {}
    for keys in (FEW, MANY):
        rows = _rows(keys)
        gateway = GatewayTenants(lambda _: None)
        with _Count() as count:
            gateway.replace(Book(snapshot_of(1, rows)).snapshot())
        costs[keys] = count.instructions
        assert len(gateway.keys) == keys
    assert 10 < (costs[MANY] - costs[FEW]) / (MANY - FEW) <= A_KEY

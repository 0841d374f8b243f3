"""Circuits as control knows them: what gateways tell, what people say, and what is shown of both."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.control import breakers as module
from bursar.control.breakers import Breakers, Told
from bursar.core.circuits import CircuitSeen
from bursar.core.directory import BreakerMark
from bursar.core.errors import Refusal
from bursar.core.units import NS_PER_S
from tests.control.tenants import ACTOR, Tenants


@pytest.fixture
def tenants(tmp_path: Path) -> Iterator[Tenants]:
    made = Tenants(tmp_path)
    yield made
    made.store.close()


def seen(name: str, opened: bool = True) -> CircuitSeen:
    return CircuitSeen(
        name=name,
        state="open" if opened else "closed",
        failures=5,
        last_ns=1,
        since_ns=1 if opened else None,
        next_try_ns=2 if opened else None,
    )


async def test_what_several_gateways_and_a_person_say_of_one(tenants: Tenants) -> None:
    now = tenants.directory.now()
    told = {
        "one": Told(now, [seen("provider/openai"), seen("key/a/m", opened=False)]),
        "two": Told(now, [seen("provider/openai")]),
        "silent": Told(now - 11 * NS_PER_S, [seen("provider/anthropic")]),
    }
    breakers = Breakers(tenants.directory, ("openai", "anthropic"), lambda: told)
    rows = [(one.name, one.node, one.mark is not None) for one in breakers.all()]
    assert rows == [("key/a/m", "one", False), ("provider/openai", "one", False), ("provider/openai", "two", False)]
    await breakers.open(ACTOR, "anthropic", reason="a test")
    await breakers.open(ACTOR, "openai")
    rows = [(one.name, one.node, one.mark is not None) for one in breakers.all()]
    assert rows == [
        ("key/a/m", "one", False),
        ("provider/anthropic", "", True),
        ("provider/openai", "one", True),
        ("provider/openai", "two", True),
    ]
    assert tenants.audit.actions[-2:] == ["breaker.open", "breaker.open"]
    assert tenants.audit.lines[-2].facts["reason"] == "a test"


async def test_one_that_is_over_is_not_shown_and_makes_room(tenants: Tenants, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST", 2)
    breakers = Breakers(tenants.directory, ("a", "b", "c"))
    await breakers.open(ACTOR, "a")
    await breakers.close(ACTOR, "b")
    assert [one.name for one in breakers.all()] == ["provider/a"]
    await breakers.open(ACTOR, "c")
    assert {mark.id for mark in tenants.directory.book.all(BreakerMark)} == {"provider/a", "provider/c"}
    with pytest.raises(Refusal) as caught:
        await breakers.open(ACTOR, "b")
    assert caught.value.word == "invalid_input"


@pytest.mark.parametrize(("for_s", "reason"), [(0, ""), (-1, ""), (1, "x" * 201), (1, "two\nlines")])
async def test_what_does_not_fit_changes_nothing(tenants: Tenants, for_s: int, reason: str) -> None:
    breakers = Breakers(tenants.directory, ("a",))
    with pytest.raises(Refusal) as caught:
        await breakers.open(ACTOR, "a", for_s, reason)
    assert (caught.value.word, breakers.all()) == ("invalid_input", [])


@given(at=st.integers(0, 100), until=st.none() | st.integers(0, 100), opened=st.booleans(), now=st.integers(0, 100))
def test_a_mark_keeps_calls_away_while_it_is_open(at: int, until: int | None, opened: bool, now: int) -> None:
    mark = BreakerMark(id="provider/a", open=opened, at=at, until=until)
    assert mark.shuts(now) == (opened and not (until is not None and until <= now))

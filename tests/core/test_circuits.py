"""Circuits as people see them: their names, and how each stands."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.core.breaker import OUTCOMES, Circuit, Rule, may_try, report, state
from bursar.core.circuits import name_of, seen_of, subject_of
from bursar.core.errors import Refusal

RULE = Rule(in_a_row=2)
NS = 10**6
NOW = 5_000_000 * NS


@pytest.mark.parametrize(
    "subject", ["provider openai", "key sec_1", "key sec_1 gpt-4o", "key sec_1 org/model", "key a b c"]
)
def test_a_name_leads_back_to_its_subject(subject: str) -> None:
    assert subject_of(name_of(subject)) == subject


@pytest.mark.parametrize("name", ["", "openai", "provider/", "model/x", "provider/a\nb", "key/" + "x" * 600])
def test_what_names_no_circuit(name: str) -> None:
    with pytest.raises(Refusal) as raised:
        subject_of(name)
    assert raised.value.word == "invalid_input"


def one(circuit: Circuit, now: int) -> tuple[object, ...]:
    (seen,) = seen_of({"provider a": circuit}, now, NOW)
    return seen.state, seen.failures, seen.since_ns, seen.next_try_ns


def test_an_open_one_says_since_when_and_when_it_is_tried() -> None:
    circuit = Circuit()
    report(circuit, "failed", 1_000, RULE)
    assert one(circuit, 1_000) == ("closed", 1, None, None)
    report(circuit, "failed", 2_000, RULE)
    assert one(circuit, 3_000) == ("open", 2, NOW - 1_000 * NS, NOW + 4_000 * NS)
    assert one(circuit, 7_000) == ("half_open", 2, NOW - 5_000 * NS, NOW)
    assert may_try(circuit, 7_000, RULE)
    assert one(circuit, 7_000) == ("half_open", 2, NOW - 5_000 * NS, None)  # it is being tried
    report(circuit, "failed", 7_000, RULE, tried=True)
    assert one(circuit, 8_000) == ("open", 3, NOW - 6_000 * NS, NOW + 9_000 * NS)
    report(circuit, "busy", 8_000, RULE, wait_ms=500)
    (seen,) = seen_of({"provider a": circuit}, 8_000, NOW)
    assert (seen.state, seen.busy_until_ns, seen.last_ns) == ("open", NOW + 500 * NS, NOW - 1_000 * NS)


@given(st.lists(st.tuples(st.sampled_from(OUTCOMES), st.integers(0, 20_000), st.booleans()), max_size=30))
def test_what_is_shown_is_what_a_call_meets(history: list[tuple[object, int, bool]]) -> None:
    circuit, now = Circuit(), 0
    for outcome, wait, asks in history:
        now += wait
        tried = asks and may_try(circuit, now, RULE)
        report(circuit, outcome, now, RULE, tried=tried, wait_ms=100)  # type: ignore[arg-type]
        (seen,) = seen_of({"key k": circuit}, now, NOW)
        keeps_away = state(circuit, now) == "open"
        assert (seen.next_try_ns is not None and seen.next_try_ns > NOW) == keeps_away
        assert (seen.since_ns is None) == (state(circuit, now) == "closed")
        assert seen.since_ns is None or seen.since_ns <= NOW
        assert seen.name == "key/k"

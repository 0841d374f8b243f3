"""Circuits: when they open, for how long, who tries, and what they do not count."""

from hypothesis import given
from hypothesis import strategies as st

from bursar.core.breaker import OUTCOMES, Circuit, Outcome, Rule, is_over, may_try, report, state

RULE = Rule()
BEGAN = 1_000_000
FIVE: tuple[Outcome, ...] = ("failed",) * 5
HALF: tuple[Outcome, ...] = ("ok", "failed") * 10
BUSY: tuple[Outcome, ...] = ("busy",) * 50


def after(*outcomes: Outcome, rule: Rule = RULE) -> Circuit:
    circuit = Circuit()
    for outcome in outcomes:
        report(circuit, outcome, BEGAN, rule)
    return circuit


def test_failures_in_a_row_open_and_one_answer_between_them_does_not_let_it() -> None:
    assert state(after(*FIVE), BEGAN) == "open"
    assert state(after(*FIVE[1:], "ok", *FIVE[1:]), BEGAN) == "closed"


def test_half_of_many_calls_open_and_half_of_few_do_not() -> None:
    assert state(after(*HALF), BEGAN) == "open"
    assert state(after(*HALF[2:]), BEGAN) == "closed"


def test_failures_a_window_apart_are_not_in_a_row() -> None:
    circuit = Circuit()
    for number in range(20):
        report(circuit, "failed", BEGAN + number * (RULE.window_ms + 1), RULE)
    assert state(circuit, BEGAN) == "closed"


def test_what_one_caller_is_told_opens_nothing_and_a_busy_key_is_only_busy() -> None:
    circuit = after(*BUSY)
    report(circuit, "busy", BEGAN, RULE, wait_ms=7_000)
    assert (state(circuit, BEGAN), circuit.busy - BEGAN) == ("closed", 7_000)
    report(circuit, "busy", BEGAN, RULE, wait_ms=10**9)  # nobody is shut out for days by a header
    assert circuit.busy - BEGAN == RULE.longest_ms


def test_one_call_tries_and_its_failure_doubles_the_wait_up_to_the_longest() -> None:
    circuit, now, waits = after(*FIVE), BEGAN, []
    for _ in range(6):
        assert not may_try(circuit, now, RULE)
        now = circuit.until
        assert may_try(circuit, now, RULE)
        assert not may_try(circuit, now, RULE)
        report(circuit, "failed", now, RULE, tried=True)
        waits.append(circuit.until - now)
    assert waits == [10_000, 20_000, 40_000, 60_000, 60_000, 60_000]
    now = circuit.until
    assert may_try(circuit, now, RULE)
    report(circuit, "ok", now, RULE, tried=True)
    assert state(circuit, now) == "closed"
    assert is_over(circuit, now + RULE.window_ms + 1, RULE)


def test_a_try_that_says_nothing_is_over_at_its_time_and_one_that_was_not_sent_at_once() -> None:
    circuit = after(*FIVE)
    now = circuit.until
    assert may_try(circuit, now, RULE)
    assert not may_try(circuit, now + RULE.try_ms - 1, RULE)
    assert may_try(circuit, now + RULE.try_ms, RULE)
    report(circuit, "none", now + RULE.try_ms, RULE, tried=True)
    assert may_try(circuit, now + RULE.try_ms, RULE)


def test_calls_that_were_under_way_when_it_opened_neither_close_nor_lengthen_it() -> None:
    circuit = after(*FIVE)
    until = circuit.until
    for outcome in HALF:
        report(circuit, outcome, BEGAN + 1, RULE)
    assert (state(circuit, BEGAN + 1), circuit.until) == ("open", until)


@given(st.lists(st.tuples(st.sampled_from(OUTCOMES), st.integers(0, 40_000), st.booleans()), max_size=60))
def test_whatever_happens_it_is_shut_for_no_longer_than_the_longest_and_answers_close_it(
    history: list[tuple[Outcome, int, bool]],
) -> None:
    circuit, now = Circuit(), BEGAN
    for outcome, wait, tries in history:
        now += wait
        tried = tries and may_try(circuit, now, RULE)
        report(circuit, outcome, now, RULE, tried=tried, wait_ms=wait if outcome == "busy" else None)
        assert circuit.until - now <= RULE.longest_ms
        assert circuit.failures <= circuit.calls
    now = max(circuit.until, circuit.trying, now)
    if circuit.opened:
        assert may_try(circuit, now, RULE)
        report(circuit, "ok", now, RULE, tried=True)
    assert state(circuit, now) == "closed"

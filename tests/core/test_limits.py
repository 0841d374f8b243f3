"""Rates never admit more than they say, act whole or not at all, and give back what was not used."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from bursar.core.directory import LimitDef, LimitUnit
from bursar.core.limits import OVERFLOW, Bound, Limited, Rates, Reservation, bind


def limit(unit: LimitUnit, amount: int, seconds: int = 60, burst: int | None = None, name: str = "") -> Bound:
    definition = LimitDef(id=name or unit, unit=unit, amount=amount, per_seconds=seconds, burst=burst)
    return bind(definition, "key_1")


# ---- one bucket -----------------------------------------------------------------------------------------------------


@given(
    amount=st.integers(1, 50),
    seconds=st.integers(1, 90),
    burst=st.integers(1, 30),
    steps=st.lists(st.floats(0, 20, allow_nan=False), min_size=1, max_size=80),
)
def test_no_interval_admits_more_than_burst_and_refill(
    amount: int, seconds: int, burst: int, steps: list[float]
) -> None:
    rates, bound = Rates(), limit("requests", amount, seconds, burst)
    now, admitted = 1_000.0, []
    for lease, step in enumerate(steps, 1):
        now += step
        if rates.arrive([bound], now, lease) is None:
            rates.release(lease)
            admitted.append(now)
    for first, start in enumerate(admitted):
        for last, end in enumerate(admitted[first:], first):
            assert last - first + 1 <= burst + (end - start) * amount / seconds + 1e-3


@given(st.integers(1, 40), st.integers(1, 90), st.integers(1, 20), st.integers(1, 60))
def test_the_whole_burst_is_admitted_and_the_retry_hint_is_true(
    amount: int, seconds: int, burst: int, calls: int
) -> None:
    rates, bound = Rates(), limit("requests", amount, seconds, burst)
    now = 5_000_000.0  # a machine that has been up for two months: floats are coarser there
    outcomes = [rates.arrive([bound], now, lease) for lease in range(1, calls + 1)]
    assert sum(outcome is None for outcome in outcomes) == min(calls, burst)
    refused = outcomes[-1]
    if refused is not None:
        assert refused.word == "rate_limited"
        assert rates.arrive([bound], now + refused.retry_after * 0.98 - 0.002, 9_000) is not None
        assert rates.arrive([bound], now + refused.retry_after + 1e-6, 9_001) is None


def test_a_limit_of_nothing_admits_nothing() -> None:
    rates = Rates()
    none = limit("requests", 0)
    assert rates.arrive([none], 1e9, 1) is not None
    assert isinstance(rates.reserve([limit("tokens", 0)], 0, 0, 1e9), Limited)
    assert isinstance(rates.reserve([limit("tokens", 0)], 10**9, 0, 2e9), Limited)
    assert rates.arrive([limit("concurrency", 0)], 2e9, 1) is not None
    assert rates.view(none, 2e9)[:2] == (0, 0)


def test_a_clock_that_goes_back_gives_nothing_and_starves_nobody() -> None:
    rates, bound = Rates(), limit("requests", 1, 60)
    assert rates.arrive([bound], 1_000.0, 1) is None
    refused = rates.arrive([bound], 10.0, 2)
    assert refused is not None
    assert refused.retry_after <= 60
    assert rates.view(bound, 10.0)[2] <= 60
    assert rates.arrive([bound], 1_059.0, 3) is not None
    assert rates.arrive([bound], 1_060.1, 4) is None


# ---- several at once ------------------------------------------------------------------------------------------------

SECOND = limit("requests", 5, 1, name="per-second")
MINUTE = limit("requests", 20, 60, burst=7, name="per-minute")
SLOTS = limit("concurrency", 3)
TOKENS = limit("tokens", 1_000, 60)
OUTPUT = limit("output_tokens", 200, 60, burst=400)
MODEL_REQUESTS = limit("requests", 6, 60, name="model-requests")
ALL = (SECOND, MINUTE, SLOTS, TOKENS, OUTPUT, MODEL_REQUESTS)


class OneNode(RuleBasedStateMachine):
    """Random histories against what must always hold. Sizes stay below the bursts; large ones have a test apart."""

    def __init__(self) -> None:
        super().__init__()
        self.rates = Rates()
        self.now = 100.0
        self.next = 0
        self.live: dict[int, Reservation | None] = {}

    def state(self) -> list[tuple[int, int, float]]:
        return [self.rates.view(bound, self.now) for bound in ALL]

    @rule(step=st.floats(0, 30, allow_nan=False))
    def wait(self, step: float) -> None:
        self.now += step

    @rule()
    def arrive(self) -> None:
        self.next += 1
        before = self.state()
        refused = self.rates.arrive((SECOND, MINUTE, SLOTS), self.now, self.next)
        if refused is None:
            self.live[self.next] = None
            return
        assert self.state() == before
        assert refused.bound in (SECOND, MINUTE, SLOTS)
        assert (refused.word == "concurrency_limited") == (refused.bound is SLOTS)
        self.rates.release(self.next)
        assert self.state() == before

    @rule(data=st.data(), tokens=st.integers(0, 900), output=st.integers(0, 100))
    def reserve(self, data: st.DataObject, tokens: int, output: int) -> None:
        waiting = [lease for lease, reservation in self.live.items() if reservation is None]
        if not waiting:
            return
        lease = data.draw(st.sampled_from(waiting))
        before = self.state()
        found = self.rates.reserve((TOKENS, OUTPUT, MODEL_REQUESTS), tokens, output, self.now, lease)
        if isinstance(found, Limited):
            assert self.state() == before
            self.rates.give_back(lease)
            del self.live[lease]
        else:
            self.live[lease] = found

    @rule(data=st.data(), tokens=st.integers(0, 2_000), output=st.integers(0, 500))
    def finish(self, data: st.DataObject, tokens: int, output: int) -> None:
        if not self.live:
            return
        lease = data.draw(st.sampled_from(sorted(self.live)))
        reservation = self.live.pop(lease)
        if reservation is not None:
            self.rates.settle(reservation, tokens, output, self.now)
            before = self.state()
            self.rates.settle(reservation, tokens, output, self.now)
            assert self.state() == before
        self.rates.release(lease)
        before = self.state()
        self.rates.release(lease)
        self.rates.give_back(lease)
        assert self.state() == before

    @invariant()
    def slots_are_the_live_calls(self) -> None:
        assert len(self.live) <= SLOTS.amount
        assert self.rates.view(SLOTS, self.now)[1] == SLOTS.amount - len(self.live)

    @invariant()
    def nothing_is_left_of_calls_that_ended(self) -> None:
        assert self.rates._leases.keys() == self.live.keys()

    @invariant()
    def no_bucket_is_more_than_full(self) -> None:
        for bound, (_, remaining, reset) in zip(ALL, self.state(), strict=True):
            assert 0 <= remaining <= max(bound.burst, bound.amount)
            assert reset >= 0


TestOneNode = OneNode.TestCase
TestOneNode.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)


# ---- tokens ---------------------------------------------------------------------------------------------------------


@given(
    estimated=st.tuples(st.integers(0, 400), st.integers(0, 400)),
    actual=st.tuples(st.integers(0, 3_000), st.integers(0, 3_000)),
)
def test_settling_leaves_what_an_exact_estimate_would_have_left(
    estimated: tuple[int, int], actual: tuple[int, int]
) -> None:
    bounds = [limit("tokens", 1_000), limit("input_tokens", 500), limit("output_tokens", 700)]
    guessed, exact = Rates(), Rates()
    reservation = guessed.reserve(bounds, *estimated, now=50.0)
    assert isinstance(reservation, Reservation)
    guessed.settle(reservation, *actual, now=50.0)
    truth = exact.reserve(bounds, *actual, now=50.0)
    assert isinstance(truth, Reservation)  # also when it is larger than the burst: the bucket was full
    for bound in bounds:
        assert guessed.view(bound, 50.0)[2] == pytest.approx(exact.view(bound, 50.0)[2], abs=1e-6)


def test_a_call_larger_than_the_bucket_waits_until_it_is_full_and_is_paid_off() -> None:
    rates, bound = Rates(), limit("tokens", 100, 60)
    assert isinstance(rates.reserve([bound], 1, 0, 0.0), Reservation)
    large = rates.reserve([bound], 1_000, 0, 0.0)
    assert isinstance(large, Limited)
    assert large.retry_after == pytest.approx(0.6)
    assert isinstance(rates.reserve([bound], 1_000, 0, 0.7), Reservation)
    blocked = rates.reserve([bound], 1, 0, 1.0)
    assert isinstance(blocked, Limited)
    assert 500 < blocked.retry_after < 600  # 1,000 tokens at 100 a minute
    assert rates.view(bound, 1.0)[1] == 0


def test_a_debt_refuses_even_what_takes_nothing() -> None:
    rates, bound = Rates(), limit("output_tokens", 100, 60)
    assert isinstance(rates.reserve([bound], 5, 500, 0.0), Reservation)
    assert isinstance(rates.reserve([bound], 5, 0, 0.1), Limited)


def test_what_was_not_used_is_usable_again_at_once() -> None:
    rates, bound = Rates(), limit("tokens", 100, 60)
    first = rates.reserve([bound], 0, 100, 0.0)
    assert isinstance(first, Reservation)
    assert isinstance(rates.reserve([bound], 0, 50, 0.0), Limited)
    rates.settle(first, 0, 40, 0.0)
    assert isinstance(rates.reserve([bound], 0, 60, 0.0), Reservation)


# ---- leases ---------------------------------------------------------------------------------------------------------


def test_a_refused_call_burns_no_requests() -> None:
    rates, bound = Rates(), limit("requests", 3, 60)
    for lease in range(1, 200):
        assert rates.arrive([bound], 10.0, lease) is None
        rates.give_back(lease)
    assert rates.view(bound, 10.0)[1] == 3


def test_a_lease_id_is_not_used_twice_and_late_limits_need_one() -> None:
    rates = Rates()
    assert rates.arrive([SLOTS], 1.0, 7) is None
    with pytest.raises(ValueError, match="in use"):
        rates.arrive([SLOTS], 1.0, 7)
    with pytest.raises(ValueError, match="needs a lease"):
        rates.reserve([MODEL_REQUESTS], 1, 1, 1.0)
    assert isinstance(rates.reserve([MODEL_REQUESTS], 1, 1, 1.0, 7), Reservation)
    rates.give_back(7)
    assert rates.view(MODEL_REQUESTS, 1.0)[1] == 6
    assert rates.view(SLOTS, 1.0)[1] == 3


# ---- many subjects --------------------------------------------------------------------------------------------------


def test_full_buckets_make_room_and_no_spent_one_is_forgotten() -> None:
    rates = Rates(max_subjects=100)
    definition = LimitDef(id="r", unit="requests", amount=1, per_seconds=1_000)
    spent = [bind(definition, f"spent-{number}") for number in range(60)]
    for lease, bound in enumerate(spent, 1):
        assert rates.arrive([bound], 1.0, lease) is None
    short = LimitDef(id="s", unit="requests", amount=1, per_seconds=1)
    for number in range(5_000):
        rates.arrive([bind(short, f"passing-{number}")], 1.0 + number * 0.1, 100 + number)
    assert len(rates._full_at) <= 100
    assert all(rates.arrive([bound], 501.0, 9_000 + number) for number, bound in enumerate(spent))


def test_without_room_new_subjects_share_a_bucket() -> None:
    rates = Rates(max_subjects=10)
    definition = LimitDef(id="r", unit="requests", amount=2, per_seconds=1_000)
    for number in range(10):
        assert rates.arrive([bind(definition, f"first-{number}")], 1.0, 1 + number) is None
    outcomes = [rates.arrive([bind(definition, f"later-{number}")], 1.0, 100 + number) for number in range(50)]
    assert sum(outcome is None for outcome in outcomes) == 2
    assert outcomes[-1] is not None
    assert outcomes[-1].bound.key[1] == OVERFLOW
    assert rates.arrive([bind(definition, "first-3")], 1.0, 500) is None  # known subjects keep their own

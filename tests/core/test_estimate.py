"""Estimates follow what is settled, stay bounded, and survive a restart."""

from hypothesis import given
from hypothesis import strategies as st

from bursar.core.calls import Usage
from bursar.core.estimate import Estimate


def test_priors_hold_before_anything_is_learned() -> None:
    estimate = Estimate()
    assert estimate.expected("m", 4_000, 1_000) == (1_001, 300)
    assert estimate.expected("m", 4_000, 20) == (1_001, 20)
    assert estimate.expected("m", 0, 0) == (1, 0)


def test_it_converges_to_what_is_settled_and_follows_a_change() -> None:
    estimate = Estimate()
    for _ in range(400):
        estimate.learn("m", 1_000, Usage(input_tokens=700, output_tokens=50))
    tokens, output = estimate.expected("m", 10_000, 1_000)
    assert 6_800 <= tokens <= 7_100
    assert 48 <= output <= 55
    for _ in range(400):
        estimate.learn("m", 1_000, Usage(input_tokens=200, output_tokens=900))
    tokens, output = estimate.expected("m", 10_000, 1_000)
    assert 1_900 <= tokens <= 2_100
    assert 890 <= output <= 910
    assert estimate.expected("another", 4_000, 1_000) == (1_001, 300)


@given(st.lists(st.tuples(st.integers(0, 10**7), st.integers(0, 10**7), st.integers(0, 10**6)), max_size=50))
def test_nothing_learned_passes_the_cap_or_goes_negative(samples: list[tuple[int, int, int]]) -> None:
    estimate = Estimate()
    for size, tokens, output in samples:
        estimate.learn("m", size, Usage(input_tokens=tokens, output_tokens=output))
    tokens, output = estimate.expected("m", 1_000, 512)
    assert 1 <= tokens <= 4_001
    assert 0 <= output <= 512


def test_what_was_learned_survives_a_restart() -> None:
    before, after = Estimate(), Estimate()
    before.learn("m", 1_000, Usage(input_tokens=900, output_tokens=10))
    after.restore(before.state())
    assert after.expected("m", 5_000, 4_000) == before.expected("m", 5_000, 4_000)
    assert after.state() == before.state()


def test_model_names_do_not_grow_the_memory() -> None:
    estimate = Estimate()
    for number in range(3_000):
        estimate.learn(f"m{number}", 1_000, Usage(input_tokens=900, output_tokens=10))
    assert len(estimate.state()) <= 1_025

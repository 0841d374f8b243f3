"""Estimates follow what is settled, stay in order and bounded, and survive a restart."""

import random

from hypothesis import given
from hypothesis import strategies as st

from bursar.core.calls import Usage
from bursar.core.ceiling import ceiling
from bursar.core.content import CONTENTS
from bursar.core.estimate import Estimate, Family
from tests.core.test_ceiling import CLAUDE, GPT, a_call

SIZES = st.integers(0, 10**7)
SAMPLES = st.lists(st.tuples(st.sampled_from(CONTENTS), SIZES, SIZES, st.integers(0, 10**6)), max_size=50)
FAMILIES = (
    Family(models=("gpt-4",), ratios={"prose": (0.5, 0.6)}),
    Family(models=("*",), ratios={"prose": (0.2, 0.3), "json": (0.3, 0.4)}),
)


def used(input_tokens: int, output_tokens: int) -> Usage:
    return Usage(input_tokens=input_tokens, output_tokens=output_tokens)


def test_priors_hold_before_anything_is_learned() -> None:
    estimate = Estimate()
    assert estimate.expected("m", "prose", "k", 4_000, 1_000) == (1_001, 301)
    assert estimate.expected("m", "prose", "k", 4_000, 20) == (1_001, 20)
    assert estimate.expected("m", "prose", "k", 0, 0) == (1, 0)
    assert estimate.observations("m", "prose", "k") == (0, 0)


def test_the_first_family_of_a_model_gives_its_priors() -> None:
    estimate = Estimate(FAMILIES)
    assert estimate.expected("gpt-4", "prose", "k", 1_000, 1)[0] == 501
    assert estimate.expected("gpt-4o", "prose", "k", 1_000, 1)[0] == 201
    assert estimate.high("gpt-4o", "json", "k", 1_000, 1)[0] == 401
    assert estimate.expected("gpt-4o", "attached", "k", 1_000, 1)[0] == 251


def test_it_converges_on_a_changed_tokenizer() -> None:
    """And so do the high sides, to what one in twenty passes."""
    chance, estimate = random.Random(11), Estimate(FAMILIES)
    for ratio, output in ((0.7, 50.0), (0.2, 900.0), (0.45, 200.0)):
        for _ in range(8_000):  # of what is well known it takes in one of five
            tokens, length = chance.gauss(ratio, ratio / 10), chance.gauss(output, output / 10)
            estimate.learn("m", "prose", "k", 1_000, used(int(1_000 * tokens), int(length)))
        middle, high = (
            estimate.expected("m", "prose", "k", 10**6, 5_000),
            estimate.high("m", "prose", "k", 10**6, 5_000),
        )
        assert 0.95 * ratio < middle[0] / 10**6 < 1.05 * ratio
        assert 1.08 * ratio < high[0] / 10**6 < 1.28 * ratio
        assert 0.95 * output < middle[1] < 1.05 * output
        assert 1.08 * output < high[1] < 1.28 * output


def test_a_class_and_a_key_learn_for_themselves() -> None:
    estimate = Estimate()
    for _ in range(200):
        estimate.learn("m", "prose", "short", 1_000, used(200, 10))
        estimate.learn("m", "encoded", "long", 1_000, used(700, 2_000))
    assert estimate.expected("m", "prose", "short", 1_000, 9_000)[0] < 210
    assert estimate.expected("m", "encoded", "short", 1_000, 9_000)[0] > 690
    assert estimate.expected("m", "prose", "short", 1_000, 9_000)[1] < 15
    assert estimate.expected("m", "prose", "long", 1_000, 9_000)[1] > 1_900
    assert 10 < estimate.expected("m", "prose", "a new key", 1_000, 9_000)[1] < 2_000, "as the model's others"
    assert estimate.expected("another", "prose", "short", 1_000, 9_000) == (251, 301)


@given(SAMPLES, st.integers(0, 10**6), st.integers(0, 10**6))
def test_quantiles_are_in_order_and_bounded(samples: list[tuple[str, int, int, int]], size: int, cap: int) -> None:
    estimate = Estimate()
    for content, input_bytes, tokens, output in samples:
        estimate.learn("m", content, "k", input_bytes, used(tokens, output))
    for content in CONTENTS:
        middle, high = estimate.expected("m", content, "k", size, cap), estimate.high("m", content, "k", size, cap)
        assert 1 <= middle[0] <= high[0] <= 4 * size + 1
        assert 0 <= middle[1] <= high[1] <= cap


@given(SAMPLES, st.sampled_from((GPT, CLAUDE)), st.sampled_from(CONTENTS), st.integers(1, 10**6))
def test_a_hard_ceiling_knows_nothing_of_estimates(
    samples: list[tuple[str, int, int, int]], price: object, content: str, size: int
) -> None:
    wise = Estimate(FAMILIES)
    for seen, input_bytes, tokens, output in samples:
        for model in (GPT.model, CLAUDE.model):
            wise.learn(model, seen, "k", input_bytes, used(tokens, output))
    of = GPT if price is GPT else CLAUDE
    call = a_call(input_bytes=size, content=content)
    held, bare = ceiling(call, of, 512, wise, strict=True, key_id="k"), ceiling(call, of, 512, Estimate(), strict=True)
    assert (held.pico, held.input_tokens, held.output_tokens) == (bare.pico, bare.input_tokens, bare.output_tokens)
    assert held.expected_pico <= held.pico
    assert held.expected_input <= held.input_tokens
    assert held.expected_output <= held.output_tokens


@given(SAMPLES)
def test_what_was_learned_survives_a_restart(samples: list[tuple[str, int, int, int]]) -> None:
    before, after = Estimate(FAMILIES), Estimate(FAMILIES)
    for content, input_bytes, tokens, output in samples:
        before.learn("m", content, "k", input_bytes, used(tokens, output))
    after.restore(before.state())
    assert after.state() == before.state()
    for content in CONTENTS:
        asked = "m", content, "k", 5_000, 4_000
        assert (after.expected(*asked), after.high(*asked)) == (before.expected(*asked), before.high(*asked))


def test_names_do_not_grow_the_memory() -> None:
    estimate = Estimate()
    for number in range(6_000):
        estimate.expected(f"n{number}", "prose", "k", 1_000, 10)
        estimate.learn(f"m{number}", "prose", f"k{number}", 1_000, used(900, 10))
    state = estimate.state()
    assert len(state.ratios) <= 4_096
    assert len(state.outputs) <= 4_096


def test_callers_who_alternate_are_seen_from_both_sides() -> None:
    """Of what is well known not every usage is taken in, and it must not always be the same caller's."""
    estimate = Estimate()
    for number in range(12_000):
        short = number % 2 == 0
        estimate.learn("m", "prose", "k", 1_000, used(200, 10 if short else 500))
    assert estimate.high("m", "prose", "k", 1_000, 9_000)[1] > 400
    assert estimate.expected("m", "prose", "k", 1_000, 9_000)[1] < 400

"""The error of estimates that bench/RESULTS.md tells is that of this tree."""

from pathlib import Path

from bench import estimates

PAGE = Path(__file__).parents[2] / "bench" / "RESULTS.md"


def test_the_page_tells_what_is_measured() -> None:
    assert "\n".join(estimates.section()) in PAGE.read_text(), "python -m bench.estimates"


def test_classes_are_worth_their_microseconds() -> None:
    """Against one token in four bytes the middle error is less than half, before anything is learned."""
    for encoding in ("o200k_base", "cl100k_base"):
        found = estimates.measure(encoding, learns=False)["all"]
        quarter = estimates.error(((it.tokens, it.quarter) for it in found), 0.5)
        assert estimates.error(((it.tokens, it.expected) for it in found), 0.5) < quarter / 2
        assert sum(it.tokens <= it.high for it in found) > 0.9 * len(found)

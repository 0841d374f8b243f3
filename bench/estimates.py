"""How far estimates of input tokens are from what a tokenizer counts, by content class.

``python -m bench.estimates`` measures it in a second and puts the section into bench/RESULTS.md; `make bench` does the
same. The counts are those of bench/estimate_counts.json; ``scripts/compile_estimates.py`` says how they were made.
"""

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from bursar.core.calls import Usage
from bursar.core.content import CONTENTS
from bursar.core.estimate import Estimate
from bursar.stores.learned import load_priors

_COUNTS = Path(__file__).parent / "estimate_counts.json"
_RESULTS = Path(__file__).parent / "RESULTS.md"
_TITLE = "## Token estimates"
_NEXT = "\n## "
_MODEL = {"o200k_base": "gpt-4o-mini", "cl100k_base": "gpt-4"}
_FAR = 10**9


class _Counts(msgspec.Struct, frozen=True):
    encodings: list[str]
    rows: list[tuple[str, str, int, int, int]]  # set, content class, bytes, tokens by each encoding


class Guessed(NamedTuple):
    """Of one body: what was counted, what a quarter of the bytes says, what the estimate says."""

    tokens: int
    quarter: int
    expected: int
    high: int


def guesses(encoding: str, estimate: Estimate, *, learns: bool) -> Iterator[tuple[str, Guessed]]:
    """(content class, guess) of every counted body, each guessed before it is learned from."""
    counts = msgspec.json.decode(_COUNTS.read_bytes(), type=_Counts)
    place, model = 3 + counts.encodings.index(encoding), _MODEL[encoding]
    rows: Sequence[tuple[str, str, int, int, int]] = counts.rows
    for row in random.Random(2026).sample(rows, len(rows)):
        content, size, tokens = row[1], row[2], int(row[place])
        expected = estimate.expected(model, content, "", size, _FAR)[0]
        yield content, Guessed(tokens, size // 4, expected, estimate.high(model, content, "", size, _FAR)[0])
        if learns:
            estimate.learn(model, content, "", size, Usage(input_tokens=tokens, output_tokens=1))


def measure(encoding: str, *, learns: bool) -> dict[str, list[Guessed]]:
    """The guesses by class; "all" holds every one."""
    found: dict[str, list[Guessed]] = defaultdict(list)
    for content, guess in guesses(encoding, Estimate(load_priors()), learns=learns):
        found[content].append(guess)
        found["all"].append(guess)
    return found


def error(guessed: Iterable[tuple[int, int]], share: float) -> float:
    """The quantile of |guess - count| / count."""
    errors = sorted(abs(guess - tokens) / tokens for tokens, guess in guessed)
    return errors[int(share * (len(errors) - 1))]


def section() -> list[str]:
    counts = msgspec.json.decode(_COUNTS.read_bytes(), type=_Counts)
    lines = ["", _TITLE, ""]
    lines.append(
        f"{len(counts.rows):,} chat bodies that the shipped priors were not made from, counted with OpenAI's "
        "tokenizers: how far the expected input is from the count, in percent of it, p50 / p95. *Quarter*: one token "
        "in four bytes, as gateways without a tokenizer guess. *Shipped*: as on the first call ever. *Learned*: each "
        "body guessed before it was learned from. *Under p95*: how many stayed within the high side that "
        "`POST /v1/estimate` tells (95 % would be exact). No hard budget goes by any of these."
    )
    for encoding in _MODEL:
        lines += ["", *_table(encoding)]
    lines += [
        "",
        "Made again in a second by `python -m bench.estimates`: the counts are in `bench/estimate_counts.json`.",
    ]
    return lines


def _table(encoding: str) -> list[str]:
    fresh, learned = measure(encoding, learns=False), measure(encoding, learns=True)
    lines = [
        f"| `{encoding}` | bodies | quarter | shipped | learned | under p95, shipped | learned |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for content in (*CONTENTS, "all"):
        if content not in fresh:
            continue
        first, later = fresh[content], learned[content]
        cells = [
            _both((it.tokens, it.quarter) for it in first),
            _both((it.tokens, it.expected) for it in first),
            _both((it.tokens, it.expected) for it in later),
            *(f"{sum(it.tokens <= it.high for it in rows) / len(rows):.0%}" for rows in (first, later)),
        ]
        lines.append(f"| {content} | {len(first):,} | {' | '.join(cells)} |")
    return lines


def _both(guessed: Iterable[tuple[int, int]]) -> str:
    pairs = list(guessed)
    return f"{error(pairs, 0.5):.0%} / {error(pairs, 0.95):.0%}"


def main() -> None:
    """Put the section in the place of the former one, or before the last."""
    text = "\n".join(section())
    page = _RESULTS.read_text()
    before, title, rest = page.partition("\n" + _TITLE)
    if title:
        _, mark, after = rest.partition(_NEXT)
    else:
        before, mark, after = page.rpartition(_NEXT)
    _RESULTS.write_text(before.rstrip("\n") + "\n" + text + "\n" + mark + after)
    print(text)


if __name__ == "__main__":
    main()

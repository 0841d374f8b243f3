"""What a call will probably use: learned tokens per byte and output length, by model.

Soft budgets and token limits go by this; hard budgets never do. Learned from settled usage, so that no tokenizer is
needed and a new one is followed by itself. Floats: these are guesses, not money.
"""

from typing import NamedTuple

from bursar.core.calls import Usage

PRIOR_RATIO = 0.25  # tokens per UTF-8 byte: English text is about 0.21, code and JSON more
PRIOR_OUTPUT = 300.0  # tokens
_PRIOR_WEIGHT = 8  # observations that the priors count for
_SLOWEST = 0.02  # share of a new observation once much is known: about the last fifty count
_RATIO_MAX = 4.0  # an image in few bytes must not teach nonsense
_MODELS_MAX = 1_024  # further models share one row


class _Learned:
    __slots__ = ("output", "ratio", "seen")

    def __init__(self, ratio: float, output: float, seen: int) -> None:
        self.ratio = ratio
        self.output = output
        self.seen = seen


class LearnedState(NamedTuple):
    """One model's row, as it is kept over a restart."""

    ratio: float
    output: float
    seen: int


class Estimate:
    """Expected tokens by model. Owned by one thread; `state` and `restore` carry it over a restart."""

    def __init__(self) -> None:
        self._rows: dict[str, _Learned] = {}

    def expected(self, model: str, input_bytes: int, cap: int) -> tuple[int, int]:
        """(input tokens, output tokens <= cap) to expect of a call."""
        row = self._rows.get(model)
        if row is None:
            return int(input_bytes * PRIOR_RATIO) + 1, cap if cap < PRIOR_OUTPUT else int(PRIOR_OUTPUT)
        output = int(row.output) + 1
        return int(input_bytes * row.ratio) + 1, cap if cap < output else output

    def learn(self, model: str, input_bytes: int, usage: Usage) -> None:
        """Take in a settled usage. `model` is the price's canonical name, `input_bytes` the call's."""
        row = self._rows.get(model)
        if row is None:
            row = self._new(model)
        row.seen += 1
        weight = max(1.0 / (row.seen + _PRIOR_WEIGHT), _SLOWEST)
        if input_bytes > 0:
            ratio = usage.input_tokens / input_bytes
            row.ratio += ((ratio if ratio < _RATIO_MAX else _RATIO_MAX) - row.ratio) * weight
        row.output += (usage.output_tokens - row.output) * weight

    def state(self) -> dict[str, LearnedState]:
        """Everything learned, by model."""
        return {model: LearnedState(row.ratio, row.output, row.seen) for model, row in self._rows.items()}

    def restore(self, state: dict[str, LearnedState]) -> None:
        """Replace what was learned. Rows beyond the bound are dropped, the last ones first."""
        kept = list(state.items())[:_MODELS_MAX]
        self._rows = {model: _Learned(ratio, output, seen) for model, (ratio, output, seen) in kept}

    def _new(self, model: str) -> _Learned:
        name = model if len(self._rows) < _MODELS_MAX else ""
        return self._rows.setdefault(name, _Learned(PRIOR_RATIO, PRIOR_OUTPUT, 0))

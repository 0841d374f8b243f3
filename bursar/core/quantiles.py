"""Two quantiles of a stream in five numbers: the middle (p50) and what only one in twenty passes (p95).

Each observation moves a quantile up or down by a share of how far observations lie from it on average, in such
proportion that it rests where that share of them lies below (stochastic approximation: Robbins and Monro 1951). The
share of the first ones is large, that of the later ones fixed, so that it follows a change.
"""

from typing import NamedTuple

_FIRST = 4.0
_PRIOR = 8.0  # observations that where it starts counts for
_LEARNING = 72  # observations until the share is
_SLOWEST = 0.05  # of an observation, once much is known


class Quantiles(NamedTuple):
    """A sketch as it is kept: (p50, mean distance to it, p95, mean distance to it, observations)."""

    p50: float
    off50: float
    p95: float
    off95: float
    seen: int


class Sketch:
    """0 <= p50 <= p95 <= `most`, whatever is observed."""

    __slots__ = ("most", "off50", "off95", "p50", "p95", "seen")

    def __init__(self, start: Quantiles, most: float) -> None:
        self.most = most
        self.p50 = min(max(start.p50, 0.0), most)
        self.p95 = min(max(start.p95, self.p50), most)
        self.off50 = max(start.off50, 0.0)
        self.off95 = max(start.off95, 0.0)
        self.seen = start.seen

    def take(self, value: float) -> None:
        """One observation; above `most` it counts as that."""
        most = self.most
        value = value if value < most else most
        self.seen += 1
        share = _FIRST / (self.seen + _PRIOR) if self.seen < _LEARNING else _SLOWEST
        gap = value - self.p50
        self.off50 += ((gap if gap > 0 else -gap) - self.off50) * share
        middle = self.p50 + (self.off50 if gap > 0 else -self.off50) * share
        gap = value - self.p95
        self.off95 += ((gap if gap > 0 else -gap) - self.off95) * share
        high = self.p95 + (1.9 * self.off95 if gap > 0 else -0.1 * self.off95) * share
        self.p50 = 0.0 if middle < 0 else middle if middle < most else most
        self.p95 = self.p50 if high < self.p50 else high if high < most else most

    def state(self) -> Quantiles:
        return Quantiles(self.p50, self.off50, self.p95, self.off95, self.seen)


def around(p50: float, p95: float) -> Quantiles:
    """Where a sketch starts that has seen nothing."""
    off = max(p95 - p50, p50 / 8)
    return Quantiles(p50, off / 2, p95, off, 0)

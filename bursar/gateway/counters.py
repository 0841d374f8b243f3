"""Counting in the data path: dict increments only; control renders them (see bursar.core.telemetry)."""

from bisect import bisect_left

from bursar.core.telemetry import METRICS, MetricsDelta
from bursar.core.units import PICO_PER_USD

Labels = tuple[str, ...]

_BUCKETS = {name: metric.buckets for name, metric in METRICS.items() if metric.kind == "histogram"}


class Tally:
    """What the calls of one team, model and key add up to since the last `take`: what every call counts."""

    __slots__ = ("cost_pico", "input_tokens", "outcomes", "output_tokens")

    def __init__(self) -> None:
        self.outcomes: dict[tuple[int, str], int] = {}  # by status and word
        self.input_tokens = 0
        self.output_tokens = 0
        self.cost_pico = 0


class Counters:
    """Counts since the last `take`. Unknown metric names fail loudly: the table in core is the list."""

    def __init__(self) -> None:
        self._tallies: dict[tuple[str, str, str], Tally] = {}
        self.guard_passes = 0
        self._counters: dict[str, dict[Labels, float]] = {n: {} for n, m in METRICS.items() if m.kind == "counter"}
        self._histograms: dict[str, dict[Labels, list[float]]] = {n: {} for n in _BUCKETS}
        self.gauges: dict[str, float] = {}

    def add(self, name: str, labels: Labels, amount: float = 1) -> None:
        series = self._counters[name]
        series[labels] = series.get(labels, 0) + amount

    def tally(self, labels: tuple[str, str, str]) -> Tally:
        """Of team, model and key. To be added to at once, and not kept."""
        found = self._tallies.get(labels)
        if found is None:
            found = self._tallies[labels] = Tally()
        return found

    def series(self, name: str) -> dict[Labels, float]:
        """One counter's values since the last `take`."""
        self._add_up()
        return self._counters[name]

    def _add_up(self) -> None:
        """Tallies into series."""
        if self.guard_passes:
            self.add("bursar_guard_total", ("pass",), self.guard_passes)
            self.guard_passes = 0
        for labels, tally in self._tallies.items():
            for (status, word), calls in tally.outcomes.items():
                self.add("bursar_requests_total", (*labels, str(status), word), calls)
            if tally.input_tokens or tally.output_tokens:
                self.add("bursar_input_tokens_total", labels, tally.input_tokens)
                self.add("bursar_output_tokens_total", labels, tally.output_tokens)
            if tally.cost_pico:
                self.add("bursar_cost_usd_total", labels, tally.cost_pico / PICO_PER_USD)
        self._tallies.clear()

    def observe(self, name: str, labels: Labels, value: float) -> None:
        """One sample: the last cell of a series is its sum, the one before it the +Inf bucket."""
        series = self._histograms[name].get(labels)
        buckets = _BUCKETS[name]
        if series is None:
            series = self._histograms[name][labels] = [0] * (len(buckets) + 2)
        series[bisect_left(buckets, value)] += 1
        series[-1] += value

    def take(self) -> MetricsDelta:
        """Everything counted since the last call, which starts anew."""
        self._add_up()
        delta = MetricsDelta(
            counters={n: list(series.items()) for n, series in self._counters.items() if series},
            gauges={n: [((), value)] for n, value in self.gauges.items()},
            histograms={
                n: [(labels, [int(c) for c in cells[:-1]], cells[-1]) for labels, cells in series.items()]
                for n, series in self._histograms.items()
                if series
            },
        )
        for counted in self._counters.values():
            counted.clear()
        for sampled in self._histograms.values():
            sampled.clear()
        return delta

"""Counting in the data path: dict increments only; control renders them (see bursar.core.telemetry)."""

from bisect import bisect_left

from bursar.core.telemetry import METRICS, MetricsDelta

Labels = tuple[str, ...]

_BUCKETS = {name: metric.buckets for name, metric in METRICS.items() if metric.kind == "histogram"}


class Counters:
    """Counts since the last `take`. Unknown metric names fail loudly: the table in core is the list."""

    def __init__(self) -> None:
        self._counters: dict[str, dict[Labels, float]] = {n: {} for n, m in METRICS.items() if m.kind == "counter"}
        self._histograms: dict[str, dict[Labels, list[float]]] = {n: {} for n in _BUCKETS}
        self.gauges: dict[str, float] = {}

    def add(self, name: str, labels: Labels, amount: float = 1) -> None:
        series = self._counters[name]
        series[labels] = series.get(labels, 0) + amount

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

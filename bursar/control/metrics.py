"""What the gateway counted, summed up and rendered for Prometheus; process figures of both processes beside it.

The text format and OpenMetrics differ in few places (`_total` in a family's name, `# EOF`), so one small renderer
serves both; the tests read its output with prometheus_client's own parsers.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from bursar.core.telemetry import METRICS, Metric, MetricsDelta

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
MAX_SERIES = 5_000  # label sets of one family; what comes later is summed under "other"

Labels = tuple[str, ...]

_FOLDED = Metric("counter", "Samples summed under other labels, or left out for an unknown family", ())
_PROCESS = {
    "process_cpu_seconds_total": Metric("counter", "User and system CPU time", ("process",)),
    "process_resident_memory_bytes": Metric("gauge", "Resident memory", ("process",)),
    "process_start_time_seconds": Metric("gauge", "Start time since the Unix epoch", ("process",)),
    "process_open_fds": Metric("gauge", "Open file descriptors", ("process",)),
}


class _Buckets(msgspec.Struct):
    counts: list[int]  # one per bucket and one for +Inf, not cumulative
    total: float = 0.0


class MetricsBoard:
    """Sums deltas by family and label set. Counters live as long as control: Prometheus handles their reset."""

    def __init__(self, families: Mapping[str, Metric] = METRICS, max_series: int = MAX_SERIES) -> None:
        self._families = families
        self._max_series = max_series
        self._values: dict[str, dict[Labels, float]] = {}
        self._histograms: dict[str, dict[Labels, _Buckets]] = {}
        for name, metric in families.items():
            (self._histograms if metric.kind == "histogram" else self._values)[name] = {}
        self._folded = 0

    def apply(self, delta: MetricsDelta) -> None:
        """Add what was counted since the last delta; a gauge takes its newest value.

        What does not fit the families (a gateway of another version) is counted as folded and left out.
        """
        for name, rows in delta.counters.items():
            for labels, amount in rows:
                self._add(name, labels, amount)
        for name, rows in delta.gauges.items():
            for labels, value in rows:
                if (place := self._place(name, labels, self._values.get(name))) is not None:
                    self._values[name][place] = value
        for name, samples in delta.histograms.items():
            for labels, counts, total in samples:
                self._observe(name, labels, counts, total)

    def count(self, name: str, labels: Labels = (), amount: float = 1) -> None:
        """For what control itself counts."""
        self._add(name, labels, amount)

    def state(self, name: str, labels: Labels, value: float) -> None:
        """For what control knows as a total or a state, at the time of a scrape."""
        if (place := self._place(name, labels, self._values.get(name))) is not None:
            self._values[name][place] = value

    def render(self, openmetrics: bool = False, processes: Mapping[str, int] | None = None) -> bytes:
        """The whole exposition. `processes` maps a process' name ("gateway", "control") to its pid."""
        lines: list[str] = []
        for name, metric in self._families.items():
            lines += _head(name, metric, openmetrics)
            if metric.kind == "histogram":
                lines += _histogram_lines(name, metric, self._histograms[name])
            else:
                lines += _lines(name, metric, self._values[name])
        lines += [*_head("bursar_metrics_folded_total", _FOLDED, openmetrics)]
        lines += _lines("bursar_metrics_folded_total", _FOLDED, {(): self._folded})
        lines += _process_lines(processes or {}, openmetrics)
        if openmetrics:
            lines.append("# EOF")
        return ("\n".join(lines) + "\n").encode("utf-8", "replace")  # a name with half a surrogate pair

    def _add(self, name: str, labels: Labels, amount: float) -> None:
        series = self._values.get(name)
        if series is not None and (place := self._place(name, labels, series)) is not None:
            series[place] = series.get(place, 0.0) + amount
        elif series is None:
            self._folded += 1

    def _observe(self, name: str, labels: Labels, counts: list[int], total: float) -> None:
        series = self._histograms.get(name)
        place = self._place(name, labels, series)
        if series is None or place is None:
            return
        width = len(self._families[name].buckets) + 1
        if len(counts) != width:
            self._folded += 1
            return
        row = series.setdefault(place, _Buckets([0] * width))
        row.counts = [before + more for before, more in zip(row.counts, counts, strict=True)]
        row.total += total

    def _place(self, name: str, labels: Labels, series: Mapping[Labels, object] | None) -> Labels | None:
        """The label set under which a sample is summed: its own, "other" where there are too many, None if unfit."""
        if series is not None and labels in series:
            return labels
        if series is None or len(labels) != len(self._families[name].labels):
            self._folded += 1
            return None
        if len(series) < self._max_series:
            return labels
        self._folded += 1
        return ("other",) * len(labels)


def wants_openmetrics(accept: str) -> bool:
    """Whether a scraper's Accept header asks for OpenMetrics 1.0."""
    return "application/openmetrics-text" in accept


def _head(name: str, metric: Metric, openmetrics: bool) -> Iterator[str]:
    family = name.removesuffix("_total") if openmetrics and metric.kind == "counter" else name
    yield f"# HELP {family} {metric.help}"
    yield f"# TYPE {family} {metric.kind}"


def _lines(name: str, metric: Metric, series: Mapping[Labels, float]) -> Iterator[str]:
    for labels, value in series.items():
        yield f"{name}{_braces(metric.labels, labels)} {_number(value)}"


def _histogram_lines(name: str, metric: Metric, series: Mapping[Labels, _Buckets]) -> Iterator[str]:
    bounds = [*(repr(float(bound)) for bound in metric.buckets), "+Inf"]
    for labels, row in series.items():
        reached = 0
        for bound, count in zip(bounds, row.counts, strict=True):
            reached += count
            yield f"{name}_bucket{_braces((*metric.labels, 'le'), (*labels, bound))} {reached}"
        braces = _braces(metric.labels, labels)
        yield f"{name}_count{braces} {reached}"
        yield f"{name}_sum{braces} {_number(row.total)}"


def _braces(names: Labels, values: Labels) -> str:
    if not names:
        return ""
    return "{" + ",".join(f'{n}="{_escaped(v)}"' for n, v in zip(names, values, strict=True)) + "}"


def _escaped(value: str) -> str:
    """Label values as the exposition formats want them; most have nothing to escape."""
    if "\\" in value or '"' in value or "\n" in value:
        return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return value


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) and abs(value) < 2**53 else repr(value)


def _process_lines(processes: Mapping[str, int], openmetrics: bool) -> Iterator[str]:
    """Standard process metrics, one series a process. A process that is gone, or a system without /proc, has none."""
    figures = {name: found for name, pid in processes.items() if (found := _process_figures(pid))}
    for family, metric in _PROCESS.items():
        yield from _head(family, metric, openmetrics)
        yield from _lines(family, metric, {(name,): found[family] for name, found in figures.items()})


def _process_figures(pid: int) -> dict[str, float]:
    """From /proc/PID/stat (proc(5): fields counted after the command's closing bracket) and the fd folder."""
    proc = Path(f"/proc/{pid}")
    try:
        fields = (proc / "stat").read_text().rpartition(")")[2].split()
        booted = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime"))
        open_fds = len(os.listdir(proc / "fd"))  # noqa: PTH208 - the count is wanted, not the paths
    except (OSError, StopIteration):
        return {}
    ticks = os.sysconf("SC_CLK_TCK")
    return {
        "process_cpu_seconds_total": (int(fields[11]) + int(fields[12])) / ticks,
        "process_resident_memory_bytes": int(fields[21]) * os.sysconf("SC_PAGE_SIZE"),
        "process_start_time_seconds": int(booted.split()[1]) + int(fields[19]) / ticks,
        "process_open_fds": open_fds,
    }

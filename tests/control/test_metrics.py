"""The exposition, read back with prometheus_client's own parsers."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from bursar.control.metrics import MetricsBoard, wants_openmetrics
from bursar.core.telemetry import METRICS, Metric, MetricsDelta

REQUEST = ("search", "gpt-5", "key1", "200", "ok")


def samples(
    board: MetricsBoard, openmetrics: bool = False, **more
) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = board.render(openmetrics, **more).decode()
    families = (parse_openmetrics if openmetrics else parse_text)(text)
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def value(board: MetricsBoard, name: str, openmetrics: bool = False, **labels: str) -> float:
    return samples(board, openmetrics)[(name, tuple(sorted(labels.items())))]


@pytest.mark.parametrize("openmetrics", [False, True])
def test_counters_add_up_and_gauges_take_the_newest_value(openmetrics):
    board = MetricsBoard()
    for gauge in (3, 7, 2):
        board.apply(
            MetricsDelta(counters={"bursar_requests_total": [(REQUEST, 2)]}, gauges={"bursar_in_flight": [((), gauge)]})
        )
    labels = dict(zip(METRICS["bursar_requests_total"].labels, REQUEST, strict=True))
    assert value(board, "bursar_requests_total", openmetrics, **labels) == 6
    assert value(board, "bursar_in_flight", openmetrics) == 2


@pytest.mark.parametrize("openmetrics", [False, True])
def test_histograms_are_cumulative_and_keep_their_sum(openmetrics):
    board = MetricsBoard()
    width = len(METRICS["bursar_duration_seconds"].buckets) + 1
    first, second = [1, 2, *[0] * (width - 2)], [0, 1, *[0] * (width - 3), 4]
    for counts, total in ((first, 0.5), (second, 400.25)):
        board.apply(MetricsDelta(histograms={"bursar_duration_seconds": [(("gpt-5",), counts, total)]}))
    get = lambda name, **labels: value(board, name, openmetrics, model="gpt-5", **labels)  # noqa: E731
    assert get("bursar_duration_seconds_bucket", le="0.005") == 1
    assert get("bursar_duration_seconds_bucket", le="0.01") == 4
    assert get("bursar_duration_seconds_bucket", le="300.0") == 4
    assert get("bursar_duration_seconds_bucket", le="+Inf") == get("bursar_duration_seconds_count") == 8
    assert get("bursar_duration_seconds_sum") == 400.75


def test_every_family_is_announced_even_before_its_first_sample():
    names = {family.name for family in parse_text(MetricsBoard().render().decode())}
    assert {name.removesuffix("_total") for name in METRICS} <= names


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=12), st.text(max_size=12)), min_size=1, max_size=8, unique=True))
def test_any_label_value_survives_both_formats(pairs):
    board = MetricsBoard({"x_total": Metric("counter", "X", ("a", "b"))})
    pairs = [tuple(text.replace("\r", "") for text in pair) for pair in pairs]
    wanted: dict[tuple[str, str], float] = {}
    for pair in pairs:
        board.apply(MetricsDelta(counters={"x_total": [(pair, 1)]}))
        wanted[pair] = wanted.get(pair, 0) + 1
    text = board.render()
    unbroken = text.decode().replace("\x85", "?").replace("\u2028", "?")
    assert unbroken.count("x_total{") == len(wanted)
    for openmetrics in (False, True):
        read = {labels: v for (name, labels), v in samples(board, openmetrics).items() if name == "x_total"}
        assert {(dict(k)["a"], dict(k)["b"]): v for k, v in read.items()} == wanted


def test_series_beyond_the_bound_are_summed_and_counted_not_kept():
    board = MetricsBoard({"x_total": Metric("counter", "X", ("a",))}, max_series=3)
    for number in range(10):
        board.apply(MetricsDelta(counters={"x_total": [((f"v{number}",), 1)]}))
    read = samples(board)
    assert read[("x_total", (("a", "other"),))] == 7
    assert sum(v for (name, _), v in read.items() if name == "x_total") == 10
    assert read[("bursar_metrics_folded_total", ())] == 7


def test_samples_of_another_version_of_the_gateway_are_left_out_and_counted():
    board = MetricsBoard()
    board.apply(
        MetricsDelta(
            counters={"unknown_total": [((), 1)], "bursar_requests_total": [(("too", "few"), 1)]},
            gauges={"unknown": [((), 1)]},
            histograms={"unknown": [((), [1], 1)], "bursar_overhead_seconds": [((), [1, 2], 1)]},
        )
    )
    assert samples(board)[("bursar_metrics_folded_total", ())] == 5


def test_process_figures_of_living_processes_only():
    read = samples(MetricsBoard(), processes={"control": os.getpid(), "gateway": 2**22 + 1})
    assert read[("process_resident_memory_bytes", (("process", "control"),))] > 10_000_000
    assert read[("process_open_fds", (("process", "control"),))] > 2
    assert read[("process_start_time_seconds", (("process", "control"),))] > 1_600_000_000
    assert not [key for key in read if ("process", "gateway") in key[1]]


def test_the_format_follows_the_scraper():
    assert wants_openmetrics("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2")
    assert not wants_openmetrics("*/*")

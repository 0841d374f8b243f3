"""The metrics by name, with their labels and buckets, and the delta in which the gateway ships them to control.

The gateway only counts into dicts; control renders: a scrape in the data path's process was seen to stall streams.
Label values are bounded before they get here: `key` is the public id of one of the top N keys, or "other".
"""

from typing import Literal, NamedTuple

import msgspec


class Metric(NamedTuple):
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...]
    buckets: tuple[float, ...] = ()


_LATENCY = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_OVERHEAD = (0.0001, 0.0002, 0.0004, 0.001, 0.002, 0.005, 0.01, 0.05, 0.25, 1)

METRICS: dict[str, Metric] = {
    "bursar_requests_total": Metric("counter", "Calls by outcome", ("team", "model", "key", "status", "word")),
    "bursar_refusals_total": Metric("counter", "Calls not served, by reason", ("team", "word")),
    "bursar_shadow_total": Metric(
        "counter", "What shadowed controls would have done", ("team", "control", "rule", "verdict", "word")
    ),
    "bursar_input_tokens_total": Metric("counter", "Input tokens billed", ("team", "model", "key")),
    "bursar_output_tokens_total": Metric("counter", "Output tokens billed", ("team", "model", "key")),
    "bursar_cached_tokens_total": Metric("counter", "Input tokens read from a provider's cache", ("team", "model")),
    "bursar_cost_usd_total": Metric("counter", "Spend by the ledger, in USD", ("team", "model", "key")),
    "bursar_overage_usd_total": Metric("counter", "Spend above a hold, in USD", ("team", "model")),
    "bursar_inexact_total": Metric("counter", "Attempts settled without the provider's usage", ("model", "reason")),
    "bursar_truncated_total": Metric("counter", "Streams cut at their allowance", ("team", "model")),
    "bursar_duration_seconds": Metric("histogram", "Whole call, head to last byte", ("model",), _LATENCY),
    "bursar_first_token_seconds": Metric("histogram", "Time to first streamed event", ("model",), _LATENCY),
    "bursar_overhead_seconds": Metric("histogram", "Bursar's own part before dispatch", (), _OVERHEAD),
    "bursar_upstream_errors_total": Metric("counter", "Failed attempts", ("provider", "kind")),
    "bursar_breakers_open": Metric(
        "gauge", "Circuits of upstreams that are open or half-open, as this node sees it", ()
    ),
    "bursar_breakers_by_hand": Metric("gauge", "Circuits that a person keeps open, as this node has heard", ()),
    "bursar_breakers_shared": Metric("gauge", "Whether nodes share what they learn of upstreams", ()),
    "bursar_breaker_changes_total": Metric("counter", "Circuits that opened or closed", ("kind", "name", "state")),
    "bursar_breaker_skipped_total": Metric("counter", "Ways that were left out while open", ("provider",)),
    "bursar_ids_unkept_total": Metric("counter", "Answers whose ids could not be kept", ("team",)),
    "bursar_followed": Metric("gauge", "Responses that go on in the background", ()),
    "bursar_observed_keys": Metric("gauge", "Applications that call with a provider key of their own", ()),
    "bursar_in_flight": Metric("gauge", "Calls in flight", ()),
    "bursar_connections": Metric("gauge", "Open client connections", ()),
    "bursar_bytes_in_flight": Metric("gauge", "Request bytes held in memory", ()),
    "bursar_open_holds": Metric("gauge", "Holds not yet settled", ()),
    "bursar_rates_shared": Metric("gauge", "Whether limits are counted across nodes; 0: each grants a share", ()),
    "bursar_rates_nodes": Metric("gauge", "Nodes among which limits are shared out where they must be", ()),
    "bursar_rates_alone_total": Metric("counter", "Acts on rates that this node decided alone", ("why",)),
    "bursar_directory_version": Metric("gauge", "Directory version applied", ()),
    "bursar_audit_sequence": Metric("gauge", "Number of the last audit record", ()),
    "bursar_audit_sink_up": Metric("gauge", "Whether an audit sink takes records", ("sink",)),
    "bursar_audit_sink_lag_records": Metric("gauge", "Audit records that a sink still lacks", ("sink",)),
    "bursar_audit_sink_records_total": Metric("counter", "Audit records delivered to a sink", ("sink",)),
    "bursar_audit_sink_failures_total": Metric("counter", "Failed deliveries to an audit sink", ("sink",)),
    "bursar_decisions_dropped_total": Metric("counter", "Decisions counted and not recorded", ("why",)),
    "bursar_decisions_lost_total": Metric("counter", "Recorded decisions that could not be stored", ()),
    "bursar_guard_total": Metric("counter", "Guard verdicts", ("verdict",)),
}


class MetricsDelta(msgspec.Struct, kw_only=True):
    """What was counted since the last delta. Histograms: labels -> [count per bucket ..., +Inf], and the sums."""

    counters: dict[str, list[tuple[tuple[str, ...], float]]] = {}
    gauges: dict[str, list[tuple[tuple[str, ...], float]]] = {}
    histograms: dict[str, list[tuple[tuple[str, ...], list[int], float]]] = {}

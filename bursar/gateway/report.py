"""Stage 11: count what happened. Never fails a call, never delays its bytes: by now the answer has left."""

from bursar.gateway.flight import Flight
from bursar.gateway.node import Node

_OTHER = "other"


def report(node: Node, flight: Flight) -> None:
    """Synchronous increments only; control renders them."""
    counters = node.counters
    labels = team, model, _ = _labels(node, flight)
    tally = counters.tally(labels)
    outcome = flight.status, flight.word or "ok"
    tally.outcomes[outcome] = tally.outcomes.get(outcome, 0) + 1
    tally.cost_pico += flight.cost_pico
    if flight.word:
        counters.add("bursar_refusals_total", (team, flight.word))
    if flight.dispatched:
        counters.observe("bursar_overhead_seconds", (), flight.dispatched - flight.started)
        counters.observe("bursar_duration_seconds", (model,), node.clock.monotonic() - flight.started)
    if flight.first_event:
        counters.observe("bursar_first_token_seconds", (model,), flight.first_event - flight.started)
    if flight.cut:
        counters.add("bursar_truncated_total", (team, model))
    usage = flight.usage
    if usage is not None:
        tally.input_tokens += usage.input_tokens
        tally.output_tokens += usage.output_tokens
        if usage.cache_read:
            counters.add("bursar_cached_tokens_total", (team, model), usage.cache_read)


def _labels(node: Node, flight: Flight) -> tuple[str, str, str]:
    """team, model, key with bounded values: only priced models are named, and the first N keys seen."""
    model = flight.model or _OTHER
    plan = flight.plan
    if plan is None:
        return "", model, ""
    key = plan.key_id
    if key not in node.top_keys:
        if len(node.top_keys) < node.most_top_keys:
            node.top_keys.add(key)
        else:
            key = _OTHER
    return plan.team_id, model, key

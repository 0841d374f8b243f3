"""Stage 11: count what happened. Never fails a call, never delays its bytes: by now the answer has left."""

from bursar.core.units import PICO_PER_USD
from bursar.gateway.flight import Flight
from bursar.gateway.node import Node

_OTHER = "other"


def report(node: Node, flight: Flight) -> None:
    """Synchronous increments only; control renders them."""
    add = node.counters.add
    team, model, key = _labels(node, flight)
    status, word = str(flight.status), flight.word or "ok"
    add("bursar_requests_total", (team, model, key, status, word))
    if flight.word:
        add("bursar_refusals_total", (team, flight.word))
    ended = node.clock.monotonic()
    if flight.dispatched:
        node.counters.observe("bursar_overhead_seconds", (), flight.dispatched - flight.started)
        node.counters.observe("bursar_duration_seconds", (model,), ended - flight.started)
    if flight.first_event:
        node.counters.observe("bursar_first_token_seconds", (model,), flight.first_event - flight.started)
    if flight.cut:
        add("bursar_truncated_total", (team, model))
    usage = flight.usage
    if usage is not None:
        add("bursar_input_tokens_total", (team, model, key), usage.input_tokens)
        add("bursar_output_tokens_total", (team, model, key), usage.output_tokens)
        if usage.cache_read:
            add("bursar_cached_tokens_total", (team, model), usage.cache_read)
    if flight.cost_pico:
        add("bursar_cost_usd_total", (team, model, key), flight.cost_pico / PICO_PER_USD)


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

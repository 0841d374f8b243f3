"""What `bench.money` finds out."""

from dataclasses import dataclass


@dataclass
class MoneyFigures:
    """One case. Rates a second over all processes; microseconds of CPU a call, by who spends it."""

    rate: float
    node_us: float
    database_us: float
    p50_ms: float
    p99_ms: float
    exact: bool
    refused: int


@dataclass
class MoneyMeasured:
    cases: dict[str, MoneyFigures]
    added_us: float  # of a node's CPU a call, over the journal, at 16 in flight
    recovery_s: float  # of 10,000 holds that a dead node left open

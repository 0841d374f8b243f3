"""Circuits as people see them: by which name, how each stands, and who opened it.

A gateway knows a circuit by its subject (`bursar.gateway.health`): "provider openai", "key sec_1", "key sec_1 gpt-4o".
People write provider/openai, key/sec_1, key/sec_1/gpt-4o.
"""

from collections.abc import Mapping
from typing import Literal

import msgspec

from bursar.core.breaker import Circuit, state
from bursar.core.errors import Refusal

Standing = Literal["closed", "open", "half_open", "busy"]
_MOST = 500  # told at a time; those that are open first
_NS_PER_MS = 10**6
_LONGEST = 512


class CircuitSeen(msgspec.Struct, frozen=True, kw_only=True):
    """One circuit of which something is known. Instants are ns since the epoch; None = does not apply."""

    name: str
    state: Standing
    failures: int  # counted in its window, and of its tries
    last_ns: int  # failure
    since_ns: int | None = None  # open
    next_try_ns: int | None = None  # None: it is in use, or a call tries now
    busy_until_ns: int | None = None


def name_of(subject: str) -> str:
    return "/".join(subject.split(" ", 2))


def subject_of(name: str) -> str:
    """Raises Refusal(invalid_input)."""
    kind, _, rest = name.partition("/")
    if not rest or len(name) > _LONGEST or not name.isprintable() or kind not in ("provider", "key"):
        hint = "Write provider/NAME, key/ID or key/ID/MODEL: see `bursar breakers list`"
        raise Refusal("invalid_input", f"{name[:64]!r} names no circuit", hint)
    return " ".join((kind, rest) if kind == "provider" else (kind, *rest.split("/", 1)))


def seen_of(known: Mapping[str, Circuit], now_ms: int, now_ns: int) -> list[CircuitSeen]:
    """What a board knows, those first that keep calls away. `now_ms` is the board's clock."""
    found = [_seen(subject, circuit, now_ms, now_ns) for subject, circuit in known.items()]
    found.sort(key=lambda one: (one.since_ns is None, one.name))
    return found[:_MOST]


def _seen(subject: str, circuit: Circuit, now_ms: int, now_ns: int) -> CircuitSeen:
    def instant(at: int) -> int:
        return now_ns + (at - now_ms) * _NS_PER_MS

    stands: Standing = state(circuit, now_ms)
    is_busy = circuit.busy > now_ms
    opened = stands != "closed"
    trying = stands == "half_open" and circuit.trying > now_ms
    return CircuitSeen(
        name=name_of(subject),
        state="busy" if is_busy and not opened else stands,
        failures=circuit.failures,
        last_ns=instant(circuit.last),
        since_ns=instant(circuit.at) if opened else None,
        next_try_ns=instant(circuit.until) if opened and not trying else None,
        busy_until_ns=instant(circuit.busy) if is_busy else None,
    )

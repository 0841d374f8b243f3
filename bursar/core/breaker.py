"""Is an upstream well? One circuit a subject: a provider, a provider key, a provider key for one model. The reference.

A circuit is closed (in use), open (left alone until an instant) or half-open (that instant has passed: one call tries,
and while it says nothing one more now and then). It opens after so many failures in a row, or when of enough calls too
large a share failed; a try that fails opens it for twice as long. What a provider says of one caller's call (400, 404,
429, ...) opens nothing: a 429 makes its key busy for that model until the time that the provider named, and then it is
only tried after all others.

A circuit is there from its first failure on and forgotten when nothing has failed for a window: of an upstream that is
well nothing is kept, and nothing is counted. Instants are whole milliseconds; a clock that goes back only waits longer.
"""

from typing import Literal

import msgspec

Outcome = Literal[
    "ok",  # it answered: whatever it said
    "failed",  # 5xx, a time-out, a connection that was not to be had or that broke
    "busy",  # 429 or 529: come later
    "none",  # nothing was learned: the caller left, nothing was sent
]
State = Literal["closed", "open", "half_open"]
OUTCOMES: tuple[Outcome, ...] = ("ok", "failed", "busy", "none")


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """When circuits open, and for how long. Times are milliseconds."""

    in_a_row: int = 5
    share: int = 50  # per cent of the calls in a window that failed, ...
    least: int = 20  # ... of at least so many
    window_ms: int = 30_000
    open_ms: int = 5_000  # at first; each try that fails doubles it
    longest_ms: int = 60_000  # ... up to this; also of what a provider asks for with Retry-After
    try_ms: int = 3_000  # a try that says nothing for so long is left to itself: another call may try


class Circuit(msgspec.Struct):
    """What is known of one subject. All zero = nothing: closed."""

    since: int = 0  # the window of `calls` and `failures` began
    last: int = 0  # failure
    calls: int = 0
    failures: int = 0
    row: int = 0
    opened: int = 0  # times in a row; 0 = closed
    until: int = 0  # open
    trying: int = 0  # until then one call tries, and no other
    busy: int = 0  # until
    at: int = 0  # when it opened; however often tries have failed since


def state(circuit: Circuit, now: int) -> State:
    if not circuit.opened:
        return "closed"
    return "open" if now < circuit.until else "half_open"


def is_over(circuit: Circuit, now: int, rule: Rule) -> bool:
    """Nothing is known any more: the circuit may be forgotten."""
    return not circuit.opened and now >= circuit.busy and now - circuit.last > rule.window_ms


def may_try(circuit: Circuit, now: int, rule: Rule) -> bool:
    """Ask for the one try of a half-open circuit. True: this call is it, and must report as such."""
    if state(circuit, now) != "half_open" or now < circuit.trying:
        return False
    circuit.trying = now + rule.try_ms
    return True


def report(
    circuit: Circuit, outcome: Outcome, now: int, rule: Rule, *, tried: bool = False, wait_ms: int | None = None
) -> None:
    """What became of a call. `tried`: it was the one try. `wait_ms`: how long the provider asked to be left alone."""
    if tried:
        _report_try(circuit, outcome, now, rule)
    if outcome == "busy" and wait_ms is not None:
        circuit.busy = max(circuit.busy, now + min(wait_ms, rule.longest_ms))
    if circuit.opened or tried or outcome not in ("ok", "failed"):
        return  # one that was under way when it opened says nothing new
    if now - circuit.last > rule.window_ms:
        circuit.row = 0
    if now - circuit.since > rule.window_ms:
        circuit.since, circuit.calls, circuit.failures = now, 0, 0
    circuit.calls += 1
    if outcome == "ok":
        circuit.row = 0
        return
    circuit.failures += 1
    circuit.row += 1
    circuit.last = now
    many = circuit.calls >= rule.least and circuit.failures * 100 >= circuit.calls * rule.share
    if circuit.row >= rule.in_a_row or many:
        circuit.opened, circuit.until, circuit.trying, circuit.at = 1, now + rule.open_ms, 0, now


def _report_try(circuit: Circuit, outcome: Outcome, now: int, rule: Rule) -> None:
    if not circuit.opened:
        return  # another try has closed it
    circuit.trying = 0
    if outcome == "failed":
        circuit.failures += 1
        circuit.opened = min(circuit.opened + 1, 20)
        circuit.until = now + min(rule.open_ms << (circuit.opened - 1), rule.longest_ms)
        circuit.last = now
    elif outcome in ("ok", "busy"):  # it answers
        circuit.since = circuit.last = circuit.calls = circuit.failures = circuit.row = 0
        circuit.opened = circuit.until = circuit.at = 0

"""Which ways are well: what is open is left out, what is busy comes last; what became of a call is told to the board.

While nothing has failed the board knows nothing, and all this is a look at an empty dict. A circuit is a provider's, a
provider key's, or that of a key for one model (`bursar.core.breaker`). What the provider says of one caller's call
opens nothing, and neither does a caller who leaves.
"""

from datetime import UTC
from email.utils import parsedate_to_datetime

from bursar.core.breaker import Outcome, state
from bursar.core.controls import would_refuse
from bursar.core.errors import Refusal, UpstreamFault
from bursar.core.units import NS_PER_S
from bursar.gateway.flight import Flight
from bursar.gateway.node import Node, Option
from bursar.gateway.price import Priced
from bursar.gateway.settle import Attempt
from bursar.gateway.shadow import note_shadow
from bursar.ports import UpstreamResponse

BUSY = frozenset({429, 529})
# Faults that say nothing of how the provider is: the answer was as long or as large as its caller asked for, or the
# address is refused here.
_OURS = frozenset({"timeout_total", "body_too_large", "private_address"})
_MEANS: dict[str, tuple[Outcome, Outcome, Outcome]] = {  # of the provider, the key, the key for the model
    "ok": ("ok", "ok", "ok"),
    "failed": ("failed", "none", "none"),
    "busy": ("ok", "none", "busy"),
    "key_refused": ("ok", "failed", "none"),
    "none": ("none", "none", "none"),
}
_ITS_OWN = frozenset({502, 503, 504})  # said of the provider itself; any other 5xx may be owed to what was asked
_ONE_OF = 4
_MS = 1000


def subjects(option: Option) -> tuple[str, str, str]:
    """The circuits that a way goes through."""
    key = f"key {option.key.id}"
    return f"provider {option.provider.name}", key, f"{key} {option.upstream_model}"


def by_health(node: Node, flight: Flight, ways: list[Priced]) -> list[Priced]:
    """The ways that are not open, those that are busy last. Raises Refusal(upstream_unavailable) when none is left."""
    if node.tenants.shut:
        ways = _not_shut(node, ways)
    board = node.board
    if board is None or not board.known:
        return ways
    now, known = board.now(), board.known
    well: list[Priced] = []
    busy: list[Priced] = []
    wait = None
    for way in ways:
        circuits = [circuit for subject in subjects(way.option) if (circuit := known.get(subject)) is not None]
        shut = max((circuit.until for circuit in circuits if state(circuit, now) == "open"), default=0)
        if shut:
            wait = shut - now if wait is None else min(wait, shut - now)
            _skip(node, flight, way)
        elif any(circuit.busy > now for circuit in circuits):
            busy.append(way)
        else:
            well.append(way)
    if node.breaker == "shadow":
        return ways
    if not well and not busy:
        raise _unavailable(wait or 0)
    return well + busy


def _not_shut(node: Node, ways: list[Priced]) -> list[Priced]:
    """Without those that a person keeps calls away from, whatever the mode. Raises Refusal(upstream_unavailable)."""
    shut, now = node.tenants.shut, node.clock.now()
    left: list[Priced] = []
    ends: list[int | None] = []
    for way in ways:
        marks = [mark for one in subjects(way.option) if (mark := shut.get(one)) is not None and mark.shuts(now)]
        if not marks:
            left.append(way)
            continue
        node.counters.add("bursar_breaker_skipped_total", (way.option.provider.name,))
        untils = [mark.until for mark in marks if mark.until is not None]
        ends.append(max(untils) if len(untils) == len(marks) else None)
    if left:
        return left
    until = min((end for end in ends if end is not None), default=None)
    raise Refusal(
        "upstream_unavailable",
        "Whoever runs this broker keeps calls away from every provider that could serve this one",
        "Ask them, or try again later",
        retry_after=None if until is None else max(1.0, (until - now) / NS_PER_S),
    )


def _skip(node: Node, flight: Flight, way: Priced) -> None:
    provider = way.option.provider.name
    if node.breaker == "shadow":
        note_shadow(node, flight, would_refuse("breaker", provider, "upstream_unavailable"))
    else:
        node.counters.add("bursar_breaker_skipped_total", (provider,))


def _unavailable(wait_ms: int) -> Refusal:
    seconds = max(-(-wait_ms // _MS), 1)
    return Refusal(
        "upstream_unavailable",
        "Every provider that could serve this call has failed again and again, and is left alone for now",
        f"Try again in {seconds} s: one call at a time finds out whether it is back",
        retry_after=float(seconds),
    )


async def may_go(node: Node, option: Option) -> tuple[str, ...] | None:
    """Of what is half-open one call tries: the circuits that this call tries; None = another one does already."""
    board = node.board
    assert board is not None, "nobody asks where nobody keeps count"
    now, tries = board.now(), list[str]()
    for subject in subjects(option):
        circuit = board.known.get(subject)
        if circuit is None or state(circuit, now) != "half_open":
            continue
        if now >= circuit.trying and await board.may_try(subject):
            tries.append(subject)
        elif node.breaker == "enforce":
            for taken in tries:
                board.report(taken, "none", tried=True)
            return None
    return tuple(tries)


def let_others_try(node: Node, attempt: Attempt) -> None:
    """Its answer has begun, and may last for minutes: nobody waits for its end to learn the same."""
    if node.board is not None:
        for subject in attempt.tries:
            node.board.report(subject, "none", tried=True)


def nobody_may_go() -> Refusal:
    """All that is left is being tried by other calls."""
    return _unavailable(_MS)


def learn(node: Node, flight: Flight, option: Option, tries: tuple[str, ...], attempt: Attempt | None) -> None:
    """Tell the board what became of a call. `attempt` None: it was refused before it could be sent."""
    board = node.board
    health = attempt.health if attempt is not None else "none"
    if health == "erred":
        health = "failed" if _is_the_providers(node, flight, option.provider.name) else "none"
    if board is None or (not tries and (health == "none" or (health == "ok" and not board.known))):
        return
    for subject, outcome in zip(subjects(option), _MEANS[health], strict=True):
        tried = subject in tries
        if tried or outcome in ("failed", "busy") or (outcome == "ok" and subject in board.known):
            wait = attempt.wait_ms if attempt is not None and outcome == "busy" else None
            board.report(subject, outcome, tried=tried, wait_ms=wait)


def _is_the_providers(node: Node, flight: Flight, provider: str) -> bool:
    """Whether an error counts: of one team's calls in a row one in four does; its odd bodies shut out nobody else."""
    team = flight.plan.team_id if flight.plan is not None else ""
    last, times = node.blame.get(provider, ("", 0))
    times = times + 1 if team == last else 1
    node.blame[provider] = (team, times)
    return times % _ONE_OF == 1


def note_answer(attempt: Attempt, response: UpstreamResponse, now_ns: int) -> None:
    """By its status alone: an answer that is being given and is no success."""
    if response.status in BUSY:
        attempt.health = "busy"
        attempt.wait_ms = _wait_ms(response.headers, now_ns)
    elif response.status >= 500:
        attempt.health = "failed" if response.status in _ITS_OWN else "erred"
    else:
        attempt.health = "ok"


def note_fault(attempt: Attempt, fault: UpstreamFault, *, gone: bool) -> None:
    """`gone`: the caller has left, and the exchange may have broken for that."""
    attempt.health = "none" if gone or fault.kind in _OURS else "failed"


def _wait_ms(headers: dict[str, str], now_ns: int) -> int | None:
    """How long the provider asks to be left alone (RFC 9110 10.2.3, and OpenAI's own `retry-after-ms`)."""
    exact, text = headers.get("retry-after-ms", ""), headers.get("retry-after", "").strip()
    if exact.isdecimal() and len(exact) < 10:
        return int(exact)
    if text.isdecimal() and len(text) < 7:
        return int(text) * _MS
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    instant = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return max(int(instant.timestamp() * _MS) - now_ns // 10**6, 0)

"""Rates: token buckets and concurrency leases, in process. The reference that every store must agree with.

A bucket is kept as one number, the instant at which it will be full again (GCRA): full when that lies in the past.
Each stage is one act, all or nothing: `arrive` before the body is read, `reserve` once its size is known. What a later
stage refuses is given back, what was reserved is settled by what was used, a lease is released on every way out.
Times are monotonic seconds; a clock that goes back is taken as standing still.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from bursar.core.directory import LimitDef, LimitUnit

MAX_SUBJECTS = 100_000  # buckets kept; full ones make room first
OVERFLOW = "(others)"  # the subject that new ones share when there is no room: no limit is lost, some are shared
_SWEEP = 8  # old buckets looked at for each act when there is no room
_ROUNDING_S = 1e-7  # what floats take from a sum must not refuse the last unit
_WAIT_FOR_SLOT_S = 1.0  # nobody can say when a call in flight ends
_NEVER_S = 3_600.0  # retry hint of a limit that admits nothing

Key = tuple[str, str]


class Bound(msgspec.Struct, frozen=True, gc=False):
    """A limit bound to one subject, precompiled. A list of bounds holds each key once."""

    key: Key  # names the counter: (the definition with its numbers, subject)
    name: str  # the limit's id
    unit: LimitUnit
    amount: int  # units per `per_seconds`; for concurrency: calls in flight
    per_seconds: int
    burst: int  # bucket size, at least 1
    seconds_per_unit: float
    full_s: float  # seconds from empty to full; negative where the limit admits nothing
    of_input: int  # units that an input token takes: 1 or 0
    of_output: int  # units that an output token takes
    closed: bool = False  # refuses where its store cannot be asked, instead of granting this node's share

    @property
    def scope(self) -> str:
        """What has a counter of its own: a `SubjectKind`."""
        return self.key[0].partition(" ")[0]

    @property
    def subject(self) -> str:
        """Whose counter it is, as "kind/name"."""
        return f"{self.scope}/{self.key[1]}"


Stand = tuple[Bound, int, float]
"""A rate as it stands: units left, seconds until it is full."""
Groups = Sequence[Sequence[Bound]]


class Limited(msgspec.Struct, frozen=True):
    """The limit that refused, and after how many seconds to come back."""

    bound: Bound
    retry_after: float
    word: Literal["rate_limited", "concurrency_limited"]


class Reservation(msgspec.Struct, gc=False):
    """Tokens taken ahead of a call: (bound, units). Settled once; a second time does nothing."""

    parts: list[tuple[Bound, int]]
    settled: bool = False


def bind(limit: LimitDef, subject: str, *, shadow: bool = False) -> Bound:
    """A definition for one subject. A burst below 1 counts as 1; an amount of 0 or less admits nothing.

    The counter's name holds the definition: two policies that say the same share it, two that differ do not mix. One
    in shadow counts apart, and never refuses for want of its store.
    """
    amount = max(limit.amount, 0)
    burst = max(limit.amount if limit.burst is None else limit.burst, 1)
    seconds = limit.per_seconds / amount if amount else 0.0
    closed = limit.on_outage == "closed" and not shadow
    mark = "!" if closed else "?" if shadow else ""
    return Bound(
        (f"{limit.scope} {limit.id} {amount}/{limit.per_seconds}+{burst}{mark}", subject),
        limit.id,
        limit.unit,
        amount,
        limit.per_seconds,
        burst,
        seconds,
        burst * seconds + _ROUNDING_S if amount else -1.0,
        1 if limit.unit in ("tokens", "input_tokens") else 0,
        1 if limit.unit in ("tokens", "output_tokens") else 0,
        closed,
    )


def share(bound: Bound, nodes: int) -> Bound:
    """What one of several nodes grants of a limit by itself: the rate ÷ nodes, and never less than one at a time.

    Together they keep to the rate; to burst and slots only where these are no fewer than the nodes.
    """
    if nodes <= 1 or not bound.amount:
        return bound
    burst, seconds = max(bound.burst // nodes, 1), bound.seconds_per_unit * nodes
    return msgspec.structs.replace(
        bound,
        amount=max(bound.amount // nodes, 1),
        burst=burst,
        seconds_per_unit=seconds,
        full_s=burst * seconds + _ROUNDING_S,
    )


class Rates:
    """All counters of one node. Owned by one thread; no act awaits, so none can be seen half done."""

    def __init__(self, max_subjects: int = MAX_SUBJECTS) -> None:
        self._max = max_subjects
        self._full_at: OrderedDict[Key, float] = OrderedDict()
        self._in_flight: dict[Key, int] = {}
        self._leases: dict[int, Sequence[Bound]] = {}
        self._now = 0.0

    def arrive(self, limits: Sequence[Bound], now: float, lease_id: int) -> Limited | None:
        """Take one request of each rate and one slot of each concurrency limit; or nothing, and say what refused.

        The lease is ended by `release`, or by `give_back` when a later stage refuses the call. Raises ValueError when
        the id is in use.
        """
        if lease_id in self._leases:
            raise ValueError(f"lease {lease_id} is in use")
        return self._take(limits, now, lease_id)

    def release(self, lease_id: int) -> None:
        """The call is over: free its slots. A second time does nothing."""
        for bound in self._leases.pop(lease_id, ()):
            if bound.unit == "concurrency":
                self._free(bound.key)

    def give_back(self, lease_id: int) -> None:
        """A later stage refused the call: free its slots and return its requests. A second time does nothing."""
        for bound in self._leases.pop(lease_id, ()):
            if bound.unit == "concurrency":
                self._free(bound.key)
            elif bound.key in self._full_at:
                self._full_at[bound.key] -= bound.seconds_per_unit

    def reserve(
        self, limits: Sequence[Bound], input_tokens: int, output_tokens: int, now: float, lease_id: int = 0
    ) -> Reservation | Limited:
        """Take the estimated tokens of each limit ahead of the call; or nothing, and say what refused.

        An amount above a bucket's burst is admitted when the bucket is full, which then goes below zero: a limit
        delays a large call, it never forbids it. Requests and slots that only the body could name (those by model)
        are taken here as well and belong to the lease; without one they raise ValueError.
        """
        now = self._now = now if now > self._now else self._now
        buckets = self._full_at
        if len(buckets) >= self._max:
            limits = self._with_room(limits, now)
        parts: list[tuple[Bound, int]] = []
        filled: dict[Key, float] = {}
        late: list[Bound] = []
        for bound in limits:
            if not bound.of_input and not bound.of_output:
                if not lease_id:
                    raise ValueError(f"limit {bound.name} needs a lease")
                late.append(bound)
                continue
            units = input_tokens * bound.of_input + output_tokens * bound.of_output
            key = bound.key
            full_at = buckets.get(key, now)
            taken = units * bound.seconds_per_unit
            new = (full_at if full_at > now else now) + taken
            if new - now > bound.full_s and (limited := _limited(bound, taken, full_at, now)):
                return limited
            parts.append((bound, units))
            filled[key] = new
        if late and (limited := self._take(late, now, lease_id)):
            return limited
        buckets.update(filled)
        return Reservation(parts)

    def settle(self, reservation: Reservation, input_tokens: int, output_tokens: int, now: float) -> None:
        """Give back what was reserved and not used, or charge what was used beyond it. (0, 0) gives all back."""
        if reservation.settled:
            return
        reservation.settled = True
        now = self._now = now if now > self._now else self._now
        buckets = self._full_at
        for bound, reserved in reservation.parts:
            extra = input_tokens * bound.of_input + output_tokens * bound.of_output - reserved
            key = bound.key
            full_at = buckets.get(key, now)
            if full_at > now:
                buckets[key] = full_at + extra * bound.seconds_per_unit
            elif extra > 0:
                buckets[key] = now + extra * bound.seconds_per_unit

    def view(self, bound: Bound, now: float) -> tuple[int, int, float]:
        """(limit, remaining units, seconds until full) for the answer's headers."""
        if bound.unit == "concurrency":
            return bound.amount, max(bound.amount - self._in_flight.get(bound.key, 0), 0), 0.0
        _, remaining, wait = self.tightest(((bound,),), now)[0]
        return bound.amount, remaining, wait

    def left(self, bound: Bound, now: float) -> tuple[int | None, float]:
        """(units left, seconds until full) for explanations; None = not known here."""
        _, remaining, wait = self.view(bound, now)
        return remaining, wait

    def tightest(self, groups: Groups, now: float) -> list[Stand]:
        """Of each group of rates the one that has the least left."""
        return tightest_of(self._full_at, groups, now if now > self._now else self._now)

    # ---- inside ------------------------------------------------------------------------------------------------------

    def _take(self, limits: Sequence[Bound], now: float, lease_id: int) -> Limited | None:
        now = self._now = now if now > self._now else self._now
        buckets, in_flight = self._full_at, self._in_flight
        if len(buckets) >= self._max:
            limits = self._with_room(limits, now)
        filled: dict[Key, float] = {}
        slots: list[Key] = []
        for bound in limits:
            key = bound.key
            if bound.unit == "concurrency":
                if in_flight.get(key, 0) >= bound.amount:
                    return Limited(bound, _WAIT_FOR_SLOT_S, "concurrency_limited")
                slots.append(key)
                continue
            full_at = buckets.get(key, now)
            new = (full_at if full_at > now else now) + bound.seconds_per_unit
            if new - now > bound.full_s and (limited := _limited(bound, bound.seconds_per_unit, full_at, now)):
                return limited
            filled[key] = new
        buckets.update(filled)
        for key in slots:
            in_flight[key] = in_flight.get(key, 0) + 1
        if limits:
            held = self._leases.get(lease_id)
            self._leases[lease_id] = limits if held is None else (*held, *limits)
        return None

    def _free(self, key: Key) -> None:
        left = self._in_flight[key] - 1
        if left:
            self._in_flight[key] = left
        else:
            del self._in_flight[key]

    def _with_room(self, limits: Sequence[Bound], now: float) -> Sequence[Bound]:
        """Drop some full buckets, as a new one starts full. Where that makes no room, new subjects share a bucket."""
        buckets = self._full_at
        for _ in range(min(_SWEEP, len(buckets))):
            key, full_at = buckets.popitem(last=False)
            if full_at > now:
                buckets[key] = full_at
        if len(buckets) < self._max:
            return limits
        return [bound if bound.key in buckets or bound.unit == "concurrency" else _shared(bound) for bound in limits]


def tightest_of(full_at: Mapping[Key, float], groups: Groups, now: float) -> list[Stand]:
    """`Rates.tightest`, from the instants at which buckets will be full; one that is not named is full."""
    found: list[Stand] = []
    for bounds in groups:
        tightest: Stand | None = None
        for bound in bounds:
            wait = full_at.get(bound.key, now) - now
            if wait > 0.0:
                remaining = int(bound.burst - wait / bound.seconds_per_unit + 1e-6)
                remaining = remaining if remaining > 0 else 0
            else:  # where nothing is admitted nothing is ever taken
                remaining, wait = (bound.burst, 0.0) if bound.amount else (0, _NEVER_S)
            if tightest is None or remaining < tightest[1]:
                tightest = bound, remaining, wait
        assert tightest is not None, "some rate is asked for"
        found.append(tightest)
    return found


def _shared(bound: Bound) -> Bound:
    return msgspec.structs.replace(bound, key=(bound.key[0], OVERFLOW))


def _limited(bound: Bound, taken_s: float, full_at: float, now: float) -> Limited | None:
    """Why a bucket that lacks room refuses; None where it is full and the amount is larger than it can ever hold."""
    if bound.full_s < 0:
        return Limited(bound, _NEVER_S, "rate_limited")
    if taken_s <= bound.full_s:
        return Limited(bound, max(full_at + taken_s - bound.full_s - now, 0.001), "rate_limited")
    if full_at <= now:
        return None
    return Limited(bound, full_at - now, "rate_limited")

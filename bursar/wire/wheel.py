"""Deadlines of many connections at the price of one attribute each: no timer is set or cancelled per request.

A connection keeps its deadline in an attribute and is filed under some slot not later than that. Moving a deadline
back costs nothing: when the slot comes due, the connection is simply filed again. So whoever sets a deadline compares
it with `slot` and calls `file` only where it has moved nearer; with several deadlines a request, that is a microsecond.
"""

from typing import Protocol

NEVER = float("inf")


class Timed(Protocol):
    """What a wheel turns. Monotonic seconds, NEVER = none: `deadline`, and `slot`, where the wheel has filed it."""

    deadline: float
    slot: float

    def expire(self, now: float) -> None:
        """The deadline has passed. May set a new one; the wheel then files it by itself."""
        ...


class Wheel:
    """Slots of `tick` seconds. A deadline is acted upon at the first sweep after the end of its slot."""

    def __init__(self, tick: float) -> None:
        self.tick = tick
        self._slots: dict[float, set[Timed]] = {}

    def file(self, timed: Timed) -> None:
        """Make sure that `timed` is looked at when its deadline passes. Needed where `deadline < slot`."""
        deadline = timed.deadline
        if deadline < timed.slot:
            slot = deadline // self.tick * self.tick
            self.drop(timed)
            timed.slot = slot
            self._slots.setdefault(slot, set()).add(timed)

    def drop(self, timed: Timed) -> None:
        """Forget it."""
        filed = self._slots.get(timed.slot)
        if filed is not None:
            filed.discard(timed)
        timed.slot = NEVER

    def sweep(self, now: float) -> None:
        """Expire what is due; file anew what has moved on."""
        for slot in sorted(slot for slot in self._slots if slot + self.tick <= now):
            for timed in self._slots.pop(slot):
                timed.slot = NEVER
                if timed.deadline <= now:
                    timed.expire(now)
                self.file(timed)

"""Uses of leased provider keys on their way to the audit: sent again until control says that they are on record."""

from collections.abc import Callable

Counts = list[tuple[str, int, int]]  # (secret id, version, uses)


class UsesFlush:
    """One flush is under way at a time; what is used meanwhile waits for the next. `take` empties the counters.

    Each has a name, so that one that arrives twice is recorded once (`bursar.control.release`).
    """

    def __init__(self, boot: str, take: Callable[[], Counts]) -> None:
        self._boot = boot
        self._take = take
        self._number = 0
        self._under_way: tuple[str, Counts] | None = None

    def next(self) -> tuple[str, Counts] | None:
        """(name, counts) to send now; None when there is nothing to tell."""
        if self._under_way is None and (counts := self._take()):
            self._number += 1
            self._under_way = f"{self._boot}-{self._number}", counts
        return self._under_way

    def recorded(self, name: str) -> None:
        """Control has them on record."""
        if self._under_way is not None and self._under_way[0] == name:
            self._under_way = None

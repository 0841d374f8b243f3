"""Rates where nobody can be asked: each node grants its share, limit ÷ live nodes, from its own memory."""

from collections.abc import Callable, Sequence

import msgspec

from bursar.core.limits import Bound, Groups, Key, Limited, Rates, Reservation, Stand, share

_MOST_REMEMBERED = 100_000


class ShareRates:
    """The doorway `bursar.gateway.node.Rates` on one node's share. `live_nodes` may change its mind at any time.

    What was taken of the whole stays taken of the share, and the other way round: the counters are the same.
    """

    def __init__(self, live_nodes: Callable[[], int]) -> None:
        self._live_nodes = live_nodes
        self._rates = Rates()
        self._nodes = 1
        self._shares: dict[Key, Bound] = {}

    async def admit(self, _owner: str, limits: Sequence[Bound], now: float, lease_id: int) -> Limited | None:
        return self.arrive(limits, now, lease_id)

    async def hold(
        self, _owner: str, limits: Sequence[Bound], input_tokens: int, output_tokens: int, now: float, lease_id: int
    ) -> Reservation | Limited:
        return self.reserve(limits, input_tokens, output_tokens, now, lease_id)

    def arrive(self, limits: Sequence[Bound], now: float, lease_id: int) -> Limited | None:
        shares = self._of(limits)
        limited = self._rates.arrive(shares, now, lease_id)
        return None if limited is None else _named(limited, limits, shares)

    def reserve(
        self, limits: Sequence[Bound], input_tokens: int, output_tokens: int, now: float, lease_id: int
    ) -> Reservation | Limited:
        shares = self._of(limits)
        taken = self._rates.reserve(shares, input_tokens, output_tokens, now, lease_id)
        return taken if isinstance(taken, Reservation) else _named(taken, limits, shares)

    def settle(self, reservation: Reservation, input_tokens: int, output_tokens: int, now: float) -> None:
        self._rates.settle(reservation, input_tokens, output_tokens, now)

    def release(self, lease_id: int) -> None:
        self._rates.release(lease_id)

    def give_back(self, lease_id: int) -> None:
        self._rates.give_back(lease_id)

    def left(self, bound: Bound, now: float) -> tuple[int | None, float]:
        """Of this node's share."""
        (shared,) = self._of((bound,))
        return self._rates.left(shared, now)

    def tightest(self, groups: Groups, now: float) -> list[Stand]:
        """The rates by their own names and sizes; what is left, of this node's share."""
        shares = [self._of(bounds) for bounds in groups]
        found = self._rates.tightest(shares, now)
        return [
            (bounds[shared.index(bound)], remaining, wait)
            for bounds, shared, (bound, remaining, wait) in zip(groups, shares, found, strict=True)
        ]

    def _of(self, limits: Sequence[Bound]) -> Sequence[Bound]:
        nodes = self._live_nodes()
        if nodes != self._nodes or len(self._shares) > _MOST_REMEMBERED:
            self._nodes = nodes
            self._shares.clear()
        if nodes <= 1:
            return limits
        shares = self._shares
        return [shares.get(bound.key) or shares.setdefault(bound.key, share(bound, nodes)) for bound in limits]


def _named(limited: Limited, limits: Sequence[Bound], shares: Sequence[Bound]) -> Limited:
    """The refusal by the whole limit: that is what its subject knows."""
    if shares is limits:
        return limited
    whole = next(bound for bound in limits if bound.key[0] == limited.bound.key[0])  # the subject may be OVERFLOW
    return msgspec.structs.replace(limited, bound=whole)

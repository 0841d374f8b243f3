"""Rates of a node that stands alone: the reference itself, in this process. No act ever waits."""

from collections.abc import Sequence

from bursar.core.limits import Bound, Limited, Rates, Reservation


class MemoryRates(Rates):
    """The doorway `bursar.gateway.node.Rates` on the counters of one process. Whose limits they are does not matter."""

    async def admit(self, _owner: str, limits: Sequence[Bound], now: float, lease_id: int) -> Limited | None:
        return self.arrive(limits, now, lease_id)

    async def hold(
        self, _owner: str, limits: Sequence[Bound], input_tokens: int, output_tokens: int, now: float, lease_id: int
    ) -> Reservation | Limited:
        return self.reserve(limits, input_tokens, output_tokens, now, lease_id)

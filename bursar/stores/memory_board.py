"""The board of a node that stands alone: the reference itself, in this process."""

from collections.abc import Callable

from bursar.core.breaker import Circuit, Outcome, Rule, is_over, may_try, report

_MOST = 10_000  # subjects: models are named by callers


def nobody_told(_subject: str, _opened: bool) -> None:
    """Where nobody wants to hear of circuits that open and close."""


class MemoryBoard:
    """The doorway `bursar.ports.Board`. `now` gives whole milliseconds."""

    shared = False

    def __init__(
        self, rule: Rule, now: Callable[[], int], on_change: Callable[[str, bool], None] = nobody_told
    ) -> None:
        self.rule = rule
        self.now = now
        self.known: dict[str, Circuit] = {}
        self._on_change = on_change

    async def may_try(self, subject: str) -> bool:
        circuit = self.known.get(subject)
        return circuit is not None and may_try(circuit, self.now(), self.rule)

    def report(self, subject: str, outcome: Outcome, *, tried: bool = False, wait_ms: int | None = None) -> None:
        now = self.now()
        circuit = self.known.get(subject)
        if circuit is None:
            if len(self.known) >= _MOST and not self._make_room(now):
                return
            circuit = self.known[subject] = Circuit()
        opened = circuit.opened
        report(circuit, outcome, now, self.rule, tried=tried, wait_ms=wait_ms)
        if is_over(circuit, now, self.rule):
            del self.known[subject]
        if bool(opened) != bool(circuit.opened):
            self._on_change(subject, bool(circuit.opened))

    def close(self, subject: str) -> None:
        self.known.pop(subject, None)

    def _make_room(self, now: int) -> bool:
        for subject in [subject for subject, circuit in self.known.items() if is_over(circuit, now, self.rule)]:
            del self.known[subject]
        return len(self.known) < _MOST

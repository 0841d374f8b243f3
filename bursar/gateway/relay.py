"""Stage 9b: one streamed answer on its way to the caller, metered event by event and cut at its allowance.

`feed` is called synchronously by the wire for each piece of the upstream's body: no task wakes per event. The stream
goes on being read (but not written) after the caller has left, when policy says to drain; its usage is then exact.
"""

from collections.abc import Callable
from typing import Protocol

from bursar.core.errors import UpstreamFault
from bursar.ports import EventSplitter, StreamMeter, UpstreamResponse

# Longest plausible text per output token. Providers enforce the cap themselves; this backstop must never cut an
# honest stream, so it assumes far more bytes a token than any tokenizer averages over a whole answer.
_BYTES_PER_TOKEN = 8
_SLACK_BYTES = 512

CUT_WORD = "allowance_reached"


class Sink(Protocol):
    """Of an exchange what a stream needs."""

    @property
    def gone(self) -> bool: ...

    def write(self, chunk: bytes) -> None: ...

    def finish(self) -> None: ...

    def abort(self) -> None: ...


class Relay:
    """Between one upstream response and one caller.

    `allowance`: output tokens, 0 = not capped; `echo`: bytes of the prompt that may come before them.
    `first_event`, `cut` and `stopped` tell afterwards what happened.
    """

    def __init__(  # noqa: PLR0913 - one keyword a fact
        self,
        exchange: Sink,
        response: UpstreamResponse,
        meter: StreamMeter,
        splitter: EventSplitter,
        *,
        allowance: int,
        echo: int = 0,
        monotonic: Callable[[], float],
        on_input: Callable[[], None],
    ) -> None:
        self._exchange = exchange
        self._response = response
        self._splitter = splitter
        self._allowance = allowance
        self._most_bytes = allowance * _BYTES_PER_TOKEN + _SLACK_BYTES + echo if allowance else 0
        self._monotonic = monotonic
        self._on_input = on_input
        self._input_told = False
        self.meter = meter
        self.first_event = 0.0  # monotonic instant, 0 = none came
        self.cut = False
        self.stopped = False  # we ended the upstream, for whatever reason: it did not come to its own end
        self.events = 0
        self._drain_left = 0  # bytes still read on for a caller who left

    def feed(self, data: bytes) -> None:
        """Meter and pass on one piece of the body. Raises UpstreamFault when an event is larger than any real one."""
        out = b""
        try:
            events = self._splitter.feed(data)
        except ValueError as fault:
            raise UpstreamFault("malformed", str(fault), sent=True) from fault
        meter = self.meter
        for event in events:
            self.events += 1
            out += meter.feed(event)
            if self._most_bytes and self._passed_allowance(meter):
                self._close_cut(out)
                return
        if out and not self.first_event:
            self.first_event = self._monotonic()
        if not self._input_told and meter.input_usage is not None:
            self._input_told = True
            self._on_input()
        if not self._exchange.gone:
            self._exchange.write(out)
        elif self._drain_left:
            self._drain_left -= len(data)
            if self._drain_left <= 0:
                self.stop()

    def finish(self) -> None:
        """The upstream's body ended by itself: meter and hand on what is left, close the caller's stream."""
        rest = self._splitter.rest()
        out = self.meter.feed(rest) if rest else b""
        if not self._exchange.gone:
            self._exchange.write(out)
            self._exchange.finish()

    def stop(self) -> None:
        """End the upstream now."""
        self.stopped = True
        self._response.abort()

    def drain_at_most(self, most_bytes: int) -> None:
        """The caller has left: read on, but not for ever."""
        self._drain_left = most_bytes

    def _passed_allowance(self, meter: StreamMeter) -> bool:
        usage = meter.usage
        if usage is not None and usage.output_tokens > self._allowance:
            return not meter.ended
        return meter.visible_bytes > self._most_bytes

    def _close_cut(self, out: bytes) -> None:
        self.cut = True
        if not self._exchange.gone:
            message = f"The stream passed its allowance of {self._allowance} output tokens"
            self._exchange.write(out + self.meter.cut(CUT_WORD, message))
            self._exchange.finish()
        self.stop()

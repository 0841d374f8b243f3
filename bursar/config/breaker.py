"""When an upstream that fails is left alone."""

from typing import Annotated, Literal

import msgspec

from bursar.config.spans import Seconds
from bursar.core.breaker import Rule

_Count = Annotated[int, msgspec.Meta(ge=1)]


class Breaker(msgspec.Struct, frozen=True, kw_only=True):
    """Circuits of providers and their keys. With `rates.kind: redis` the nodes share them."""

    mode: Literal["off", "shadow", "enforce"] = "enforce"
    failures: _Count = 5  # in a row open a circuit, ...
    share: Annotated[int, msgspec.Meta(ge=1, le=100)] = (
        50  # ... and so does this share (%) of the calls of a window, ...
    )
    least: _Count = 20  # ... where there were at least so many
    window: Seconds = 30
    open: Seconds = 5  # at first; a try that fails doubles it
    longest: Seconds = 60  # up to this; also what a provider may ask for with Retry-After
    trial: Seconds = 3  # when it is over one call tries; while that says nothing, one more so often


def rule_of(settings: Breaker) -> Rule:
    return Rule(
        in_a_row=settings.failures,
        share=settings.share,
        least=settings.least,
        window_ms=int(settings.window * 1000),
        open_ms=int(settings.open * 1000),
        longest_ms=int(settings.longest * 1000),
        try_ms=int(settings.trial * 1000),
    )
